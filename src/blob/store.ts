import { createHash, randomUUID } from 'node:crypto'
import { writeSync } from 'node:fs'
import { type FileHandle, open, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import type { Digest } from '../oci/digest.ts'

/** A blob that waits to be uploaded. */
export interface StoredBlob {
  readonly digest: Digest
  /** In bytes. */
  readonly size: number
  /** Its bytes, from the first; as often as they are wanted. */
  open(): Readable
  /** Gives up its place. */
  release(): Promise<void>
}

/** A blob that is being written. */
export interface BlobWriter {
  write(bytes: Buffer): Promise<void>
  finish(): StoredBlob
  release(): Promise<void>
}

/** Keeps blobs in memory as long as they are small, and few, and in files otherwise. */
export interface BlobStore {
  create(): BlobWriter
}

/** The largest blob, and the most of all blobs together, that are kept in memory, in bytes. */
const BLOB_LIMIT = 16 * 1024 * 1024
const MEMORY_LIMIT = 64 * 1024 * 1024

/**
 * @param folder for blobs that are large. Their files have no name there: however this process ends, they are gone
 */
export function createBlobStore(folder: string): BlobStore {
  let inMemory = 0
  return {
    create() {
      const hash = createHash('sha256')
      let chunks: Buffer[] = []
      let size = 0
      let own = 0
      let file: FileHandle | undefined

      async function spill(): Promise<FileHandle> {
        const opened = await openNameless(folder)
        for (const chunk of chunks) writeWhole(opened, chunk)
        chunks = []
        inMemory -= own
        own = 0
        return opened
      }

      async function release(): Promise<void> {
        inMemory -= own
        own = 0
        chunks = []
        await file?.close()
        file = undefined
      }

      return {
        async write(bytes) {
          hash.update(bytes)
          size += bytes.length
          if (file !== undefined) {
            writeWhole(file, bytes)
            return
          }
          chunks.push(bytes)
          own += bytes.length
          inMemory += bytes.length
          if (own > BLOB_LIMIT || inMemory > MEMORY_LIMIT) file = await spill()
        },
        finish() {
          const open = () => Readable.from(file === undefined ? chunks : contentOf(file, size), { objectMode: false })
          return { digest: `sha256:${hash.digest('hex')}`, size, open, release }
        },
        release,
      }
    },
  }
}

/** At once, not by a thread: those are busy compressing, and a write would wait its turn behind them. */
function writeWhole({ fd }: FileHandle, bytes: Buffer): void {
  for (let written = 0; written < bytes.length; ) written += writeSync(fd, bytes, written)
}

const CHUNK = 1024 * 1024

/** Not a file stream: that would close the file at its end, and a blob may have to be sent again. */
async function* contentOf(file: FileHandle, size: number): AsyncGenerator<Buffer> {
  for (let position = 0; position < size; ) {
    const { bytesRead, buffer } = await file.read(Buffer.allocUnsafeSlow(CHUNK), 0, CHUNK, position)
    if (bytesRead === 0) throw new Error('a file for temporary data has been cut short')
    position += bytesRead
    yield buffer.subarray(0, bytesRead)
  }
}

async function openNameless(folder: string): Promise<FileHandle> {
  const path = join(folder, `nix-image-action-${randomUUID()}`)
  const file = await open(path, 'wx+', 0o600)
  await unlink(path)
  return file
}
