/** Compresses a layer block by block. The compressed layer is the header, the compressed blocks in order, the trailer. */
export interface Codec {
  readonly buffers: BlockBuffers
  readonly header: Buffer
  /** Compresses a block. The block must not be used afterwards: its memory is reused for later blocks. */
  readonly compress: (block: Buffer) => Promise<Buffer>
  /** @param size of all blocks together, in bytes */
  readonly trailer: (size: number) => Buffer
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
