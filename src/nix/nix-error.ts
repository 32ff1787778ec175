import { ActionError } from '../errors.ts'

/** Nix is missing, or could not evaluate or build what it was asked for. */
export class NixError extends ActionError {
  override readonly name = 'NixError'
}
