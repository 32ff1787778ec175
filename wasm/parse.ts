// What the ways to find matches have in common, and what parsing a part of the input leaves.

/** Where the part ends. It may be a little longer than asked for, for a match is not cut. */
export let parsedEnd: i32 = 0
/** Where the literals begin that come after the last match. */
export let literalsFrom: i32 = 0
/** Where the tokens end. */
export let tokensEnd: i32 = 0

export function setParsed(at: i32, literals: i32, tokens: i32): void {
  parsedEnd = at
  literalsFrom = literals
  tokensEnd = tokens
}

/** A match: its distance in the lower 16 bits, its length above. 0 is none. */
export type Match = i32

// @ts-ignore: decorator
@inline
export function matchOf(length: i32, distance: i32): Match {
  return (length << 16) | distance
}

// @ts-ignore: decorator
@inline
export function lengthOf(match: Match): i32 {
  return match >>> 16
}

// @ts-ignore: decorator
@inline
export function distanceOf(match: Match): i32 {
  return match & 0xffff
}

/**
 * The distance to a place before of which the lower 16 bits are known, less 1. It may be another place in truth, or one
 * that is out of the window: whether the bytes are the same there is to be looked at, whatever is found.
 */
// @ts-ignore: decorator
@inline
export function distanceLess1(at: i32, place: i32): i32 {
  return (at - place - 1) & 0xffff
}

/** How many bytes are the same at two places: 258 or more are as many. */
// @ts-ignore: decorator
@inline
export function matchLength(at: i32, before: i32): i32 {
  let length = 0
  while (length < 258) {
    const differing = load<u64>(at + length) ^ load<u64>(before + length)
    if (differing !== 0) return length + (<i32>ctz(differing) >> 3)
    length += 8
  }
  return length
}
