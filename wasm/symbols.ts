// The symbols of lengths and distances: https://www.rfc-editor.org/rfc/rfc1951#section-3.2.5
import { DISTANCE_BASE, DISTANCE_EXTRA, DISTANCE_SYMBOLS, LENGTH_BASE, LENGTH_EXTRA, LENGTH_SYMBOLS } from './memory'

/** Ends a deflate block. */
export const END: i32 = 256
/** The symbol of the shortest length. Smaller ones are the literals and END. */
export const FIRST_LENGTH: i32 = 257
export const LITERAL_SYMBOLS: i32 = 286
export const DISTANCE_SYMBOLS_COUNT: i32 = 30
export const SHORTEST: i32 = 3
export const LONGEST: i32 = 258
export const WINDOW: i32 = 1 << 15

/** Fills the tables that the format defines. Called once, before anything else. */
export function prepareSymbols(): void {
  prepareLengths()
  prepareDistances()
}

function prepareLengths(): void {
  let length = 0
  for (let at = 0; at < 28; at++) {
    const extra = at < 4 ? 0 : (at >> 2) - 1
    store<u8>(LENGTH_EXTRA + at, extra)
    store<u8>(LENGTH_BASE + at, length)
    for (let end = length + (1 << extra); length < end; length++) store<u8>(LENGTH_SYMBOLS + length, at)
  }
  // The longest length has a separate symbol without extra bits.
  store<u8>(LENGTH_EXTRA + 28, 0)
  store<u8>(LENGTH_BASE + 28, LONGEST - SHORTEST)
  store<u8>(LENGTH_SYMBOLS + LONGEST - SHORTEST, 28)
}

function prepareDistances(): void {
  let distance = 0
  for (let symbol = 0; symbol < DISTANCE_SYMBOLS_COUNT; symbol++) {
    const extra = symbol < 2 ? 0 : (symbol >> 1) - 1
    store<u8>(DISTANCE_EXTRA + symbol, extra)
    store<u32>(DISTANCE_BASE + (symbol << 2), distance)
    const end = distance + (1 << extra)
    // From 256 on, all distances with the same upper bits have the same symbol.
    for (; distance < end; distance += distance < 256 ? 1 : 128) {
      store<u8>(DISTANCE_SYMBOLS + (distance < 256 ? distance : 256 + (distance >> 7)), symbol)
    }
  }
}

/** Returns a length's symbol less FIRST_LENGTH. */
// @inline
export function lengthSymbol(lengthLess3: i32): i32 {
  return load<u8>(lengthLess3, LENGTH_SYMBOLS)
}

// @inline
export function distanceSymbol(distanceLess1: i32): i32 {
  const at: i32 = distanceLess1 < 256 ? distanceLess1 : 256 + (distanceLess1 >> 7)
  return load<u8>(at, DISTANCE_SYMBOLS)
}
