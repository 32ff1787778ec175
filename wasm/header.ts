// The header of a deflate block with codes of its own: https://www.rfc-editor.org/rfc/rfc1951#section-3.2.7
import { BITS_SHIFT, CODE_MASK, chooseBits, numberCodes } from './codes'
import {
  DISTANCE_BITS,
  HEADER_BITS,
  HEADER_CODE_BITS,
  HEADER_CODES,
  HEADER_COUNTS,
  HEADER_SYMBOLS,
  LITERAL_BITS,
} from './memory'
import { writeBits } from './output'
import { DISTANCE_SYMBOLS_COUNT, FIRST_LENGTH, LITERAL_SYMBOLS } from './symbols'

const SYMBOLS: i32 = 19
const LIMIT: i32 = 7
/** The same again, 3 to 6 times. */
const REPEAT: i32 = 16
/** No bits, 3 to 10 times. */
const ZEROS: i32 = 17
/** No bits, 11 to 138 times. */
const MANY_ZEROS: i32 = 18

/** The order in which the header tells the bits of its own code. */
const ORDER = memory.data<u8>([16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15])

/** How many of its own symbols the header tells of, of literals and lengths, of distances; and where its symbols end. */
let ownCount: i32 = 0
let literalCount: i32 = 0
let distanceCount: i32 = 0
let symbolsEnd: i32 = 0

/** Makes ready the header for LITERAL_BITS and DISTANCE_BITS, and tells how many bits it has. */
export function planHeader(): i32 {
  literalCount = trimmed(LITERAL_BITS, LITERAL_SYMBOLS, FIRST_LENGTH)
  distanceCount = trimmed(DISTANCE_BITS, DISTANCE_SYMBOLS_COUNT, 1)
  memory.copy(HEADER_BITS, LITERAL_BITS, literalCount)
  memory.copy(HEADER_BITS + literalCount, DISTANCE_BITS, distanceCount)
  memory.fill(HEADER_COUNTS, 0, 4 * SYMBOLS)
  symbolsEnd = HEADER_SYMBOLS
  const bitsEnd = HEADER_BITS + literalCount + distanceCount
  for (let at = HEADER_BITS; at < bitsEnd; ) {
    const run = runLength(at, bitsEnd)
    addRun(load<u8>(at), run)
    at += run
  }
  chooseBits(HEADER_COUNTS, SYMBOLS, LIMIT, HEADER_CODE_BITS)
  numberCodes(HEADER_CODE_BITS, SYMBOLS, HEADER_CODES)
  ownCount = SYMBOLS
  while (ownCount > 4 && ownBits(ownCount - 1) === 0) ownCount--
  return measureHeader()
}

/** How many symbols are left without those at the end that have no bits. */
function trimmed(bits: i32, symbols: i32, least: i32): i32 {
  let count = symbols
  while (count > least && load<u8>(bits + count - 1) === 0) count--
  return count
}

function runLength(from: i32, end: i32): i32 {
  const bits = load<u8>(from)
  let at = from + 1
  while (at < end && load<u8>(at) === bits) at++
  return at - from
}

function addRun(bits: i32, run: i32): void {
  let left = run
  if (bits === 0) {
    while (left >= 11) {
      const zeros = min(left, 138)
      addSymbol(MANY_ZEROS, zeros - 11)
      left -= zeros
    }
    if (left >= 3) {
      addSymbol(ZEROS, left - 3)
      left = 0
    }
  } else if (left >= 4) {
    addSymbol(bits, 0)
    left--
    while (left >= 3) {
      const times = min(left, 6)
      addSymbol(REPEAT, times - 3)
      left -= times
    }
  }
  for (; left > 0; left--) addSymbol(bits, 0)
}

function addSymbol(symbol: i32, extra: i32): void {
  store<u8>(symbolsEnd, symbol)
  store<u8>(symbolsEnd + 1, extra)
  symbolsEnd += 2
  const count = HEADER_COUNTS + (symbol << 2)
  store<i32>(count, load<i32>(count) + 1)
}

function extraBits(symbol: i32): i32 {
  return symbol < REPEAT ? 0 : symbol === REPEAT ? 2 : symbol === ZEROS ? 3 : 7
}

/** How many bits the header's own code has for the symbol at this place of the order. */
function ownBits(at: i32): i32 {
  return load<u8>(HEADER_CODE_BITS + <i32>load<u8>(ORDER + at))
}

function measureHeader(): i32 {
  let total = 14 + 3 * ownCount
  for (let symbol = 0; symbol < SYMBOLS; symbol++) {
    const bits = <i32>load<u8>(HEADER_CODE_BITS + symbol)
    total += load<i32>(HEADER_COUNTS + (symbol << 2)) * (bits + extraBits(symbol))
  }
  return total
}

/** Writes the header that was planned last. */
export function writeHeader(): void {
  writeBits(literalCount - 257, 5)
  writeBits(distanceCount - 1, 5)
  writeBits(ownCount - 4, 4)
  for (let at = 0; at < ownCount; at++) writeBits(ownBits(at), 3)
  for (let at = HEADER_SYMBOLS; at < symbolsEnd; at += 2) {
    const symbol = <i32>load<u8>(at)
    const code = load<i32>(HEADER_CODES + (symbol << 2))
    writeBits(code & CODE_MASK, code >>> BITS_SHIFT)
    writeBits(load<u8>(at + 1), extraBits(symbol))
  }
}
