/**
 * Bytes as a string with one character per byte, as the encoding `latin1` has it. Linux's file names are bytes: a name
 * that is not valid UTF-8 would be changed by decoding it.
 */
export type ByteString = string

/** Returns the bytes of a text in UTF-8. */
export function bytesOf(text: string): ByteString {
  return Buffer.from(text).toString('latin1')
}

/** Returns a name for messages. Replaces bytes that are not valid UTF-8. */
export function displayName(bytes: ByteString): string {
  return Buffer.from(bytes, 'latin1').toString()
}

export function isAscii(bytes: ByteString): boolean {
  return !/[\x80-\xff]/.test(bytes)
}
