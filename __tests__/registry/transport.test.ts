import type { Socket } from 'node:net'
import { describe, expect, test } from '@jest/globals'
import { adviceFor } from '../../src/actions/advice.ts'
import { selfSigned } from '../support/certificate.ts'
import type { FaultOf } from '../support/registry.ts'
import { account, type Client, connect, failureOf, open, openRaw, password, start, until } from './connect.ts'

const blob = Buffer.from('{"os":"linux"}')

describe('the registry’s address', () => {
  test('on this machine is used with https, or else with http', async () => {
    const { client, connections } = await openRaw((socket) =>
      socket.end('HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n'),
    )
    expect(await client.getManifest(client.repository, 'latest')).toBeUndefined()
    expect(connections).toEqual(['https', 'http', 'http'])
    expect(client.waits).toEqual([])
  })

  test('that can’t be reached is named', async () => {
    const { close, host } = await start()
    await close()
    const error = await failureOf(open(host).checkPush({ host, path: 'app' }))
    expect(error).toMatchObject({ problem: 'unreachable', host })
    expect(error.message).toContain(`Can't connect to the registry ${host}: ${host} can't be reached`)
    expect(error.message).toContain('ECONNREFUSED')
    expect(adviceFor(error)).toContain('HTTPS_PROXY')
  })

  test('with an untrusted certificate is refused, without falling back to http', async () => {
    const { server, client } = await connect({ tls: selfSigned(), auth: { kind: 'basic', ...account } }, password)
    const error = await failureOf(client.checkPush(client.repository))
    expect(error).toMatchObject({ problem: 'untrusted-certificate', host: server.host })
    expect(error.message).toContain(`the certificate of ${server.host} is not trusted`)
    expect(error.message).toMatch(/self-signed certificate/)
    expect(adviceFor(error)).toContain('NODE_EXTRA_CA_CERTS')
    expect(server.requests).toEqual([])
    expect(client.waits).toEqual([])
  })
})

describe('looking for many blobs', () => {
  const found = 'HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n'
  const base = 'HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n'

  async function lookForTen({ hasBlob, repository }: Client): Promise<readonly boolean[]> {
    const all: boolean[] = []
    for (let count = 0; count < 10; count++) all.push(await hasBlob(repository, `sha256:${String(count).repeat(64)}`))
    return all
  }

  test('uses few connections', async () => {
    const { client, connections } = await openRaw((socket, request) =>
      socket.write(request.startsWith('HEAD') ? found : base),
    )
    expect(await lookForTen(client)).toEqual(Array(10).fill(true))
    expect(connections.length).toBeLessThan(5)
  })

  test.each<readonly [string, (socket: Socket, before: number) => void]>([
    ['ends the connection after each', (socket) => void socket.end(found)],
    ['says that it ends it', (socket) => void socket.end(found.replace('\r\n', '\r\nconnection: close\r\n'))],
    ['sends a body with each', (socket) => void socket.write(`${found}${blob}`)],
    [
      'sends the body of one answer while the next request arrives',
      (socket, before) => void socket.write(before === 0 ? found : `${blob}${found}`),
    ],
  ])('finds them at a registry that %s', async (_, answer) => {
    const { client } = await openRaw((socket, request, before) => {
      if (request.startsWith('HEAD')) answer(socket, before)
      else socket.end(request.includes('/blobs/') ? `${found}${blob}` : base)
    })
    expect(await lookForTen(client)).toEqual(Array(10).fill(true))
    // The connections kept before the first such body may each hold one.
    expect(client.waits.length).toBeLessThan(4)
  })
})

describe('another host, such as an object store,', () => {
  test.each([
    ['a password', { kind: 'basic', ...account }],
    ['a token', { kind: 'bearer', ...account }],
  ] as const)('is read from without sending it %s', async (_, auth) => {
    const { server, client } = await connect({ auth, objectStore: true }, password)
    const digest = await server.seedBlob('app', blob)
    expect(await client.getBlob(client.repository, `sha256:${digest.slice(7)}`, 1024)).toEqual(blob)
    await client.checkPush(client.repository)
    await until(() => server.requests.some(({ method }) => method === 'DELETE'))
    const elsewhere = server.requests.filter(({ headers }) => headers.host?.startsWith('localhost:'))
    expect(elsewhere.map(({ method, authorization }) => [method, authorization])).toEqual([
      ['GET', undefined],
      ['DELETE', undefined],
    ])
  })

  test('is read from with a signature that is masked first', async () => {
    const { server, client } = await connect({ objectStore: true })
    const digest = await server.seedBlob('app', blob)
    await client.getBlob(client.repository, `sha256:${digest.slice(7)}`, 1024)
    await client.checkPush(client.repository)
    await until(() => server.requests.some(({ method }) => method === 'DELETE'))
    const signed = server.requests.map(({ path }) => new URL(path, 'http://localhost').searchParams.get('signature'))
    const signatures = [...new Set(signed.filter((signature) => signature !== null))]
    expect(signatures).toHaveLength(1)
    expect(client.secrets).toEqual(expect.arrayContaining(signatures))
  })

  test('can’t redirect the registry’s password', async () => {
    const thief = await start({ auth: { kind: 'bearer', ...account } })
    const challenge = { 'www-authenticate': `Bearer realm="http://${thief.host}/token",service="thief"` }
    const fault: FaultOf = ({ headers }) =>
      headers.host?.startsWith('localhost:') ? { kind: 'status', status: 401, headers: challenge } : undefined
    const { server, client } = await connect(
      { auth: { kind: 'bearer', ...account }, objectStore: true, fault },
      password,
    )
    const digest = await server.seedBlob('app', blob)
    await failureOf(client.getBlob(client.repository, `sha256:${digest.slice(7)}`, 1024))
    expect(thief.requests).toEqual([])
  })

  test('is not redirected to endlessly', async () => {
    const fault: FaultOf = ({ route, path }) =>
      route === 'manifest' ? { kind: 'status', status: 307, headers: { location: path } } : undefined
    const { server, client } = await connect({ fault })
    const error = await failureOf(client.getManifest(client.repository, 'latest'))
    expect(error.message).toContain('redirects 5 times in a row')
    expect(server.requests.length).toBeLessThan(10)
  })
})

test('a redirect of an upload is refused, and its body closed', async () => {
  const fault: FaultOf = ({ method }) =>
    method === 'POST'
      ? { kind: 'status', status: 307, headers: { location: '/elsewhere' }, body: 'x'.repeat(1024 * 1024) }
      : undefined
  const { client } = await connect({ fault })
  const error = await failureOf(client.checkPush(client.repository))
  expect(error).toMatchObject({ problem: 'doubtful', status: 307 })
  await client.http.close()
})
