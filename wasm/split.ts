// Whether a part of the input has symbols so unlike those of the deflate block before it that a new block pays.
import {
  BLOCK_COUNTS,
  COUNTS_SIZE,
  DISTANCE_COUNTS,
  LITERAL_COUNTS,
  LOGARITHMS,
  LOGARITHMS_COUNT,
  PART_COUNTS,
} from './memory'

/** Binary logarithms have so many bits after the point. */
const FRACTION_BITS: i32 = 11
/** About what a header takes, in bits. */
const HEADER_COST: i64 = 550

/** Makes the table of logarithms; once. */
export function prepareLogarithms(): void {
  store<u16>(LOGARITHMS, 0)
  for (let value = 1; value < LOGARITHMS_COUNT; value++) store<u16>(LOGARITHMS + (value << 1), slowLogarithm(value))
}

/** Bit by bit: the logarithm of the square is twice as large. */
function slowLogarithm(value: i32): i32 {
  const whole = 31 - clz(value)
  let logarithm = whole
  // From 1 to 2, with 30 bits after the point.
  let rest: u64 = (<u64>value) << (30 - whole)
  for (let bit = 0; bit < FRACTION_BITS; bit++) {
    rest = (rest * rest) >>> 30
    const carry = <i32>(rest >>> 31)
    rest >>>= carry
    logarithm = (logarithm << 1) | carry
  }
  return logarithm
}

/** A number times its logarithm. */
// @ts-ignore: decorator
@inline
function weighted(value: i32): i64 {
  const excess = max(0, 21 - <i32>clz(value))
  const logarithm = <i32>load<u16>((value >>> excess) << 1, LOGARITHMS) + (excess << FRACTION_BITS)
  return <i64>value * <i64>logarithm
}

/** Whether the part had better begin a new block than belong to the last. */
export function differs(): bool {
  const apart = saved(LITERAL_COUNTS, DISTANCE_COUNTS) + saved(DISTANCE_COUNTS, COUNTS_SIZE)
  return apart >> FRACTION_BITS > HEADER_COST
}

/** How many bits fewer two codes would take for some of the symbols than one for both, in theory. */
function saved(from: i32, to: i32): i64 {
  let block = 0
  let part = 0
  let bits: i64 = 0
  for (let at = from; at < to; at += 4) {
    const inBlock = load<i32>(BLOCK_COUNTS + at)
    const inPart = load<i32>(PART_COUNTS + at)
    block += inBlock
    part += inPart
    if (inPart === 0 || inBlock === 0) continue
    bits += weighted(inBlock) + weighted(inPart) - weighted(inBlock + inPart)
  }
  return bits + weighted(block + part) - weighted(block) - weighted(part)
}
