import { describe, expect, test } from '@jest/globals'
import * as v from 'valibot'
import { readJson } from '../src/json.ts'
import { MEMORY_LIMIT, measure } from './support/peak.ts'

const SCHEMA = v.object({ names: v.array(v.string()) })

describe('JSON', () => {
  test('can be a string or bytes', () => {
    const json = '{"names":["a\\"[b","ü"],"more":1}'
    const read = { ok: true, value: { names: ['a"[b', 'ü'] } }
    expect(readJson(SCHEMA, json)).toEqual(read)
    expect(readJson(SCHEMA, Buffer.from(json))).toEqual(read)
  })

  test.each([
    ['an empty string', ''],
    ['plain text', 'hunter2'],
    ['truncated JSON', '{"names":["hunter2'],
    ['truncated JSON that ends with a backslash', '{"names":["hunter2\\'],
    ['invalid UTF-8', Buffer.from('7b226e616d6573223a5b22ff225d7d', 'hex')],
    ['JSON with a byte order mark', Buffer.from('\ufeff{"names":[]}')],
  ])('can’t be %s, which is not quoted in the error', (_, json) => {
    expect(readJson(SCHEMA, json)).toEqual({ ok: false, problem: 'it is not JSON' })
  })

  test('with a field of the wrong type is refused with the name of the field, but not its value', () => {
    const read = readJson(SCHEMA, '{"names":["a",{"hunter2":"hunter2"}]}')
    expect(read).toMatchObject({ ok: false, place: 'names.1', problem: expect.stringContaining('Expected string') })
    expect(JSON.stringify(read)).not.toContain('hunter2')
    const text = readJson(v.array(v.number()), '["hunter2 but received\\nhunter2"]')
    expect(JSON.stringify(text)).not.toContain('hunter2')
  })

  test.each([
    ['arrays', '['.repeat(101) + ']'.repeat(101)],
    ['objects', `${'{"a":'.repeat(101)}1${'}'.repeat(101)}`],
    ['a million unterminated arrays', '['.repeat(1_000_000)],
  ])('with deeply nested %s is refused', (_, json) => {
    expect(readJson(v.unknown(), json)).toEqual({ ok: false, problem: 'it is nested more than 100 levels deep' })
  })

  test('may be nested 100 levels deep, and have brackets in strings', () => {
    expect(readJson(v.unknown(), '['.repeat(100) + ']'.repeat(100)).ok).toBe(true)
    expect(readJson(v.string(), `"\\"${'[{,'.repeat(1_000_000)}"`).ok).toBe(true)
  })

  test('may have up to a million values', () => {
    expect(readJson(v.unknown(), `[${'{},'.repeat(499_998)}{}]`).ok).toBe(true)
    expect(readJson(v.unknown(), `[${'0,'.repeat(1_000_000)}0]`)).toEqual({
      ok: false,
      problem: 'it has more than 1000000 values',
    })
  })
})

describe('hostile JSON does not exhaust the memory:', () => {
  test.each([
    ['a million elements of the wrong type', `'[' + '0,'.repeat(990_000) + '0]'`, 'Invalid type: Expected string'],
    ['16 MB of empty objects', `'[' + '{},'.repeat(5_300_000) + '{}]'`, 'it has more than 1000000 values'],
    ['16 MB of nested empty arrays', `'[['.repeat(4_000_000) + ']]'.repeat(4_000_000)`, 'it is nested more than'],
  ])('%s', async (_, json, problem) => {
    const { value, peak } = await measure(
      `const { readJson } = await load('json.ts')
      const v = await import(args[0])
      return readJson(v.array(v.string()), ${json})`.replace('args[0]', JSON.stringify(import.meta.resolve('valibot'))),
    )
    expect(value).toMatchObject({ ok: false, problem: expect.stringContaining(problem) })
    expect(peak).toBeLessThan(MEMORY_LIMIT)
  })
})
