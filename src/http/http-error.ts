import * as v from 'valibot'
import { ActionError, type FailureParts } from '../errors.ts'
import { readJson } from '../json.ts'
import { sanitizeLine } from '../text.ts'

/** Why a request got no answer, as far as it decides what a user can do. */
export type HttpProblem = 'unreachable' | 'untrusted-certificate' | 'other'

export interface HttpErrorParts<Problem extends string = HttpProblem> extends FailureParts {
  readonly host: string
  readonly problem: Problem
}

/** A request that got no answer. An answer is returned whatever its status; protocols above HTTP extend this class. */
export class HttpError<Problem extends string = HttpProblem> extends ActionError {
  override readonly name: string = 'HttpError'
  readonly host: string
  readonly problem: Problem

  constructor(parts: HttpErrorParts<Problem>) {
    super(parts)
    this.host = parts.host
    this.problem = parts.problem
  }

  /** Returns the same error with another message. */
  withMessage(message: string): HttpError<Problem> {
    const { parts, host, problem } = this
    return new HttpError({ ...parts, host, problem, message })
  }
}

/** Returns the error of Node or undici that led to an HttpError. */
export function causeOf(error: unknown): unknown {
  return error instanceof HttpError && error.cause !== undefined ? causeOf(error.cause) : error
}

/** Returns the code that Node or undici gives an error, or its cause. */
export function errorCode(error: unknown): string | undefined {
  const { code, cause } = error as { readonly code?: unknown; readonly cause?: unknown }
  if (typeof code === 'string') return code
  return typeof cause === 'object' && cause !== null ? errorCode(cause) : undefined
}

/** The content of an error answer. */
export interface ErrorAnswer {
  /** The code of the first error, such as `DENIED`. */
  readonly code?: string
  /** The server's messages, on few lines: those of its errors, or its text, or its HTML without the tags. */
  readonly detail: string
}

/**
 * Reads an error answer: JSON such as `{"errors":[{code,message,detail}]}`, or the text or HTML of a proxy.
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
  // Token services answer {"details": "…"}, {"error": "…", "error_description": "…"} or {"message": "…"}.
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
