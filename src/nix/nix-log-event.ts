import * as v from 'valibot'
import { readJson } from '../json.ts'

const fields = v.optional(v.array(v.union([v.string(), v.number()])), [])
const NIX_EVENT = v.variant('action', [
  v.object({
    action: v.literal('start'),
    id: v.string(),
    type: v.number(),
    level: v.number(),
    text: v.string(),
    fields,
  }),
  v.object({ action: v.literal('stop'), id: v.string() }),
  v.object({ action: v.literal('result'), id: v.string(), type: v.number(), fields }),
  // Errors with a position also have `raw_msg`, `file` and `line`. `msg` includes them.
  v.object({ action: v.literal('msg'), level: v.number(), msg: v.string() }),
])

/** A line of Nix's log in the format `internal-json`. */
export type NixEvent = v.InferOutput<typeof NIX_EVENT>
export type StartEvent = Extract<NixEvent, { action: 'start' }>
export type ResultEvent = Extract<NixEvent, { action: 'result' }>

/** `ActivityType` in Nix's logging.hh. Newer versions have more types, such as 112 for fetching a flake's input. */
export const ACTIVITY = { copyPath: 100, build: 105 } as const

/** `ResultType` in Nix's logging.hh. The newest versions report progress at most every 100 ms. */
export const RESULT = { buildLogLine: 101, progress: 105, setExpected: 106, postBuildLogLine: 107 } as const

/** `lvlInfo` of `Verbosity` in Nix's error.hh: the most verbose level without `--verbose`. */
export const LEVEL_INFO = 3

/** Ids exceed the safe integers of JavaScript: the process id, up to 22 bits, is shifted left by 32 bits. */
const ID = /"(id|parent)":(\d+)/g
/** The longest accepted id, in characters. Those of Nix are less than half as long. */
const ID_LENGTH = 40

/** Parses a line of Nix's standard error. Returns undefined if it is not an event. */
export function parseNixEvent(line: string): NixEvent | undefined {
  if (!line.startsWith('@nix {')) return undefined
  // Builders can print similar lines, and the output of two processes may be mixed in one line.
  const read = readJson(NIX_EVENT, line.slice(5).replace(ID, '"$1":"$2"'))
  return read.ok && !('id' in read.value && read.value.id.length > ID_LENGTH) ? read.value : undefined
}
