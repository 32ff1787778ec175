// Symbol frequencies: of the segment that is being parsed, and of the deflate block so far.
import { BLOCK_COUNTS, COUNTS_SIZE, DISTANCE_COUNTS, LENGTH_COUNTS, LITERAL_COUNTS, SEGMENT_COUNTS } from './memory'
import { FIRST_LENGTH, lengthSymbol } from './symbols'

export function resetBlockCounts(): void {
  memory.fill(BLOCK_COUNTS, 0, COUNTS_SIZE)
}

export function resetSegmentCounts(): void {
  memory.fill(SEGMENT_COUNTS, 0, COUNTS_SIZE)
  memory.fill(LENGTH_COUNTS, 0, 4 * 256)
}

// @inline
export function countLiteral(literal: i32): void {
  increment(SEGMENT_COUNTS + LITERAL_COUNTS, literal)
}

/** Counts the length itself rather than its symbol: countLengthSymbols looks the symbols up once per segment. */
// @inline
export function countMatch(lengthLess3: i32, distanceSymbol: i32): void {
  increment(LENGTH_COUNTS, lengthLess3)
  increment(SEGMENT_COUNTS + DISTANCE_COUNTS, distanceSymbol)
}

// @inline
function increment(counts: i32, at: i32): void {
  const count = counts + (at << 2)
  store<i32>(count, load<i32>(count) + 1)
}

export function countLengthSymbols(): void {
  for (let length = 0; length < 256; length++) {
    const count = SEGMENT_COUNTS + LITERAL_COUNTS + ((FIRST_LENGTH + lengthSymbol(length)) << 2)
    store<i32>(count, load<i32>(count) + load<i32>(LENGTH_COUNTS + (length << 2)))
  }
}

export function addSegmentToBlock(): void {
  for (let at = 0; at < COUNTS_SIZE; at += 4) {
    store<i32>(BLOCK_COUNTS + at, load<i32>(BLOCK_COUNTS + at) + load<i32>(SEGMENT_COUNTS + at))
  }
}
