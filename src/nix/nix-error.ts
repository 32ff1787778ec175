import { Failure } from '../errors.ts'

/** Nix is missing, or could not evaluate or build what it was asked for. */
export class NixError extends Failure {
  override readonly name = 'NixError'
}
