import { ActionError } from '../errors.ts'

/** What Nix built is not an image, or a damaged one. */
export class ImageError extends ActionError {
  override readonly name = 'ImageError'
}
