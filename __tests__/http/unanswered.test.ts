import { getCACertificates, setDefaultCACertificates } from 'node:tls'
import { afterEach, describe, expect, test } from '@jest/globals'
import { adviceFor } from '../../src/actions/advice.ts'
import { connect, failureOf, open, openRaw, start } from '../registry/connect.ts'
import { type Days, selfSigned } from '../support/certificate.ts'

const usual = getCACertificates()
const DAY = 86_400_000

afterEach(() => setDefaultCACertificates(usual))

/** The error of a registry whose certificate is from a known authority. */
async function errorWith(host: string, days?: Days, address?: readonly number[]) {
  const own = selfSigned(host, days, address === undefined ? undefined : [...address])
  setDefaultCACertificates([...usual, own.cert])
  const { client, server } = await connect({ tls: own })
  const error = await failureOf(client.checkPush(client.repository))
  expect(adviceFor(error)).toBeUndefined()
  expect(error.message).not.toContain('NODE_EXTRA_CA_CERTS')
  expect(client.waits).toEqual([])
  return { error, server }
}

describe('a certificate', () => {
  test('that has expired is named, with both times', async () => {
    const { error, server } = await errorWith('localhost', { from: -90, to: -0.5 })
    expect(error.message).toContain(
      `Can't connect to the registry ${server.host}: the certificate of ${server.host} has expired`,
    )
    expect(error.message).toMatch(/It expired on \d{4}-\d\d-\d\d \d\d:\d\d UTC. The runner's clock says \d{4}-/)
    expect(error.message).toContain(`Ask the operator of ${server.host} to renew the certificate.`)
    expect(error.message).not.toContain('set the clock')
  })

  test('that expired days ago by this clock raises doubts about the clock', async () => {
    const { error } = await errorWith('localhost', { from: -90, to: -5 })
    expect(error.message).toContain('If that is wrong, set the clock. Otherwise: Ask the operator')
  })

  test('that is not valid yet raises doubts about the clock', async () => {
    const { error, server } = await errorWith('localhost', { from: 2, to: 90 })
    expect(error.message).toContain(`the certificate of ${server.host} is not valid yet`)
    expect(error.message).toMatch(/It becomes valid on \d{4}-.* The runner's clock says \d{4}-/)
    expect(error.message).toContain("Check the runner's clock, and set it if it is wrong")
  })

  test('for another host is named', async () => {
    const { error, server } = await errorWith('registry.example', undefined, [192, 0, 2, 1])
    expect(error.message).toContain(`the certificate of ${server.host} is for another host name`)
    expect(error.message).toContain('192.0.2.1')
    expect(error.message).toContain('Use a name that the certificate contains')
  })
})

describe('a wrong clock', () => {
  function answerFrom(date: number, more = '') {
    const header = `date: ${new Date(date).toUTCString()}\r\n${more}`
    return openRaw((socket) => socket.write(`HTTP/1.1 404 Not Found\r\n${header}content-length: 0\r\n\r\n`))
  }

  test.each([
    ['behind', 2 * DAY],
    ['years ahead', -1000 * DAY],
  ])('is detected from a server’s: %s', async (_, skew) => {
    const now = Date.now()
    const { client } = await answerFrom(now + skew)
    for (let count = 0; count < 2; count++) await client.findDigest(client.repository, 'latest')
    const day = (time: number) => new Date(time).toISOString().slice(0, 10)
    expect(client.lines).toEqual([
      expect.stringMatching(
        new RegExp(
          `^The clocks of this runner and of ${client.repository.host} differ: the runner's says ${day(now)} .*'s says ${day(now + skew)} `,
        ),
      ),
    ])
  })

  test.each([
    ['by less than a day', 0.9 * DAY, ''],
    ['by the answer that a cache has kept', -9 * DAY, 'age: 777600\r\n'],
  ])('is not detected: %s', async (_, skew, more) => {
    const { client } = await answerFrom(Date.now() + skew, more)
    await client.findDigest(client.repository, 'latest')
    expect(client.lines).toEqual([])
  })

  test('is named if a certificate seems to have expired because of it', async () => {
    const own = selfSigned('localhost', { from: -90, to: -5 })
    setDefaultCACertificates([...usual, own.cert])
    const { client } = await answerFrom(Date.now() - 30 * DAY)
    await client.findDigest(client.repository, 'latest')
    const { host } = await start({ tls: own })
    const { message } = await failureOf(client.findDigest({ host, path: 'app' }, 'latest'))
    expect(message).toContain(`the certificate of ${host} has expired by the clock of this runner, which is wrong`)
    expect(message).toContain(`but ${client.repository.host} says `)
    expect(message).toContain("Set the runner's clock.")
  })

  test('does not change how long a registry asks to wait', async () => {
    const now = Date.now() - 500 * DAY
    const headers = `date: ${new Date(now).toUTCString()}\r\nretry-after: ${new Date(now + 20_000).toUTCString()}\r\n`
    let asked = 0
    const { client } = await openRaw((socket) => {
      const status = ++asked === 2 ? '503 Busy' : '404 Not Found'
      socket.write(`HTTP/1.1 ${status}\r\n${headers}content-length: 0\r\n\r\n`)
    })
    await client.getManifest(client.repository, 'latest')
    expect(client.waits.map((wait) => Math.floor(wait / 1000))).toEqual([20])
  })
})

test.each(['EMFILE', 'ENFILE'])('the limit of open files is named: %s', async (code) => {
  const client = open('registry.invalid', undefined, {
    resolve: async () => {
      throw Object.assign(new Error(`getaddrinfo ${code} registry.invalid`), { code })
    },
  })
  const error = await failureOf(client.checkPush(client.repository))
  expect(error.message).toContain(
    "Can't connect to the registry registry.invalid: the runner has reached its limit of open files",
  )
  expect(error.message).toContain('`ulimit -n')
  expect(error.message).not.toContain("can't be reached")
})
