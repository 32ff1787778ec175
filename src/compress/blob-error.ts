import { ActionError } from '../errors.ts'

/** A blob that can't be kept until it is uploaded. */
export class BlobError extends ActionError {
  override readonly name = 'BlobError'
}
