// Deflate blocks: https://www.rfc-editor.org/rfc/rfc1951#section-3.2.3
import { BITS_SHIFT, CODE_MASK, chooseBits, numberCodes } from './codes'
import { planHeader, writeHeader } from './header'
import {
  BLOCK_COUNTS,
  DISTANCE_BASE,
  DISTANCE_BITS,
  DISTANCE_CODES,
  DISTANCE_COUNTS,
  DISTANCE_EXTRA,
  LENGTH_BASE,
  LENGTH_CODES,
  LENGTH_EXTRA,
  LITERAL_BITS,
  LITERAL_CODES,
  LITERAL_COUNTS,
  TOKENS,
} from './memory'
import { alignOutput, end, pending, pendingBits, setOutput, writeBits, writeBytes } from './output'
import { DISTANCE_SYMBOLS_COUNT, END, FIRST_LENGTH, LITERAL_SYMBOLS, lengthSymbol } from './symbols'
import { distanceLess1Of, distanceSymbolOf, lengthLess3Of, literalsOf } from './tokens'

const STORED: i32 = 0
const FIXED: i32 = 1
const DYNAMIC: i32 = 2
/** The first bits of a block: whether it is final (here always 0), and its type. */
const TYPE_BITS: i32 = 3

/** The fixed code has two more symbols, which never occur. */
const FIXED_LITERALS: i32 = 288

/** The largest stored block, in bytes. */
const STORED_LIMIT: i32 = 0xffff

/** The symbol frequencies of the block. */
const LITERALS: i32 = BLOCK_COUNTS + LITERAL_COUNTS
const DISTANCES: i32 = BLOCK_COUNTS + DISTANCE_COUNTS

/** One less than the format allows, so that four literals and 7 pending bits fit into a 64-bit word. */
const LITERAL_LIMIT: i32 = 14
const DISTANCE_LIMIT: i32 = 15

/** Writes a range of the input as a stored, fixed or dynamic block, whichever is smallest. Overwrites the counts. */
export function writeBlock(from: i32, to: i32, tokensEnd: i32): void {
  if (from === to) return
  store<i32>(LITERALS + (END << 2), 1)
  const extra = measureExtra()
  const fixed = extra + measureFixed()
  chooseBits(LITERALS, FIXED_LITERALS, LITERAL_LIMIT, LITERAL_BITS)
  chooseBits(DISTANCES, DISTANCE_SYMBOLS_COUNT, DISTANCE_LIMIT, DISTANCE_BITS)
  const dynamic = extra + planHeader() + measureCodes()
  if (measureStored(to - from) <= min(fixed, dynamic)) {
    writeStored(from, to)
    return
  }
  if (fixed <= dynamic) {
    writeBits(FIXED << 1, TYPE_BITS)
    setFixedBits()
  } else {
    writeBits(DYNAMIC << 1, TYPE_BITS)
    writeHeader()
  }
  numberCodes(LITERAL_BITS, FIXED_LITERALS, LITERAL_CODES)
  numberCodes(DISTANCE_BITS, DISTANCE_SYMBOLS_COUNT, DISTANCE_CODES)
  joinLengthCodes()
  writeTokens(from, to, tokensEnd)
}

function measureExtra(): i32 {
  let total = 0
  for (let at = 0; at < LITERAL_SYMBOLS - FIRST_LENGTH; at++) {
    total += <i32>load<u8>(LENGTH_EXTRA + at) * load<i32>(LITERALS + ((FIRST_LENGTH + at) << 2))
  }
  for (let at = 0; at < DISTANCE_SYMBOLS_COUNT; at++) {
    total += <i32>load<u8>(DISTANCE_EXTRA + at) * load<i32>(DISTANCES + (at << 2))
  }
  return total
}

function measureCodes(): i32 {
  return (
    TYPE_BITS +
    measureSymbols(LITERALS, LITERAL_BITS, LITERAL_SYMBOLS) +
    measureSymbols(DISTANCES, DISTANCE_BITS, DISTANCE_SYMBOLS_COUNT)
  )
}

function measureFixed(): i32 {
  setFixedBits()
  return measureCodes()
}

function measureSymbols(counts: i32, bits: i32, symbols: i32): i32 {
  let total = 0
  for (let at = 0; at < symbols; at++) total += load<i32>(counts + (at << 2)) * <i32>load<u8>(bits + at)
  return total
}

/** Returns the size in bits of stored input, if it begins at a byte boundary. */
export function measureStored(length: i32): i32 {
  const blocks = max(1, (length + STORED_LIMIT - 1) / STORED_LIMIT)
  return 8 * length + 40 * blocks
}

function setFixedBits(): void {
  memory.fill(LITERAL_BITS, 8, 144)
  memory.fill(LITERAL_BITS + 144, 9, 112)
  memory.fill(LITERAL_BITS + 256, 7, 24)
  memory.fill(LITERAL_BITS + 280, 8, 8)
  memory.fill(DISTANCE_BITS, 5, DISTANCE_SYMBOLS_COUNT)
}

/** Writes a range of the input as stored blocks. An empty range makes one empty block, which ends at a byte boundary. */
export function writeStored(from: i32, to: i32): void {
  let at = from
  do {
    const length = min(to - at, STORED_LIMIT)
    writeBits(STORED << 1, TYPE_BITS)
    alignOutput()
    writeBits(length | ((length ^ 0xffff) << 16), 32)
    writeBytes(at, length)
    at += length
  } while (at < to)
}

/** Combines the code of each length with its extra bits. */
function joinLengthCodes(): void {
  for (let length = 0; length < 256; length++) {
    const symbol = lengthSymbol(length)
    const code = load<i32>(LITERAL_CODES + ((FIRST_LENGTH + symbol) << 2))
    const bits = code >>> BITS_SHIFT
    const extra = (length - <i32>load<u8>(LENGTH_BASE + symbol)) << bits
    const joined = (code & CODE_MASK) | extra | ((bits + <i32>load<u8>(LENGTH_EXTRA + symbol)) << BITS_SHIFT)
    store<i32>(LENGTH_CODES + (length << 2), joined)
  }
}

// @inline
function literalCode(at: i32, offset: usize): i32 {
  return load<i32>((<i32>load<u8>(at + <i32>offset)) << 2, LITERAL_CODES)
}

/** Writes literals and matches. Keeps the state of the output in local variables: this loop takes most of the time. */
function writeTokens(from: i32, to: i32, tokensEnd: i32): void {
  let bits = pending
  let count = pendingBits
  let out = end
  let at = from
  for (let token = TOKENS; ; token += 8) {
    const isToken = token < tokensEnd
    const word = isToken ? load<u64>(token) : 0
    const literalsEnd = isToken ? at + literalsOf(word) : to
    for (; at + 4 <= literalsEnd; at += 4) {
      const first = literalCode(at, 0)
      bits |= (<u64>(first & CODE_MASK)) << count
      count += first >>> BITS_SHIFT
      const second = literalCode(at, 1)
      bits |= (<u64>(second & CODE_MASK)) << count
      count += second >>> BITS_SHIFT
      const third = literalCode(at, 2)
      bits |= (<u64>(third & CODE_MASK)) << count
      count += third >>> BITS_SHIFT
      const fourth = literalCode(at, 3)
      bits |= (<u64>(fourth & CODE_MASK)) << count
      count += fourth >>> BITS_SHIFT
      store<u64>(out, bits)
      out += count >> 3
      bits >>= count & ~7
      count &= 7
    }
    while (at < literalsEnd) {
      const code = literalCode(at, 0)
      bits |= (<u64>(code & CODE_MASK)) << count
      count += code >>> BITS_SHIFT
      at++
      store<u64>(out, bits)
      out += count >> 3
      bits >>= count & ~7
      count &= 7
    }
    if (!isToken) break
    const length = lengthLess3Of(word)
    const lengthCode = load<i32>(length << 2, LENGTH_CODES)
    bits |= (<u64>(lengthCode & CODE_MASK)) << count
    count += lengthCode >>> BITS_SHIFT
    const symbol = distanceSymbolOf(word)
    const distanceCode = load<i32>(symbol << 2, DISTANCE_CODES)
    bits |= (<u64>(distanceCode & CODE_MASK)) << count
    count += distanceCode >>> BITS_SHIFT
    bits |= (<u64>(distanceLess1Of(word) - load<i32>(symbol << 2, DISTANCE_BASE))) << count
    count += <i32>load<u8>(symbol, DISTANCE_EXTRA)
    at += length + 3
    store<u64>(out, bits)
    out += count >> 3
    bits >>= count & ~7
    count &= 7
  }
  setOutput(bits, count, out)
  const code = load<i32>(LITERAL_CODES + (END << 2))
  writeBits(code & CODE_MASK, code >>> BITS_SHIFT)
}
