import * as v from 'valibot'
import { type Digest, isDigest } from './digest.ts'
import { PLATFORM_WORD, PLATFORM_WORD_LENGTH } from './platform.ts'

/** What documents of others are held against where they have a digest. */
export const DIGEST = v.custom<Digest>(
  (value) => typeof value === 'string' && isDigest(value),
  'is not a sha256 digest',
)

const WORD = v.pipe(
  v.string(),
  v.maxLength(PLATFORM_WORD_LENGTH, `is longer than ${PLATFORM_WORD_LENGTH} characters`),
  v.regex(PLATFORM_WORD, 'has characters that no platform has'),
)

/** And where they have a platform. */
export const PLATFORM = v.object({ os: WORD, architecture: WORD, variant: v.optional(WORD) })
