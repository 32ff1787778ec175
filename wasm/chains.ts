// The thorough way to find matches: all places with the same hash of 4 bytes are a chain, of which as much is looked at
// as the level allows. Matches of 3 bytes, which are worth little, are looked for only at the last place that had them.
import { countLiteral } from './counts'
import { CHAINS, HASHES, INPUT, SHORT_HASHES } from './memory'
import { distanceLess1, lengthOf, literalsFrom, Match, matchLength, matchOf, setParsed, tokensEnd } from './parse'
import { LONGEST, SHORTEST, WINDOW } from './symbols'
import { storeToken } from './tokens'

const HASH_BITS: i32 = 15
const SHORT_HASH_BITS: i32 = 14
/** From here on a match of 3 bytes takes more bits than its literals. */
const SHORT_WINDOW: i32 = 4096

export function resetChains(): void {
  memory.fill(HASHES, 0, 2 << HASH_BITS)
  memory.fill(SHORT_HASHES, 0, 2 << SHORT_HASH_BITS)
  memory.fill(CHAINS, 0, 2 * WINDOW)
}

// @ts-ignore: decorator
@inline
function headOf(word: u32): i32 {
  return HASHES + <i32>(((word * 0x9e3779b1) >>> (32 - HASH_BITS)) << 1)
}

/** The first 3 bytes are the lower ones. */
// @ts-ignore: decorator
@inline
function shortHeadOf(word: u32): i32 {
  return SHORT_HASHES + <i32>((((word << 8) * 0x9e3779b1) >>> (32 - SHORT_HASH_BITS)) << 1)
}

// @ts-ignore: decorator
@inline
function linkOf(at: i32): i32 {
  return CHAINS + ((at & (WINDOW - 1)) << 1)
}

/** Makes a place the first of its chain. */
// @ts-ignore: decorator
@inline
function insert(at: i32): void {
  const word = load<u32>(at)
  const head = headOf(word)
  store<u16>(linkOf(at), load<u16>(head))
  store<u16>(head, at)
  store<u16>(shortHeadOf(word), at)
}

/** Inserts a place and finds the best match for it that is longer than another. */
function findMatch(at: i32, longest: i32, longerThan: i32, depth: i32, enough: i32): Match {
  const word = load<u32>(at)
  const shortDistance = distanceLess1(at, load<u16>(shortHeadOf(word))) + 1
  let distance = distanceLess1(at, load<u16>(headOf(word))) + 1
  insert(at)
  const window = min(at - INPUT, WINDOW)
  let best = longerThan
  let match: Match = 0
  if (best < SHORTEST && shortDistance <= min(window, SHORT_WINDOW)) {
    if (((word ^ load<u32>(at - shortDistance)) & 0xffffff) === 0) {
      best = SHORTEST
      match = matchOf(SHORTEST, shortDistance)
    }
  }
  best = max(best, SHORTEST)
  for (let left = depth; left > 0 && distance <= window; left--) {
    if (load<u32>(at + best - 3) === load<u32>(at + best - 3 - distance)) {
      const length = min(matchLength(at, at - distance), longest)
      if (length > best) {
        best = length
        match = matchOf(length, distance)
        if (length >= min(enough, longest)) break
      }
    }
    // A link that doesn't lead further back is that of another place, which has taken its memory.
    const next = distanceLess1(at, load<u16>(linkOf(at - distance))) + 1
    if (next <= distance) break
    distance = next
  }
  return match
}

/**
 * Finds the literals and matches of a part, after those that were found last.
 * @param depth how many places of a chain are looked at
 * @param lazyBelow for matches that are shorter, the next place is tried, too
 * @param enough matches that are as long end the search
 */
export function parseChains(from: i32, partEnd: i32, to: i32, depth: i32, lazyBelow: i32, enough: i32): void {
  let token = tokensEnd
  let literals = literalsFrom
  let at = from
  const last = min(to - 8, partEnd)
  while (at < last) {
    let match = findMatch(at, min(to - at, LONGEST), 0, depth, enough)
    if (match === 0) {
      countLiteral(load<u8>(at++))
      continue
    }
    // How far places are inserted: the next is when it has been tried.
    let insertedTo = at + 1
    while (lengthOf(match) < lazyBelow && at + 1 < last) {
      // What is good already must be beaten without much ado.
      const tries = lengthOf(match) < 8 ? depth : max(1, depth >> 2)
      const next = findMatch(at + 1, min(to - at - 1, LONGEST), lengthOf(match), tries, enough)
      insertedTo = at + 2
      if (next === 0) break
      countLiteral(load<u8>(at++))
      match = next
    }
    token = storeToken(token, at - literals, match)
    const matchEnd = at + lengthOf(match)
    const insertEnd = min(matchEnd, to - 4)
    for (at = insertedTo; at < insertEnd; at++) insert(at)
    at = matchEnd
    literals = at
  }
  if (to - at <= 8) while (at < to) countLiteral(load<u8>(at++))
  setParsed(at, literals, token)
}
