import { ActionError } from '../errors.ts'

/** A name, digest or document that does not have the form the OCI specifications give it. */
export class FormatError extends ActionError {
  override readonly name = 'FormatError'
}
