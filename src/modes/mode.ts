import type { JobLog } from '../actions/log.ts'
import type { Http } from '../http/client.ts'
import type { Cancellation } from '../process/cancellation.ts'
import type { Registry } from '../registry/registry.ts'

/** What all modes work with. */
export interface Tools {
  /** For what is not a registry. */
  readonly http: Http
  readonly registry: Registry
  readonly log: JobLog
  /** Absent where nothing cancels the work. */
  readonly cancellation?: Cancellation
}

/** What a mode leaves behind for later steps and for people. */
export interface Result {
  readonly outputs: Readonly<Record<string, string>>
  /** Markdown. */
  readonly summary: string
}
