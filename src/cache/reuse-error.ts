import { ActionError } from '../errors.ts'

/** Something published before that is nothing to go by; told in a line, for what is to be done can be done without it. */
export class ReuseError extends ActionError {
  override readonly name = 'ReuseError'
}
