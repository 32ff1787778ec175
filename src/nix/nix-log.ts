import * as v from 'valibot'
import { readJson } from '../json.ts'
import { withoutEscapes, withoutHidden } from '../text.ts'
import { advanced, announced, formatProgress, NO_PROGRESS, type Progress, started, stopped } from './progress.ts'

/**
 * What is known of a run of Nix from its log, as far as it has come. Of a long log it holds the ends only.
 *
 * Nix writes it with `--log-format internal-json`: on each line `@nix ` and an object, which starts or stops an
 * activity, gives a result of one, or is a message. It is documented by its source alone. Nix 2.8, 2.26 and 2.34 are what
 * this was tried with; where they differ, or Lix by its source, it is said where the line is read.
 * https://github.com/NixOS/nix/blob/master/src/libutil/logging.cc, `struct JSONLogger`
 * https://git.lix.systems/lix-project/lix/src/branch/main/lix/libutil/logging.hh, which says what the fields are
 */
export interface NixLog {
  /** Whether Nix has written any line in its own format. */
  readonly structured: boolean
  readonly progress: Progress
  /** When and as what progress was last shown. */
  readonly told: { readonly at: number; readonly line: string | undefined }
  /** When anything was last shown. */
  readonly shownAt: number
  /** By the activity's id, in the order in which they began. */
  readonly builds: ReadonlyMap<string, Build>
  readonly errors: readonly string[]
  /** What is of no derivation's build: messages, and what other programs write. */
  readonly others: readonly string[]
  /** The names of settings in a flake's `nixConfig` that Nix does not apply, because nobody has allowed it. */
  readonly ignoredSettings: readonly string[]
}

interface Build {
  readonly derivation: string
  readonly running: boolean
  readonly lines: readonly string[]
}

/** The log as it is now, and what of it people are shown. */
export interface Read {
  readonly log: NixLog
  readonly shown: readonly string[]
}

/** What there is to say of a run that has failed. */
export interface NixFailure {
  /** Nix's errors, after the last lines of those derivations that they are about. */
  readonly detail: string
  /** All that may show the cause, without what derivations have printed that did not fail. */
  readonly evidence: string
}

/** The log of a run of Nix that has said nothing yet. @param now in milliseconds, from any beginning */
export function startNixLog(now: number): NixLog {
  const told = { at: now, line: undefined }
  const nothing = { builds: new Map(), errors: [], others: [], ignoredSettings: [] }
  return { structured: false, progress: NO_PROGRESS, told, shownAt: now, ...nothing }
}

/**
 * Takes up a line of Nix's standard error.
 * @param now in milliseconds, from the same beginning as the log's
 * @returns the log with it, and what of it people are shown: without control characters other than colours
 */
export function readNixLine(log: NixLog, line: string, now: number): Read {
  const read = readLine(log, line, now)
  return read.shown.length === 0 ? read : { ...read, log: { ...read.log, shownAt: now } }
}

/**
 * Some builds say nothing for long: then a person is told what Nix is at.
 * @param now in milliseconds, from the same beginning as the log's
 */
export function remind(log: NixLog, now: number): Read {
  if (now - log.shownAt < SILENCE) return { log, shown: [] }
  const progress = formatProgress(log.progress)
  const running = [...log.builds.values()].filter((build) => build.running).map(nameOf)
  const names = running.length > SHOWN_BUILDS ? [...running.slice(0, SHOWN_BUILDS), '…'] : running
  const at = names.length === 0 ? 'at work' : `building ${names.join(', ')}`
  const shown = `${progress ?? 'Nix'}${progress === undefined ? ' is' : ';'} still ${at}`
  return { log: { ...log, shownAt: now, told: { at: now, line: progress } }, shown: [shown] }
}

/** The last line on progress, where it has not been shown yet. */
export function endNixLog({ progress, told }: NixLog): readonly string[] {
  const line = formatProgress(progress)
  return line === undefined || line === told.line ? [] : [line]
}

/** What failed, when Nix has written in its own format. */
export function failureIn({ builds, errors, others }: NixLog): NixFailure {
  const causes = errors.filter((error) => !CONSEQUENCE.test(error))
  const told = causes.length > 0 ? causes : errors
  const failed = [...builds.values()].filter(
    ({ derivation, lines }) => lines.length > 0 && told.some((error) => error.includes(derivation)),
  )
  const evident = failed.slice(0, KEPT_BUILDS)
  const shown = failed.slice(0, SHOWN_BUILDS).flatMap((build) => logOf(build, SHOWN_LINES))
  // Where the log is not known from the build itself, what Nix repeats of it is all that there is.
  const messages = told.map((error) =>
    failed.some(({ derivation }) => error.includes(derivation)) ? withoutLog(error) : error,
  )
  const detail = [...shown, ...messages]
  return {
    detail: plain((detail.length > 0 ? detail : others.slice(-SHOWN_LINES)).join('\n')),
    evidence: plain([...others, ...errors, ...evident.flatMap((build) => logOf(build, KEPT_LINES))].join('\n')),
  }
}

/** At least so long are lines on progress apart, and so long may nothing be shown, in milliseconds. */
const PROGRESS_INTERVAL = 10_000
const SILENCE = 60_000
/** What is kept of one derivation's log, and of those that have ended: an error may come after its build's end. */
const KEPT_LINES = 200
const KEPT_BUILDS = 30
const KEPT_ERRORS = 20
/** More than run at once: builders may print lines that look like Nix's, and each build has a part of the memory. */
const MOST_BUILDS = 200
const KEPT_LENGTH = 2000
/** Of one derivation's lines together, in characters. */
const KEPT_CHARACTERS = 64 * 1024
/** Of an activity's id and of a derivation's path, in characters: Nix's are not half as long. */
const ID_LENGTH = 40
const PATH_LENGTH = 1000
/** What an error shows. */
const SHOWN_LINES = 20
const SHOWN_BUILDS = 3

// What Nix writes

/** An id is more than a number can hold: the process' own, which has up to 22 bits, above 32 of a counter. */
const ID = /"(id|parent)":(\d+)/g

const fields = v.optional(v.array(v.union([v.string(), v.number()])), [])
const event = v.variant('action', [
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
  // `raw_msg`, `file`, `line` come with errors that have a place; the message has all of it.
  v.object({ action: v.literal('msg'), level: v.number(), msg: v.string() }),
])
type Event = v.InferOutput<typeof event>
type Start = Extract<Event, { action: 'start' }>
type Result = Extract<Event, { action: 'result' }>

function parseEvent(line: string): Event | undefined {
  if (!line.startsWith('@nix {')) return undefined
  // A builder may print what only looks like it, and two processes may write into one line.
  const read = readJson(event, line.slice(5).replace(ID, '"$1":"$2"'))
  return read.ok && !('id' in read.value && read.value.id.length > ID_LENGTH) ? read.value : undefined
}

function readLine(log: NixLog, line: string, now: number): Read {
  const event = parseEvent(line)
  if (event === undefined) {
    const shown = printable(line)
    return { log: keepOther(log, shown), shown: [shown] }
  }
  const read = take({ ...log, structured: true }, event)
  const progress = formatProgress(read.log.progress)
  if (progress === undefined || progress === log.told.line || now - log.told.at < PROGRESS_INTERVAL) return read
  return { log: { ...read.log, told: { at: now, line: progress } }, shown: [...read.shown, progress] }
}

function take(log: NixLog, event: Event): Read {
  switch (event.action) {
    case 'start':
      return start(log, event)
    case 'result':
      return result(log, event)
    case 'msg':
      return message(log, event.msg)
    case 'stop': {
      const build = log.builds.get(event.id)
      const builds = build === undefined ? log.builds : forget(new Map(log.builds), event.id, build)
      return { log: { ...log, builds, progress: stopped(log.progress, event.id) }, shown: [] }
    }
  }
}

/**
 * Nix's numbers, from `ActivityType` and `ResultType` in its logging.hh. Newer versions have some more, which are not
 * needed here (112, the fetching of a flake's inputs, and 108, its status). Newest ones report progress at most every
 * 100 ms.
 */
const BUILD = 105
const COPY_PATH = 100
const LOG_LINE = 101
const PROGRESS = 105
const EXPECTED = 106
const POST_BUILD_LINE = 107
/** `lvlInfo` of `Verbosity` in its error.hh: what it says without `--verbose`. */
const INFO = 3

function start(log: NixLog, { id, type, level, text, fields: [derivation] }: Start): Read {
  const builds =
    type === BUILD &&
    typeof derivation === 'string' &&
    derivation.length <= PATH_LENGTH &&
    log.builds.size < MOST_BUILDS
      ? new Map(log.builds).set(id, { derivation, running: true, lines: [] })
      : log.builds
  // Paths are fetched by the hundred: the lines on progress count them.
  const shown = level <= INFO && text !== '' && type !== COPY_PATH ? lines(text) : []
  return { log: { ...log, builds, progress: started(log.progress, id, type) }, shown }
}

function result(log: NixLog, { id, type, fields: [first, second] }: Result): Read {
  if (type === LOG_LINE && typeof first === 'string') return buildLine(log, id, printable(first))
  if (type === POST_BUILD_LINE && typeof first === 'string')
    return { log, shown: [`post-build-hook> ${printable(first)}`] }
  if (!isCount(first) || !isCount(second)) return { log, shown: [] }
  if (type === PROGRESS)
    return { log: { ...log, progress: advanced(log.progress, id, { done: first, expected: second }) }, shown: [] }
  if (type === EXPECTED) return { log: { ...log, progress: announced(log.progress, first, second) }, shown: [] }
  return { log, shown: [] }
}

/** Whether a field is a number of something: of what a builder writes, sums would come to "Infinity" or less than none. */
function isCount(field: string | number | undefined): field is number {
  return Number.isSafeInteger(field) && Number(field) >= 0
}

function buildLine(log: NixLog, id: string, line: string): Read {
  const build = log.builds.get(id)
  if (build === undefined) return { log: keepOther(log, line), shown: [line] }
  const builds = new Map(log.builds).set(id, { ...build, lines: keep(build.lines, line) })
  return { log: { ...log, builds }, shown: [`${nameOf(build)}> ${line}`] }
}

function message(log: NixLog, text: string): Read {
  const shown = lines(text)
  // Traces of an evaluation, and what is no more than a list, have the level of errors as well.
  const isError = plain(text).startsWith('error:')
  if (!isError) return { log: shown.reduce(keepOther, { ...log, ignoredSettings: ignoredSettings(log, text) }), shown }
  const error = shown
    .map(plain)
    .map(cut)
    .join('\n')
    .slice(0, KEPT_LENGTH * 4)
  const errors = [...log.errors.filter((one) => one !== error), error].slice(-KEPT_ERRORS)
  return { log: { ...log, errors }, shown }
}

/** Of Nix 2.8 to 2.34 and Lix. */
function ignoredSettings({ ignoredSettings: known }: NixLog, text: string): readonly string[] {
  const [, name] = /ignoring untrusted flake configuration setting '([\w-]{1,100})'/.exec(text) ?? []
  if (name === undefined || known.includes(name) || known.length >= KEPT_ERRORS) return known
  return [...known, name]
}

function forget(builds: Map<string, Build>, id: string, build: Build): ReadonlyMap<string, Build> {
  builds.set(id, { ...build, running: false })
  const ended = [...builds].filter(([, { running }]) => !running)
  for (const [old] of ended.slice(0, -KEPT_BUILDS)) builds.delete(old)
  return builds
}

function keepOther(log: NixLog, line: string): NixLog {
  return { ...log, others: keep(log.others, line) }
}

/** The last lines, with one more, within bounds. */
function keep(lines: readonly string[], line: string): readonly string[] {
  const kept = [...lines, cut(line)].slice(-KEPT_LINES)
  let characters = kept.reduce((sum, { length }) => sum + length, 0)
  while (characters > KEPT_CHARACTERS) characters -= kept.shift()?.length ?? 0
  return kept
}

// What people read

/** Errors that only say what another one has led to: of Nix 2.8 and Lix, and of newer versions of Nix, in two forms. */
const CONSEQUENCE =
  /\d+ dependencies of derivation '.*' failed to build|^ *Reason: \d+ dependenc(?:y|ies) failed|Build failed due to failed dependency/m

/**
 * The last lines of the log that Nix puts into the error of a derivation. With a daemon it is there in spite of the
 * lines that came before, for it is the daemon that words the error. "last" and "Last", the command on the same line or
 * on the next: that depends on the version.
 */
const REPEATED_LOG = /[;,]?\n *last \d+ log lines:(?:\n *>.*)*(?:\n *For full logs, run.*(?:\n +\S*nix[^\n]*\.drv)?)?/i

function withoutLog(error: string): string {
  return error.replace(REPEATED_LOG, '')
}

function logOf(build: Build, count: number): readonly string[] {
  return build.lines.slice(-count).map((line) => `${nameOf(build)}> ${line}`)
}

function nameOf({ derivation }: Build): string {
  return derivation.replace(/^.*\/[0-9a-z]{32}-/, '').replace(/\.drv$/, '')
}

function lines(text: string): readonly string[] {
  return text.trimEnd().split('\n').map(printable)
}

function plain(text: string): string {
  return withoutEscapes(text)
}

/** A copy: a part of a text keeps all of the text in memory. */
function cut(line: string): string {
  return line.length > KEPT_LENGTH ? `${Buffer.from(line.slice(0, KEPT_LENGTH)).toString()}…` : line
}

/** What it splits a line at are the parts with odd numbers. */
const COLOUR = /(\p{Cc}\[[\d;]*m)/u

/** A line as a terminal would leave it, but for its colours: what moves the cursor garbles a log. */
function printable(text: string): string {
  const end = text.endsWith('\r') ? withoutCarriageReturns(text) : text
  const line = end.slice(end.lastIndexOf('\r') + 1)
  return line
    .split(COLOUR)
    .map((part, at) => (at % 2 === 1 && part.startsWith('\u001b') ? part : withoutControls(part)))
    .join('')
}

/** Not by a regular expression: `\r+$` takes time in proportion to the square of a line's length. */
function withoutCarriageReturns(text: string): string {
  let end = text.length
  while (end > 0 && text[end - 1] === '\r') end--
  return text.slice(0, end)
}

function withoutControls(text: string): string {
  return withoutHidden(withoutEscapes(text)).replaceAll('\n', '')
}
