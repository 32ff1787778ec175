// What the levels mean.
import { parseBuckets, resetBuckets } from './buckets'
import { parseChains, resetChains } from './chains'

/** The last level that takes the fast way to find matches. */
const FAST: i32 = 4

/** For the levels from 1 on; see parseBuckets. */
const FAST_LAZY = memory.data<u8>([0, 0, 6, 8])
const FAST_INSERTED = memory.data<u8>([2, 4, 8, 12])

/** For the levels after those; see parseChains. */
const DEPTHS = memory.data<u16>([12, 24, 64, 256, 1024])
const LAZY = memory.data<u16>([12, 24, 48, 128, 258])
const ENOUGH = memory.data<u16>([32, 64, 128, 258, 258])

let current: i32 = FAST

/** Begins a block. */
export function setLevel(level: i32): void {
  current = level
  if (level <= FAST) resetBuckets()
  else resetChains()
}

/** Finds the literals and matches of a part. */
export function parsePart(from: i32, partEnd: i32, to: i32): void {
  if (current <= FAST) {
    const at = max(0, current - 1)
    parseBuckets(from, partEnd, to, load<u8>(FAST_LAZY + at), load<u8>(FAST_INSERTED + at))
  } else {
    const at = (min(current, 9) - FAST - 1) << 1
    parseChains(from, partEnd, to, load<u16>(DEPTHS + at), load<u16>(LAZY + at), load<u16>(ENOUGH + at))
  }
}
