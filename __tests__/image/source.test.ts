import { execFile } from 'node:child_process'
import { createReadStream } from 'node:fs'
import { chmod, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { buffer, text } from 'node:stream/consumers'
import { promisify } from 'node:util'
import { constants, createZstdCompress, gzipSync, zstdCompressSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { ImageError } from '../../src/errors.ts'
import { isSeekable, openImage, readImage } from '../../src/image/open-image.ts'
import { findSource } from '../../src/image/source.ts'
import type { SourceImage } from '../../src/image/source-image.ts'
import { makeArchive, readLayerFiles, writeTar } from '../support/image.ts'
import { packWithXz } from '../support/layout.ts'

const run = promisify(execFile)

let folder: string
let files = 0

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'image-source-'))
})

afterAll(async () => {
  await rm(folder, { recursive: true })
})

/** Writes a file under a meaningless name. */
async function file(content: Buffer | string, mode = 0o444): Promise<string> {
  const path = join(folder, `result-${files++}`)
  await writeFile(path, content)
  await chmod(path, mode)
  return path
}

/** Writes a script like those of streamLayeredImage. `$tar` in it is the path of a file with these bytes. */
async function script(lines: string, tar: Buffer = made.bytes): Promise<string> {
  return file(`#!/bin/sh\ntar='${await file(tar)}'\n${lines}\n`, 0o555)
}

async function readBuilt(path: string, copy?: PassThrough): Promise<SourceImage> {
  return readImage(await findSource(path), copy === undefined ? {} : { copy })
}

// Its layer is larger than the buffers of pipes and streams, even compressed.
const noise = Buffer.alloc(3_000_000, createNoise())
const made = makeArchive({ layers: ['small', writeTar([{ name: 'noise', content: noise }])] })

function createNoise(): Buffer {
  const numbers = [1]
  for (let at = 1; at < 65_521; at++) numbers.push(((numbers[at - 1] ?? 0) * 48_271) % 2_147_483_647)
  return Buffer.from(numbers)
}

interface Form {
  readonly form: string
  readonly path: () => Promise<string>
  /** The expected copy. */
  readonly tar: Buffer
  /** Compressed to so few bytes that all of them are read at once. */
  readonly small?: boolean
}

const padded = Buffer.concat([made.bytes, Buffer.alloc(200_000)])
const members = [made.bytes.subarray(0, 1000), made.bytes.subarray(1000)].map((part) => gzipSync(part))
const frames = [made.bytes.subarray(0, 1000), made.bytes.subarray(1000)].map((part) => zstdCompressSync(part))

const SKIPPED = Buffer.from('502a4d180400000001020304', 'hex')

const FORMS: readonly Form[] = [
  { form: 'a plain tar', path: () => file(made.bytes), tar: made.bytes },
  { form: 'a plain tar with padding', path: () => file(padded), tar: padded },
  { form: 'a tar with gzip', path: () => file(gzipSync(made.bytes)), tar: made.bytes },
  { form: 'a tar with padding, with gzip', path: () => file(gzipSync(padded)), tar: padded },
  {
    form: 'a tar with zstd',
    path: () => file(zstdCompressSync(made.bytes)),
    tar: made.bytes,
    small: true,
  },
  {
    form: 'a tar with zstd, in several frames',
    path: () => file(Buffer.concat(frames)),
    tar: made.bytes,
    small: true,
  },
  {
    form: 'a tar with zstd, which begins with a frame to be skipped (pzstd)',
    path: () => file(Buffer.concat([SKIPPED, zstdCompressSync(made.bytes)])),
    tar: made.bytes,
    small: true,
  },
  {
    form: 'a tar with xz',
    path: async () => file(await packWithXz(made.bytes)),
    tar: made.bytes,
    small: true,
  },
  {
    form: 'gzip in several members (pigz)',
    path: () => file(Buffer.concat(members)),
    tar: made.bytes,
  },
  {
    form: 'gzip with zeros behind it',
    path: () => file(Buffer.concat([gzipSync(made.bytes), Buffer.alloc(300_000)])),
    tar: made.bytes,
  },
  { form: 'a script', path: () => script('echo Creating layer 1 >&2; cat "$tar"'), tar: made.bytes },
  { form: 'a script that compresses', path: () => script('gzip --stdout "$tar"'), tar: made.bytes },
  { form: 'a script that compresses with xz', path: () => script('xz --stdout -0 "$tar"'), tar: made.bytes },
  { form: 'a script that pads', path: () => script('cat "$tar"', padded), tar: padded },
  {
    form: 'a script that says much while it works',
    path: () =>
      script('i=0; while [ $i -lt 5000 ]; do echo "layer $i of a great many" >&2; i=$((i+1)); done; cat "$tar"'),
    tar: made.bytes,
  },
]

describe('an image that Nix built', () => {
  test.each(FORMS)('as $form is read', async ({ path }) => {
    expect(await readBuilt(await path())).toMatchObject({
      names: ['app:nix'],
      configDigest: made.configDigest,
      layerNames: made.layers.map(({ name }) => name),
    })
  })

  test.each(FORMS)('as $form is copied as a plain tar, byte for byte', async ({ path, tar }) => {
    const built = await path()
    const copy = new PassThrough()
    const [archive, bytes] = await Promise.all([readBuilt(built, copy), buffer(copy)])
    expect(bytes.equals(tar)).toBe(true)
    expect(archive.configDigest).toBe(made.configDigest)
  })

  test.each(FORMS.filter(({ small }) => small !== true))(
    'as $form fails when the reader of the copy closes it early',
    async ({ path }) => {
      const copy = new PassThrough()
      copy.once('data', () => copy.destroy())
      await expect(readBuilt(await path(), copy)).rejects.toThrow(/destroyed|closed/i)
    },
  )

  test.each(FORMS)('as $form fails when the copy is closed from the start', async ({ path }) => {
    const copy = new PassThrough()
    copy.destroy()
    await expect(readBuilt(await path(), copy)).rejects.toThrow(/destroyed|closed/i)
  })
})

describe('the layers', () => {
  test.each(FORMS)('of $form are yielded with all their bytes, in the order of the archive', async ({ path }) => {
    const opened = openImage(await findSource(await path()))
    const files = await readLayerFiles(opened)
    expect(files.map(([name]) => name)).toEqual(made.layers.map(({ name }) => name))
    expect(files.every(([, bytes], at) => bytes.equals(made.layers[at]?.bytes ?? Buffer.alloc(0)))).toBe(true)
    expect((await opened.image()).configDigest).toBe(made.configDigest)
  })

  test.each(FORMS)('of $form may be skipped, or read in part', async ({ path }) => {
    const opened = openImage(await findSource(await path()))
    for await (const { name, content } of opened.layers) {
      if (name === made.layers[0]?.name) continue
      for await (const chunk of content()) if (chunk.length > 0) break
    }
    expect((await opened.image()).layerNames).toEqual(made.layers.map(({ name }) => name))
  })

  test.each(FORMS)('of $form are no longer read when the consumer fails', async ({ path }) => {
    const opened = openImage(await findSource(await path()))
    const reading = async () => {
      for await (const _ of opened.layers) throw new Error('no space left')
    }
    await expect(reading()).rejects.toThrow('no space left')
    await expect(opened.image()).rejects.toThrow('the image was closed before its end')
  })

  test('can be read again only from a plain tar', async () => {
    const forms = [made.bytes, gzipSync(made.bytes)]
    const seekable = await Promise.all(forms.map(async (bytes) => isSeekable(await findSource(await file(bytes)))))
    expect([...seekable, isSeekable(await findSource(await script('')))]).toEqual([true, false, false])
  })
})

describe('a file that is not an image', () => {
  test.each<[string, () => Promise<string>, RegExp]>([
    ['a text', () => file('hello, world\n'), /is not an image\n {2}the file is text\n/],
    ['an empty file', () => file(''), /the file is empty/],
    ['a program', () => file(Buffer.from('7f454c4602010100', 'hex'), 0o555), /the file is a program \(ELF\)\n/],
    ['an archive truncated in its first header', () => file(made.bytes.subarray(0, 200)), /is not an image\n/],
    [
      'a folder of other files',
      async () => {
        await mkdir(join(folder, 'texts'), { recursive: true })
        await writeFile(join(folder, 'texts', 'README'), 'hello')
        return join(folder, 'texts')
      },
      /is a folder that contains no image\n {2}it contains README\n/,
    ],
    [
      'an empty folder',
      async () => {
        await mkdir(join(folder, 'empty'), { recursive: true })
        return join(folder, 'empty')
      },
      /is a folder that contains no image\n {2}it contains nothing\n/,
    ],
    [
      'JSON',
      () => file('{"name":"app"}'),
      /is not an image\n {2}it begins like JSON, but nix2container's buildImage did not write it: .*"image-config".*\n/,
    ],
    ['truncated JSON', () => file('{"image-config": {'), /nix2container's buildImage did not write it: .*JSON.*\n/],
    [
      'a large file like JSON',
      () => file(Buffer.alloc(70_000_000, '{')),
      /buildImage did not write it: it has 70\.0 MB\n/,
    ],
    [
      'a compressed text',
      () => file(gzipSync('hello, world\n')),
      /is not an image: it is compressed with gzip, but does not contain a tar\n {2}decompressed, it is text\n/,
    ],
    [
      'a long text with zstd',
      () => file(zstdCompressSync(Buffer.alloc(10_000_000, 'hello '))),
      /compressed with zstd, but does not contain a tar\n {2}decompressed, it is text\n/,
    ],
    [
      'a long text with xz',
      async () => file(await packWithXz(noise)),
      /compressed with xz, but does not contain a tar\n {2}decompressed, it is binary data of an unknown format\n/,
    ],
    ['JSON with xz', async () => file(await packWithXz(Buffer.from('{"a":1}'))), /decompressed, it is text\n/],
    [
      'an image compressed twice',
      () => file(gzipSync(gzipSync(made.bytes))),
      /does not contain a tar\n {2}decompressed, it is compressed with gzip\n/,
    ],
    ['a compressed empty file', () => file(gzipSync('')), /does not contain a tar\n {2}decompressed, it is empty\n/],
    ['a missing file, as after a build into another store', async () => join(folder, 'absent'), /absent/],
  ])('%s: the message says what it is, and which builders make one', async (_, path, message) => {
    const finding = findSource(await path())
    await expect(finding).rejects.toThrow(message)
    await expect(finding).rejects.toBeInstanceOf(ImageError)
    await expect(finding).rejects.toThrow(/buildLayeredImage.*streamLayeredImage/)
  })

  test('the error for a tar without an image names its members', async () => {
    const path = await file(gzipSync(writeTar([{ name: 'README', content: 'x' }])))
    await expect(readBuilt(path)).rejects.toThrow(
      `${path} is a tar but not an image: it has neither manifest.json nor index.json\n  it contains README`,
    )
  })
})

test('a tar with a zstd window of up to 128 MiB (`zstd --long=27`) is read, and the error for a larger one says so', async () => {
  // As a stream, because zstd reduces the window for content of a known, smaller size.
  const packed = async (windowLog: number) => {
    const compressor = createZstdCompress({ params: { [constants.ZSTD_c_windowLog]: windowLog } })
    compressor.end(made.bytes)
    return file(await buffer(compressor))
  }
  expect((await readBuilt(await packed(27))).configDigest).toBe(made.configDigest)
  await expect(readBuilt(await packed(28))).rejects.toThrow(/larger than 128 MiB[\s\S]*`--long=27`/)
})

test('a description of nix2container is recognized', async () => {
  const path = await file(
    '{"version":1,"image-config":{"Cmd":["app"]},"layers":[{"digest":"sha256:0","diff_ids":"sha256:1"}]}',
  )
  expect(await findSource(path)).toEqual({ path, root: folder, format: 'nix2container', diffIds: ['sha256:1'] })
  // Go writes an empty list as null.
  const empty = await file('{"version":1,"image-config":{},"layers":null}')
  expect(await findSource(empty)).toMatchObject({ diffIds: [] })
})

test('a compressed tar in the oldest format, without "ustar" in its headers, is read', async () => {
  const old = made.members.map((member) => ({ ...member, alter: (header: Buffer) => void header.fill(0, 257) }))
  expect((await readBuilt(await file(gzipSync(writeTar(old))))).configDigest).toBe(made.configDigest)
})

test('a folder with two names of one image contains one image', async () => {
  const inner = await mkdtemp(join(folder, 'named-'))
  await writeFile(join(inner, 'image-1.0.tar'), made.bytes)
  await symlink('image-1.0.tar', join(inner, 'image.tar'))
  expect((await readBuilt(inner)).configDigest).toBe(made.configDigest)
})

test('all images are found in a folder with more files than can be open at once', async () => {
  const crowded = await mkdtemp(join(folder, 'crowded-'))
  const page = gzipSync('.TH')
  for (let at = 0; at < 800; at++) await writeFile(join(crowded, `file-${at}`), at % 2 ? 'x' : page)
  for (const name of ['a.tar', 'z.tar']) await writeFile(join(crowded, name), made.bytes)
  const source = new URL('../../src/image/source.ts', import.meta.url)
  const script = `import(${JSON.stringify(source.href)}).then(({ findSource }) => findSource(process.argv[1]))`
  const node = [process.execPath, '--input-type=module', '--eval', script, crowded]
  const finding = run('sh', ['-c', 'ulimit -n 200; exec "$@"', 'sh', ...node])
  await expect(finding).rejects.toThrow('is a folder that contains 2 images')
})

describe('a damaged file', () => {
  test.each(['zstd', 'xz'])('with %s, truncated, is an error that says so', async (form) => {
    const whole = form === 'zstd' ? zstdCompressSync(made.bytes) : await packWithXz(made.bytes)
    for (const length of [whole.length - 1, Math.floor(whole.length / 2), 12]) {
      const reading = readBuilt(await file(whole.subarray(0, length)))
      await expect(reading).rejects.toThrow(/is damaged|ends in the middle/)
      await expect(reading).rejects.toBeInstanceOf(ImageError)
    }
  })

  test('with xz, without the program xz, is an error that says what to install', async () => {
    const path = await file(await packWithXz(made.bytes))
    const source = new URL('../../src/image/open-image.ts', import.meta.url)
    const script = `import(${JSON.stringify(source.href)}).then(({ readImage }) => readImage({ path: process.argv[1], root: process.argv[2], format: 'xz' }))`
    // In a separate process with an empty PATH.
    const reading = run(process.execPath, ['--input-type=module', '--eval', script, path, folder], {
      env: { PATH: folder },
    })
    await expect(reading).rejects.toThrow(/program "xz" is not installed[\s\S]*apt-get install xz-utils/)
  })

  test('with gzip, truncated anywhere, is an error that says so', async () => {
    const whole = gzipSync(makeArchive().bytes)
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 2, max: whole.length - 1 }), async (length) => {
        const path = await file(whole.subarray(0, length))
        const reading = readBuilt(path)
        await expect(reading).rejects.toBeInstanceOf(ImageError)
        await expect(reading).rejects.toThrow(path)
      }),
      { numRuns: 40, examples: [[2], [3], [10], [11], [whole.length - 9], [whole.length - 8], [whole.length - 1]] },
    )
  })

  test('compressed after it was truncated is reported as truncated', async () => {
    for (const length of [300, 512, 1000, 100_000]) {
      const path = await file(gzipSync(made.bytes.subarray(0, length)))
      await expect(readBuilt(path)).rejects.toThrow(/is damaged: it ends in the middle of [\s\S]* was truncated/)
    }
  })

  test('with gzip, with a byte changed, is an error that quotes zlib', async () => {
    const bytes = Buffer.from(gzipSync(made.bytes))
    bytes.writeUInt8(bytes.readUInt8(bytes.length - 6) ^ 0xff, bytes.length - 6)
    await expect(readBuilt(await file(bytes))).rejects.toThrow(
      /is damaged: it can't be decompressed\n {2}.*incorrect data check/,
    )
  })

  test.each(['with', 'without'])('truncated anywhere is an error, %s a copy', async (how) => {
    const { bytes } = makeArchive()
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 512, max: bytes.length - 1025 }), async (length) => {
        const copy = how === 'with' ? new PassThrough().resume() : undefined
        const path = await file(bytes.subarray(0, length))
        await expect(readBuilt(path, copy)).rejects.toBeInstanceOf(ImageError)
        copy?.destroy()
      }),
      { numRuns: 40 },
    )
  })
})

describe('a script', () => {
  test.each<[string, () => Promise<string>, RegExp]>([
    [
      'that fails before it writes',
      () => script('echo Traceback >&2; echo "KeyError: layers" >&2; exit 3'),
      /should write an image to its standard output, but failed\n {2}it ended with status 3\n {2}Traceback\n {2}KeyError: layers$/,
    ],
    [
      'whose interpreter is for another processor',
      async () => file(`#!${await file('\x7fELF, but of no processor', 0o555)}\nimport sys\nsys.exit(0)\n`, 0o555),
      /should write an image .*\n(?: {2}.*\n)+The script runs on this runner\..*docker\/setup-qemu-action/,
    ],
    [
      'that fails halfway',
      () => script('head -c 100000 "$tar"; echo "no space" >&2; exit 1'),
      /status 1\n {2}no space$/,
    ],
    [
      'that fails after writing everything',
      () => script('cat "$tar"; echo "too late" >&2; exit 9'),
      /status 9\n {2}too late$/,
    ],
    ['that is killed', () => script('head -c 100000 "$tar"; kill -9 $$'), /it ended with SIGKILL/],
    [
      'that succeeds, but writes too little',
      () => script('head -c 100000 "$tar"'),
      /is damaged: it ends in the middle of/,
    ],
    ['that writes nothing', () => script('exit 0'), /neither manifest\.json nor index\.json/],
    [
      'that writes something else',
      () => script('head -c 100000 /dev/zero | tr "\\0" x'),
      /is damaged: a header in its tar is invalid/,
    ],
    ['that is not executable', () => file('#!/bin/sh\n', 0o444), /failed\n {2}spawn .* EACCES/],
    [
      'whose interpreter is missing',
      () => file('#!/nix/store/absent/bin/python\n', 0o555),
      /failed\n {2}spawn .* ENOENT/,
    ],
  ])('%s: its message is in the error', async (_, path, message) => {
    const built = await path()
    for (const copy of [undefined, new PassThrough().resume()]) {
      const reading = readBuilt(built, copy)
      await expect(reading).rejects.toThrow(message)
      await expect(reading).rejects.toThrow(built)
      await expect(reading).rejects.toBeInstanceOf(ImageError)
      copy?.destroy()
    }
  })

  test('is quoted with its last lines if it fails', async () => {
    const path = await script('i=0; while [ $i -lt 500 ]; do echo "line $i" >&2; i=$((i+1)); done; exit 1')
    const error: unknown = await readBuilt(path).catch((thrown: unknown) => thrown)
    expect(error).toHaveProperty('message', expect.stringMatching(/status 1\n {2}line 485\n(.*\n)*.*line 499$/))
  })

  test.each([
    ['whose output is not a tar', 'exec tr "\\0" x < /dev/zero'],
    ['whose copy is not read', 'exec cat "$tar" "$tar" "$tar"'],
  ])('%s does not stay behind, where it would keep the job from ending', async (_, lines) => {
    const pipe = join(folder, `pipe-${files++}`)
    await promisify(execFile)('mkfifo', [pipe])
    const path = await script(`exec 3>'${pipe}'; echo $$ >&3; ${lines}`)
    const stream = createReadStream(pipe, 'utf8')
    const pid = new Promise<number>((resolve) => stream.once('data', (chunk) => resolve(Number(chunk))))
    const closed = text(stream)
    const copy = new PassThrough()
    copy.once('data', () => copy.destroy())
    try {
      await expect(readBuilt(path, lines.includes('tar"') ? copy : undefined)).rejects.toThrow()
      // Its end of the pipe is closed only when it has ended.
      await closed
    } finally {
      endQuietly(await pid)
    }
  })
})

function endQuietly(pid: number): void {
  try {
    process.kill(pid)
  } catch {
    // The script has ended.
  }
}
