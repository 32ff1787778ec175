// Huffman codes with limited code lengths.
import { BITS_COUNTS, BUCKETS, NEXT_CODES, SORTED, SORTED_BEFORE, WEIGHTS } from './memory'

/** A code: its bits in the lower 24 bits of a word, their number in the upper 8. */
export const BITS_SHIFT: i32 = 24
export const CODE_MASK: i32 = (1 << BITS_SHIFT) - 1

/** A word that is sorted: the symbol in the lower bits, its frequency in the upper ones. */
const SYMBOL_BITS: i32 = 9
const SYMBOL_MASK: i32 = (1 << SYMBOL_BITS) - 1

/**
 * Computes the code lengths of an optimal or, where the limit matters, nearly optimal Huffman code. Unused symbols have
 * length 0. At least two symbols get a code, because some decoders require that.
 * @param counts frequencies, 4 bytes each; the first two may be raised to 1
 * @param limit the largest code length
 * @param bits the resulting lengths, 1 byte each
 */
export function chooseBits(counts: i32, symbols: i32, limit: i32, bits: i32): void {
  memory.fill(bits, 0, symbols)
  const used = sortSymbols(counts, symbols)
  measureDepths(used)
  countDepths(used, limit)
  // The rarest symbols get the longest codes.
  let at = SORTED
  for (let length = limit; length > 0; length--) {
    for (let left = load<i32>(BITS_COUNTS + (length << 2)); left > 0; left--) {
      store<u8>(bits + (load<i32>(at) & SYMBOL_MASK), length)
      at += 4
    }
  }
}

/** Sorts the symbols that occur, the rarest first, and returns their number. */
function sortSymbols(counts: i32, symbols: i32): i32 {
  let used = collectSymbols(counts, symbols)
  if (used < 2) {
    for (let symbol = 0; symbol < 2; symbol++) {
      if (load<i32>(counts + (symbol << 2)) === 0) store<i32>(counts + (symbol << 2), 1)
    }
    used = collectSymbols(counts, symbols)
  }
  let seen = 0
  for (let at = 0; at < used; at++) seen |= load<i32>(SORTED + (at << 2))
  // The bound is needed because a shift by 32 shifts by 0.
  for (let shift = SYMBOL_BITS; shift < 32 && seen >>> shift !== 0; shift += 8) sortByByte(used, shift)
  return used
}

function collectSymbols(counts: i32, symbols: i32): i32 {
  let used = 0
  for (let symbol = 0; symbol < symbols; symbol++) {
    const count = load<i32>(counts + (symbol << 2))
    if (count === 0) continue
    store<i32>(SORTED + (used << 2), (count << SYMBOL_BITS) | symbol)
    used++
  }
  return used
}

/** One pass of a radix sort. */
function sortByByte(used: i32, shift: i32): void {
  memory.fill(BUCKETS, 0, 4 * 256)
  memory.copy(SORTED_BEFORE, SORTED, used << 2)
  for (let at = 0; at < used; at++) {
    const bucket = BUCKETS + (((load<i32>(SORTED_BEFORE + (at << 2)) >>> shift) & 255) << 2)
    store<i32>(bucket, load<i32>(bucket) + 1)
  }
  let start = 0
  for (let bucket = BUCKETS; bucket < BUCKETS + 4 * 256; bucket += 4) {
    const size = load<i32>(bucket)
    store<i32>(bucket, start)
    start += size
  }
  for (let at = 0; at < used; at++) {
    const word = load<i32>(SORTED_BEFORE + (at << 2))
    const bucket = BUCKETS + (((word >>> shift) & 255) << 2)
    const place = load<i32>(bucket)
    store<i32>(bucket, place + 1)
    store<i32>(SORTED + (place << 2), word)
  }
}

// @inline
function weight(at: i32): i32 {
  return load<i32>(WEIGHTS + (at << 2))
}

// @inline
function setWeight(at: i32, value: i32): void {
  store<i32>(WEIGHTS + (at << 2), value)
}

/**
 * Replaces the weights of the sorted symbols with the depths of a Huffman tree's leaves, in place: A. Moffat and
 * J. Katajainen, In-Place Calculation of Minimum-Redundancy Codes, 1995.
 */
function measureDepths(used: i32): void {
  for (let at = 0; at < used; at++) setWeight(at, load<i32>(SORTED + (at << 2)) >>> SYMBOL_BITS)
  joinWeights(used)
  // Depths of inner nodes, each of which now holds its parent.
  setWeight(used - 2, 0)
  for (let at = used - 3; at >= 0; at--) setWeight(at, weight(weight(at)) + 1)
  // Depths of leaves: the nodes at each depth that are not inner nodes.
  let free = 1
  let depth = 0
  let inner = used - 2
  let leaf = used - 1
  while (free > 0) {
    let taken = 0
    for (; inner >= 0 && weight(inner) === depth; inner--) taken++
    for (; free > taken; free--) setWeight(leaf--, depth)
    free = 2 * taken
    depth++
  }
}

/** Repeatedly joins the two lightest nodes, leaves or inner ones. A joined inner node then holds its parent. */
function joinWeights(used: i32): void {
  let leaf = 0
  let inner = 0
  for (let next = 0; next < used - 1; next++) {
    let sum = 0
    for (let half = 0; half < 2; half++) {
      if (leaf >= used || (inner < next && weight(inner) < weight(leaf))) {
        sum += weight(inner)
        setWeight(inner++, next)
      } else sum += weight(leaf++)
    }
    setWeight(next, sum)
  }
}

/** Counts the leaves at each depth, and moves leaves until none is deeper than the limit. */
function countDepths(used: i32, limit: i32): void {
  memory.fill(BITS_COUNTS, 0, 4 * 16)
  let space = 0
  for (let at = 0; at < used; at++) {
    const depth = min(weight(at), limit)
    const count = BITS_COUNTS + (depth << 2)
    store<i32>(count, load<i32>(count) + 1)
    space += 1 << (limit - depth)
  }
  // Move a leaf one level down, and put one of the deepest leaves beside it.
  for (; space > 1 << limit; space--) {
    let depth = limit - 1
    while (load<i32>(BITS_COUNTS + (depth << 2)) === 0) depth--
    const count = BITS_COUNTS + (depth << 2)
    store<i32>(count, load<i32>(count) - 1)
    store<i32>(count + 4, load<i32>(count + 4) + 2)
    const deepest = BITS_COUNTS + (limit << 2)
    store<i32>(deepest, load<i32>(deepest) - 1)
  }
}

/** Assigns the codes: https://www.rfc-editor.org/rfc/rfc1951#section-3.2.2 */
export function numberCodes(bits: i32, symbols: i32, codes: i32): void {
  memory.fill(BITS_COUNTS, 0, 4 * 16)
  for (let symbol = 0; symbol < symbols; symbol++) {
    const count = BITS_COUNTS + ((<i32>load<u8>(bits + symbol)) << 2)
    store<i32>(count, load<i32>(count) + 1)
  }
  store<i32>(BITS_COUNTS, 0)
  let code = 0
  for (let length = 1; length < 16; length++) {
    code = (code + load<i32>(BITS_COUNTS + ((length - 1) << 2))) << 1
    store<i32>(NEXT_CODES + (length << 2), code)
  }
  for (let symbol = 0; symbol < symbols; symbol++) {
    const length = <i32>load<u8>(bits + symbol)
    const next = NEXT_CODES + (length << 2)
    const number = load<i32>(next)
    store<i32>(next, number + 1)
    store<i32>(codes + (symbol << 2), length === 0 ? 0 : (reverse(number) >>> (16 - length)) | (length << BITS_SHIFT))
  }
}

/** Reverses 16 bits: deflate writes codes from their most significant bit, and all other numbers from their least. */
// @inline
function reverse(bits: i32): i32 {
  let mixed = ((bits & 0x5555) << 1) | ((bits >>> 1) & 0x5555)
  mixed = ((mixed & 0x3333) << 2) | ((mixed >>> 2) & 0x3333)
  mixed = ((mixed & 0x0f0f) << 4) | ((mixed >>> 4) & 0x0f0f)
  return ((mixed & 0x00ff) << 8) | (mixed >>> 8)
}
