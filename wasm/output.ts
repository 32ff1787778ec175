// The bits that are written.
import { OUTPUT } from './memory'

/** Bits that make no whole byte yet, fewer than 8 between two calls. */
export let pending: u64 = 0
export let pendingBits: i32 = 0
/** Where the next byte goes. */
export let end: i32 = OUTPUT

/** Begins anew. */
export function resetOutput(): void {
  pending = 0
  pendingBits = 0
  end = OUTPUT
}

/** Goes on from where a loop that had the output to itself has ended. */
export function setOutput(bits: u64, count: i32, at: i32): void {
  pending = bits
  pendingBits = count
  end = at
}

/** Writes up to 48 bits. */
export function writeBits(bits: i32, count: i32): void {
  pending |= (<u64>(<u32>bits)) << pendingBits
  pendingBits += count
  store<u64>(end, pending)
  end += pendingBits >> 3
  pending >>= pendingBits & ~7
  pendingBits &= 7
}

/** Fills the byte that was begun. */
export function alignOutput(): void {
  if (pendingBits > 0) writeBits(0, 8 - pendingBits)
}

/** Writes bytes; there must be no bits pending. */
export function writeBytes(from: i32, length: i32): void {
  memory.copy(end, from, length)
  end += length
}
