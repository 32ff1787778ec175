import * as v from 'valibot'

/** Parsed JSON, or the reason why it was refused. The reason quotes nothing of the JSON except the names of fields. */
export type Parsed<Value> =
  | { readonly ok: true; readonly value: Value }
  | { readonly ok: false; readonly problem: string; readonly place?: string }

/**
 * Parses and validates untrusted JSON. Takes time and memory in proportion to its size: stops at the first error, and
 * refuses JSON that is nested deeper or has more values than real documents.
 * @param json a string, or bytes in UTF-8
 */
export function readJson<Schema extends v.GenericSchema>(
  schema: Schema,
  json: string | Uint8Array,
): Parsed<v.InferOutput<Schema>> {
  const text = typeof json === 'string' ? json : decode(json)
  const parsed = text === undefined ? undefined : parseJson(text)
  if (parsed === undefined) return { ok: false, problem: 'it is not JSON' }
  if (typeof parsed === 'string') return { ok: false, problem: parsed }
  const { success, output, issues } = v.safeParse(schema, parsed.value, { abortEarly: true })
  if (success) return { ok: true, value: output }
  const [issue] = issues
  const place = v.getDotPath(issue)
  // The messages of valibot end with the value, which may be a secret.
  const problem = issue.message.replace(/ but received .*$/s, '')
  return { ok: false, problem, ...(place !== null && { place }) }
}

/** More than twice the depth of any real document. Recursive functions take a stack frame per level. */
const DEPTH_LIMIT = 100
/** A value takes up to 30 times as much memory as its text, as with `{}`. */
const VALUES_LIMIT = 1_000_000

function decode(bytes: Uint8Array): string | undefined {
  try {
    // Refuse a byte order mark, which is invalid in JSON and which other parsers might ignore.
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    return undefined
  }
}

/** Returns the value, a reason to refuse the text, or undefined if it is not JSON. */
function parseJson(text: string): { readonly value: unknown } | string | undefined {
  const { depth, values } = measure(text)
  if (depth > DEPTH_LIMIT) return `it is nested more than ${DEPTH_LIMIT} levels deep`
  if (values > VALUES_LIMIT) return `it has more than ${VALUES_LIMIT} values`
  try {
    return { value: JSON.parse(text) }
  } catch {
    return undefined
  }
}

/** Returns the nesting depth and the number of values. The result is meaningless if the text is not JSON. */
function measure(text: string): { readonly depth: number; readonly values: number } {
  let depth = 0
  let deepest = 0
  let values = 1
  for (let at = 0; at < text.length; at++) {
    switch (text.charCodeAt(at)) {
      case QUOTE:
        at = endOfString(text, at)
        break
      case OPEN_BRACKET:
      case OPEN_BRACE:
        deepest = Math.max(deepest, ++depth)
        values++
        break
      case COMMA:
        values++
        break
      case CLOSE_BRACKET:
      case CLOSE_BRACE:
        depth--
    }
  }
  return { depth: deepest, values }
}

/** Returns the end of the string that starts at `start`. */
function endOfString(text: string, start: number): number {
  let at = start + 1
  while (at < text.length && text.charCodeAt(at) !== QUOTE) at += text.charCodeAt(at) === BACKSLASH ? 2 : 1
  return at
}

const QUOTE = 0x22
const BACKSLASH = 0x5c
const COMMA = 0x2c
const OPEN_BRACKET = 0x5b
const CLOSE_BRACKET = 0x5d
const OPEN_BRACE = 0x7b
const CLOSE_BRACE = 0x7d

/**
 * Serializes a value as JSON that fits into a variable of a program's environment.
 * @param shorten returns the value with at most `most` entries in each of its lists. Called with smaller numbers until the
 * JSON fits, down to 1
 */
export function serializeShortened(shorten: (most: number) => unknown): string {
  for (let most = LIST_LIMIT; ; most = most / 2) {
    const json = JSON.stringify(shorten(most))
    if (json.length <= VARIABLE_LIMIT || most === 1) return json
  }
}

/** In characters. Linux limits a variable of a program's environment to 128 KiB, and GitHub a job's outputs to 1 MB. */
const VARIABLE_LIMIT = 100_000

/** More entries than fit within the limit. A power of two. */
const LIST_LIMIT = 4096
