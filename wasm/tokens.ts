// The tokens of a deflate block: matches, each with the number of literals before it. The upper word of a token has the
// number of literals; the lower one has the distance symbol, the distance less 1 and the length less 3. The literals
// themselves stay in the input.
import { countMatch } from './counts'
import { distanceOf, lengthOf, Match } from './match'
import { distanceSymbol, SHORTEST } from './symbols'

const DISTANCE_SHIFT: i32 = 8
const SYMBOL_SHIFT: i32 = 23

/** Writes and counts a token, and returns the address of the next one. */
// @inline
export function storeToken(token: i32, literals: i32, match: Match): i32 {
  const length = lengthOf(match) - SHORTEST
  const distance = distanceOf(match) - 1
  const symbol = distanceSymbol(distance)
  const word = (symbol << SYMBOL_SHIFT) | (distance << DISTANCE_SHIFT) | length
  store<u64>(token, ((<u64>literals) << 32) | word)
  countMatch(length, symbol)
  return token + 8
}

// @inline
export function literalsOf(token: u64): i32 {
  return <i32>(token >>> 32)
}

// @inline
export function lengthLess3Of(token: u64): i32 {
  return <i32>token & 0xff
}

// @inline
export function distanceLess1Of(token: u64): i32 {
  return (<i32>token >>> DISTANCE_SHIFT) & 0x7fff
}

// @inline
export function distanceSymbolOf(token: u64): i32 {
  return <i32>token >>> SYMBOL_SHIFT
}

/** Removes literals from the front of a token, because they belong to the previous deflate block. */
export function dropLiterals(token: i32, count: i32): void {
  store<u64>(token, load<u64>(token) - ((<u64>count) << 32))
}
