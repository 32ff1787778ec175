import { describe, expect, test } from '@jest/globals'
import { readErrorAnswer } from '../../src/http/http-error.ts'
import { connect, failureOf } from '../registry/connect.ts'

const deep = `{"errors":[{"message":"no","detail":${'['.repeat(200)}${']'.repeat(200)}}]}`
const errors: readonly (readonly [string, string, string])[] = [
  ['JSON', '{"errors":[{"code":"DENIED","message":"no write access"}]}', 'DENIED: no write access'],
  ['JSON with a detail', '{"errors":[{"code":"DENIED","message":"no","detail":{"a":1}}]}', 'DENIED: no ({"a":1})'],
  ['JSON with a detail of null', '{"errors":[{"code":"DENIED","message":"no","detail":null}]}', 'DENIED: no'],
  ['JSON with several errors', '{"errors":[{"message":"one"},{"message":"two"}]}', 'one\ntwo'],
  ['JSON of token services', '{"details":"incorrect username or password"}', 'incorrect username or password'],
  ['JSON of OAuth', '{"error":"invalid_grant","error_description":"expired"}', 'invalid_grant: expired'],
  ['JSON of another form', '{"reason":"no"}', '{"reason":"no"}'],
  ['JSON that is nested deeply', deep, deep],
  ['JSON without an error', '{"errors":[]}', '{"errors":[]}'],
  ['text', 'toomanyrequests: slow\n  down\n', 'toomanyrequests: slow down'],
  ['HTML', '<style>p {}</style>\n<h1>502</h1><p>Bad\nGateway</p>', '502 Bad Gateway'],
  ['nothing', '', ''],
]

describe('keeps the server’s message', () => {
  test.each(errors)('from %s', (_, body, detail) => {
    expect(readErrorAnswer(body).detail).toBe(detail)
  })

  test.each(errors)('and shown to the user, from %s', async (_, body, detail) => {
    const { client } = await connect({
      fault: ({ method }) => (method === 'PUT' ? { kind: 'status', status: 400, body } : undefined),
    })
    const error = await failureOf(client.putManifest(client.repository, 'latest', 'text/plain', Buffer.from('{}')))
    const [message = '', ...lines] = error.message.split('\n')
    expect(message).toBe(`Can't write ${error.host}/app:latest: ${error.host} answered with status 400`)
    expect(lines.map((line) => line.trim()).join('\n')).toBe(detail)
  })

  test('in short, if they are long', () => {
    expect(readErrorAnswer('x'.repeat(10_000)).detail).toBe(`${'x'.repeat(500)}…`)
  })

  test('from the beginning of an answer that is very long', async () => {
    const body = `<h1>The proxy says no</h1>${'<p>and no</p>'.repeat(10_000)}`
    const { client } = await connect({
      fault: ({ route }) => (route === 'manifest' ? { kind: 'status', status: 400, body } : undefined),
    })
    const error = await failureOf(client.getManifest(client.repository, 'latest'))
    expect(error.message).toContain('The proxy says no')
  })
})

test('an answer that is nested too deeply is shown as text', () => {
  const nested = '['.repeat(30_000) + ']'.repeat(30_000)
  const { detail } = readErrorAnswer(`{"errors":[{"code":"DENIED","detail":${nested}}]}`)
  expect(detail).toMatch(/^\{"errors":\[\{"code":"DENIED","detail":\[+…$/)
})

test.each([
  ['an error', (nested: string) => `{"errors":[{"message":"no","detail":${nested}}]}`],
  ['all of it', (nested: string) => nested],
])('an answer that is nested thousands of levels deep is text: %s', async (_, write) => {
  for (const [begin, end] of [
    ['[', ']'],
    ['{"a":', '}'],
  ] as const) {
    const body = write(`${begin.repeat(9000)}1${end.repeat(9000)}`)
    const { client } = await connect({
      fault: ({ method }) => (method === 'PUT' ? { kind: 'status', status: 400, body } : undefined),
    })
    const error = await failureOf(client.putManifest(client.repository, 'latest', 'text/plain', Buffer.from('{}')))
    expect(error.message).toContain(`  ${body.slice(0, 500)}…`)
  }
})

test.each([
  ['a message', { message: 'a\n::error::b\r::error::c' }],
  ['a code', { code: 'a\n::error::b' }],
  ['a detail', { message: 'a', detail: 'b\n::error::c' }],
  ['a detail of another form', { message: 'a', detail: { b: '\n::error::c' } }],
])('the server can’t add lines: %s', (_, error) => {
  const { detail } = readErrorAnswer(JSON.stringify({ errors: [error] }))
  expect(detail).toContain('::error::')
  expect(detail).not.toMatch(/[\r\n]/)
})
