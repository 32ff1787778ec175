import type { Http } from '../http/client.ts'
import type { JobLog } from '../log.ts'
import type { Cancellation } from '../process/cancellation.ts'
import type { Registry } from '../registry/registry.ts'

/** What every mode works with. */
export interface Tools {
  /** For requests to the Git host. */
  readonly http: Http
  readonly registry: Registry
  readonly log: JobLog
  /** Absent if the work can't be cancelled. */
  readonly cancellation?: Cancellation
}

/** The result of a mode. */
export interface Result {
  readonly outputs: Readonly<Record<string, string>>
  /** Markdown. */
  readonly summary: string
}
