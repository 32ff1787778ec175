import { Readable } from 'node:stream'
import { getCACertificates, setDefaultCACertificates } from 'node:tls'
import { describe, expect, test } from '@jest/globals'
import type { HttpSettings } from '../../src/http/client.ts'
import { digestOf } from '../../src/oci/reference.ts'
import { account, afterwards, type Client, connect, failureOf, open, password, start } from '../registry/connect.ts'
import { selfSigned } from '../support/certificate.ts'
import { type ProxyAnswer, startProxy, type TestProxy } from '../support/proxy.ts'
import { mediaTypes } from '../support/registry/manifests.ts'
import { index } from '../support/registry/wire.ts'

const bytes = index(mediaTypes.ociIndex, [])
/** No name that can be looked up: only a proxy knows it. */
const host = 'registry.invalid'
type Variables = Readonly<Record<string, string>>

/** A proxy that knows the way to a registry. */
async function proxied(answerTo: (count: number) => ProxyAnswer = () => 'tunnel'): Promise<TestProxy> {
  const tls = selfSigned(host)
  const trusted = getCACertificates()
  setDefaultCACertificates([...trusted, tls.cert])
  afterwards(async () => setDefaultCACertificates(trusted))
  const server = await start({ tls })
  server.seedManifest('app', bytes, mediaTypes.ociIndex, 'latest')
  const proxy = await startProxy(server.host, answerTo)
  afterwards(proxy.close)
  return proxy
}

function openWith(env: Variables, registry = host, settings: Partial<HttpSettings> = {}): Client {
  const client = open(registry, undefined, { env, ...settings })
  afterwards(client.http.close)
  return client
}

async function read({ getManifest, repository }: Client): Promise<Buffer | undefined> {
  return (await getManifest(repository, 'latest'))?.bytes
}

describe('a proxy is taken from the environment', () => {
  test.each<readonly [string, (host: string) => Variables]>([
    ['as its address', (proxy) => ({ HTTPS_PROXY: `http://${proxy}` })],
    ['without a scheme, as curl and Go take it', (proxy) => ({ HTTPS_PROXY: proxy })],
    ['in lower case', (proxy) => ({ https_proxy: proxy, HTTPS_PROXY: 'http://192.0.2.1:9' })],
    ['where the name in lower case is empty', (proxy) => ({ https_proxy: '', HTTPS_PROXY: proxy })],
    ['as one of SOCKS', (proxy) => ({ HTTPS_PROXY: `socks5://${proxy}` })],
    ['as one of SOCKS that looks up names', (proxy) => ({ HTTPS_PROXY: `socks5h://${proxy}` })],
  ])('%s', async (_, variables) => {
    const proxy = await proxied()
    expect(await read(openWith(variables(proxy.host)))).toEqual(bytes)
    expect(new Set(proxy.targets)).toEqual(new Set([`${host}:443`]))
  })

  test('but not for https from HTTP_PROXY, as in curl and Go', async () => {
    const proxy = await proxied()
    await failureOf(read(openWith({ HTTP_PROXY: proxy.host })))
    expect(proxy.targets).toEqual([])
  })

  test.each([
    ['octocat:50%25off', 'octocat:50%off'],
    ['octocat', 'octocat:'],
  ])('with a login: %s', async (login, told) => {
    const proxy = await proxied()
    expect(await read(openWith({ HTTPS_PROXY: `${login}@${proxy.host}` }))).toEqual(bytes)
    expect(new Set(proxy.logins)).toEqual(new Set([`Basic ${Buffer.from(told).toString('base64')}`]))
  })
})

describe('an invalid proxy URL', () => {
  const values = [
    ['a % that stands for nothing', 'http://octocat:50%off@proxy.example:3128'],
    ['a slash in the password', 'http://octocat:50/off@proxy.example:3128'],
    ['no host', 'http://'],
    ['another protocol', 'socks4://octocat:50off@proxy.example:1080'],
  ] as const

  test.each(values)(
    'is a failure that names the variable and what can stand there, not what does: %s',
    async (_, value) => {
      const client = openWith({ https_proxy: value })
      const error = await failureOf(client.checkPush(client.repository))
      expect(error.message).toContain(
        `Can't connect to the registry ${host}: the environment variable https_proxy is not a valid proxy URL`,
      )
      expect(error.message).toContain('https_proxy: http://user:password@proxy.example:3128')
      expect(error.message).toContain(`add ${host} to NO_PROXY`)
      expect(error.message).not.toMatch(/octocat|off/)
      expect(client.waits).toEqual([])
    },
  )

  test('does not matter for a host in NO_PROXY', async () => {
    const env = { HTTPS_PROXY: 'socks4://proxy.example', HTTP_PROXY: 'http://%@', NO_PROXY: host }
    const server = await start()
    server.seedManifest('app', bytes, mediaTypes.ociIndex, 'latest')
    expect(await read(openWith(env, server.host))).toEqual(bytes)
    expect((await failureOf(read(openWith(env)))).message).toContain(`${host} can't be reached`)
  })
})

describe('a proxy that opens no tunnel', () => {
  /** The first two requests get the answer, the others a way. */
  function twice(answer: ProxyAnswer): (count: number) => ProxyAnswer {
    return (count) => (count <= 2 ? answer : 'tunnel')
  }

  test.each<ProxyAnswer>([408, 429, 500, 502, 503, 504, 'break'])('for now is asked again: %s', async (answer) => {
    const proxy = await proxied(twice(answer))
    const client = openWith({ HTTPS_PROXY: proxy.host })
    expect(await read(client)).toEqual(bytes)
    expect(client.waits).toHaveLength(2)
    expect(client.lines).toEqual([
      expect.stringMatching(/retrying in 1\.\d s$/),
      expect.stringMatching(/retrying in [23]\.\d s$/),
    ])
    if (typeof answer === 'number') expect(client.lines.join()).toContain(`the proxy answered with status ${answer}`)
  })

  test.each<ProxyAnswer>([503, 'break'])('for now is asked again for an upload: %s', async (answer) => {
    const proxy = await proxied((count) => (count === 2 ? answer : 'tunnel'))
    const client = openWith({ HTTPS_PROXY: proxy.host })
    const blobs = [1, 2, 3].map((one) => Buffer.of(one))
    const put = (blob: Buffer) =>
      client.putBlob(client.repository, {
        digest: digestOf(blob),
        size: blob.length,
        open: () => Readable.from([blob]),
      })
    await Promise.all(blobs.map(put))
    for (const blob of blobs) expect(await client.hasBlob(client.repository, digestOf(blob))).toBe(true)
    expect(client.waits).toHaveLength(1)
  })

  test('and does not answer gets the request again', async () => {
    const proxy = await proxied((count) => (count === 1 ? 'silence' : 'tunnel'))
    const client = openWith({ HTTPS_PROXY: proxy.host }, host, { timeouts: { tunnel: 100 } })
    expect(await read(client)).toEqual(bytes)
    expect(client.lines[0]).toContain('retrying in')
  })

  test('because it can’t be reached is named, with the variable', async () => {
    const proxy = await proxied()
    await proxy.close()
    const error = await failureOf(read(openWith({ HTTPS_PROXY: `octocat:secret@${proxy.host}` })))
    expect(error).toMatchObject({ problem: 'unreachable', host })
    expect(error.message).toContain(`can't be reached through the proxy ${proxy.host} (from HTTPS_PROXY)`)
    expect(error.message).not.toMatch(/octocat|secret/)
  })

  test.each([
    [407, 'HTTPS_PROXY: http://user:password@'],
    [403, `Allow connections to ${host} in the proxy's configuration.`],
    [400, `Allow connections to ${host} in the proxy's configuration.`],
  ])('permanently is named, with a hint: %d', async (status, hint) => {
    const proxy = await proxied(() => status)
    const client = openWith({ HTTPS_PROXY: `octocat:secret@${proxy.host}` })
    const error = await failureOf(read(client))
    expect(error.message).toContain(
      `Can't connect to the registry ${host}: the proxy ${proxy.host} answered the request to connect to ${host} with status ${status}`,
    )
    expect(error.message).toContain(hint)
    expect(error.message).toContain(`add ${host} to NO_PROXY`)
    expect(error.message).not.toMatch(/octocat|secret/)
    expect(client.waits).toEqual([])
  })

  test('again and again gets requests for two minutes', async () => {
    const proxy = await proxied(() => 503)
    const client = openWith({ HTTPS_PROXY: proxy.host })
    const error = await failureOf(read(client))
    expect(error.message).toContain(
      `the proxy ${proxy.host} answered the request to connect to ${host} with status 503`,
    )
    expect(error.message).toMatch(/\(\d+ attempts in 1[01]\d s\)/)
    expect(proxy.targets).toHaveLength(client.waits.length + 1)
  })
})

describe('no proxy is used', () => {
  test('for a registry on this machine', async () => {
    const proxy = await startProxy('', () => 403)
    afterwards(proxy.close)
    const { server } = await connect({ auth: { kind: 'basic', ...account } })
    server.seedManifest('app', bytes, mediaTypes.ociIndex, 'latest')
    const client = open(server.host, password, { env: { HTTPS_PROXY: proxy.host, HTTP_PROXY: proxy.host } })
    expect(await read(client)).toEqual(bytes)
    expect(proxy.targets).toEqual([])
  })

  // Nothing listens on port 1. The test is about the attempt to connect.
  const none = '0.0.0.0:1'

  async function targetsOf(registry: string, noProxy: string): Promise<readonly string[]> {
    const proxy = await startProxy('', () => 403)
    afterwards(proxy.close)
    await failureOf(read(openWith({ HTTPS_PROXY: proxy.host, NO_PROXY: noProxy }, registry)))
    return proxy.targets
  }

  test.each([
    ['*', none],
    ['0.0.0.0', none],
    ['0.0.0.0:1', none],
    ['0.0.0.0/8', none],
    ['0.0.0.0/32', none],
    ['0.0.0.0/0', none],
    ['10.0.0.0/8, 0.0.0.0/31', none],
    ['::', '[::]:1'],
    ['[::]:1', '[::]:1'],
    ['::/64', '[::]:1'],
    [host, host],
    ['REGISTRY.invalid.', host],
    [`${host}:443`, host],
    ['invalid', host],
    ['.invalid', host],
    ['*.invalid', host],
    ['a.example .invalid', host],
  ])('if NO_PROXY is %s, for %s', async (noProxy, registry) => {
    expect(await targetsOf(registry, noProxy)).toEqual([])
  })

  test.each([
    ['', none],
    ['0.0.0.0:2', none],
    ['10.0.0.0/8', none],
    ['0.0.0.0/33', none],
    ['0.0.0.0/', none],
    ['0.0.0.0/x', none],
    ['::/0', none],
    ['gistry.invalid', host],
    [`*.${host}`, host],
    [`${host}:80`, host],
    ['0.0.0.0/0', host],
    ['.', host],
  ])('but one is used if it is %p, for %s', async (noProxy, registry) => {
    expect(await targetsOf(registry, noProxy)).toEqual([registry.includes(':') ? registry : `${registry}:443`])
  })
})
