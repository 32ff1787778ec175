/** Compresses a layer block by block. The compressed layer is the header, the compressed blocks in order, the trailer. */
export interface Codec {
  readonly header: Buffer
  /** Returns an empty block to be filled and compressed next. */
  readonly take: () => Promise<Buffer>
  /** Compresses the next block. The block must not be used afterwards: its memory is reused for later blocks. */
  readonly compress: (block: Buffer) => Promise<Buffer>
  /**
   * Returns the trailer. Must be called for every layer, even if it can't be read to its end.
   * @param size of all blocks together, in bytes
   */
  readonly end: (size: number) => Promise<Buffer>
}

/** Reusable memory for blocks. Allocating and freeing a buffer for each block is measurably slower. */
export interface BlockBuffers {
  take(): Buffer
  /** @param block a buffer from `take`, or the beginning of one */
  giveBack(block: Buffer): void
}

/** @param size of each buffer, in bytes */
export function createBlockBuffers(size: number): BlockBuffers {
  const spare: Buffer[] = []
  return {
    take: () => spare.pop() ?? Buffer.allocUnsafeSlow(size),
    giveBack: ({ buffer }) => void spare.push(Buffer.from(buffer, 0, size)),
  }
}
