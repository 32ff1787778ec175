import { describe, expect, test } from '@jest/globals'
import * as v from 'valibot'
import { readJson } from '../src/json.ts'
import { MEMORY_LIMIT, measure } from './support/peak.ts'

const SCHEMA = v.object({ names: v.array(v.string()) })

describe('JSON', () => {
  test('is read from text and from bytes', () => {
    const json = '{"names":["a\\"[b","ü"],"more":1}'
    const read = { ok: true, value: { names: ['a"[b', 'ü'] } }
    expect(readJson(SCHEMA, json)).toEqual(read)
    expect(readJson(SCHEMA, Buffer.from(json))).toEqual(read)
  })

  test.each([
    ['nothing', ''],
    ['a text', 'hunter2'],
    ['what is cut', '{"names":["hunter2'],
    ['what ends in a backslash', '{"names":["hunter2\\'],
    ['bytes that are no UTF-8', Buffer.from('7b226e616d6573223a5b22ff225d7d', 'hex')],
    ['what begins with a byte order mark', Buffer.from('\ufeff{"names":[]}')],
  ])('is not %s, and nothing of it is quoted', (_, json) => {
    expect(readJson(SCHEMA, json)).toEqual({ ok: false, problem: 'it is not JSON' })
  })

  test('with another type in a field names the field, and quotes nothing', () => {
    const read = readJson(SCHEMA, '{"names":["a",{"hunter2":"hunter2"}]}')
    expect(read).toMatchObject({ ok: false, place: 'names.1', problem: expect.stringContaining('Expected string') })
    expect(JSON.stringify(read)).not.toContain('hunter2')
    const text = readJson(v.array(v.number()), '["hunter2 but received\\nhunter2"]')
    expect(JSON.stringify(text)).not.toContain('hunter2')
  })

  test.each([
    ['arrays', '['.repeat(101) + ']'.repeat(101)],
    ['objects', `${'{"a":'.repeat(101)}1${'}'.repeat(101)}`],
    ['a million arrays that do not end', '['.repeat(1_000_000)],
  ])('with %s in one another is not read', (_, json) => {
    expect(readJson(v.unknown(), json)).toEqual({ ok: false, problem: 'it is nested more than 100 levels deep' })
  })

  test('may be nested as deep as documents are, and have brackets in texts', () => {
    expect(readJson(v.unknown(), '['.repeat(100) + ']'.repeat(100)).ok).toBe(true)
    expect(readJson(v.string(), `"\\"${'[{,'.repeat(1_000_000)}"`).ok).toBe(true)
  })

  test('may have a million values, and not more', () => {
    expect(readJson(v.unknown(), `[${'{},'.repeat(499_998)}{}]`).ok).toBe(true)
    expect(readJson(v.unknown(), `[${'0,'.repeat(1_000_000)}0]`)).toEqual({
      ok: false,
      problem: 'it has more than 1000000 values',
    })
  })
})

describe('of hostile JSON, no more is kept than memory has room for:', () => {
  test.each([
    ['a million elements of the wrong type', `'[' + '0,'.repeat(990_000) + '0]'`, 'Invalid type: Expected string'],
    ['16 MB of empty objects', `'[' + '{},'.repeat(5_300_000) + '{}]'`, 'it has more than 1000000 values'],
    [
      '16 MB of empty arrays in one another',
      `'[['.repeat(4_000_000) + ']]'.repeat(4_000_000)`,
      'it is nested more than',
    ],
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
