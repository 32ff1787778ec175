import { createHash, randomUUID } from 'node:crypto'
import { writeSync } from 'node:fs'
import { type FileHandle, open, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { messageOf } from '../errors.ts'
import { formatFreeSpace, freeSpace, MORE_SPACE } from '../fs/disk.ts'
import type { Digest } from '../oci/digest.ts'
import { BlobError } from './blob-error.ts'

/** A blob that waits to be uploaded. */
export interface StoredBlob {
  readonly digest: Digest
  /** In bytes. */
  readonly size: number
  /** Its bytes, from the first; as often as they are wanted until its writer is released. */
  open(): Readable
}

/** A blob that is being written. */
export interface BlobWriter {
  /**
   * What comes after `release` is let go.
   * @throws BlobError where there is no room for it
   */
  write(bytes: Buffer): Promise<void>
  finish(): StoredBlob
  /** Gives up the blob's place, whether or not it is finished. */
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
 * A store for the blobs of one push.
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

      let released = false

      async function spill(): Promise<void> {
        const opened = await openNameless(folder)
        // Given up meanwhile: nobody would close it any more.
        if (released) return opened.close()
        // Before it is written to, so that it is closed where that fails.
        file = opened
        for (const chunk of chunks) writeWhole(opened, chunk)
        chunks = []
        inMemory -= own
        own = 0
      }

      async function keep(bytes: Buffer): Promise<void> {
        if (file !== undefined) return writeWhole(file, bytes)
        chunks.push(bytes)
        own += bytes.length
        inMemory += bytes.length
        if (own > BLOB_LIMIT || inMemory > MEMORY_LIMIT) await spill()
      }

      async function release(): Promise<void> {
        released = true
        inMemory -= own
        own = 0
        chunks = []
        const opened = file
        file = undefined
        await opened?.close()
      }

      return {
        async write(bytes) {
          // What is still on its way to a blob that was given up.
          if (released) return
          hash.update(bytes)
          size += bytes.length
          try {
            await keep(bytes)
          } catch (error) {
            throw await notKept(folder, error)
          }
        },
        finish() {
          if (released) throw new Error('a blob that was given up has no bytes to be read')
          const open = () => Readable.from(file === undefined ? chunks : contentOf(file, size), { objectMode: false })
          return { digest: `sha256:${hash.digest('hex')}`, size, open }
        },
        release,
      }
    },
  }
}

async function notKept(folder: string, cause: unknown): Promise<BlobError> {
  const space = formatFreeSpace(await freeSpace([folder]))
  return new BlobError({
    message: `A layer can't be kept in ${folder} until it is uploaded`,
    detail: messageOf(cause),
    hint: `Layers that are too large for memory wait there, compressed, and by now ${space}. ${MORE_SPACE}`,
    cause,
  })
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
