// The header of a deflate block with dynamic Huffman codes: https://www.rfc-editor.org/rfc/rfc1951#section-3.2.7
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
/** Repeats the previous code length 3 to 6 times. */
const REPEAT: i32 = 16
/** Repeats a zero length 3 to 10 times. */
const ZEROS: i32 = 17
/** Repeats a zero length 11 to 138 times. */
const MANY_ZEROS: i32 = 18

/** The order in which the header lists the lengths of the code length code. */
const ORDER = memory.data<u8>([16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15])

/** The lengths that the header lists: of the code length code, of literals and lengths, of distances. */
let codeLengthCount: i32 = 0
let literalCount: i32 = 0
let distanceCount: i32 = 0
/** The end of HEADER_SYMBOLS. */
let symbolsEnd: i32 = 0

/** Prepares the header for LITERAL_BITS and DISTANCE_BITS, and returns its size in bits. */
export function planHeader(): i32 {
  literalCount = countUsed(LITERAL_BITS, LITERAL_SYMBOLS, FIRST_LENGTH)
  distanceCount = countUsed(DISTANCE_BITS, DISTANCE_SYMBOLS_COUNT, 1)
  memory.copy(HEADER_BITS, LITERAL_BITS, literalCount)
  memory.copy(HEADER_BITS + literalCount, DISTANCE_BITS, distanceCount)
  memory.fill(HEADER_COUNTS, 0, 4 * SYMBOLS)
  symbolsEnd = HEADER_SYMBOLS
  const bitsEnd = HEADER_BITS + literalCount + distanceCount
  for (let at = HEADER_BITS; at < bitsEnd; ) {
    const run = runLength(at, bitsEnd)
    addCodeLengths(load<u8>(at), run)
    at += run
  }
  chooseBits(HEADER_COUNTS, SYMBOLS, LIMIT, HEADER_CODE_BITS)
  numberCodes(HEADER_CODE_BITS, SYMBOLS, HEADER_CODES)
  codeLengthCount = SYMBOLS
  while (codeLengthCount > 4 && codeLengthBits(codeLengthCount - 1) === 0) codeLengthCount--
  return measureHeader()
}

/** Counts the symbols up to the last one with a code. */
function countUsed(bits: i32, symbols: i32, least: i32): i32 {
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

function addCodeLengths(bits: i32, run: i32): void {
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

/** Returns the length of the code length code's symbol at an index of ORDER. */
function codeLengthBits(at: i32): i32 {
  return load<u8>(HEADER_CODE_BITS + <i32>load<u8>(ORDER + at))
}

function measureHeader(): i32 {
  let total = 14 + 3 * codeLengthCount
  for (let symbol = 0; symbol < SYMBOLS; symbol++) {
    const bits = <i32>load<u8>(HEADER_CODE_BITS + symbol)
    total += load<i32>(HEADER_COUNTS + (symbol << 2)) * (bits + extraBits(symbol))
  }
  return total
}

/** Writes the header that planHeader prepared. */
export function writeHeader(): void {
  writeBits(literalCount - 257, 5)
  writeBits(distanceCount - 1, 5)
  writeBits(codeLengthCount - 4, 4)
  for (let at = 0; at < codeLengthCount; at++) writeBits(codeLengthBits(at), 3)
  for (let at = HEADER_SYMBOLS; at < symbolsEnd; at += 2) {
    const symbol = <i32>load<u8>(at)
    const code = load<i32>(HEADER_CODES + (symbol << 2))
    writeBits(code & CODE_MASK, code >>> BITS_SHIFT)
    writeBits(load<u8>(at + 1), extraBits(symbol))
  }
}
