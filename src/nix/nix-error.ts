import { Failure } from '../failure.ts'

/** Nix is missing, or could not evaluate or build what it was asked for. */
export class NixError extends Failure {
  override readonly name = 'NixError'
}
