import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { constants, gzipSync, zstdCompressSync } from 'node:zlib'
import { compressionOf, decompress } from '../../../src/image/decompress.ts'
import { openImage } from '../../../src/image/open-image.ts'
import { findSource } from '../../../src/image/source.ts'
import { makeArchive, writeTar } from '../../support/image.ts'
import { layoutTar, makeLayout } from '../../support/layout.ts'
import { chunksOf, mutateBytes, mutateJson, ODD_TEXTS } from '../mutate.ts'
import { fewOf, lengthOf, type Random } from '../random.ts'
import { check, defineTarget } from '../target.ts'
import { checkImage, readHalf } from './archives.ts'

/** Build results of Nix: a file of any type, or a folder with such files. */
export const sources = defineTarget(
  'source',
  (random) => ({
    isFolder: random.oneIn(3),
    files: Array.from({ length: 1 + fewOf(random, 5) }, () => makeFile(random)),
  }),
  async ({ isFolder, files }, folder) => {
    const path = join(folder, 'result')
    try {
      if (isFolder) await mkdir(path)
      for (const [at, bytes] of files.entries())
        await writeFile(isFolder ? join(path, FILE_NAMES[at] ?? `${at}`) : path, bytes)
      const source = await findSource(path)
      // The action would run a script.
      if (source.format === 'script' || source.format === 'nix2container') return
      checkImage(await readHalf(openImage(source)))
    } finally {
      await rm(path, { recursive: true, force: true })
    }
  },
)

/** Compressed bytes that are damaged, truncated or split into several frames. */
export const compressed = defineTarget('compressed', makePacked, async ({ bytes, chunks, plain }) => {
  const compression = compressionOf(bytes)
  if (compression === undefined) return
  let unpacked = 0
  for await (const chunk of decompress(compression, streamOf(chunks), '/nix/store/image')) {
    unpacked += chunk.length
    // A few bytes can decompress to gigabytes.
    if (unpacked > 32 * 1024 * 1024) return
  }
  if (plain >= 0) check(unpacked === plain, 'The decompressed size is wrong', plain, unpacked)
})

const FILE_NAMES = ['index.json', 'oci-layout', 'manifest.json', 'image', 'image.tar.gz', 'README']

const TARS = [makeArchive().bytes, layoutTar(makeLayout().files), writeTar([]), writeTar([{ name: 'a', content: 'b' }])]

const DESCRIPTION = {
  version: 1,
  arch: 'amd64',
  'image-config': { Cmd: ['/bin/app'] },
  layers: [{ digest: 'sha256:0', size: 1, diff_ids: 'sha256:0', paths: [{ path: '/nix/store/x' }] }],
}

const STARTS = [
  '#!/bin/sh\n',
  '\u007fELF',
  'PK\u0003\u0004',
  'BZh',
  '{',
  '[',
  '\u001f\u008b',
  '(\u00b5/\u00fd',
  '\u00fd7zXZ\0',
]

function makeFile(random: Random): Buffer {
  const tar = random.pick(TARS)
  const bytes = random.pick<() => Buffer>([
    () => tar,
    () => gzipSync(tar),
    () => zstdCompressSync(tar),
    () => zstdCompressSync(Buffer.concat([tar, random.bytes(lengthOf(random, 1000))])),
    () => Buffer.from(mutateJson(random, DESCRIPTION, ['image-config', 'layers', 'diff_ids'])),
    () => Buffer.from(random.pick(STARTS) + random.pick(ODD_TEXTS), 'latin1'),
    () => random.bytes(lengthOf(random, 1000)),
  ])()
  return random.oneIn(2) ? mutateBytes(random, bytes) : bytes
}

/** The text "hello", compressed with xz. */
const XZ = Buffer.from(
  '/Td6WFoAAATm1rRGAgAhARAAAACocI6GAQAFaGVsbG8KAAAApWCX8ZT2/eAAAR4GwS+kHR+2830BAAAAAARZWg==',
  'base64',
)

function makePacked(random: Random) {
  const content = random.oneIn(2) ? random.pick(TARS) : Buffer.alloc(lengthOf(random, 300_000), random.pick(ODD_TEXTS))
  const isSound = random.oneIn(4)
  const frames = Array.from({ length: 1 + fewOf(random, 4) }, () => content)
  const whole = random.pick<() => Buffer>([
    () => Buffer.concat(frames.map((frame) => gzipSync(frame, { level: random.upTo(9) }))),
    () => Buffer.concat(frames.map((frame) => packZstd(random, frame))),
    () => Buffer.concat([skippable(random), ...frames.map((frame) => packZstd(random, frame))]),
    // Each case starts a process.
    () => (random.oneIn(20) ? XZ : windowOf(random)),
  ])()
  const damaged = isSound ? whole : mutateBytes(random, whole)
  const isKnown = isSound && compressionOf(whole) !== 'xz' && whole.length > 40
  return { bytes: damaged, chunks: chunksOf(random, damaged), plain: isKnown ? frames.length * content.length : -1 }
}

function packZstd(random: Random, bytes: Buffer): Buffer {
  return zstdCompressSync(bytes, {
    params: {
      [constants.ZSTD_c_compressionLevel]: random.pick([1, 3, 9]),
      [constants.ZSTD_c_checksumFlag]: random.upTo(1),
      [constants.ZSTD_c_contentSizeFlag]: random.upTo(1),
    },
  })
}

function skippable(random: Random): Buffer {
  const content = random.bytes(lengthOf(random, 100))
  const header = Buffer.alloc(8)
  header.writeUInt32LE(0x184d2a50 + random.upTo(15))
  header.writeUInt32LE(content.length, 4)
  return Buffer.concat([header, content])
}

/** The start of a zstd frame with a window of up to gigabytes, and a block that repeats one byte. */
function windowOf(random: Random): Buffer {
  const header = [0x28, 0xb5, 0x2f, 0xfd, 0x00, random.upTo(255)]
  const block = random.pick([[0x03, 0x00, 0x10, 0x41], [0xfb, 0xff, 0xff, 0x41], []])
  return Buffer.from([...header, ...block])
}

async function* streamOf(chunks: readonly Buffer[]): AsyncGenerator<Buffer> {
  yield* chunks
}
