import { describe, expect, jest, test } from '@jest/globals'
import { adviceFor } from '../../src/actions/advice.ts'
import type { Credential, CredentialSource } from '../../src/registry/credentials.ts'
import { mediaTypes } from '../support/registry/manifests.ts'
import { basic, index } from '../support/registry/wire.ts'
import type { BearerAuth, FaultOf, SeenRequest, TestRegistry } from '../support/registry.ts'
import { account, afterwards, type Client, connect, failureOf, open, password, start } from './connect.ts'

const bytes = index(mediaTypes.ociIndex, [])
const bearer: BearerAuth = { kind: 'bearer', ...account }
const identity: Credential = { kind: 'identity-token', token: 'identity' }
const wrong: Credential = { kind: 'password', username: account.user, password: 'wrong' }

async function write({ putManifest, repository }: Client): Promise<void> {
  await putManifest(repository, 'latest', mediaTypes.ociIndex, bytes)
}

async function read({ getManifest, repository }: Client): Promise<Buffer | undefined> {
  return (await getManifest(repository, 'latest'))?.bytes
}

function tokenRequests({ requests }: TestRegistry): readonly SeenRequest[] {
  return requests.filter(({ route }) => route === 'token')
}

function tokenAnswer(status: number, body: string): FaultOf {
  return ({ route }) => (route === 'token' ? { kind: 'status', status, body } : undefined)
}

describe('a user who is logged in may push', () => {
  test.each([
    ['user name and password', { kind: 'basic', ...account }, password],
    ['a token for user name and password', bearer, password],
    ['a token that the answer calls access_token', { ...bearer, tokenField: 'access_token' }, password],
    ['a token that lives for a second', { ...bearer, expiresIn: 1 }, password],
    ['a token for an identity token', { ...bearer, identityToken: 'identity' }, identity],
  ] as const)('by %s', async (_, auth, credential) => {
    const { server, client } = await connect({ auth }, credential)
    await write(client)
    expect(server.manifest('app', 'latest')?.bytes).toEqual(bytes)
    expect(await read(client)).toEqual(bytes)
  })

  test('and every secret is reported before it is used', async () => {
    const used: string[] = []
    const told: string[] = []
    const server = await start({
      auth: bearer,
      fault: ({ authorization }) => {
        const secret = authorization?.split(' ')[1]
        if (secret !== undefined && !client.secrets.includes(secret)) used.push(secret)
        return undefined
      },
    })
    const client = open(server.host, password)
    await write(client)
    told.push(...client.secrets)
    expect(used).toEqual([])
    expect(told).toContain(basic(account).slice('Basic '.length))
    expect(told).toContain(server.requests.at(-1)?.authorization?.slice('Bearer '.length))
  })

  test('by a token in access_token, if token is empty', async () => {
    const { server, client } = await connect(
      { auth: bearer, fault: tokenAnswer(200, '{"token":"","access_token":"abc"}') },
      password,
    )
    await failureOf(read(client))
    const reads = server.requests.filter(({ route }) => route === 'manifest')
    expect(reads.at(-1)?.authorization).toBe('Bearer abc')
  })

  test('at a registry that only challenges requests that need a login', async () => {
    const fault: FaultOf = ({ route }) => (route === 'base' ? { kind: 'status', status: 200 } : undefined)
    const { server, client } = await connect({ auth: bearer, fault }, password)
    await write(client)
    expect(server.manifest('app', 'latest')?.bytes).toEqual(bytes)
  })
})

describe('a token is fetched', () => {
  test.each([
    ['challenges the first request', undefined],
    [
      'challenges only requests that need a login',
      ({ route }: SeenRequest) => (route === 'base' ? ({ kind: 'status', status: 200 } as const) : undefined),
    ],
  ])('once for many concurrent requests, if the registry %s', async (_, fault) => {
    const { server, client } = await connect({ auth: bearer, ...(fault && { fault }) }, password)
    server.seedManifest('app', bytes, mediaTypes.ociIndex, 'latest')
    expect(await Promise.all(Array.from({ length: 10 }, () => read(client)))).toEqual(Array(10).fill(bytes))
    expect(tokenRequests(server)).toHaveLength(1)
  })

  test('once more for all waiting requests when it has expired', async () => {
    const { server, client } = await connect({ auth: bearer }, password)
    server.seedManifest('app', bytes, mediaTypes.ociIndex, 'latest')
    await read(client)
    server.expireTokens()
    expect(await Promise.all(Array.from({ length: 10 }, () => read(client)))).toEqual(Array(10).fill(bytes))
    expect(tokenRequests(server)).toHaveLength(2)
  })

  test.each([
    ['again for each request, if it expires at once', { expires_in: 0 }, 2],
    ['once for two requests, if it is valid for five minutes', { expires_in: 300 }, 1],
    ['once for two requests, if the service gives no lifetime (60 seconds)', {}, 1],
  ])('%s', async (_, lifetime, times) => {
    const fault: FaultOf = ({ route, headers }) => {
      const challenge = { 'www-authenticate': `Bearer realm="http://${headers.host}/token"` }
      if (route === 'base') return { kind: 'status', status: 401, headers: challenge }
      return route === 'token'
        ? { kind: 'status', status: 200, body: JSON.stringify({ token: 'abc', ...lifetime }) }
        : undefined
    }
    const { server, client } = await connect({ fault })
    await read(client)
    await read(client)
    expect(tokenRequests(server)).toHaveLength(times)
  })

  test('again before it expires, without waiting for the registry to refuse it', async () => {
    const fault: FaultOf = ({ route, headers }) => {
      const challenge = { 'www-authenticate': `Bearer realm="http://${headers.host}/token"` }
      if (route === 'base') return { kind: 'status', status: 401, headers: challenge }
      const body = JSON.stringify({ token: 'abc', expires_in: 300 })
      return route === 'token' ? { kind: 'status', status: 200, body } : undefined
    }
    const { server, client } = await connect({ fault })
    const start = Date.now()
    const clock = jest.spyOn(Date, 'now').mockReturnValue(start)
    afterwards(async () => clock.mockRestore())
    const fetched: number[] = []
    for (const seconds of [0, 200, 299]) {
      clock.mockReturnValue(start + seconds * 1000)
      await read(client)
      fetched.push(tokenRequests(server).length)
    }
    expect(fetched).toEqual([1, 1, 2])
  })

  test('with the scope of the request, for the service that the registry names', async () => {
    const { server, client } = await connect({ auth: bearer }, password)
    await read(client)
    await write(client)
    const scopes = tokenRequests(server).map(({ path }) => new URL(path, 'http://x').searchParams)
    expect(scopes.map((query) => [query.get('service'), query.getAll('scope')])).toEqual([
      ['test-registry', ['repository:app:pull']],
      ['test-registry', ['repository:app:pull,push']],
    ])
  })

  test.each([404, 405])('without the identity token, if the service rejects that protocol with %d', async (status) => {
    const fault: FaultOf = ({ route, method }) =>
      route === 'token' && method === 'POST' ? { kind: 'status', status } : undefined
    const { server, client } = await connect({ auth: { ...bearer, anonymousPull: true }, fault }, identity)
    server.seedManifest('app', bytes, mediaTypes.ociIndex, 'latest')
    expect(await read(client)).toEqual(bytes)
    expect(tokenRequests(server).map(({ method, authorization }) => [method, authorization])).toEqual([
      ['POST', undefined],
      ['GET', undefined],
    ])
  })
})

describe('a user who is not logged in', () => {
  test('may pull what is public', async () => {
    const { server, client } = await connect({ auth: { ...bearer, anonymousPull: true } })
    server.seedManifest('app', bytes, mediaTypes.ociIndex, 'latest')
    expect(await read(client)).toEqual(bytes)
  })

  test.each([
    ['from a registry with passwords', { kind: 'basic', ...account }],
    ['from one with tokens', bearer],
    ['from one where anyone may pull', { ...bearer, anonymousPull: true }],
  ] as const)('learns that credentials are missing, %s', async (_, auth) => {
    const { server, client } = await connect({ auth })
    const error = await failureOf(write(client))
    expect(error).toMatchObject({ problem: 'no-credentials', host: server.host, status: 401 })
    expect(error.message).toContain(`authentication required, but no credentials were found for ${server.host}`)
    expect(error.message).toMatch(/authentication required/)
  })
})

describe('a credential from a helper that has expired', () => {
  const expired: Credential = { kind: 'identity-token', token: 'expired' }
  const kinds = [
    ['a password', { kind: 'basic', ...account }, wrong, password],
    ['a password for tokens', bearer, wrong, password],
    ['an identity token', { ...bearer, identityToken: 'identity' }, expired, identity],
  ] as const

  test.each(kinds)('is requested again, and the push succeeds: %s', async (_, auth, old, renewed) => {
    const given: Credential[] = []
    const helper: CredentialSource = async () => {
      given.push(given.length === 0 ? old : renewed)
      return given.at(-1)
    }
    const { server, client } = await connect({ auth }, helper)
    await write(client)
    expect(server.manifest('app', 'latest')?.bytes).toEqual(bytes)
    expect(given.filter((one) => one === old)).toHaveLength(1)
  })

  test.each(kinds)(
    'is requested again once per push, if the helper returns the same: %s',
    async (_, auth, old, _renewed) => {
      const helper = jest.fn<CredentialSource>(async () => ({ ...old }))
      const { client } = await connect({ auth }, helper)
      const error = await failureOf(client.checkPush(client.repository))
      expect(error).toMatchObject({ problem: 'wrong-credentials', status: 401 })
      expect(helper).toHaveBeenCalledTimes(2)
    },
  )

  test('is requested again after a failure of the helper', async () => {
    const helper = jest.fn<CredentialSource>(async () => password)
    helper.mockRejectedValueOnce(new Error('the network is down'))
    const { server, client } = await connect({ auth: bearer }, helper)
    await expect(write(client)).rejects.toThrow('the network is down')
    await write(client)
    expect(server.manifest('app', 'latest')?.bytes).toEqual(bytes)
  })

  test('is requested again after five minutes, even if the registry still accepts it', async () => {
    const helper = jest.fn<CredentialSource>(async () => password)
    const { client } = await connect({ auth: { kind: 'basic', ...account } }, helper)
    await write(client)
    await read(client)
    expect(helper).toHaveBeenCalledTimes(1)
    const later = Date.now() + 5 * 60_000
    const clock = jest.spyOn(Date, 'now').mockReturnValue(later)
    afterwards(async () => clock.mockRestore())
    await read(client)
    expect(helper).toHaveBeenCalledTimes(2)
  })
})

describe('a user whom the registry refuses learns why', () => {
  test.each([
    ['a wrong password', { kind: 'basic', ...account }, wrong, 'invalid credentials'],
    ['a wrong password for tokens', bearer, wrong, 'did not accept the credentials of the user "octocat"'],
    [
      'an old identity token',
      { ...bearer, identityToken: 'new' },
      identity,
      'did not accept the credentials of the stored identity token',
    ],
  ] as const)('%s', async (_, auth, credential, why) => {
    const { server, client } = await connect({ auth }, credential)
    const error = await failureOf(write(client))
    expect(error).toMatchObject({ problem: 'wrong-credentials', host: server.host, status: 401 })
    expect(error.message).toContain(why)
    expect(server.requests.length).toBeLessThan(6)
  })

  test('a login that may pull and not push', async () => {
    const { server, client } = await connect(
      { auth: { ...bearer, grants: (_, action) => action === 'pull' } },
      password,
    )
    const error = await failureOf(write(client))
    expect(error).toMatchObject({ problem: 'denied', status: 401, code: 'UNAUTHORIZED' })
    expect(error.message).toContain('access denied')
    expect(server.requests.filter(({ method }) => method === 'PUT')).toHaveLength(1)
    expect(tokenRequests(server)).toHaveLength(1)
  })

  test.each([
    ['a password', bearer, password, 'the user "octocat"'],
    ['an identity token', { ...bearer, identityToken: 'identity' }, identity, 'the stored identity token'],
  ] as const)('a token service that answers 403 to %s, which may be valid', async (_, auth, credential, who) => {
    const fault = tokenAnswer(403, '{"errors":[{"code":"DENIED","message":"no write access to app"}]}')
    const { server, client } = await connect({ auth, fault }, credential)
    const error = await failureOf(write(client))
    expect(error).toMatchObject({ problem: 'refused-login', host: server.host, status: 403 })
    expect(error.message).toContain(
      `did not accept the credentials of ${who}, or they have no access to the repository`,
    )
    expect(error.message).toContain('no write access to app')
    const advice = adviceFor(error)
    expect(advice).toMatch(/^Check the user name and the password .*\n {2}- uses: docker\/login-action@v4\n/)
    expect(advice).toMatch(/\nIf they are correct, .* Give the login write access to the repository\.$/)
  })

  test('a token service that answers 401 rejects the credentials', async () => {
    const { client } = await connect({ auth: bearer }, wrong)
    const error = await failureOf(write(client))
    expect(error.message).toContain('did not accept the credentials of the user "octocat"')
    expect(error.message).not.toContain('no access')
  })

  test('a status of 403', async () => {
    const body = '{"errors":[{"code":"DENIED","message":"permission_denied: write_package"}]}'
    const fault: FaultOf = ({ route }) => (route === 'manifest' ? { kind: 'status', status: 403, body } : undefined)
    const { client } = await connect({ auth: bearer, fault }, password)
    const error = await failureOf(write(client))
    expect(error).toMatchObject({ problem: 'denied', status: 403, code: 'DENIED' })
    expect(error.message).toContain('permission_denied: write_package')
  })

  test.each([
    ['no JSON', 'nonsense'],
    ['no token', '{"expires_in":300}'],
    ['a token of another form', '{"token":{}}'],
  ])('a token service whose answer holds %s', async (_, body) => {
    const { client } = await connect({ auth: bearer, fault: tokenAnswer(200, body) }, password)
    const error = await failureOf(write(client))
    expect(error.problem).toBe('doubtful')
    expect(error.message).toContain('contains no token')
  })

  test('a token service that limits the rate of requests', async () => {
    const { client } = await connect({ auth: bearer, fault: tokenAnswer(429, 'Too Many Requests') }, password)
    const error = await failureOf(write(client))
    expect(error).toMatchObject({ problem: 'rate-limited', status: 429 })
    expect(error.message).toContain('Too Many Requests')
  })

  test('a token service that is broken', async () => {
    const { client } = await connect({ auth: bearer, fault: tokenAnswer(500, 'out of order') }, password)
    const error = await failureOf(write(client))
    expect(error).toMatchObject({ problem: 'other', status: 500 })
    expect(error.message).toContain('out of order')
  })

  test('a token service whose answer breaks off', async () => {
    const fault: FaultOf = ({ route }) => (route === 'token' ? { kind: 'truncate' } : undefined)
    const { client } = await connect({ auth: bearer, fault }, password)
    expect(await failureOf(write(client))).toMatchObject({ problem: 'unreachable' })
  })

  test('a registry that needs no credentials, with its message, although they could not be read', async () => {
    const unreadable = async (): Promise<undefined> => {
      throw new Error('the file is broken')
    }
    const fault: FaultOf = ({ method }) =>
      method === 'PUT' ? { kind: 'status', status: 400, body: 'no such tag' } : undefined
    const { client } = await connect({ fault }, unreadable)
    expect((await failureOf(write(client))).message).toContain('no such tag')
  })
})

test('a token service that answers 403 after it has issued a token denies access', async () => {
  const { server, client } = await connect({ auth: bearer }, password)
  await read(client)
  server.setFault(tokenAnswer(403, '{"errors":[{"code":"DENIED","message":"no write access to app"}]}'))
  const error = await failureOf(write(client))
  expect(error).toMatchObject({ problem: 'denied', status: 403 })
  expect(error.message).toContain('denied access to the user "octocat"')
  expect(error.message).not.toContain('accept the credentials')
})

test('a relative realm is refused with advice for the operator', async () => {
  const headers = { 'www-authenticate': 'Bearer realm="/token"' }
  const { server, client } = await connect({ fault: () => ({ kind: 'status', status: 401, headers }) }, password)
  expect((await failureOf(read(client))).message).toBe(
    `Can't get a token from "/token", the realm that ${server.host} specifies: it must be an absolute URL, such as https://auth.example.org/token\nAsk the operator of ${server.host} to correct the \`realm\` in its WWW-Authenticate header.`,
  )
})

test('a password is not sent unencrypted to the realm of a registry', async () => {
  const challenge = { 'www-authenticate': 'Bearer realm="http://203.0.113.7/token"' }
  const fault: FaultOf = () => ({ kind: 'status', status: 401, headers: challenge })
  const { server, client } = await connect({ fault }, password)
  const error = await failureOf(write(client))
  expect(error.message).toContain("Can't get a token from http://203.0.113.7/token, the realm that ")
  expect(client.secrets).toEqual([])
  expect(server.requests.every(({ authorization }) => authorization === undefined)).toBe(true)
})
