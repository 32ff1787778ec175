/**
 * The bytes of a zstd file in chunks of which none has bytes of two frames: Node's decompressor drops what follows a
 * frame in the same chunk. Podman's zstd:chunked and pzstd write several.
 * Source: https://github.com/facebook/zstd/blob/dev/doc/zstd_compression_format.md
 */
export async function* splitFrames(bytes: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const endOfFrame = followFrames()
  for await (const chunk of bytes) {
    for (let at = 0; at < chunk.length; ) {
      const end = endOfFrame(chunk, at)
      yield chunk.subarray(at, end)
      at = end
    }
  }
}

/** Tells of each chunk, from where on, up to where it is of one frame. */
function followFrames(): (chunk: Buffer, start: number) => number {
  const parts = partsOf()
  let part = parts.next(NONE).value
  let head = NONE
  let left = part.size

  /** Returns whether the frame has ended. */
  function finishParts(): boolean {
    let ended = false
    while (left === 0) {
      ended ||= part.last === true
      part = parts.next(head).value
      head = NONE
      left = part.size
    }
    return ended
  }

  return (chunk, start) => {
    for (let at = start; at < chunk.length; ) {
      const piece = chunk.subarray(at, at + left)
      at += piece.length
      left -= piece.length
      if (part.read) head = Buffer.concat([head, piece])
      if (finishParts()) return at
    }
    return chunk.length
  }
}

const NONE: Buffer = Buffer.alloc(0)

/** Some bytes of a frame. */
interface Part {
  readonly size: number
  /** Whether they tell what follows. */
  readonly read?: boolean
  /** Whether they are the frame's last. */
  readonly last?: boolean
}

function* partsOf(): Generator<Part, never, Buffer> {
  for (;;) {
    const magic = (yield { size: 4, read: true }).readUInt32LE()
    if (magic === 0xfd2fb528) yield* blocksOfFrame()
    // To be skipped, for it holds what no decompressor needs.
    else if (magic >>> 4 === 0x184d2a5) yield { size: (yield { size: 4, read: true }).readUInt32LE(), last: true }
    // No frame, as the decompressor says.
    else yield { size: Number.POSITIVE_INFINITY }
  }
}

function* blocksOfFrame(): Generator<Part, void, Buffer> {
  const descriptor = (yield { size: 1, read: true }).readUInt8()
  const isSingle = (descriptor & 0x20) !== 0
  const contentSize = [isSingle ? 1 : 0, 2, 4, 8][descriptor >> 6] ?? 0
  const dictionary = [0, 1, 2, 4][descriptor & 3] ?? 0
  yield { size: (isSingle ? 0 : 1) + dictionary + contentSize }
  for (let isLast = false; !isLast; ) {
    const header = (yield { size: 3, read: true }).readUIntLE(0, 3)
    isLast = (header & 1) !== 0
    // Of a block that is one byte again and again, only that byte is there.
    yield { size: ((header >> 1) & 3) === 1 ? 1 : header >> 3 }
  }
  yield { size: (descriptor & 4) === 0 ? 0 : 4, last: true }
}
