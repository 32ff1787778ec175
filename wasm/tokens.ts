// What a deflate block is made of: matches, each with the literals before it. A token has the number of literals in its
// upper word; in its lower one the distance's symbol, the distance less 1 and the length less 3. The literals
// themselves are in the input.
import { countMatch } from './counts'
import { distanceOf, lengthOf, Match } from './parse'
import { distanceSymbol, SHORTEST } from './symbols'

const DISTANCE_SHIFT: i32 = 8
const SYMBOL_SHIFT: i32 = 23

/** Writes and counts a token, and tells where the next goes. */
// @ts-ignore: decorator
@inline
export function storeToken(token: i32, literals: i32, match: Match): i32 {
  const length = lengthOf(match) - SHORTEST
  const distance = distanceOf(match) - 1
  const symbol = distanceSymbol(distance)
  const word = (symbol << SYMBOL_SHIFT) | (distance << DISTANCE_SHIFT) | length
  store<u64>(token, ((<u64>literals) << 32) | word)
  countMatch(length, symbol)
  return token + 8
}

// @ts-ignore: decorator
@inline
export function literalsOf(token: u64): i32 {
  return <i32>(token >>> 32)
}

// @ts-ignore: decorator
@inline
export function lengthLess3Of(token: u64): i32 {
  return (<i32>token) & 0xff
}

// @ts-ignore: decorator
@inline
export function distanceLess1Of(token: u64): i32 {
  return ((<i32>token) >>> DISTANCE_SHIFT) & 0x7fff
}

// @ts-ignore: decorator
@inline
export function distanceSymbolOf(token: u64): i32 {
  return (<i32>token) >>> SYMBOL_SHIFT
}


/** Takes away literals that stand before a token, for they are in the deflate block before it. */
export function dropLiterals(token: i32, count: i32): void {
  store<u64>(token, load<u64>(token) - ((<u64>count) << 32))
}
