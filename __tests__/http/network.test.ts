import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Readable } from 'node:stream'
import { getCACertificates, setDefaultCACertificates } from 'node:tls'
import { describe, expect, test } from '@jest/globals'
import type { AddressKind, Zone } from '../../src/http/address.ts'
import type { NetworkSettings } from '../../src/http/network.ts'
import { digestOf } from '../../src/oci/reference.ts'
import { afterwards, type Client, failureOf, open, start } from '../registry/connect.ts'
import { selfSigned } from '../support/certificate.ts'
import { startProxy } from '../support/proxy.ts'
import { mediaTypes } from '../support/registry/manifests.ts'
import { index } from '../support/registry/wire.ts'
import type { Fault, FaultOf } from '../support/registry.ts'

const bytes = index(mediaTypes.ociIndex, [])
const digest = digestOf(bytes)

interface Server {
  /** `127.0.0.2:43215` */
  readonly host: string
  readonly port: number
  /** How many connections it got. */
  readonly connections: () => number
}

/** Starts a server on one of this machine's loopback addresses, of which Linux has millions. */
async function serve(
  address: string,
  answer: (request: IncomingMessage, response: ServerResponse) => void,
  port = 0,
): Promise<Server> {
  let connections = 0
  const server = createServer(answer).on('connection', () => void connections++)
  server.listen(port, address)
  await once(server, 'listening')
  afterwards(async () => {
    server.close()
    server.closeAllConnections()
  })
  const { port: used } = server.address() as AddressInfo
  return { host: `${address}:${used}`, port: used, connections: () => connections }
}

/** Answers what a token service and an object store would, and a metadata service should not. */
function answerAll({ method, url = '' }: IncomingMessage, response: ServerResponse): void {
  if (method === 'PUT') response.writeHead(201).end()
  else if (method === 'DELETE') response.writeHead(204).end()
  else response.end(url.startsWith('/token') ? '{"token":"0123456789abcdef"}' : bytes)
}

function closing(request: IncomingMessage, response: ServerResponse): void {
  response.setHeader('connection', 'close')
  answerAll(request, response)
}

/** Says of loopback addresses that they belong to other networks. */
function classified(zones: Readonly<Record<string, Zone>>): (address: string) => AddressKind {
  return (address) => {
    const zone = zones[address] ?? 'loopback'
    return { zone, name: zone === 'forbidden' ? 'a link-local address' : `a ${zone} address` }
  }
}

function resolving(names: Readonly<Record<string, readonly string[]>>): NonNullable<NetworkSettings['resolve']> {
  return async (name) => {
    const addresses = names[name]
    if (addresses === undefined) throw Object.assign(new Error(`getaddrinfo ENOTFOUND ${name}`), { code: 'ENOTFOUND' })
    return addresses.map((address) => ({ address, family: 4 }))
  }
}

interface Way {
  readonly fault: (target: string) => FaultOf
  readonly go: (client: Client) => Promise<unknown>
}

function on(wanted: string, fault: Fault): FaultOf {
  return ({ route }) => (route === wanted ? fault : undefined)
}

function redirect(route: string): Way['fault'] {
  return (target) =>
    on(route, { kind: 'status', status: 307, headers: { location: `http://${target}/it?X-Amz-Signature=b3d1c4` } })
}

const read = (client: Client) => client.getManifest(client.repository, digest)

const ways: Readonly<Record<string, Way>> = {
  'the realm of its challenge': {
    fault: (target) =>
      on('base', {
        kind: 'status',
        status: 401,
        headers: { 'www-authenticate': `Bearer realm="http://${target}/token"` },
      }),
    go: read,
  },
  'the location of an upload': {
    fault: (target) => on('uploads', { kind: 'headers', headers: { location: `http://${target}/upload?sig=b3d1c4` } }),
    go: (client) =>
      client.putBlob(client.repository, { digest, size: bytes.length, open: () => Readable.from([bytes]) }),
  },
  'a redirect of a manifest': { fault: redirect('manifest'), go: read },
  'a redirect of a blob': {
    fault: redirect('blob'),
    go: (client) => client.getBlob(client.repository, digest, 1024),
  },
}

const zones: readonly Zone[] = ['public', 'private', 'loopback', 'forbidden']
const allowed: Readonly<Record<string, readonly Zone[]>> = {
  public: ['public'],
  private: ['public', 'private'],
  loopback: ['public', 'private', 'loopback'],
}
const combinations = Object.keys(ways).flatMap((way) =>
  Object.keys(allowed).flatMap((from) => zones.map((to) => [from, way, to] as const)),
)

/** A registry at 127.0.0.1 that points to 127.0.0.2, each in a zone. */
async function send(from: string, way: Way, to: Zone, name: string) {
  const target = await serve('127.0.0.2', answerAll)
  const server = await start({ fault: way.fault(`${name}:${target.port}`) })
  server.seedManifest('app', bytes, mediaTypes.ociIndex)
  await server.seedBlob('app', bytes)
  const client = open(server.host, undefined, {
    classify: classified({ '127.0.0.1': from as Zone, '127.0.0.2': to }),
    resolve: resolving({ 'elsewhere.test': ['127.0.0.2'] }),
  })
  return { client, server, target }
}

describe.each([
  ['its address', '127.0.0.2'],
  ['its name', 'elsewhere.test'],
])('by %s, a host', (_, name) => {
  const within = combinations.filter(([from, , to]) => allowed[from]?.includes(to))
  const beyond = combinations.filter(([from, , to]) => !allowed[from]?.includes(to))

  test.each(within)('is reached from a registry at a %s address for %s at a %s one', async (from, key, to) => {
    const way = ways[key] as Way
    const { client, target } = await send(from, way, to, name)
    await way.go(client)
    expect(target.connections()).toBe(1)
  })

  test.each(beyond)('is not reached from a registry at a %s address for %s at a %s one', async (from, key, to) => {
    const way = ways[key] as Way
    const { client, server, target } = await send(from, way, to, name)
    const { message, problem } = await failureOf(way.go(client))
    const place = name === '127.0.0.2' ? target.host : `${name}:${target.port} (127.0.0.2)`
    expect(problem).toBe('other')
    expect(message).toContain(
      to === 'forbidden'
        ? `${server.host} points to ${place}, a link-local address, which this action never connects to`
        : `${server.host} points to ${place}, a ${to} address, but ${server.host} itself is at a ${from} address`,
    )
    expect(message).toContain(
      to === 'forbidden' ? 'report this to its operator' : `make the runner reach ${server.host}`,
    )
    expect(message).not.toContain('b3d1c4')
    expect(target.connections()).toBe(0)
    expect(client.waits).toEqual([])
  })
})

test.each([
  ['169.254.169.254', 'a link-local address'],
  ['2852039166', 'a link-local address'],
  ['0xa9fea9fe', 'a link-local address'],
  ['[fe80::1]', 'a link-local address'],
  ['[::ffff:169.254.169.254]', 'a link-local address'],
  ['[64:ff9b::a9fe:a9fe]', 'a link-local address'],
  ['168.63.129.16', 'a metadata address of a cloud'],
  ['[ff02::1]', 'a multicast address'],
])('a registry on this machine can’t direct requests to %s', async (host, kind) => {
  for (const way of Object.values(ways)) {
    const server = await start({ fault: way.fault(host) })
    const { message } = await failureOf(way.go(open(server.host)))
    expect(message).toContain(`points to ${new URL(`http://${host}`).host}, ${kind}`)
  }
})

test('a registry at a link-local address is not connected to', async () => {
  const server = await start()
  const client = open(server.host, undefined, { classify: classified({ '127.0.0.1': 'forbidden' }) })
  const { message } = await failureOf(read(client))
  expect(message).toContain(`Can't connect to the registry ${server.host}: ${server.host} is a link-local address`)
  expect(message).toContain('Check the name ')
  expect(server.requests).toEqual([])
})

test('of several addresses of a name, only allowed ones are connected to', async () => {
  const target = await serve('127.0.0.2', answerAll)
  const hidden = await serve('127.0.0.3', answerAll, target.port)
  const server = await start({ fault: redirect('manifest')(`elsewhere.test:${target.port}`) })
  const client = open(server.host, undefined, {
    classify: classified({ '127.0.0.2': 'public', '127.0.0.3': 'forbidden' }),
    resolve: resolving({ 'elsewhere.test': ['127.0.0.3', '127.0.0.2'] }),
  })
  expect((await read(client))?.bytes).toEqual(bytes)
  expect([target.connections(), hidden.connections()]).toEqual([1, 0])
})

test('a name whose address changes is judged by the new address', async () => {
  const target = await serve('127.0.0.2', closing)
  const hidden = await serve('127.0.0.3', answerAll, target.port)
  const server = await start({ fault: redirect('manifest')(`elsewhere.test:${target.port}`) })
  const addresses = ['127.0.0.2', '127.0.0.3']
  const client = open(server.host, undefined, {
    classify: classified({ '127.0.0.3': 'forbidden' }),
    resolve: async () => [{ address: addresses.shift() ?? '', family: 4 }],
  })
  expect((await read(client))?.bytes).toEqual(bytes)
  expect((await failureOf(read(client))).message).toContain(`(127.0.0.3), a link-local address`)
  expect([target.connections(), hidden.connections()]).toEqual([1, 0])
})

test('a registry that was at a public address can’t direct requests to a nearer one later', async () => {
  const target = await serve('127.0.0.2', answerAll)
  const answer = ({ url = '' }: IncomingMessage, response: ServerResponse): void => {
    const location = { location: `http://${target.host}/` }
    response.writeHead(url.includes('manifests') ? 307 : 200, { connection: 'close', ...location }).end()
  }
  const before = await serve('127.0.0.1', answer)
  const later = await serve('127.0.0.3', answer, before.port)
  const client = open(`localhost:${before.port}`, undefined, {
    classify: classified({ '127.0.0.1': 'public' }),
    resolve: async () => [
      { address: later.connections() + before.connections() < 2 ? '127.0.0.1' : '127.0.0.3', family: 4 },
    ],
  })
  expect((await failureOf(read(client))).message).toContain('itself is at a public address')
  expect(later.connections()).toBe(1)
  expect(target.connections()).toBe(0)
})

test('a connection that one registry caused is not reused for a registry that may not reach it', async () => {
  const target = await serve('127.0.0.2', answerAll)
  const location = `http://${target.host}/`
  const near = await start({ fault: redirect('manifest')(target.host) })
  const far = await serve('127.0.0.4', ({ url = '' }, response) =>
    response.writeHead(url.includes('manifests') ? 307 : 200, { location }).end(),
  )
  const client = open(near.host, undefined, { classify: classified({ '127.0.0.4': 'public' }) })
  expect((await read(client))?.bytes).toEqual(bytes)
  const { message } = await failureOf(client.getManifest({ host: far.host, path: 'app' }, digest))
  expect(message).toContain(`points to ${target.host}, a loopback address`)
})

test('a request without an initiator may go to any address', async () => {
  const target = await serve('127.0.0.2', answerAll)
  const { http } = open('127.0.0.1', undefined, { classify: classified({ '127.0.0.2': 'forbidden' }) })
  const url = new URL(`http://${target.host}/`)
  expect(await http.send({ method: 'GET', url, headers: {}, operation: 'ask the Git host' })).toMatchObject({
    ok: true,
  })
})

describe('through a proxy', () => {
  const names = {
    'public.invalid': ['203.0.113.7'],
    'private.invalid': ['10.0.0.7'],
    'mixed.invalid': ['203.0.113.8', '10.0.0.8'],
    'metadata.invalid': ['203.0.113.8', '169.254.169.254'],
  }

  /** The hosts that a proxy is asked for when a registry points to a target, and the error. */
  async function goThrough(registry: string, target: string) {
    const tls = selfSigned(registry)
    const trusted = getCACertificates()
    setDefaultCACertificates([...trusted, tls.cert])
    afterwards(async () => setDefaultCACertificates(trusted))
    const location = `https://${target}/it`
    const server = await start({ tls, fault: on('manifest', { kind: 'status', status: 307, headers: { location } }) })
    const proxy = await startProxy(server.host, () => 'tunnel')
    afterwards(proxy.close)
    const client = open(registry, undefined, { env: { HTTPS_PROXY: proxy.host }, resolve: resolving(names) })
    afterwards(client.http.close)
    // The certificate is another host's, so that even a target that may be asked gives no answer.
    const { message } = await failureOf(read(client))
    return { asked: proxy.targets.includes(`${target}:443`), message }
  }

  test.each([
    ['public.invalid', 'mixed.invalid (10.0.0.8)', 'a private address, but public.invalid itself is at a public'],
    ['public.invalid', '10.0.0.1', 'a private address, but public.invalid itself is at a public address'],
    ['public.invalid', 'private.invalid (10.0.0.7)', 'a private address, but public.invalid itself is at a public'],
    ['unknown.invalid', '10.0.0.1', 'a private address, but unknown.invalid itself is at a public address'],
    ['private.invalid', 'metadata.invalid (169.254.169.254)', 'a link-local address'],
    ['private.invalid', '169.254.169.254', 'a link-local address'],
  ])('%s can’t direct requests to %s', async (registry, place, why) => {
    const { asked, message } = await goThrough(registry, place.split(' ')[0] ?? '')
    expect(message).toContain(`${registry} points to ${place}, ${why}`)
    expect(asked).toBe(false)
  })

  test.each([
    ['public.invalid', 'unknown.invalid'],
    ['public.invalid', '203.0.113.9'],
    ['private.invalid', '10.0.0.1'],
    ['private.invalid', 'mixed.invalid'],
  ])('%s can direct requests to %s', async (registry, target) => {
    const { asked, message } = await goThrough(registry, target)
    expect(message).not.toContain('points to')
    expect(asked).toBe(true)
  })
})

describe('the query of a URL, which may grant access,', () => {
  const signature = 'f00dfeedf00dfeedf00dfeed'

  test.each(['the location of an upload', 'a redirect of a manifest'])(
    'is masked before it is used: %s',
    async (key) => {
      const way = ways[key] as Way
      const early: string[] = []
      const target = await serve('127.0.0.2', (request, response) => {
        const query = request.url?.split('?')[1] ?? ''
        if (!client.secrets.includes(query) || !client.secrets.includes(signature)) early.push(query)
        answerAll(request, response)
      })
      const fault: FaultOf = (request) => {
        const made = way.fault(target.host)(request)
        const headers = { location: `http://${target.host}/it?a=1&X-Amz-Signature=${signature}` }
        return made && ({ ...made, headers } as Fault)
      }
      const server = await start({ fault })
      const client = open(server.host)
      await way.go(client)
      expect(target.connections()).toBe(1)
      expect(early).toEqual([])
      expect(client.secrets).toContain(signature)
    },
  )

  test('is not masked at the registry itself, which requires a login', async () => {
    const server = await start()
    const client = open(server.host)
    await client.putBlob(client.repository, { digest, size: bytes.length, open: () => Readable.from([bytes]) })
    expect(client.secrets).toEqual([])
  })

  test('is not in an error about a realm', async () => {
    const realm = `ftp://user:pass@files.example/token?sig=${signature}`
    const headers = { 'www-authenticate': `Bearer realm="${realm}"` }
    const server = await start({ fault: on('base', { kind: 'status', status: 401, headers }) })
    const { message } = await failureOf(read(open(server.host)))
    expect(message).toContain("Can't get a token from ftp://files.example/token, the realm that ")
    expect(message).not.toMatch(/f00d|user:pass/)
  })
})

test('a token that is a short word is not masked, because that would garble the log', async () => {
  const headers = (host: string) => ({ 'www-authenticate': `Bearer realm="http://${host}/token"` })
  const server = await start({
    fault: ({ route, headers: { host = '' } }) =>
      route === 'base'
        ? { kind: 'status', status: 401, headers: headers(host) }
        : on('token', { kind: 'status', status: 200, body: '{"token":"error"}' })({ route } as never),
  })
  server.seedManifest('app', bytes, mediaTypes.ociIndex)
  const client = open(server.host)
  expect((await read(client))?.bytes).toEqual(bytes)
  expect(server.requests.at(-1)?.authorization).toBe('Bearer error')
  expect(client.secrets).toEqual([])
})

test.each([401, 403])('an object store that refuses with %d is named, and no login is asked for', async (status) => {
  const target = await serve('127.0.0.2', (_, response) => response.writeHead(status).end('expired'))
  const server = await start({ fault: redirect('manifest')(target.host) })
  const { message, problem } = await failureOf(read(open(server.host)))
  expect(message).toContain(`${target.host}, which ${server.host} points to, answered with status ${status}`)
  expect(message).toContain('expired')
  expect(problem).toBe('other')
})

test('a redirect to another protocol is refused', async () => {
  const headers = { location: 'ftp://files.example/it?a=b' }
  const server = await start({ fault: on('manifest', { kind: 'status', status: 307, headers }) })
  const { message } = await failureOf(read(open(server.host)))
  expect(message).toContain('redirects to ftp://files.example, which is not encrypted')
})
