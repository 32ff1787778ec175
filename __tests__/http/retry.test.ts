import { describe, expect, test } from '@jest/globals'
import { isRetryable, isRetryableError, retryDelay } from '../../src/http/retry.ts'
import { connect, failureOf } from '../registry/connect.ts'
import { digestOf } from '../support/digest.ts'
import { mediaTypes } from '../support/registry/manifests.ts'
import { index } from '../support/registry/wire.ts'
import type { Fault, FaultOf, RouteName } from '../support/registry.ts'

const secondary = '{"errors":[{"code":"DENIED","message":"You have exceeded a secondary rate limit."}]}'
const bytes = index(mediaTypes.ociIndex, [])
const now = Date.parse('2026-02-03T04:05:06Z')

describe('transient failures', () => {
  test.each([408, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 527])('status %d does', (status) => {
    expect(isRetryable(status, '')).toBe(true)
  })

  test.each([200, 307, 400, 401, 403, 404, 405, 409, 412, 416, 501, 505, 519, 528])('status %d does not', (status) => {
    expect(isRetryable(status, 'rate limit')).toBe(false)
  })

  test('include GHCR’s secondary rate limit, but no other 403 or 401', () => {
    expect(isRetryable(403, secondary)).toBe(true)
    expect(isRetryable(401, secondary)).toBe(false)
  })

  test.each([
    'ECONNRESET',
    'EPIPE',
    'ETIMEDOUT',
    'EAI_AGAIN',
    'UND_ERR_SOCKET',
    'UND_ERR_HEADERS_TIMEOUT',
    'UND_ERR_PRX_CONN',
  ])('include the error %s', (code) => {
    expect(isRetryableError(code, false)).toBe(true)
  })

  test.each(['ENOTFOUND', 'ECONNREFUSED', 'CERT_HAS_EXPIRED', 'DEPTH_ZERO_SELF_SIGNED_CERT', undefined])(
    'the error %s does not',
    (code) => {
      expect(isRetryableError(code, false)).toBe(false)
    },
  )

  test.each([
    'ECONNREFUSED',
    'EHOSTUNREACH',
    'ENETUNREACH',
    'ENOTFOUND',
    'EMFILE',
    'EPROTO',
    'ERR_SSL_WRONG_VERSION_NUMBER',
  ])('include the error %s once the host has answered', (code) => {
    expect([isRetryableError(code, false), isRetryableError(code, true)]).toEqual([false, true])
  })
})

describe('the wait before a retry', () => {
  test.each([
    [1, undefined, 0, 1000],
    [1, undefined, 1, 1500],
    [2, undefined, 0, 2000],
    [3, undefined, 0.5, 5000],
    [4, undefined, 1, 12_000],
    [7, undefined, 0, 15_000],
    [5000, undefined, 1, 12_000],
    [1, '7', 0, 7000],
    [1, '7', 0.5, 7500],
    [1, '0', 0, 0],
    [1, '86400', 0, 60_000],
    [1, '9'.repeat(400), 1, 60_000],
    [1, 'Tue, 03 Feb 2026 04:05:16 GMT', 0, 10_000],
    [1, 'Tue, 03 Feb 2026 04:05:00 GMT', 0, 0],
    [1, '12.5ms', 0, 1000],
    [2, '-1', 0, 2000],
    [1, 'soon', 0, 1000],
    [1, '', 0, 1000],
  ])('after attempt %d, with Retry-After %p and jitter %d: %d ms', (attempt, retryAfter, random, expected) => {
    expect(retryDelay(attempt, retryAfter, now, random)).toBe(expected)
  })
})

describe('a request with a transient failure is sent again', () => {
  const faults: readonly (readonly [string, Fault])[] = [
    ['429 with a broken Retry-After', { kind: 'status', status: 429, headers: { 'retry-after': '12.5ms' } }],
    ['503 in HTML', { kind: 'status', status: 503, body: '<h1>Service Unavailable</h1>' }],
    ['GHCR’s secondary rate limit', { kind: 'status', status: 403, body: secondary }],
    ['a connection that breaks', { kind: 'reset' }],
    ['a connection that breaks before the answer', { kind: 'lose' }],
  ]

  /** Breaks the first two requests of a route. */
  function twice(name: RouteName, fault: Fault): FaultOf {
    return ({ route, count }) => (route === name && count <= 2 ? fault : undefined)
  }

  test.each(faults)('when reading: %s', async (_, fault) => {
    const { server, client } = await connect({ fault: twice('manifest', fault) })
    const digest = server.seedManifest('app', bytes, mediaTypes.ociIndex)
    expect(await client.getManifest(client.repository, digest)).toMatchObject({ bytes })
    expect(server.requests.filter(({ route }) => route === 'manifest')).toHaveLength(3)
    expect(client.waits).toHaveLength(2)
    expect(client.lines).toEqual([
      expect.stringMatching(/; retrying in 1\.\d s$/),
      expect.stringMatching(/; retrying in [23]\.\d s$/),
    ])
    for (const line of client.lines) expect(line.startsWith(`${server.host}: `)).toBe(true)
  })

  test.each(faults)('when writing: %s', async (_, fault) => {
    const { server, client } = await connect({ fault: twice('manifest', fault) })
    await client.putManifest(client.repository, 'latest', mediaTypes.ociIndex, bytes)
    expect(server.manifest('app', 'latest')?.bytes).toEqual(bytes)
  })

  test.each(['manifest', 'blob'] as const)('when a %s breaks off in the middle', async (name) => {
    const { server, client } = await connect({ fault: twice(name, { kind: 'truncate' }) })
    server.seedManifest('app', bytes, mediaTypes.ociIndex, 'latest')
    const digest = await server.seedBlob('app', bytes)
    expect(digest).toBe(digestOf(bytes))
    const read =
      name === 'manifest'
        ? (await client.getManifest(client.repository, 'latest'))?.bytes
        : await client.getBlob(client.repository, `sha256:${digest.slice(7)}`, 1024)
    expect(read).toEqual(bytes)
  })

  test('as long as a registry asks for, within a minute', async () => {
    const fault = twice('manifest', { kind: 'status', status: 429, headers: { 'retry-after': '30' } })
    const { client } = await connect({ fault })
    await client.getManifest(client.repository, 'latest')
    for (const wait of client.waits) expect(Math.floor(wait / 1000)).toBe(30)
  })

  test('for two minutes; the error then has the registry’s words and the number of attempts', async () => {
    const fault: FaultOf = ({ route }) =>
      route === 'manifest' ? { kind: 'status', status: 429, body: 'toomanyrequests: slow down\n' } : undefined
    const { server, client } = await connect({ fault })
    const error = await failureOf(client.getManifest(client.repository, 'latest'))
    expect(error).toMatchObject({ problem: 'rate-limited', status: 429, host: server.host })
    expect(error.message).toContain('toomanyrequests: slow down')
    const { length } = server.requests.filter(({ route }) => route === 'manifest')
    expect(error.message).toMatch(new RegExp(`\\(${length} attempts in 1[01]\\d s\\)`))
    expect(client.waits.reduce((sum, wait) => sum + wait)).toBeLessThan(120_000)
  })

  test('with one line in the log, in which the registry can’t give the runner commands', async () => {
    const body = '{"errors":[{"message":"busy\\r\\n::error::a"},{"message":"::stop-commands::b"}]}'
    const { client } = await connect({ fault: twice('manifest', { kind: 'status', status: 503, body }) })
    await client.getManifest(client.repository, 'latest')
    expect(client.lines).toHaveLength(2)
    for (const line of client.lines) expect(line).not.toMatch(/[\r\n]/)
  })
})

describe('a request with a permanent failure is not sent again', () => {
  test.each([400, 401, 403, 405, 409, 412, 501])('status %d', async (status) => {
    const { server, client } = await connect({
      fault: ({ route }) => (route === 'manifest' ? { kind: 'status', status, body: 'because' } : undefined),
    })
    const error = await failureOf(client.getManifest(client.repository, 'latest'))
    expect(error).toMatchObject({ status, message: expect.stringContaining('because') })
    expect(server.requests.filter(({ route }) => route === 'manifest')).toHaveLength(1)
    expect(client.waits).toEqual([])
  })
})
