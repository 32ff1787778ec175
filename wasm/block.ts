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
const OWN: i32 = 2
/** Before each block: whether it's the last one, which none is here, and its kind. */
const KIND_BITS: i32 = 3

/** The fixed code has two symbols more, which are never there. */
const FIXED_LITERALS: i32 = 288

/** The most bytes of a stored block. */
const STORED_LIMIT: i32 = 0xffff

/** The counts of the block. */
const LITERALS: i32 = BLOCK_COUNTS + LITERAL_COUNTS
const DISTANCES: i32 = BLOCK_COUNTS + DISTANCE_COUNTS

/** One less than the format allows: so four literals fit into a word beside 7 bits that are pending. */
const LITERAL_LIMIT: i32 = 14
const DISTANCE_LIMIT: i32 = 15

/** Writes a part of the input, whose tokens end at the address, as it is shortest. Counts are of no use afterwards. */
export function writeBlock(from: i32, to: i32, tokensEnd: i32): void {
  if (from === to) return
  store<i32>(LITERALS + (END << 2), 1)
  const extra = measureExtra()
  const fixed = extra + measureFixed()
  chooseBits(LITERALS, FIXED_LITERALS, LITERAL_LIMIT, LITERAL_BITS)
  chooseBits(DISTANCES, DISTANCE_SYMBOLS_COUNT, DISTANCE_LIMIT, DISTANCE_BITS)
  const own = extra + planHeader() + measureOwn()
  if (measureStored(to - from) <= min(fixed, own)) return writeStored(from, to)
  if (fixed <= own) {
    writeBits(FIXED << 1, KIND_BITS)
    setFixedBits()
  } else {
    writeBits(OWN << 1, KIND_BITS)
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

function measureOwn(): i32 {
  return (
    KIND_BITS +
    measureSymbols(LITERALS, LITERAL_BITS, LITERAL_SYMBOLS) +
    measureSymbols(DISTANCES, DISTANCE_BITS, DISTANCE_SYMBOLS_COUNT)
  )
}

function measureFixed(): i32 {
  setFixedBits()
  return measureOwn()
}

function measureSymbols(counts: i32, bits: i32, symbols: i32): i32 {
  let total = 0
  for (let at = 0; at < symbols; at++) total += load<i32>(counts + (at << 2)) * <i32>load<u8>(bits + at)
  return total
}

/** How many bits a part of the input has when it's stored, if it begins on a byte. */
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

/** Writes a part of the input as it is; nothing of it makes an empty block, whose end is on a byte's border. */
export function writeStored(from: i32, to: i32): void {
  let at = from
  do {
    const length = min(to - at, STORED_LIMIT)
    writeBits(STORED << 1, KIND_BITS)
    alignOutput()
    writeBits(length | ((length ^ 0xffff) << 16), 32)
    writeBytes(at, length)
    at += length
  } while (at < to)
}

/** Puts together the code of each length and its extra bits. */
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

// @ts-ignore: decorator
@inline
function literalCode(at: i32, offset: usize): i32 {
  return load<i32>((<i32>load<u8>(at + <i32>offset)) << 2, LITERAL_CODES)
}

/** Writes literals and matches. The output's bits are in local variables, for these loops are where the time goes. */
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
