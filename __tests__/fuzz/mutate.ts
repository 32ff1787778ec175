import { fewOf, lengthOf, type Random } from './random.ts'

/** Texts that often reveal errors of parsers. */
export const ODD_TEXTS: readonly string[] = [
  '',
  '..',
  '../../etc/passwd',
  '/',
  './',
  '//',
  '\0',
  '\n',
  '\r\n',
  '\t',
  ' ',
  '::',
  '::error::x',
  '##[',
  '\u001b',
  '\u001b]0;x\u0007',
  '\u001b[31m',
  '\u009b',
  '\u202e',
  '\u2066',
  '\u200b',
  '\u2028',
  '\ud800',
  '\udfff',
  '\ufeff',
  '\u{1f600}',
  'İ',
  '__proto__',
  'constructor',
  'toString',
  '"',
  "'",
  '\\',
  '\\u0000',
  '<',
  '>',
  '@',
  ':',
  '=',
  ',',
  ';',
  '[',
  ']',
  '{',
  '}',
  '^',
  '-',
  '_',
  '.',
  '0',
  '-1',
  '1e999',
  '0x10',
  'NaN',
  '9007199254740993',
  '99999999999999999999',
  '%00',
  'null',
  'a',
  'Z',
]

const ODD_NUMBERS: readonly number[] = [0, -0, -1, 0.5, 1e21, 2 ** 31, 2 ** 32, 2 ** 53, -(2 ** 53), 1e308, 5e-324]

/** Limits the length of a mutated input, in bytes or characters. */
export interface Limits {
  readonly most: number
}

const SMALL: Limits = { most: 20_000 }

/**
 * Changes a text in up to eight places.
 * @param tokens words of its grammar, inserted in addition to odd texts
 */
export function mutateText(
  random: Random,
  text: string,
  tokens: readonly string[] = [],
  { most }: Limits = SMALL,
): string {
  const detail = [...tokens, ...tokens, ...ODD_TEXTS]
  let result = text
  for (let times = 1 + fewOf(random, 7); times > 0; times--) {
    const at = random.upTo(result.length)
    const end = Math.min(result.length, at + lengthOf(random, 100))
    const [before, range, after] = [result.slice(0, at), result.slice(at, end), result.slice(end)]
    result = random.pick([
      () => before + after,
      () => before,
      () => before + range + range + after,
      () => before + random.pick(detail) + range + after,
      () => before + random.pick(detail) + after,
      () => before + repeated(random, random.pick(detail), most) + range + after,
      () => before + repeated(random, random.pick(detail) + random.pick(detail), most) + range + after,
      () => before + random.pick(detail) + repeated(random, random.pick(detail), most),
      () => before + range.toUpperCase() + after,
      () => result.slice(random.upTo(result.length)) + before,
      () => before + String.fromCharCode(random.upTo(random.oneIn(2) ? 255 : 0xffff)) + after,
    ])()
  }
  return result.slice(0, most)
}

function repeated(random: Random, word: string, most: number): string {
  return word.repeat(Math.floor(lengthOf(random, most) / Math.max(1, word.length)))
}

/** Changes bytes in up to eight places, or in one place of a large buffer, because each change copies the buffer. */
export function mutateBytes(random: Random, bytes: Buffer): Buffer {
  let result = bytes
  for (let times = 1 + (bytes.length > LARGE ? 0 : fewOf(random, 7)); times > 0; times--) {
    const at = random.upTo(result.length)
    const end = Math.min(result.length, at + lengthOf(random, 2000))
    const [before, range, after] = [result.subarray(0, at), result.subarray(at, end), result.subarray(end)]
    result = random.pick<() => Buffer>([
      () => before,
      () => Buffer.concat([before, after]),
      () => Buffer.concat([before, range, range, after]),
      () => Buffer.concat([before, oddBytes(random), range, after]),
      () => overwritten(result, at, oddBytes(random)),
      () => overwritten(result, at, Buffer.from([1 << random.upTo(7)].map((bit) => bit ^ (result[at] ?? 0)))),
      () => overwritten(result, at, random.bytes(1 + random.upTo(8))),
      () => overwritten(result, random.upTo(result.length), range),
      () => Buffer.concat([before, Buffer.alloc(lengthOf(random, 5000), random.pick([0, 0xff, 0x20, 0x30])), after]),
    ])()
  }
  return result
}

const LARGE = 200_000

function oddBytes(random: Random): Buffer {
  if (random.oneIn(2)) return Buffer.from(random.pick(ODD_TEXTS))
  const number = Buffer.alloc(8)
  number.writeBigUInt64LE(
    random.pick([0n, 1n, 0x7fn, 0x80n, 0xffffn, 0x7fffffffn, 0xffffffffn, 2n ** 63n, 2n ** 64n - 1n]),
  )
  return random.oneIn(2) ? number : number.reverse()
}

function overwritten(bytes: Buffer, at: number, others: Buffer): Buffer {
  const result = Buffer.from(bytes)
  others.copy(result, at)
  return result
}

/** A JSON value. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json }

/**
 * Changes a JSON value in up to four places, and returns its text. The text may have properties that JavaScript values
 * can't have: very deep nesting, duplicate keys, numbers out of range, or invalid syntax.
 */
export function mutateJson(
  random: Random,
  value: Json,
  tokens: readonly string[] = [],
  limits: Limits = SMALL,
): string {
  let changed = value
  for (let times = fewOf(random, 4); times > 0; times--) changed = changeIn(random, changed, tokens, limits)
  // Only the first placeholder gets the nesting, because a value may contain it a thousand times.
  let deep = nested(random, limits)
  const text = JSON.stringify(changed, undefined, random.oneIn(8) ? 1 : undefined)
    .replaceAll(`"${DEEP}"`, () => {
      const once = deep
      deep = '[]'
      return once
    })
    .replaceAll(`"${HUGE}"`, () =>
      random.pick(['1e999', '-1e999', '1E400', '0.1e-999', '123456789012345678901234567890']),
    )
    .replaceAll(`"${PROTO}":`, '"__proto__":')
  return random.oneIn(6) ? mutateText(random, text, tokens, limits) : text
}

// Placeholders for parts of the text that values can't contain.
const DEEP = 'put deep nesting here'
const HUGE = 'put a huge number here'
const PROTO = 'put __proto__ here'

function nested(random: Random, { most }: Limits): string {
  const depth = lengthOf(random, most)
  return random.oneIn(2)
    ? '['.repeat(depth / 2) + ']'.repeat(depth / 2)
    : `${'{"a":'.repeat(depth / 6)}0${'}'.repeat(depth / 6)}`
}

/** Changes one place: the value itself or a nested one. */
function changeIn(random: Random, value: Json, tokens: readonly string[], limits: Limits): Json {
  const isLeaf = typeof value !== 'object' || value === null
  if (isLeaf || random.oneIn(6)) return replacement(random, value, tokens, limits)
  if (isArray(value)) return changeArray(random, value, tokens, limits)
  const keys = Object.keys(value)
  const key = keys.length === 0 || random.oneIn(6) ? oddKey(random, tokens) : random.pick(keys)
  // Ignore inherited properties.
  const old = (Object.hasOwn(value, key) ? value[key] : undefined) ?? null
  if (random.oneIn(6)) return Object.fromEntries(Object.entries(value).filter(([name]) => name !== key))
  return { ...value, [key]: changeIn(random, old, tokens, limits) }
}

function changeArray(random: Random, value: readonly Json[], tokens: readonly string[], limits: Limits): Json {
  const at = random.upTo(Math.max(0, value.length - 1))
  const old = value[at] ?? null
  return random.pick<() => Json>([
    () => value.toSpliced(at, 1),
    () => value.toSpliced(at, 0, old),
    () => Array.from({ length: countOf(random, old, limits) }, () => old),
    () => value.toSpliced(at, 1, changeIn(random, old, tokens, limits)),
    () => value.toSpliced(at, 1, changeIn(random, old, tokens, limits)),
    () => value.toSpliced(at, 1, changeIn(random, old, tokens, limits)),
  ])()
}

/** Returns how often an array can contain an element within the limit of its text. */
function countOf(random: Random, element: Json, { most }: Limits): number {
  return Math.floor(lengthOf(random, most) / (JSON.stringify(element).length + 1))
}

function oddKey(random: Random, tokens: readonly string[]): string {
  return random.oneIn(4) ? PROTO : random.pick([...tokens, ...ODD_TEXTS])
}

function replacement(random: Random, value: Json, tokens: readonly string[], limits: Limits): Json {
  return random.pick<() => Json>([
    () => null,
    () => random.oneIn(2),
    () => random.pick(ODD_NUMBERS),
    () => HUGE,
    () => DEEP,
    () => [],
    () => ({}),
    () => [value],
    () => ({ [oddKey(random, tokens)]: value }),
    () => Array.from({ length: countOf(random, value, limits) }, () => value),
    () => random.pick([...tokens, ...ODD_TEXTS]),
    () => (typeof value === 'number' ? value + random.pick([-1, 1, 0.5]) : JSON.stringify(value)),
    () => mutateText(random, typeof value === 'string' ? value : '', tokens, limits),
    () => mutateText(random, typeof value === 'string' ? value : '', tokens, limits),
  ])()
}

function isArray(value: Json): value is readonly Json[] {
  return Array.isArray(value)
}

/** Splits bytes into chunks at random positions, which must not affect a parser. */
export function chunksOf(random: Random, bytes: Buffer): readonly Buffer[] {
  const most = random.pick([1, 7, 512, 4096, 100_000])
  const chunks: Buffer[] = []
  // Limits the number of chunks, because the time per chunk would dominate.
  const least = Math.ceil(bytes.length / 3000)
  for (let at = 0; at < bytes.length; ) {
    const chunk = bytes.subarray(at, at + Math.max(least, 1 + random.upTo(most - 1)))
    chunks.push(chunk)
    at += chunk.length
  }
  return chunks
}
