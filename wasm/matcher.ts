// Finds matches with a hash table. Each hash of 4 bytes has a bucket: one 64-bit word with the last four positions that
// had this hash, the newest in the lowest bits. One shift inserts a position and drops the oldest.
import { countLiteral } from './counts'
import { distanceLess1, lengthOf, literalsFrom, Match, matchLength, matchOf, setParsed, tokensEnd } from './match'
import { HASH_BITS, HASH_TABLE, INPUT } from './memory'
import { LONGEST, WINDOW } from './symbols'
import { storeToken } from './tokens'

/** After 128 bytes without a match only every second position is tried, after 256 every third, and so on. */
const SKIP_BITS: i32 = 7
/** A match must be longer than this. Matches of 3 bytes save too little. */
const TOO_SHORT: i32 = 3

export function resetHashTable(): void {
  memory.fill(HASH_TABLE, 0, 8 << HASH_BITS)
}

// @inline
function bucketOf(word: u32): i32 {
  return HASH_TABLE + <i32>(((word * 0x9e3779b1) >>> (32 - HASH_BITS)) << 3)
}

// @inline
function insert(at: i32): void {
  const bucket = bucketOf(load<u32>(at))
  store<u64>(bucket, (load<u64>(bucket) << 16) | (at & 0xffff))
}

/** Counts the bits of a word that are equal at a distance, from the lowest bit up; 0 outside the window. */
// @inline
function equalBits(at: i32, word: u64, distance: i32, window: i32): i32 {
  const equal = <i32>ctz(word ^ load<u64>(at - distance))
  return distance <= window ? equal : 0
}

/** Returns the longer of the current match and the one at a distance, if at least a whole word is equal there. */
// @inline
function longer(match: Match, at: i32, distance: i32, equal: i32, longest: i32, longerThan: i32): Match {
  if (equal < 64) return match
  const least = match === 0 ? longerThan : lengthOf(match)
  // Compare the bytes that a longer match needs first: most candidates differ there.
  if (load<u32>(at + least - 3) !== load<u32>(at + least - 3 - distance)) return match
  const length = min(matchLength(at, at - distance), longest)
  return length > least ? matchOf(length, distance) : match
}

/**
 * Inserts a position and returns the best match for it that is longer than `longerThan`. Compares all four candidates
 * without branches, because the processor can't predict which of them is best.
 */
// @inline
function findMatch(at: i32, longest: i32, longerThan: i32): Match {
  const word = load<u64>(at)
  const bucket = bucketOf(<u32>word)
  const positions = load<u64>(bucket)
  store<u64>(bucket, (positions << 16) | (at & 0xffff))
  const window = min(at - INPUT, WINDOW)
  const distance0 = distanceLess1(at, <i32>positions) + 1
  const distance1 = distanceLess1(at, <i32>(positions >>> 16)) + 1
  const distance2 = distanceLess1(at, <i32>(positions >>> 32)) + 1
  const distance3 = distanceLess1(at, <i32>(positions >>> 48)) + 1
  const equal0 = equalBits(at, word, distance0, window)
  const equal1 = equalBits(at, word, distance1, window)
  const equal2 = equalBits(at, word, distance2, window)
  const equal3 = equalBits(at, word, distance3, window)
  const most = max(max(equal0, equal1), max(equal2, equal3))
  if (most >>> 3 <= min(longerThan, 7)) return 0
  if (most < 64) {
    const bits = most & ~7
    // The nearest of the longest.
    const distance = equal0 >= bits ? distance0 : equal1 >= bits ? distance1 : equal2 >= bits ? distance2 : distance3
    return matchOf(bits >>> 3, distance)
  }
  let match = longer(0, at, distance0, equal0, longest, longerThan)
  match = longer(match, at, distance1, equal1, longest, longerThan)
  match = longer(match, at, distance2, equal2, longest, longerThan)
  return longer(match, at, distance3, equal3, longest, longerThan)
}

/**
 * Parses a segment of the input into literals and matches, continuing after the last token.
 * @param maxLazy matches shorter than this are replaced if the next position has a longer one (lazy matching)
 * @param inserted positions to insert at either end of a match that is longer than twice this number
 */
export function parseSegment(from: i32, segmentEnd: i32, to: i32, maxLazy: i32, inserted: i32): void {
  let token = tokensEnd
  let literals = literalsFrom
  let at = from
  // Stop 8 bytes before the end, so that whole words can be read.
  const last = min(to - 8, segmentEnd)
  while (at < last) {
    let match = findMatch(at, min(to - at, LONGEST), TOO_SHORT)
    if (match === 0) {
      let skipped = min(1 + ((at - literals) >> SKIP_BITS), last - at)
      do countLiteral(load<u8>(at++))
      while (--skipped > 0)
      continue
    }
    // findMatch inserts each position that it tries.
    let insertFrom = at + 1
    while (lengthOf(match) < maxLazy && at + 1 < last) {
      const next = findMatch(at + 1, min(to - at - 1, LONGEST), lengthOf(match))
      insertFrom = at + 2
      if (next === 0) break
      countLiteral(load<u8>(at++))
      match = next
    }
    token = storeToken(token, at - literals, match)
    const matchEnd = at + lengthOf(match)
    insertEnds(insertFrom, min(matchEnd, to - 4), inserted)
    at = matchEnd
    literals = at
  }
  if (to - at <= 8) while (at < to) countLiteral(load<u8>(at++))
  setParsed(at, literals, token)
}

// @inline
function insertEnds(from: i32, to: i32, count: i32): void {
  let at = from
  if (to - from > 2 * count) {
    for (const end = from + count; at < end; at++) insert(at)
    at = to - count
  }
  for (; at < to; at++) insert(at)
}
