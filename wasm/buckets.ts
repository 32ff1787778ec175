// The fast way to find matches: for each hash of 4 bytes the last four places that had it are in one word of memory, the
// newest in the lower bits. So a place is inserted, and the oldest forgotten, by a shift.
import { countLiteral } from './counts'
import { HASHES, INPUT } from './memory'
import { distanceLess1, lengthOf, literalsFrom, Match, matchLength, matchOf, setParsed, tokensEnd } from './parse'
import { LONGEST, WINDOW } from './symbols'
import { storeToken } from './tokens'

const HASH_BITS: i32 = 14
/** Where nothing was found for 128 bytes, every second place is looked at, then every third, and so on. */
const PATIENCE_BITS: i32 = 7
/** Shorter matches are of no use here. */
const LEAST: i32 = 3

export function resetBuckets(): void {
  memory.fill(HASHES, 0, 8 << HASH_BITS)
}

// @ts-ignore: decorator
@inline
function bucketOf(word: u32): i32 {
  return HASHES + <i32>(((word * 0x9e3779b1) >>> (32 - HASH_BITS)) << 3)
}

// @ts-ignore: decorator
@inline
function insert(at: i32): void {
  const bucket = bucketOf(load<u32>(at))
  store<u64>(bucket, (load<u64>(bucket) << 16) | (at & 0xffff))
}

/** How many of a word's bits are the same at a distance, from the lowest on; 0 where that is out of the window. */
// @ts-ignore: decorator
@inline
function sameBits(at: i32, word: u64, distance: i32, window: i32): i32 {
  const same = <i32>ctz(word ^ load<u64>(at - distance))
  return distance <= window ? same : 0
}

/** The better of two matches: the one that has been found, and one at a distance at which a whole word is the same. */
// @ts-ignore: decorator
@inline
function better(match: Match, at: i32, distance: i32, same: i32, longest: i32, longerThan: i32): Match {
  if (same < 64) return match
  const least = match === 0 ? longerThan : lengthOf(match)
  // Most that are no better differ where they would have to be longer.
  if (load<u32>(at + least - 3) !== load<u32>(at + least - 3 - distance)) return match
  const length = min(matchLength(at, at - distance), longest)
  return length > least ? matchOf(length, distance) : match
}

/**
 * Inserts a place and finds the best match for it that is longer than another. All four places are looked at without a
 * branch, for which of them is the best can't be foretold.
 */
// @ts-ignore: decorator
@inline
function findMatch(at: i32, longest: i32, longerThan: i32): Match {
  const word = load<u64>(at)
  const bucket = bucketOf(<u32>word)
  const places = load<u64>(bucket)
  store<u64>(bucket, (places << 16) | (at & 0xffff))
  const window = min(at - INPUT, WINDOW)
  const distance0 = distanceLess1(at, <i32>places) + 1
  const distance1 = distanceLess1(at, <i32>(places >>> 16)) + 1
  const distance2 = distanceLess1(at, <i32>(places >>> 32)) + 1
  const distance3 = distanceLess1(at, <i32>(places >>> 48)) + 1
  const same0 = sameBits(at, word, distance0, window)
  const same1 = sameBits(at, word, distance1, window)
  const same2 = sameBits(at, word, distance2, window)
  const same3 = sameBits(at, word, distance3, window)
  const most = max(max(same0, same1), max(same2, same3))
  if (most >>> 3 <= min(longerThan, 7)) return 0
  if (most < 64) {
    const bytes = most & ~7
    // The nearest of those that are equally long.
    const distance = same0 >= bytes ? distance0 : same1 >= bytes ? distance1 : same2 >= bytes ? distance2 : distance3
    return matchOf(bytes >>> 3, distance)
  }
  let match = better(0, at, distance0, same0, longest, longerThan)
  match = better(match, at, distance1, same1, longest, longerThan)
  match = better(match, at, distance2, same2, longest, longerThan)
  return better(match, at, distance3, same3, longest, longerThan)
}

/**
 * Finds the literals and matches of a part, after those that were found last.
 * @param lazyBelow for matches that are shorter, the next place is tried, too
 * @param inserted of a match that is longer than twice that, so many places at either end are inserted
 */
export function parseBuckets(from: i32, partEnd: i32, to: i32, lazyBelow: i32, inserted: i32): void {
  let token = tokensEnd
  let literals = literalsFrom
  let at = from
  // Words can be read, and matches are not cut, as long as there are 8 bytes.
  const last = min(to - 8, partEnd)
  while (at < last) {
    let match = findMatch(at, min(to - at, LONGEST), LEAST)
    if (match === 0) {
      let passed = min(1 + ((at - literals) >> PATIENCE_BITS), last - at)
      do countLiteral(load<u8>(at++))
      while (--passed > 0)
      continue
    }
    // How far places are inserted: the next is when it has been tried.
    let insertedTo = at + 1
    while (lengthOf(match) < lazyBelow && at + 1 < last) {
      const next = findMatch(at + 1, min(to - at - 1, LONGEST), lengthOf(match))
      insertedTo = at + 2
      if (next === 0) break
      countLiteral(load<u8>(at++))
      match = next
    }
    token = storeToken(token, at - literals, match)
    const matchEnd = at + lengthOf(match)
    insertEnds(insertedTo, min(matchEnd, to - 4), inserted)
    at = matchEnd
    literals = at
  }
  if (to - at <= 8) while (at < to) countLiteral(load<u8>(at++))
  setParsed(at, literals, token)
}

// @ts-ignore: decorator
@inline
function insertEnds(from: i32, to: i32, count: i32): void {
  let at = from
  if (to - from > 2 * count) {
    for (const end = from + count; at < end; at++) insert(at)
    at = to - count
  }
  for (; at < to; at++) insert(at)
}
