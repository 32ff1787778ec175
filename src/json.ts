import * as v from 'valibot'

/** JSON that has been read, or why it can't be: in words that hold nothing of it but the names of fields. */
export type Parsed<Value> =
  | { readonly ok: true; readonly value: Value }
  | { readonly ok: false; readonly problem: string; readonly place?: string }

/**
 * Reads JSON that somebody else has written: it need not be JSON, nor what it should be. Takes time and memory in
 * proportion to its size: it stops at the first thing that does not fit, and reads nothing that is nested deeper, or has
 * more values, than documents have.
 * @param json as text, or as bytes, which must be UTF-8
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
  // valibot's own messages end in the value, which may be anything.
  const problem = issue.message.replace(/ but received .*$/s, '')
  return { ok: false, problem, ...(place !== null && { place }) }
}

/** No document that is read here has half as many; functions that walk through values take a stack frame for each. */
const DEPTH_LIMIT = 100
/** In memory, each value takes up to 30 times the space that it takes as text: `{}` does. */
const VALUES_LIMIT = 1_000_000

function decode(bytes: Uint8Array): string | undefined {
  try {
    // JSON has no byte order mark; what is read again elsewhere must not differ by it.
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    return undefined
  }
}

/** Returns the value, why the text is not read, or nothing if it is not JSON. */
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

/** Returns how deep arrays and objects are nested, and how many values there are; for what is not JSON, any numbers. */
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

/** Returns where the string ends that begins at `start`. */
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
