import { Failure } from '../errors.ts'

/** A name, digest or document that does not have the form the OCI specifications give it. */
export class FormatError extends Failure {
  override readonly name = 'FormatError'
}
