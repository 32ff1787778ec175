import { ActionError } from '../errors.ts'

/** The images of a run that can't be published together. */
export class MergeError extends ActionError {
  override readonly name = 'MergeError'
}
