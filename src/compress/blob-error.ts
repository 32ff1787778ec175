import { Failure } from '../errors.ts'

/** A blob that can't be kept until it is uploaded. */
export class BlobError extends Failure {
  override readonly name = 'BlobError'
}
