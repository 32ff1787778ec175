import type { Socket } from 'node:net'
import { Readable } from 'node:stream'
import { describe, expect, jest, test } from '@jest/globals'
import { readSteadily } from '../../src/http/body.ts'
import { createHttp } from '../../src/http/client.ts'
import { digestOf } from '../../src/oci/reference.ts'
import { createRegistry } from '../../src/registry/client.ts'
import { mediaTypes } from '../support/registry/manifests.ts'
import { index } from '../support/registry/wire.ts'
import { afterwards, failureOf, openRaw } from './connect.ts'

const bytes = index(mediaTypes.ociIndex, [])
const digest = digestOf(bytes)
const base = 'HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n'
const promised = 'HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n'
const whole = `HTTP/1.1 200 OK\r\ncontent-length: ${bytes.length}\r\n\r\n${bytes}`

/** In milliseconds. The limited work never ends by itself, so the result is the same on a slow machine. */
const timeouts = { stall: 50, drain: 50 }

/** Writes the text, and then a byte, or `more`, again and again for as long as the connection lasts. */
function drip(socket: Socket, text: string, more = 'x'): void {
  socket.write(text)
  const timer = setInterval(() => socket.write(more), 10)
  socket.on('close', () => clearInterval(timer))
}

/** A registry that drips. `answer` is not asked about the base, nor is anyone who tries https. */
function openDripping(answer: (socket: Socket, request: string) => void) {
  return openRaw(
    (socket, request) => (/^GET \/v2\/ /.test(request) ? void socket.write(base) : answer(socket, request)),
    { timeouts },
  )
}

describe('a registry that sends its answer byte by byte', () => {
  test.each([
    ['none of the body', (socket: Socket) => void socket.write(promised)],
    ['a byte of the body now and then', (socket: Socket) => drip(socket, promised)],
    ['a byte of the headers now and then', (socket: Socket) => drip(socket, 'HTTP/1.1 200 OK\r\nx-a: ')],
    ['an interim answer now and then', (socket: Socket) => drip(socket, '', 'HTTP/1.1 102 Processing\r\n\r\n')],
  ])('gets the request again: %s', async (_, stall) => {
    let asked = 0
    const { client } = await openDripping((socket) => (++asked === 1 ? stall(socket) : void socket.write(whole)))
    expect((await client.getManifest(client.repository, digest))?.bytes).toEqual(bytes)
    expect(client.waits).toHaveLength(1)
    expect(client.lines).toEqual([expect.stringMatching(/0\.05 s; retrying in 1\.\d s$/)])
  })

  test.each(['manifest', 'blob'])('fails the request in the end, for a %s', async (message) => {
    const { client } = await openDripping((socket) => drip(socket, promised))
    const { getManifest, getBlob, repository } = client
    const error = await failureOf(
      message === 'manifest' ? getManifest(repository, digest) : getBlob(repository, digest, 1024 * 1024),
    )
    expect(error.message).toMatch(/the connection to [\d.:]+ stalled \(\d+ attempts in 1[01]\d s\)\n/)
    expect(error.message).toContain('the answer did not arrive within 0.05 s')
    expect(error.message).toContain('Run the job again later.')
  })

  test('fails the request in the end, for a token', async () => {
    const { client } = await openRaw(
      (socket, request) => {
        const host = /^host: (.*)$/im.exec(request)?.[1]
        const challenge = `www-authenticate: Bearer realm="http://${host}/token"`
        if (request.startsWith('GET /token')) drip(socket, promised)
        else socket.write(`HTTP/1.1 401 Unauthorized\r\n${challenge}\r\ncontent-length: 0\r\n\r\n`)
      },
      { timeouts },
    )
    const { message } = await failureOf(client.getManifest(client.repository, digest))
    expect(message).toContain('get a token for')
    expect(message).toContain('the answer did not arrive within 0.05 s')
  })

  test('is quoted with the part of its error that has arrived', async () => {
    const { client } = await openDripping((socket) =>
      drip(socket, 'HTTP/1.1 400 Bad Request\r\ncontent-length: 100000\r\n\r\nno such thing '),
    )
    const { message } = await failureOf(client.getManifest(client.repository, digest))
    expect(message).toContain('answered with status 400')
    expect(message).toContain('no such thing')
  })

  test('after an upload does not delay it, and its connection is closed', async () => {
    const sockets: Socket[] = []
    const { client } = await openDripping((socket) => {
      sockets.push(socket)
      drip(socket, 'HTTP/1.1 201 Created\r\ncontent-length: 1000\r\n\r\n')
    })
    await client.putManifest(client.repository, 'latest', mediaTypes.ociIndex, bytes)
    const [socket] = sockets
    if (socket?.destroyed === false) await new Promise((resolve) => socket.on('close', resolve))
    expect(sockets).toHaveLength(1)
  })

  test('that is a blob of any size has stalled', async () => {
    const { client } = await openDripping((socket) => drip(socket, promised))
    const body = await client.openBlob(client.repository, digest)
    const read = async () => {
      for await (const chunk of body) expect(chunk.length).toBeLessThan(1024)
    }
    await expect(read()).rejects.toThrow('the transfer stalled: less than 1 KiB arrived within 0.05 s')
  })
})

test('a slow reader of a blob is not a stalled transfer', async () => {
  jest.useFakeTimers()
  afterwards(async () => void jest.useRealTimers())
  const body = new Readable({ read: () => undefined })
  const chunks = readSteadily(body, 60_000)
  for (const chunk of ['a', 'b', 'c']) {
    const next = chunks.next()
    await jest.advanceTimersByTimeAsync(1000)
    body.push(chunk)
    expect(String((await next).value)).toBe(chunk)
    await jest.advanceTimersByTimeAsync(600_000)
  }
})

describe('the end of a step', () => {
  test('does not wait for a body that is still open', async () => {
    const { client } = await openDripping((socket) => drip(socket, promised))
    const body = await client.openBlob(client.repository, digest)
    const read = async () => {
      for await (const _ of body) await client.http.close()
    }
    await expect(read()).rejects.toThrow()
  })

  test('does not wait for a request in progress', async () => {
    const { promise, resolve } = Promise.withResolvers<void>()
    const { client } = await openDripping(() => resolve())
    const answer = failureOf(client.findDigest(client.repository, 'latest'))
    await promise
    await client.http.close()
    expect((await answer).problem).toBe('unreachable')
  })

  test('does not wait for the next attempt of a request', async () => {
    const busy = 'HTTP/1.1 503 Busy\r\nretry-after: 60\r\ncontent-length: 0\r\n\r\n'
    const { client } = await openDripping((socket) => void socket.write(busy))
    const { promise, resolve } = Promise.withResolvers<void>()
    const none = (): void => undefined
    const http = createHttp({
      log: { info: () => resolve(), warning: none, debug: none },
      userAgent: 'a test',
      env: {},
    })
    const registry = createRegistry({ http, credentials: async () => undefined, onSecret: none })
    const answer = registry.getManifest(client.repository, digest)
    await Promise.all([promise, expect(answer).rejects.toThrow(), promise.then(() => http.close())])
  })
})
