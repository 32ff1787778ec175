import { Failure } from '../errors.ts'

/** Docker is missing, is not running, or refused. */
export class DockerError extends Failure {
  override readonly name = 'DockerError'
}
