import * as v from 'valibot'
import { ActionError, type FailureParts, sanitizeLine } from '../errors.ts'
import { readJson } from '../json.ts'

/** What a user can do about a failure depends on which of these it is. */
export type RegistryProblem =
  | 'unreachable'
  | 'untrusted-certificate'
  | 'no-credentials'
  | 'wrong-credentials'
  /** A token service has answered 403: the password is wrong, or the login may not do this. */
  | 'refused-login'
  | 'denied'
  /** A tag exists, and the registry does not let it be moved. */
  | 'tag-exists'
  /** The registry does not take manifests of this media type. */
  | 'unsupported-type'
  /** The registry takes no pushes at all. */
  | 'read-only'
  | 'not-found'
  | 'rate-limited'
  /** The answer, or what it brought, can't be right. */
  | 'doubtful'
  | 'other'

export interface RegistryErrorParts extends FailureParts {
  readonly host: string
  readonly problem: RegistryProblem
  /** The HTTP status, where there was an answer. */
  readonly status?: number | undefined
  /** The code of the first error in the answer, such as `DENIED`. */
  readonly code?: string | undefined
  /** Of `unsupported-type`: the media type that was refused. */
  readonly mediaType?: string | undefined
}

/** A registry that could not be reached, refused, or answered something else than it should. */
export class RegistryError extends ActionError {
  override readonly name = 'RegistryError'
  readonly host: string
  readonly problem: RegistryProblem
  readonly status: number | undefined
  readonly code: string | undefined
  readonly mediaType: string | undefined

  constructor(parts: RegistryErrorParts) {
    super(parts)
    this.host = parts.host
    this.problem = parts.problem
    this.status = parts.status
    this.code = parts.code
    this.mediaType = parts.mediaType
  }
}

/** What a registry's error answer says. */
export interface ErrorAnswer {
  readonly code?: string
  /** The registry's own words, on few lines: its errors' messages, or its text or HTML without the tags. */
  readonly detail: string
}

/**
 * Reads an error answer: `{"errors":[{code,message,detail}]}`, or whatever a proxy in between says in text or HTML.
 * Source: https://github.com/opencontainers/distribution-spec/blob/main/spec.md#error-codes
 */
export function readErrorAnswer(body: string): ErrorAnswer {
  const errors = errorsOf(body)
  if (errors.length === 0) return { detail: sanitizeLine(withoutTags(body.slice(0, 8192))) }
  const detail = errors.slice(0, 5).map(({ code, message, detail }) => {
    const more = detail === undefined || detail === null || detail === message ? '' : ` (${formatDetail(detail)})`
    return sanitizeLine(`${[code, message].filter(Boolean).join(': ')}${more}`)
  })
  const code = errors[0]?.code
  return { ...(code !== undefined && { code }), detail: detail.join('\n') }
}

function withoutTags(html: string): string {
  return html.replace(/<(style|script)[^<>]*>[^<]*<\/\1>|<[^<>]*>/gi, ' ')
}

interface WireError {
  readonly code?: string | undefined
  readonly message?: string | undefined
  readonly detail?: unknown
}

function errorsOf(body: string): readonly WireError[] {
  const read = readJson(v.unknown(), body)
  const answer = read.ok ? read.value : undefined
  if (typeof answer !== 'object' || answer === null) return []
  // Token services write {"details": "…"}, {"error": "…", "error_description": "…"} or {"message": "…"}.
  const { errors, error, error_description, details, message } = answer as Readonly<Record<string, unknown>>
  if (Array.isArray(errors)) return errors.filter((one) => typeof one === 'object' && one !== null).map(wireError)
  const said = [error, error_description, details, message].filter((one) => typeof one === 'string' && one !== '')
  return said.length > 0 ? [{ message: said.join(': ') }] : []
}

function wireError({ code, message, detail }: Readonly<Record<string, unknown>>): WireError {
  return {
    code: typeof code === 'string' ? code : undefined,
    message: typeof message === 'string' ? message : undefined,
    detail,
  }
}

function formatDetail(detail: unknown): string {
  return typeof detail === 'string' ? detail : JSON.stringify(detail)
}
