import { firstLine } from '../errors.ts'
import type { Http } from '../http/client.ts'
import { HttpError, type HttpErrorParts, type HttpProblem } from '../http/http-error.ts'
import { pauseBeforeRetry, RETRY_PAUSES } from '../http/retry.ts'

/** The kind of a failure, which decides what a user can do about it. */
export type RegistryProblem =
  | HttpProblem
  | 'no-credentials'
  | 'wrong-credentials'
  /** A token service has answered with status 403: the password is wrong, or the login has no access. */
  | 'refused-login'
  /** No login is configured, and a token service has refused the one that was used instead. */
  | 'refused-token'
  | 'denied'
  /** A tag exists, and the registry refuses to move it. */
  | 'tag-exists'
  /** The registry does not support manifests of this media type. */
  | 'unsupported-type'
  /** The registry accepts no pushes. */
  | 'read-only'
  | 'not-found'
  | 'rate-limited'
  /** The answer or its content can't be right. */
  | 'doubtful'

export interface RegistryErrorParts extends HttpErrorParts<RegistryProblem> {
  /** The HTTP status of the answer, if there was one. */
  readonly status?: number | undefined
  /** The code of the first error in the answer, such as `DENIED`. */
  readonly code?: string | undefined
  /** For `unsupported-type`, the media type that was refused. */
  readonly mediaType?: string | undefined
}

/** A registry that could not be reached, refused a request, or answered it wrongly. */
export class RegistryError extends HttpError<RegistryProblem> {
  override readonly name = 'RegistryError'
  readonly status: number | undefined
  readonly code: string | undefined
  readonly mediaType: string | undefined

  constructor(parts: RegistryErrorParts) {
    super(parts)
    this.status = parts.status
    this.code = parts.code
    this.mediaType = parts.mediaType
  }

  override withMessage(message: string): RegistryError {
    const { parts, host, problem, status, code, mediaType } = this
    return new RegistryError({ ...parts, host, problem, status, code, mediaType, message })
  }
}

/** Throws an error of a request to a registry, or to a host that a registry points to, as a RegistryError. */
export function throwAsRegistryError(error: unknown): never {
  if (!(error instanceof HttpError) || error instanceof RegistryError) throw error
  // As the cause, the HttpError keeps the code of the failure, and whether it has been retried.
  throw new RegistryError({ ...error.parts, host: error.host, problem: error.problem, cause: error })
}

/** Repeats work whose result is doubtful, such as content with a wrong digest. */
export async function retryDoubtful<Result>(work: () => Promise<Result>, http: Http): Promise<Result> {
  for (const milliseconds of RETRY_PAUSES) {
    try {
      return await work()
    } catch (error) {
      if (!(error instanceof RegistryError) || error.problem !== 'doubtful') throw error
      await pauseBeforeRetry(firstLine(error), milliseconds, http)
    }
  }
  return work()
}
