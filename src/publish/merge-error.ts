import { Failure } from '../errors.ts'

/** The images of a run that can't be published together. */
export class MergeError extends Failure {
  override readonly name = 'MergeError'
}
