// Matches, and the state that parsing a segment leaves for the next one.

/** The end of the parsed segment. May be up to a match length beyond the requested end, because matches are not cut. */
export let parsedEnd: i32 = 0
/** The start of the literals that follow the last match. */
export let literalsFrom: i32 = 0
/** The end of the tokens. */
export let tokensEnd: i32 = 0

export function setParsed(at: i32, literals: i32, tokens: i32): void {
  parsedEnd = at
  literalsFrom = literals
  tokensEnd = tokens
}

/** A match: its distance in the lower 16 bits, its length in the upper ones. 0 means no match. */
export type Match = i32

// @inline
export function matchOf(length: i32, distance: i32): Match {
  return (length << 16) | distance
}

// @inline
export function lengthOf(match: Match): i32 {
  return match >>> 16
}

// @inline
export function distanceOf(match: Match): i32 {
  return match & 0xffff
}

/**
 * Returns the distance less 1 to an earlier position of which only the lower 16 bits are known. The position may be
 * stale or outside the window, so callers check the distance and compare the bytes.
 */
// @inline
export function distanceLess1(at: i32, position: i32): i32 {
  return (at - position - 1) & 0xffff
}

/** Counts the equal bytes at two positions. Any result above 257 means at least 258. */
// @inline
export function matchLength(at: i32, before: i32): i32 {
  let length = 0
  while (length < 258) {
    const difference = load<u64>(at + length) ^ load<u64>(before + length)
    if (difference !== 0) return length + (<i32>ctz(difference) >> 3)
    length += 8
  }
  return length
}
