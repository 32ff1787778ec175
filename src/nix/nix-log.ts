import { withoutEscapes, withoutHidden } from '../text.ts'
import {
  ACTIVITY,
  LEVEL_INFO,
  type NixEvent,
  parseNixEvent,
  RESULT,
  type ResultEvent,
  type StartEvent,
} from './nix-log-event.ts'
import {
  addActivity,
  announceActivities,
  formatProgress,
  NO_PROGRESS,
  type Progress,
  stopActivity,
  updateActivity,
  withBuildsDone,
} from './progress.ts'

/**
 * The state of a run of Nix, as read from its log so far. Keeps only the end of long logs.
 *
 * Nix writes the log with `--log-format internal-json`: each line is `@nix ` and an object, which starts or stops an
 * activity, reports a result of one, or is a message. The format is documented only by its source. Tested with Nix 2.8,
 * 2.26 and 2.34. Comments name the differences, also for Lix as far as its source shows them.
 * https://github.com/NixOS/nix/blob/master/src/libutil/logging.cc, `struct JSONLogger`
 * https://git.lix.systems/lix-project/lix/src/branch/main/lix/libutil/logging.hh, which describes the fields
 */
export interface NixLog {
  /** Whether Nix has written any line in the format. */
  readonly structured: boolean
  readonly progress: Progress
  /** The last progress line that was shown, and when. */
  readonly shownProgress: { readonly at: number; readonly line: string | undefined }
  /** When anything was last shown. */
  readonly shownAt: number
  /** By activity id, in the order in which they started. */
  readonly builds: ReadonlyMap<string, DerivationLog>
  /** The number of builds that have ended. */
  readonly endedBuilds: number
  readonly errors: readonly string[]
  /** Lines outside of builds: messages, and the output of other programs. */
  readonly others: readonly string[]
  /** The names of settings in a flake's `nixConfig` that Nix ignores because they are not allowed. */
  readonly ignoredSettings: readonly string[]
}

/** The build of a derivation, and the end of its log. */
export interface DerivationLog {
  readonly derivation: string
  readonly running: boolean
  readonly lines: readonly string[]
}

/** The updated state, and the lines to show. */
export interface Read {
  readonly log: NixLog
  readonly shown: readonly string[]
}

/** Returns the state of a run that has not written anything yet. @param now in milliseconds, from any origin */
export function startNixLog(now: number): NixLog {
  const shownProgress = { at: now, line: undefined }
  const nothing = { builds: new Map(), endedBuilds: 0, errors: [], others: [], ignoredSettings: [] }
  return { structured: false, progress: NO_PROGRESS, shownProgress, shownAt: now, ...nothing }
}

/**
 * Reads a line of Nix's standard error.
 * @param now in milliseconds, from the same origin as in `startNixLog`
 * @returns the updated state and the lines to show, which contain no control characters except for colours
 */
export function readNixLine(log: NixLog, line: string, now: number): Read {
  const read = readLine(log, line, now)
  return read.shown.length === 0 ? read : { ...read, log: { ...read.log, shownAt: now } }
}

/**
 * Shows what Nix is doing if nothing was shown for 30 seconds.
 * @param now in milliseconds, from the same origin as in `startNixLog`
 */
export function remind(log: NixLog, now: number): Read {
  if (now - log.shownAt < REMINDER_INTERVAL) return { log, shown: [] }
  const progress = formatProgress(log.progress)
  const running = [...log.builds.values()].filter((build) => build.running).map(derivationName)
  const names = running.length > NAMED_BUILDS ? [...running.slice(0, NAMED_BUILDS), '…'] : running
  const activity = names.length === 0 ? 'still running' : `still building ${names.join(', ')}`
  const shown = progress === undefined ? `Nix is ${activity}` : `${progress}; ${activity}`
  return { log: { ...log, shownAt: now, shownProgress: { at: now, line: progress } }, shown: [shown] }
}

/**
 * Returns the last progress line of a run that succeeded, unless it was shown before. Lix ends without a report on its
 * last build (`Worker::run` in worker.cc), so that builds are also counted here.
 */
export function endNixLog({ progress, shownProgress, endedBuilds }: NixLog): readonly string[] {
  const line = formatProgress(withBuildsDone(progress, endedBuilds))
  return line === undefined || line === shownProgress.line ? [] : [line]
}

/** Returns the name of a derivation, without the store path. */
export function derivationName({ derivation }: DerivationLog): string {
  return derivation.replace(/^.*\/[0-9a-z]{32}-/, '').replace(/\.drv$/, '')
}

/** The shortest time between progress lines, and the longest time without any line, in milliseconds. */
const PROGRESS_INTERVAL = 10_000
const REMINDER_INTERVAL = 30_000
/** How many builds a reminder names. */
const NAMED_BUILDS = 3
/** How many lines of a build to keep, and how many builds that have ended: an error may follow the end of its build. */
const KEPT_LINES = 200
const KEPT_BUILDS = 30
const KEPT_ERRORS = 20
/** More than run at once. Builders may print lines in Nix's format, and each build takes memory. */
const BUILDS_LIMIT = 200
/** The limits of a line, and of all lines of a build, in characters. */
const KEPT_LENGTH = 2000
const KEPT_CHARACTERS = 64 * 1024
/** The longest accepted path of a derivation, in characters. Those of Nix are less than half as long. */
const PATH_LENGTH = 1000

function readLine(log: NixLog, line: string, now: number): Read {
  const event = parseNixEvent(line)
  if (event === undefined) {
    const shown = printableLine(line)
    return { log: keepOther(log, shown), shown: [shown] }
  }
  const read = readEvent({ ...log, structured: true }, event)
  const progress = formatProgress(read.log.progress)
  if (progress === undefined || progress === log.shownProgress.line || now - log.shownProgress.at < PROGRESS_INTERVAL)
    return read
  return { log: { ...read.log, shownProgress: { at: now, line: progress } }, shown: [...read.shown, progress] }
}

function readEvent(log: NixLog, event: NixEvent): Read {
  switch (event.action) {
    case 'start':
      return readStartEvent(log, event)
    case 'result':
      return readResultEvent(log, event)
    case 'msg':
      return readMessage(log, event.msg)
    case 'stop': {
      const build = log.builds.get(event.id)
      const builds = build === undefined ? log.builds : endBuild(new Map(log.builds), event.id, build)
      const endedBuilds = log.endedBuilds + (build === undefined ? 0 : 1)
      return { log: { ...log, builds, endedBuilds, progress: stopActivity(log.progress, event.id) }, shown: [] }
    }
  }
}

function readStartEvent(log: NixLog, { id, type, level, text, fields: [derivation] }: StartEvent): Read {
  const builds =
    type === ACTIVITY.build &&
    typeof derivation === 'string' &&
    derivation.length <= PATH_LENGTH &&
    log.builds.size < BUILDS_LIMIT
      ? new Map(log.builds).set(id, { derivation, running: true, lines: [] })
      : log.builds
  // Nix fetches hundreds of paths. The progress lines count them.
  const shown = level <= LEVEL_INFO && text !== '' && type !== ACTIVITY.copyPath ? printableLines(text) : []
  return { log: { ...log, builds, progress: addActivity(log.progress, id, type) }, shown }
}

function readResultEvent(log: NixLog, { id, type, fields: [first, second] }: ResultEvent): Read {
  if (type === RESULT.buildLogLine && typeof first === 'string') return readBuildLine(log, id, printableLine(first))
  if (type === RESULT.postBuildLogLine && typeof first === 'string')
    return { log, shown: [`post-build-hook> ${printableLine(first)}`] }
  if (!isCount(first) || !isCount(second)) return { log, shown: [] }
  if (type === RESULT.progress)
    return { log: { ...log, progress: updateActivity(log.progress, id, { done: first, expected: second }) }, shown: [] }
  if (type === RESULT.setExpected)
    return { log: { ...log, progress: announceActivities(log.progress, first, second) }, shown: [] }
  return { log, shown: [] }
}

/** Returns whether a field is a count. Builders can print other numbers, whose sums could be infinite or negative. */
function isCount(field: string | number | undefined): field is number {
  return Number.isSafeInteger(field) && Number(field) >= 0
}

function readBuildLine(log: NixLog, id: string, line: string): Read {
  const build = log.builds.get(id)
  if (build === undefined) return { log: keepOther(log, line), shown: [line] }
  const builds = new Map(log.builds).set(id, { ...build, lines: addLine(build.lines, line) })
  return { log: { ...log, builds }, shown: [`${derivationName(build)}> ${line}`] }
}

function readMessage(log: NixLog, text: string): Read {
  const shown = printableLines(text)
  // Traces of an evaluation and plain lists have the level of errors as well.
  const isError = withoutEscapes(text).startsWith('error:')
  if (!isError) return { log: shown.reduce(keepOther, { ...log, ignoredSettings: ignoredSettings(log, text) }), shown }
  const error = shown
    .map(withoutEscapes)
    .map(cutCopy)
    .join('\n')
    .slice(0, KEPT_LENGTH * 4)
  const errors = [...log.errors.filter((one) => one !== error), error].slice(-KEPT_ERRORS)
  return { log: { ...log, errors }, shown }
}

/** Reads the warning of Nix 2.8 to 2.34 and Lix. */
function ignoredSettings({ ignoredSettings: known }: NixLog, text: string): readonly string[] {
  const [, name] = /ignoring untrusted flake configuration setting '([\w-]{1,100})'/.exec(text) ?? []
  if (name === undefined || known.includes(name) || known.length >= KEPT_ERRORS) return known
  return [...known, name]
}

/** Marks a build as ended, and removes the oldest of those that have ended. */
function endBuild(
  builds: Map<string, DerivationLog>,
  id: string,
  build: DerivationLog,
): ReadonlyMap<string, DerivationLog> {
  builds.set(id, { ...build, running: false })
  const ended = [...builds].filter(([, { running }]) => !running)
  for (const [old] of ended.slice(0, -KEPT_BUILDS)) builds.delete(old)
  return builds
}

function keepOther(log: NixLog, line: string): NixLog {
  return { ...log, others: addLine(log.others, line) }
}

/** Adds a line, and removes the first ones if there are too many. */
function addLine(lines: readonly string[], line: string): readonly string[] {
  const kept = [...lines, cutCopy(line)].slice(-KEPT_LINES)
  let characters = kept.reduce((sum, { length }) => sum + length, 0)
  while (characters > KEPT_CHARACTERS) characters -= kept.shift()?.length ?? 0
  return kept
}

/** Truncates a line. Copies it, because a substring keeps the whole string in memory. */
function cutCopy(line: string): string {
  return line.length > KEPT_LENGTH ? `${Buffer.from(line.slice(0, KEPT_LENGTH)).toString()}…` : line
}

function printableLines(text: string): readonly string[] {
  return text.trimEnd().split('\n').map(printableLine)
}

/** Splits a line into text and, at odd indexes, colours. */
const COLOUR = /(\p{Cc}\[[\d;]*m)/u

/** Returns a line as a terminal would show it in the end, with its colours but without cursor movements. */
function printableLine(text: string): string {
  const end = text.endsWith('\r') ? withoutCarriageReturns(text) : text
  const line = end.slice(end.lastIndexOf('\r') + 1)
  return line
    .split(COLOUR)
    .map((part, at) => (at % 2 === 1 && part.startsWith('\u001b') ? part : withoutControls(part)))
    .join('')
}

/** Removes trailing carriage returns. The regular expression `\r+$` would take quadratic time. */
function withoutCarriageReturns(text: string): string {
  let end = text.length
  while (end > 0 && text[end - 1] === '\r') end--
  return text.slice(0, end)
}

function withoutControls(text: string): string {
  return withoutHidden(withoutEscapes(text)).replaceAll('\n', '')
}
