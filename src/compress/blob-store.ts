import { createHash, randomUUID } from 'node:crypto'
import { writeSync } from 'node:fs'
import { type FileHandle, open, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { diskFailure } from '../fs/disk.ts'
import type { Digest } from '../oci/reference.ts'

/** A complete blob that is kept until it is uploaded. */
export interface StoredBlob {
  readonly digest: Digest
  /** In bytes. */
  readonly size: number
  /** Returns the content. Can be called repeatedly until the blob's writer is released. */
  open(): Readable
}

/** A blob that is being written. */
export interface BlobWriter {
  /**
   * Appends bytes. Ignores them after `release`.
   * @throws DiskError if the blob can't be stored
   */
  write(bytes: Buffer): Promise<void>
  finish(): StoredBlob
  /** Frees the blob's memory or file, whether or not it is complete. */
  release(): Promise<void>
}

/** Keeps blobs in memory if they are few and small, and in files otherwise. */
export interface BlobStore {
  create(): BlobWriter
}

/** The largest blob that is kept in memory, in bytes. */
const BLOB_LIMIT = 16 * 1024 * 1024
/** The most memory for all blobs together, in bytes. */
const MEMORY_LIMIT = 64 * 1024 * 1024

/**
 * Creates a store for the blobs of one push.
 * @param folder for large blobs. Their files are unlinked as soon as they are open, so that none is left behind however
 * this process ends
 */
export function createBlobStore(folder: string): BlobStore {
  let inMemory = 0
  return {
    create() {
      const hash = createHash('sha256')
      let chunks: Buffer[] = []
      let size = 0
      let ownMemory = 0
      let file: FileHandle | undefined

      let released = false

      async function moveToFile(): Promise<void> {
        const opened = await openUnlinkedFile(folder)
        // Released in the meantime: nothing else would close the file.
        if (released) return opened.close()
        // Set before writing, so that `release` closes the file if writing fails.
        file = opened
        for (const chunk of chunks) writeWhole(opened, chunk)
        chunks = []
        inMemory -= ownMemory
        ownMemory = 0
      }

      async function append(bytes: Buffer): Promise<void> {
        if (file !== undefined) return writeWhole(file, bytes)
        chunks.push(bytes)
        ownMemory += bytes.length
        inMemory += bytes.length
        if (ownMemory > BLOB_LIMIT || inMemory > MEMORY_LIMIT) await moveToFile()
      }

      async function release(): Promise<void> {
        released = true
        inMemory -= ownMemory
        ownMemory = 0
        chunks = []
        const opened = file
        file = undefined
        await opened?.close()
      }

      return {
        async write(bytes) {
          if (released) return
          hash.update(bytes)
          size += bytes.length
          try {
            await append(bytes)
          } catch (error) {
            throw await diskFailure(`Can't write a compressed layer to ${folder} before its upload`, folder, error)
          }
        },
        finish() {
          if (released) throw new Error('a released blob has no content')
          const open = () =>
            Readable.from(file === undefined ? chunks : readUnlinkedFile(file, size), { objectMode: false })
          return { digest: `sha256:${hash.digest('hex')}`, size, open }
        },
        release,
      }
    },
  }
}

/** Writes synchronously: libuv's threads are busy compressing, and the write would wait for one. */
function writeWhole({ fd }: FileHandle, bytes: Buffer): void {
  for (let written = 0; written < bytes.length; ) written += writeSync(fd, bytes, written)
}

const CHUNK = 1024 * 1024

/** Reads a file. Unlike a file stream, leaves it open at the end, because an upload may have to be repeated. */
async function* readUnlinkedFile(file: FileHandle, size: number): AsyncGenerator<Buffer> {
  for (let position = 0; position < size; ) {
    const { bytesRead, buffer } = await file.read(Buffer.allocUnsafeSlow(CHUNK), 0, CHUNK, position)
    if (bytesRead === 0) throw new Error('a temporary file is shorter than what was written to it')
    position += bytesRead
    yield buffer.subarray(0, bytesRead)
  }
}

async function openUnlinkedFile(folder: string): Promise<FileHandle> {
  const path = join(folder, `nix-image-action-${randomUUID()}`)
  const file = await open(path, 'wx+', 0o600)
  await unlink(path)
  return file
}
