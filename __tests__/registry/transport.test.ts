import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { describe, expect, test } from '@jest/globals'
import { adviceFor } from '../../src/advice.ts'
import { selfSigned } from '../support/certificate.ts'
import type { FaultOf } from '../support/registry.ts'
import { account, afterwards, connect, failureOf, open, password, start } from './connect.ts'

const blob = Buffer.from('{"os":"linux"}')

describe('the registry’s address', () => {
  test('on this machine is asked by https, and by http where nobody speaks that', async () => {
    const seen: string[] = []
    const sockets = new Set<Socket>()
    const server = createServer((socket) => {
      sockets.add(socket)
      socket.on('error', () => undefined)
      socket.once('data', (data) => {
        // RFC 8446, section 5.1: a handshake's record begins with 22.
        const secure = data[0] === 22
        seen.push(secure ? 'https' : 'http')
        if (secure) socket.destroy()
        else socket.end('HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n')
      })
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    afterwards(async () => {
      for (const socket of sockets) socket.destroy()
      server.close()
    })
    const client = open(`127.0.0.1:${(server.address() as AddressInfo).port}`)
    expect(await client.getManifest(client.repository, 'latest')).toBeUndefined()
    expect(seen).toEqual(['https', 'http', 'http'])
    expect(client.waits).toEqual([])
  })

  test('where nobody listens is named', async () => {
    const { close, host } = await start()
    await close()
    const error = await failureOf(open(host).checkPush({ host, path: 'app' }))
    expect(error).toMatchObject({ problem: 'unreachable', host })
    expect(error.message).toContain(`Can't talk to the registry ${host}: ${host} can't be reached`)
    expect(error.message).toContain('ECONNREFUSED')
    expect(adviceFor(error)).toContain('HTTPS_PROXY')
  })

  test('with a certificate that nobody vouches for is refused, not asked by http, with what to do', async () => {
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

describe('another host, such as an object store,', () => {
  test.each([
    ['a password', { kind: 'basic', ...account }],
    ['a token', { kind: 'bearer', ...account }],
  ] as const)('is read from and sees nothing of %s', async (_, auth) => {
    const { server, client } = await connect({ auth, objectStore: true }, password)
    const digest = await server.seedBlob('app', blob)
    expect(await client.getBlob(client.repository, `sha256:${digest.slice(7)}`, 1024)).toEqual(blob)
    await client.checkPush(client.repository)
    const elsewhere = server.requests.filter(({ headers }) => headers.host?.startsWith('localhost:'))
    expect(elsewhere.map(({ method, authorization }) => [method, authorization])).toEqual([
      ['GET', undefined],
      ['DELETE', undefined],
    ])
  })

  test('has no say in where the registry’s password goes', async () => {
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

  test('is not gone to for ever', async () => {
    const fault: FaultOf = ({ route, path }) =>
      route === 'manifest' ? { kind: 'status', status: 307, headers: { location: path } } : undefined
    const { server, client } = await connect({ fault })
    const error = await failureOf(client.getManifest(client.repository, 'latest'))
    expect(error.message).toContain('it points elsewhere 5 times in a row')
    expect(server.requests.length).toBeLessThan(10)
  })
})

test('a redirect of an upload is refused, and leaves nothing open', async () => {
  const fault: FaultOf = ({ method }) =>
    method === 'POST'
      ? { kind: 'status', status: 307, headers: { location: '/elsewhere' }, body: 'x'.repeat(1024 * 1024) }
      : undefined
  const { client } = await connect({ fault })
  const error = await failureOf(client.checkPush(client.repository))
  expect(error).toMatchObject({ problem: 'other', status: 307 })
  await client.close()
}, 2_000)
