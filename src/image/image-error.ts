import { Failure } from '../errors.ts'

/** What Nix built is not an image, or a damaged one. */
export class ImageError extends Failure {
  override readonly name = 'ImageError'
}
