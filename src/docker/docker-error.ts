import { ActionError } from '../errors.ts'

/** Docker is missing, is not running, or refused. */
export class DockerError extends ActionError {
  override readonly name = 'DockerError'
}
