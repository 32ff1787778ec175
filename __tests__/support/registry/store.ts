import { createHash, type Hash, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { createReadStream, createWriteStream } from 'node:fs'
import { mkdir, rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { finished } from 'node:stream/promises'
import { type Content, contentOf } from './reply.ts'

export interface Manifest {
  readonly bytes: Buffer
  readonly mediaType: string
  readonly digest: string
}

/** The content of a repository. A blob of another repository is not visible here until it is mounted. */
export interface Repository {
  readonly blobs: Map<string, Content>
  readonly manifests: Map<string, Manifest>
  readonly tags: Map<string, string>
  /** Whether it ever had a tag: Docker Distribution's list differs before and after. */
  tagged: boolean
}

/** A blob during its upload. Its bytes are hashed as they arrive, so that they are read only once. */
export interface Upload {
  readonly id: string
  readonly repository: string
  readonly size: () => number
  readonly write: (chunks: AsyncIterable<Buffer> | Iterable<Buffer>) => Promise<void>
  /** Stores the content under its digest and makes it visible in the repository. Refuses a different digest. */
  readonly finish: (digest: string) => Promise<'stored' | 'other-digest'>
  readonly cancel: () => Promise<void>
}

export interface Store {
  readonly repository: (name: string) => Repository
  /** Reports whether anything was pushed to a repository, without creating it. */
  readonly find: (name: string) => Repository | undefined
  readonly uploads: ReadonlyMap<string, Upload>
  readonly startUpload: (repository: string) => Promise<Upload>
}

/** Keeps blobs in memory, or as files in `folder`, which remain. Manifests and tags are in memory. */
export function createStore(folder?: string): Store {
  const repositories = new Map<string, Repository>()
  const uploads = new Map<string, Upload>()
  const repository = (name: string): Repository => {
    const known = repositories.get(name) ?? { blobs: new Map(), manifests: new Map(), tags: new Map(), tagged: false }
    repositories.set(name, known)
    return known
  }
  const startUpload = async (name: string): Promise<Upload> => {
    const sink = folder === undefined ? memorySink() : await fileSink(folder)
    const upload = createUpload(name, sink, {
      kept: (digest, content) => repository(name).blobs.set(digest, content),
      ended: (id) => uploads.delete(id),
    })
    uploads.set(upload.id, upload)
    return upload
  }
  return { repository, find: (name) => repositories.get(name), uploads, startUpload }
}

export function sha256(bytes: Buffer): string {
  return digestOf(createHash('sha256').update(bytes))
}

interface UploadEvents {
  readonly kept: (digest: string, content: Content) => void
  readonly ended: (id: string) => void
}

function createUpload(repository: string, sink: Sink, events: UploadEvents): Upload {
  const id = randomUUID()
  const hash = createHash('sha256')
  let size = 0
  const cancel = async (): Promise<void> => {
    events.ended(id)
    await sink.discard()
  }
  return {
    id,
    repository,
    size: () => size,
    write: async (chunks) => {
      for await (const chunk of chunks) {
        hash.update(chunk)
        await sink.write(chunk)
        size += chunk.length
      }
    },
    finish: async (digest) => {
      if (digestOf(hash) !== digest) {
        await cancel()
        return 'other-digest'
      }
      events.kept(digest, await sink.keep(digest))
      events.ended(id)
      return 'stored'
    },
    cancel,
  }
}

function digestOf(hash: Hash): string {
  return `sha256:${hash.digest('hex')}`
}

/** The destination of an upload's bytes. */
interface Sink {
  readonly write: (chunk: Buffer) => Promise<void>
  readonly keep: (digest: string) => Promise<Content>
  readonly discard: () => Promise<void>
}

function memorySink(): Sink {
  const chunks: Buffer[] = []
  return {
    write: async (chunk) => void chunks.push(chunk),
    keep: async () => contentOf(Buffer.concat(chunks)),
    discard: async () => void chunks.splice(0),
  }
}

async function fileSink(folder: string): Promise<Sink> {
  const incoming = join(folder, 'incoming')
  await mkdir(incoming, { recursive: true })
  const temporary = join(incoming, randomUUID())
  const file = createWriteStream(temporary, { flags: 'wx', highWaterMark: 4 * 1024 * 1024 })
  const closed = finished(file)
  // The writer and the reader receive the error. Without this handler, it would end the process first.
  closed.catch(() => {})
  return {
    write: async (chunk) => {
      if (!file.write(chunk)) await Promise.race([once(file, 'drain'), closed])
    },
    keep: async (digest) => {
      file.end()
      await closed
      const path = join(folder, ...digest.split(':'))
      await mkdir(dirname(path), { recursive: true })
      await rename(temporary, path)
      return fileContent(path, file.bytesWritten)
    },
    discard: async () => {
      file.destroy()
      // An unfinished upload is expected here.
      await closed.catch(() => {})
      await rm(temporary, { force: true })
    },
  }
}

function fileContent(path: string, size: number): Content {
  return { size, open: (range) => createReadStream(path, { ...range, highWaterMark: 1024 * 1024 }) }
}
