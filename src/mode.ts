import type { Cancellation } from './cancellation.ts'
import type { JobLog } from './job-log.ts'
import type { Http } from './registry/http.ts'
import type { Registry } from './registry/registry.ts'

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
