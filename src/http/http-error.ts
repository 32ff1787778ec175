import { ActionError, type FailureParts } from '../errors.ts'

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
