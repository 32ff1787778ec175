import { cut, sanitizeLine } from './text.ts'

/** The parts of an error message, in the order in which they are shown. */
export interface FailureParts {
  /** Says what failed and on what, in one sentence that names the image, record, tag or file. */
  readonly message: string
  /** The output of Nix or Docker, or the answer of the registry. */
  readonly detail?: string | undefined
  /** Says what the user can do: the YAML to add or the command to run. */
  readonly hint?: string | undefined
  readonly cause?: unknown
}

/**
 * An error whose message is written for the user of the action. Anything else that is thrown is a defect of the action.
 */
export class ActionError extends Error {
  override readonly name: string = 'ActionError'
  readonly parts: FailureParts

  constructor({ message, detail, hint, cause }: FailureParts) {
    // Names and answers can have any length. A long part must not push the others out of the log.
    const parts = {
      message: cut(message, PART_LIMIT),
      detail: detail && cut(detail, DETAIL_LIMIT),
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

/** In characters. All parts together fit into the runner's log. */
const PART_LIMIT = 8 * 1024
const DETAIL_LIMIT = 32 * 1024

/** An input that is missing, malformed or in conflict with another input. */
export class InputError extends ActionError {
  override readonly name = 'InputError'
}

/** Nix is missing, or failed to evaluate or build something. */
export class NixError extends ActionError {
  override readonly name = 'NixError'
}

/** Docker is missing, is not running, or failed to load, tag or push an image. */
export class DockerError extends ActionError {
  override readonly name = 'DockerError'
}

/** A build result that is not a valid container image. */
export class ImageError extends ActionError {
  override readonly name = 'ImageError'
}

/** A name, digest or document that violates the OCI specifications. */
export class FormatError extends ActionError {
  override readonly name = 'FormatError'
}

/** A file that can't be read, or that leads outside the folder it must stay in. */
export class FileError extends ActionError {
  override readonly name = 'FileError'
}

/** Why a folder can't be written to. */
export type DiskProblem = 'full' | 'read-only' | 'denied' | 'missing' | 'too-many-files' | 'other'

interface DiskErrorParts extends Omit<FailureParts, 'hint'> {
  readonly problem: DiskProblem
  readonly folder: string
}

/** Files that can't be written to a folder. Has no hint: advice depends on where the process runs. */
export class DiskError extends ActionError {
  override readonly name = 'DiskError'
  readonly problem: DiskProblem
  readonly folder: string

  constructor(parts: DiskErrorParts) {
    super(parts)
    this.problem = parts.problem
    this.folder = parts.folder
  }
}

/** An earlier image that can't be reused. The build continues without it. */
export class ReuseError extends ActionError {
  override readonly name = 'ReuseError'
}

/** A digest record, or a set of them, that can't be written or merged. */
export class RecordError extends ActionError {
  override readonly name = 'RecordError'
}

/** Images that can't be published together under one tag. */
export class MergeError extends ActionError {
  override readonly name = 'MergeError'
}

/** A published image that is not the one that the source builds. */
export class VerificationError extends ActionError {
  override readonly name = 'VerificationError'
}

/** A tag that could not be moved. */
export class TagError extends ActionError {
  override readonly name: string = 'TagError'
}

/** Returns the message of anything that was thrown, for use in another message. */
export function messageOf(error: unknown): string {
  // Not instanceof, which is false for errors of another realm.
  if (typeof error !== 'object' || error === null || !('message' in error)) return String(error)
  // If all addresses of a host fail, Node throws an AggregateError with an empty message.
  if (error.message === '' && error instanceof AggregateError) return error.errors.map(messageOf).join('; ')
  return String(error.message)
}

/** Returns the first line of an error's message, sanitized for the job's log. */
export function firstLine(error: unknown): string {
  return sanitizeLine(messageOf(error).split('\n')[0] ?? '')
}

/** Returns the first line of an `ActionError`, sanitized for the job's log. @throws any other error */
export function failureSummary(error: unknown): string {
  if (error instanceof ActionError) return firstLine(error)
  throw error
}

function indent(detail: string): string {
  return detail
    .trimEnd()
    .split('\n')
    .map((line) => `  ${line}`.trimEnd())
    .join('\n')
}
