import { withoutSecrets } from './secrets.ts'
import { cut, withoutCommands, withoutEscapes, withoutHidden } from './text.ts'

/** The parts of an explained failure, in the order in which a person needs them. */
export interface FailureParts {
  /** What failed, and on what: one sentence that names the image, record, tag or file. */
  readonly message: string
  /** The other side's own words (Nix's, Docker's, the registry's), unabridged where they are short. */
  readonly detail?: string | undefined
  /** What the user can do now: the YAML to add or the command to run. */
  readonly hint?: string | undefined
  readonly cause?: unknown
}

/**
 * A failure that has been understood and is told to the user as it stands. Each room has its own subclass; whatever
 * else is thrown is a defect of this action.
 */
export class ActionError extends Error {
  override readonly name: string = 'ActionError'
  readonly parts: FailureParts

  constructor({ message, detail, hint, cause }: FailureParts) {
    // Each may have names in it, or an answer, of any length: it must not push the others out of the log.
    const parts = {
      message: cut(message, PART_LIMIT),
      detail: detail && cut(detail, WORDS_LIMIT),
      hint: hint && cut(hint, PART_LIMIT),
      cause,
    }
    super(
      [parts.message, parts.detail && indent(parts.detail), parts.hint].filter(Boolean).join('\n'),
      cause === undefined ? undefined : { cause },
    )
    this.parts = parts
  }
}

/** In characters; the log takes more than all of them together. */
const PART_LIMIT = 8 * 1024
const WORDS_LIMIT = 32 * 1024

/** The text of anything that was thrown, for use inside another message. */
export function messageOf(error: unknown): string {
  // Not instanceof: errors of another realm are errors as well.
  if (typeof error !== 'object' || error === null || !('message' in error)) return String(error)
  // Node joins the addresses it tried in an AggregateError whose own message is empty.
  if (error.message === '' && error instanceof AggregateError) return error.errors.map(messageOf).join('; ')
  return String(error.message)
}

/**
 * Somebody else's text on one line of at most 500 characters, without control characters: a line of the job's log that
 * begins with `::`, and any text with `##[`, is a command to the runner.
 */
export function sanitizeLine(text: string): string {
  // Secrets first: the cut must not leave a part of one.
  const detail = withoutEscapes(withoutSecrets(text).slice(0, 8192)).replace(/[\s\p{Cc}]+/gu, ' ')
  const line = withoutCommands(withoutHidden(detail).trim())
  return line.length > 500 ? `${line.slice(0, 500)}…` : line
}

/** What an error begins with, for a line of the log. */
export function firstLine(error: unknown): string {
  return sanitizeLine(messageOf(error).split('\n')[0] ?? '')
}

/** What a failure begins with, for a line of the log where there is another way; a defect is thrown on. */
export function failureSummary(error: unknown): string {
  if (error instanceof ActionError) return firstLine(error)
  throw error
}

/** The last lines of a program's log. */
export function lastLines(log: string, count: number): string {
  return log.trimEnd().split('\n').slice(-count).join('\n')
}

function indent(detail: string): string {
  return detail
    .trimEnd()
    .split('\n')
    .map((line) => `  ${line}`.trimEnd())
    .join('\n')
}
