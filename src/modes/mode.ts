import type { Relation } from '../actions/commits.ts'
import type { AttestRequest } from '../attest/attest.ts'
import type { ActionError } from '../errors.ts'
import type { Http } from '../http/client.ts'
import type { JobLog } from '../log.ts'
import type { Cancellation } from '../process/cancellation.ts'
import type { Registry } from '../registry/registry.ts'
import type { RegistryWrite } from '../registry/writes.ts'
import type { PhaseTimer } from './phases.ts'

/** What every mode works with. */
export interface Tools {
  /** For requests to the Git host. */
  readonly http: Http
  readonly registry: Registry
  readonly log: JobLog
  readonly phases: PhaseTimer
  /** Receives the writes that don't pass through `registry`. */
  readonly onWrite: (write: RegistryWrite) => void
  /** Replaced by tests: the services that sign provenance. */
  readonly signing?: Pick<AttestRequest, 'services' | 'limits'>
  /** Compares commits, in place of the API of the Git host. */
  readonly compareCommits?: (base: string, head: string) => Promise<Relation>
  /** Absent if the work can't be cancelled. */
  readonly cancellation?: Cancellation
}

/** The result of a mode. */
export interface Result {
  readonly outputs: Readonly<Record<string, string>>
  /** References with digests of what was published, for the runner's list of artifacts. */
  readonly artifacts?: readonly string[]
  /** Markdown. */
  readonly summary: string
  /** Fails the step, after the outputs and the summary have been written. */
  readonly failure?: ActionError
}
