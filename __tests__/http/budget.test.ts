import type { Socket } from 'node:net'
import { Readable } from 'node:stream'
import { describe, expect, test } from '@jest/globals'
import { createBudgets } from '../../src/http/budget.ts'
import { digestOf } from '../../src/oci/reference.ts'
import { type Client, failureOf, open, openRaw, start, until } from '../registry/connect.ts'
import { mediaTypes } from '../support/registry/manifests.ts'
import { index } from '../support/registry/wire.ts'
import { type FaultOf, startRegistry } from '../support/registry.ts'

const bytes = index(mediaTypes.ociIndex, [])
const digest = digestOf(bytes)
const busy = { kind: 'status', status: 503 } as const

function read({ getManifest, repository }: Client) {
  return getManifest(repository, digest)
}

/** A registry that fails between two moments of a clock, which only waits advance. */
async function connectWithOutage(from: number, to: number, fault: ReturnType<FaultOf> = busy) {
  let time = 0
  const server = await start({ fault: () => (time >= from && time < to ? fault : undefined) })
  server.seedManifest('app', bytes, mediaTypes.ociIndex)
  const client = open(server.host, undefined, {
    now: () => time,
    wait: async (milliseconds) => {
      time += milliseconds
    },
  })
  const pass = (milliseconds: number): void => {
    time += milliseconds
  }
  return { server, client, time: () => time, pass }
}

describe('an outage', () => {
  test('of 60 s passes', async () => {
    const { client, time } = await connectWithOutage(0, 60_000)
    expect(await read(client)).toMatchObject({ digest })
    expect(time()).toBeGreaterThanOrEqual(60_000)
    expect(time()).toBeLessThan(76_000)
  })

  test('that lasts does not use up a budget for each of many requests', async () => {
    const { server, client, time, pass } = await connectWithOutage(1, Number.POSITIVE_INFINITY)
    await read(client)
    pass(1)
    const { message } = await failureOf(read(client))
    expect(message).toMatch(/answered with status 503 \(\d+ attempts in 1[01]\d s\)/)
    const end = time()
    expect(end).toBeLessThanOrEqual(120_001)
    const before = server.requests.length
    for (let count = 0; count < 5; count++) await failureOf(read(client))
    // The rest of the budget allows only short waits.
    expect(time()).toBeLessThanOrEqual(120_001)
    expect(server.requests.length - before).toBeLessThan(15)
  })

  test('of long ago does not reduce the budget of a later one', async () => {
    const { server, client, pass } = await connectWithOutage(0, 0)
    await read(client)
    server.setFault(() => busy)
    await failureOf(read(client))
    pass(600_000)
    let asked = 0
    server.setFault(() => (++asked === 1 ? busy : undefined))
    expect(await read(client)).toMatchObject({ digest })
  })

  test('of one kind of request ends in an error, even if the registry answers others', async () => {
    const { server, client, time } = await connectWithOutage(0, 0)
    server.setFault(({ method, route }) => (method === 'PUT' && route === 'upload' ? busy : undefined))
    const open = () => Readable.from([bytes], { objectMode: false })
    await failureOf(client.putBlob(client.repository, { digest: digestOf(Buffer.from('x')), size: bytes.length, open }))
    expect(time()).toBeGreaterThan(90_000)
    expect(time()).toBeLessThanOrEqual(120_000)
  })
})

describe('a budget', () => {
  const host = 'https://registry.example'

  function budgets() {
    let time = 0
    const pass = (milliseconds: number): void => {
      time += milliseconds
    }
    return { pass, ...createBudgets(() => time) }
  }

  test('of one kind of request lasts while others succeed, and that of the host ends with any success', () => {
    const { startWork, startAttempt, left, pass } = budgets()
    startAttempt(host, startWork(), 'PUT').failed()
    pass(100_000)
    startAttempt(host, startWork(), 'GET').answered()
    expect(left(host, startWork(), 'PUT')).toBe(15_000)
    startAttempt(host, startWork(), 'GET').failed()
    pass(10_000)
    expect(left(host, startWork(), 'HEAD')).toBe(105_000)
    startAttempt(host, startWork(), 'PUT').answered()
    expect(left(host, startWork(), 'PUT')).toBe(Number.POSITIVE_INFINITY)
  })

  test('gives an attempt the rest of it, but at least 10 s', () => {
    const { startWork, startAttempt, pass } = budgets()
    const work = startWork()
    const first = startAttempt(host, work)
    expect(first.limit(60_000)).toBe(60_000)
    pass(60_000)
    first.failed()
    pass(20_000)
    expect(startAttempt(host, work).limit(60_000)).toBe(35_000)
    pass(35_000)
    expect(startAttempt(host, work).limit(60_000)).toBe(10_000)
    expect(startAttempt(host, work).limit(5_000)).toBe(5_000)
  })

  test('keeps the extra time of a large upload', () => {
    const { startWork, startAttempt, pass } = budgets()
    const work = startWork()
    startAttempt(host, work).failed()
    pass(115_000)
    expect(startAttempt(host, work).limit(60_000 + 500_000)).toBe(10_000 + 500_000)
  })

  test('begins with the last transferred byte, so that a long upload that breaks is sent again', () => {
    const { startWork, startAttempt, pass, left } = budgets()
    const work = startWork()
    for (let count = 1; count <= 3; count++) {
      startAttempt(host, work).answered()
      const upload = startAttempt(host, work)
      pass(300_000)
      upload.progress()
      upload.failed()
      work.count++
      expect(left(host, work)).toBe(115_000)
    }
  })

  test('ends for an upload that breaks again and again', () => {
    const { startWork, startAttempt, pass, left } = budgets()
    const work = startWork()
    let count = 0
    do {
      startAttempt(host, work).answered()
      const upload = startAttempt(host, work)
      pass(300_000)
      upload.progress()
      upload.failed()
      work.count = ++count
    } while (left(host, work) > 0)
    expect(count).toBeLessThan(10)
  })
})

describe('parallel requests', () => {
  /** A client whose waits end only when the test says so. */
  async function openHeld(fault: FaultOf) {
    const server = await start({ fault })
    for (let count = 0; count < 20; count++) server.seedManifest('app', bytes, mediaTypes.ociIndex, `tag${count}`)
    const waits: number[] = []
    const held = Promise.withResolvers<void>()
    const client = open(server.host, undefined, {
      wait: (milliseconds) => {
        waits.push(milliseconds)
        return held.promise
      },
    })
    const failed = (count: number) =>
      server.requests.filter(({ status }) => status !== undefined && status >= 400).length >= count
    return { server, client, waits, failed, release: held.resolve }
  }

  test('that fail together share one wait and one line in the log', async () => {
    const { client, waits, failed, release } = await openHeld(({ method, route, count }) =>
      method === 'GET' && route === 'manifest' && count <= 20 ? busy : undefined,
    )
    const tags = Array.from({ length: 20 }, (_, count) => `tag${count}`)
    const all = Promise.all(tags.map((tag) => client.getManifest(client.repository, tag)))
    await until(() => failed(20))
    // By the time these are answered, the client has read the answers before them.
    for (let count = 0; count < 10; count++) await client.findDigest(client.repository, 'other')
    release()
    expect(await all).toEqual(Array(20).fill(expect.objectContaining({ digest })))
    expect(waits).toHaveLength(1)
    expect(client.lines).toHaveLength(1)
  })

  /** Lets the requests of the client come to what they wait for. */
  async function settled(): Promise<void> {
    for (let turn = 0; turn < 100; turn++) await new Promise(setImmediate)
  }

  test.each([
    ['without Retry-After', {}],
    ['with Retry-After', { 'retry-after': '5' }],
  ])(
    'share one wait and one line in the log while the host limits them, however often each has failed: %s',
    async (_, headers) => {
      const limit = { kind: 'status', status: 429, headers } as const
      const server = await start()
      for (let count = 0; count < 20; count++) server.seedManifest('app', bytes, mediaTypes.ociIndex, `tag${count}`)
      const waits: (() => void)[] = []
      const client = open(server.host, undefined, {
        wait: () => new Promise<void>((resolve) => waits.push(resolve)),
      })
      await client.findDigest(client.repository, 'tag0')
      const asked = () =>
        server.requests.filter(({ route, status }) => route === 'manifest' && status !== undefined).length
      // The first request fails three times before the others are sent.
      server.setFault(() => limit)
      const first = client.getManifest(client.repository, 'tag0')
      for (let round = 1; round <= 3; round++) {
        await until(() => waits.length === round)
        if (round < 3) waits[round - 1]?.()
      }
      const before = asked()
      const others = Array.from({ length: 10 }, (_one, count) => client.getManifest(client.repository, `tag${count}`))
      await settled()
      waits[2]?.()
      await until(() => asked() === before + 11 && waits.length === 4)
      await settled()
      expect(waits).toHaveLength(4)
      expect(client.lines).toHaveLength(4)
      server.setFault(undefined)
      waits[3]?.()
      expect(await Promise.all([first, ...others])).toHaveLength(11)
      expect(waits).toHaveLength(4)
    },
  )

  test('with HEAD wait, and are not sent again as GET, if the host limits them', async () => {
    const { server, client } = await connectWithOutage(0, 0)
    server.setFault(({ route, count }) =>
      route === 'manifest' && count <= 2 ? { kind: 'status', status: 429 } : undefined,
    )
    expect(await client.findDigest(client.repository, digest)).toBe(digest)
    expect(server.requests.map(({ method }) => method)).toEqual(['GET', 'HEAD', 'HEAD', 'HEAD'])
  })

  test('wait for the host that has asked one of them to wait', async () => {
    const fault = { kind: 'status', status: 429, headers: { 'retry-after': '30' } } as const
    const { server, client, waits, failed, release } = await openHeld(({ method, route, count }) =>
      method === 'GET' && route === 'manifest' && count === 1 ? fault : undefined,
    )
    const first = client.getManifest(client.repository, 'tag0')
    await until(() => failed(1) && waits.length === 1)
    const second = client.getManifest(client.repository, 'tag1')
    const other = open(server.host)
    for (let count = 0; count < 10; count++) await other.findDigest(client.repository, 'other')
    const asked = () => server.requests.filter(({ reference }) => reference === 'tag1').length
    expect(asked()).toBe(0)
    release()
    await Promise.all([first, second])
    expect(asked()).toBe(1)
    expect(waits).toHaveLength(1)
  })
})

describe('a registry that restarts', () => {
  test('gets the request again until it listens', async () => {
    const server = await startRegistry()
    const client = open(server.host)
    await client.getManifest(client.repository, 'latest')
    await server.close()
    const error = await failureOf(read(client))
    expect(error).toMatchObject({ problem: 'unreachable' })
    expect(error.message).toMatch(/can't be reached \(\d+ attempts in 1[012]\d s\)/)
    expect(error.message).toContain(`${server.host} answered earlier in this job. Run the job again later.`)
    expect(client.waits.length).toBeGreaterThan(5)
    expect(client.lines.at(-1)).toMatch(/ECONNREFUSED.*; retrying in 1\d\.\d s$/)
  })
})

describe('an upload that stalls', () => {
  const base = 'HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n'
  const absent = 'HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n'
  const large = Buffer.alloc(32 * 1024 * 1024)
  const begun = 'HTTP/1.1 202 Accepted\r\nlocation: /v2/app/blobs/uploads/1\r\ncontent-length: 0\r\n\r\n'
  const stored = 'HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n'

  function blobOf(content: Buffer) {
    return {
      digest: digestOf(content),
      size: content.length,
      open: () => Readable.from([content], { objectMode: false }),
    }
  }

  function openUploading(put: (socket: Socket) => void) {
    return openRaw(
      (socket, request) => {
        if (request.startsWith('GET /v2/ ')) socket.write(base)
        else if (request.startsWith('HEAD')) socket.write(absent)
        else if (request.startsWith('POST')) socket.write(begun)
        else if (request.startsWith('PUT')) put(socket)
      },
      { timeouts: { stall: 100 } },
    )
  }

  test('while it is sent is repeated', async () => {
    let puts = 0
    const { client } = await openUploading((socket) => {
      if (++puts === 1) socket.pause()
      else socket.write(stored)
    })
    await client.putBlob(client.repository, blobOf(large))
    expect(client.lines).toEqual([
      expect.stringMatching(/: nothing more of the upload was taken within 0\.1 s; retrying in 1\.\d s$/),
    ])
  })

  test('after it has been sent is repeated', async () => {
    let puts = 0
    const { client } = await openUploading((socket) => void (++puts > 1 && socket.write(stored)))
    await client.putBlob(client.repository, blobOf(bytes))
    expect(client.lines).toEqual([expect.stringMatching(/: no answer arrived within 0\.1 s; retrying in 1\.\d s$/)])
  })

  test('permanently is an error that says so', async () => {
    const { client } = await openUploading(() => undefined)
    const { message } = await failureOf(client.putBlob(client.repository, blobOf(bytes)))
    expect(message).toMatch(/the connection to [\d.:]+ stalled \(\d+ attempts in 1[012]\d s\)/)
  })

  test('because its source is slow does not count as stalled', async () => {
    const server = await start()
    const client = open(server.host, undefined, { timeouts: { stall: 100 } })
    async function* slow() {
      yield bytes.subarray(0, 1)
      await new Promise((resolve) => setTimeout(resolve, 300))
      yield bytes.subarray(1)
    }
    const source = () => Readable.from(slow(), { objectMode: false })
    await client.putBlob(client.repository, { ...blobOf(bytes), open: source })
    expect(await server.blob('app', digest)).toEqual(bytes)
    expect(client.lines).toEqual([])
  })
})
