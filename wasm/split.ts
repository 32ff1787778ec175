// Decides whether a segment's symbol frequencies differ so much from the current deflate block's that a new block, with
// separate Huffman codes, is smaller.
import {
  BLOCK_COUNTS,
  COUNTS_SIZE,
  DISTANCE_COUNTS,
  LITERAL_COUNTS,
  LOGARITHMS,
  LOGARITHMS_COUNT,
  SEGMENT_COUNTS,
} from './memory'

/** Fractional bits of the binary logarithms. */
const FRACTION_BITS: i32 = 11
/** The size of a typical block header, in bits. */
const HEADER_COST: i64 = 550

/** Fills the table of logarithms. Called once. */
export function prepareLogarithms(): void {
  store<u16>(LOGARITHMS, 0)
  for (let value = 1; value < LOGARITHMS_COUNT; value++) store<u16>(LOGARITHMS + (value << 1), slowLogarithm(value))
}

/** Computes a logarithm bit by bit: squaring a number doubles its logarithm. */
function slowLogarithm(value: i32): i32 {
  const whole = 31 - clz(value)
  let logarithm = whole
  // Between 1 and 2, with 30 fractional bits.
  let rest: u64 = (<u64>value) << (30 - whole)
  for (let bit = 0; bit < FRACTION_BITS; bit++) {
    rest = (rest * rest) >>> 30
    const carry = <i32>(rest >>> 31)
    rest >>>= carry
    logarithm = (logarithm << 1) | carry
  }
  return logarithm
}

/** Returns a number times its logarithm. */
// @inline
function weighted(value: i32): i64 {
  const excess = max(0, 21 - <i32>clz(value))
  const logarithm = <i32>load<u16>((value >>> excess) << 1, LOGARITHMS) + (excess << FRACTION_BITS)
  return <i64>value * <i64>logarithm
}

/** Reports whether starting a new deflate block with the segment saves more than the block's header costs. */
export function isWorthNewBlock(): bool {
  const bits = savedBits(LITERAL_COUNTS, DISTANCE_COUNTS) + savedBits(DISTANCE_COUNTS, COUNTS_SIZE)
  return bits >> FRACTION_BITS > HEADER_COST
}

/** Estimates, from the entropy, how many bits two separate codes save over a common one for a range of symbols. */
function savedBits(from: i32, to: i32): i64 {
  let block = 0
  let segment = 0
  let bits: i64 = 0
  for (let at = from; at < to; at += 4) {
    const inBlock = load<i32>(BLOCK_COUNTS + at)
    const inSegment = load<i32>(SEGMENT_COUNTS + at)
    block += inBlock
    segment += inSegment
    if (inSegment === 0 || inBlock === 0) continue
    bits += weighted(inBlock) + weighted(inSegment) - weighted(inBlock + inSegment)
  }
  return bits + weighted(block + segment) - weighted(block) - weighted(segment)
}
