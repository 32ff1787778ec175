// The bit stream that is written.
import { OUTPUT } from './memory'

/** Bits that don't fill a byte yet; fewer than 8 between two calls. */
export let pending: u64 = 0
export let pendingBits: i32 = 0
/** The address of the next byte. */
export let end: i32 = OUTPUT

export function resetOutput(): void {
  pending = 0
  pendingBits = 0
  end = OUTPUT
}

/** Sets the state of the stream after a loop that kept it in local variables. */
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

/** Pads with zeros to the next byte boundary. */
export function alignOutput(): void {
  if (pendingBits > 0) writeBits(0, 8 - pendingBits)
}

/** Writes bytes. The stream must be at a byte boundary. */
export function writeBytes(from: i32, length: i32): void {
  memory.copy(end, from, length)
  end += length
}
