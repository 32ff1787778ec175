import { execFile } from 'node:child_process'
import { mkdtemp, readdir, readlink, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import { promisify } from 'node:util'
import { afterEach, beforeEach, expect, test } from '@jest/globals'
import { type BlobWriter, createBlobStore, type StoredBlob } from '../../src/compress/blob-store.ts'
import { digestOf } from '../support/digest.ts'
import { noise } from '../support/layer-content.ts'

const MB = 1024 * 1024
let folder: string

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'blob-store-'))
})

afterEach(async () => {
  const left = { names: await readdir(folder), held: await held() }
  await rm(folder, { recursive: true })
  expect(left).toEqual({ names: [], held: 0 })
})

/** Counts the unlinked files of the folder that this process has open. */
async function held(): Promise<number> {
  const links = (await readdir('/proc/self/fd')).map((fd) => readlink(join('/proc/self/fd', fd)).catch(() => ''))
  return (await Promise.all(links)).filter((link) => link.startsWith(folder)).length
}

/** A complete blob that can be released. */
type FilledBlob = StoredBlob & Pick<BlobWriter, 'release'>

async function fill(store: ReturnType<typeof createBlobStore>, bytes: Buffer, chunk = MB): Promise<FilledBlob> {
  const writer = store.create()
  for (let at = 0; at < bytes.length; at += chunk) await writer.write(bytes.subarray(at, at + chunk))
  return { ...writer.finish(), release: writer.release }
}

test.each([
  ['empty', 0, 0],
  ['small', 100_000, 0],
  ['at the limit', 16 * MB, 0],
  ['large', 16 * MB + 1, 1],
  ['very large', 40 * MB + 123, 1],
])('a blob (%s) can be read repeatedly, and has its digest', async (_, size, files) => {
  const bytes = noise(size)
  const blob = await fill(createBlobStore(folder), bytes)
  expect(await readdir(folder)).toEqual([])
  expect(await held()).toBe(files)
  expect(blob.digest).toBe(digestOf(bytes))
  expect(blob.size).toBe(size)
  const both = await Promise.all([buffer(blob.open()), buffer(blob.open())])
  for (const read of [...both, await buffer(blob.open())]) expect(read.equals(bytes)).toBe(true)
  await blob.release()
})

test('a blob that was read in part by a failed upload is complete the next time', async () => {
  for (const size of [3 * MB, 20 * MB]) {
    const bytes = noise(size)
    const blob = await fill(createBlobStore(folder), bytes)
    for await (const chunk of blob.open()) {
      expect(chunk.length).toBeGreaterThan(0)
      break
    }
    expect((await buffer(blob.open())).equals(bytes)).toBe(true)
    await blob.release()
  }
})

test('small blobs stay in memory up to 64 MiB in total', async () => {
  const store = createBlobStore(folder)
  const bytes = noise(8 * MB)
  const blobs: FilledBlob[] = []
  for (let at = 0; at < 8; at++) blobs.push(await fill(store, bytes))
  expect(await held()).toBe(0)
  for (let at = 0; at < 3; at++) blobs.push(await fill(store, bytes))
  expect(await held()).toBe(3)
  for (const blob of blobs) expect((await buffer(blob.open())).equals(bytes)).toBe(true)
  for (const blob of blobs) await blob.release()
  // Released memory is available to other blobs.
  const later: FilledBlob[] = []
  for (let at = 0; at < 8; at++) later.push(await fill(store, bytes))
  expect(await held()).toBe(0)
  for (const blob of later) await blob.release()
})

test('a blob that is moved to a file frees its memory', async () => {
  const store = createBlobStore(folder)
  const large = [
    await fill(store, noise(20 * MB)),
    await fill(store, noise(20 * MB)),
    await fill(store, noise(20 * MB)),
  ]
  expect(await held()).toBe(3)
  const small: FilledBlob[] = []
  for (let at = 0; at < 8; at++) small.push(await fill(store, noise(8 * MB)))
  expect(await held()).toBe(3)
  for (const blob of [...large, ...small]) await blob.release()
})

test('a blob can be released while it is written, and more than once', async () => {
  const store = createBlobStore(folder)
  const writer = store.create()
  await writer.write(noise(17 * MB))
  expect(await held()).toBe(1)
  await writer.release()
  await writer.release()
})

test('a missing folder fails only blobs that are too large for memory', async () => {
  const store = createBlobStore(join(folder, 'absent'))
  const small = await fill(store, noise(MB))
  expect((await buffer(small.open())).length).toBe(MB)
  await expect(fill(store, noise(17 * MB))).rejects.toThrow(/ENOENT/)
})

test.each([
  ['large', 17 * MB],
  ['small', MB],
])('a %s blob that is released during a write frees its memory and file', async (_, size) => {
  const store = createBlobStore(folder)
  for (let at = 0; at < 8; at++) {
    const writer = store.create()
    const writing = writer.write(noise(size))
    await writer.release()
    await writing
  }
  expect(await held()).toBe(0)
  const later: FilledBlob[] = []
  for (let at = 0; at < 8; at++) later.push(await fill(store, noise(8 * MB)))
  expect(await held()).toBe(0)
  for (const blob of later) await blob.release()
})

test.each([
  ['large', 17 * MB],
  ['small', MB],
])('writes to a %s blob after its release are ignored', async (_, size) => {
  const store = createBlobStore(folder)
  const writer = store.create()
  await writer.write(noise(size))
  await writer.release()
  for (let at = 0; at < 5; at++) await writer.write(noise(17 * MB))
  expect(await held()).toBe(0)
  expect(() => writer.finish()).toThrow('a released blob')
  const later = await fill(store, noise(16 * MB))
  expect(await held()).toBe(0)
  await later.release()
})

test('a full disk is an error with the free space, and the incomplete file is released', async () => {
  // A limit of 1000 blocks per file has the same effect as a full disk.
  const limited = 'ulimit -f 1000; exec "$@"'
  const args = ['--input-type=module', '--eval', FILL_DISK, createBlobStoreUrl, folder]
  const { stdout } = await promisify(execFile)('sh', ['-c', limited, 'sh', process.execPath, ...args])
  const { message, held } = JSON.parse(stdout)
  expect(message).toMatch(
    /^Can't write a compressed layer to \S+ before its upload\n {2}EFBIG.*\n {2}[\d.]+ .?B are free for \S+$/,
  )
  expect(message).toContain(`are free for ${folder}`)
  expect(held).toBe(0)
})

const createBlobStoreUrl = new URL('../../src/compress/blob-store.ts', import.meta.url).href

const FILL_DISK = `
  import { readdirSync, readlinkSync } from 'node:fs'
  const [, url, folder] = process.argv
  const writer = (await import(url)).createBlobStore(folder).create()
  const message = await writer.write(Buffer.alloc(${17 * MB})).then(() => 'written', (error) => error.message)
  await writer.release()
  const target = (fd) => { try { return readlinkSync('/proc/self/fd/' + fd) } catch { return '' } }
  const held = readdirSync('/proc/self/fd').filter((fd) => target(fd).startsWith(folder)).length
  console.log(JSON.stringify({ message, held }))`
