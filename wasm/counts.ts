// How often each symbol is there: in the part of the input that is being parsed, and in the deflate block so far.
import { BLOCK_COUNTS, COUNTS_SIZE, DISTANCE_COUNTS, LENGTH_COUNTS, LITERAL_COUNTS, PART_COUNTS } from './memory'
import { FIRST_LENGTH, lengthSymbol } from './symbols'

export function resetBlockCounts(): void {
  memory.fill(BLOCK_COUNTS, 0, COUNTS_SIZE)
}

export function resetPartCounts(): void {
  memory.fill(PART_COUNTS, 0, COUNTS_SIZE)
  memory.fill(LENGTH_COUNTS, 0, 4 * 256)
}

// @ts-ignore: decorator
@inline
export function countLiteral(literal: i32): void {
  increment(PART_COUNTS + LITERAL_COUNTS, literal)
}

// @ts-ignore: decorator
@inline
export function countMatch(lengthLess3: i32, distanceSymbol: i32): void {
  increment(LENGTH_COUNTS, lengthLess3)
  increment(PART_COUNTS + DISTANCE_COUNTS, distanceSymbol)
}

// @ts-ignore: decorator
@inline
function increment(counts: i32, at: i32): void {
  const count = counts + (at << 2)
  store<i32>(count, load<i32>(count) + 1)
}

/** Counts the symbols of the part's lengths, which were counted themselves. */
export function sumLengths(): void {
  for (let length = 0; length < 256; length++) {
    const count = PART_COUNTS + LITERAL_COUNTS + ((FIRST_LENGTH + lengthSymbol(length)) << 2)
    store<i32>(count, load<i32>(count) + load<i32>(LENGTH_COUNTS + (length << 2)))
  }
}

/** Makes the part belong to the block. */
export function addPartToBlock(): void {
  for (let at = 0; at < COUNTS_SIZE; at += 4) {
    store<i32>(BLOCK_COUNTS + at, load<i32>(BLOCK_COUNTS + at) + load<i32>(PART_COUNTS + at))
  }
}
