import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, open, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { constants, createZstdCompress, gzipSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { ActionError } from '../../src/errors.ts'
import { readImage } from '../../src/image/open-image.ts'
import { findSource, type ImageSource } from '../../src/image/source.ts'
import { checkImage } from '../../src/push/check.ts'
import { digestOf } from '../support/digest.ts'
import { makeArchive, type TarMember, writeTar } from '../support/image.ts'
import { blobName, indexOf, type LayoutFile, makeLayout, storeLayout, withFiles } from '../support/layout.ts'
import { MEMORY_LIMIT, type Measured, measure } from '../support/peak.ts'

// A flake controls every byte of its image, every link in it, and what its script does. It may cause nothing worse than
// an explained error.

const SECRET = 'hunter2-hunter2'

let folder: string
/** Serves as the Nix store. */
let store: string
let files = 0

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hostile-'))
  store = join(folder, 'store')
  await mkdir(store)
  await writeFile(join(folder, 'secret'), `${SECRET}\n`)
})

afterAll(async () => {
  await rm(folder, { recursive: true })
})

function newPath(): string {
  return join(store, `result-${files++}`)
}

async function file(content: Buffer | string, mode = 0o444): Promise<string> {
  const path = newPath()
  await writeFile(path, content, { mode })
  return path
}

async function linkTo(target: string): Promise<string> {
  const path = newPath()
  await symlink(target, path)
  return path
}

async function pipe(): Promise<string> {
  const path = newPath()
  await promisify(execFile)('mkfifo', [path])
  return path
}

/** Returns the message of an explained error, and fails the test for any other result. */
async function refusal(work: Promise<unknown>): Promise<string> {
  const error = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  expect(error).toBeInstanceOf(ActionError)
  const { message } = error as ActionError
  expect(message).not.toContain(SECRET)
  return message
}

async function check(path: string): Promise<unknown> {
  return checkImage(await findSource(path, store))
}

const archive = makeArchive()
const layout = makeLayout()

describe('a result that is a link', () => {
  test.each<[string, () => Promise<string>, RegExp]>([
    ['to a file of the runner', () => linkTo(join(folder, 'secret')), /is a link that leads out of/],
    ['to the environment', () => linkTo('/proc/self/environ'), /is a link that leads out of/],
    ['to a folder of the runner', () => linkTo('..'), /is a link that leads out of/],
    ['to a pipe', async () => linkTo(await pipe()), /is not a regular file/],
    ['to itself', () => linkTo(`result-${files}`), /can't be read\n {2}ELOOP/],
    ['to nothing', () => linkTo('absent'), /There is no image at/],
  ])('%s is refused, without printing the content of its target', async (_, make, message) => {
    expect(await refusal(check(await make()))).toMatch(message)
  })

  test('to another store path is followed', async () => {
    await expect(check(await linkTo(await file(archive.bytes)))).resolves.toMatchObject({ names: ['app:nix'] })
  })

  test('in a folder, out of the store, is refused', async () => {
    const path = newPath()
    await mkdir(path)
    await symlink('/proc/self/environ', join(path, 'image.tar'))
    await symlink(await pipe(), join(path, 'pipe.tar'))
    await symlink('/etc', join(path, 'folder'))
    expect(await refusal(check(path))).toMatch(
      /is a folder that contains no image\n {2}it contains folder, image\.tar, pipe\.tar/,
    )
  })

  test('or a text file is described without quoting it', async () => {
    for (const content of [SECRET, gzipSync(`${SECRET}\n`), `{"${SECRET}":"${SECRET}"}`, `{${SECRET}`])
      expect(await refusal(check(await file(content)))).toContain('not an image')
  })
})

describe('a file of an OCI layout that is a link', () => {
  const files: readonly string[] = ['index.json', blobName(layout.configDigest), layout.layers[0]?.name ?? '']
  const targets: readonly string[] = ['/proc/self/environ', '../../../../secret', '/dev/zero']

  test.each(files.flatMap((name) => targets.map((target) => [name.replace(/\w{60}/, '…'), target, name] as const)))(
    '%s, out of the store to %s, is refused',
    async (_, target, name) => {
      const path = await storeLayout(store, withFiles(layout, { [name]: { linkName: target } }), 'folder')
      expect(await refusal(check(path))).toMatch(/leads out of|is missing|is not a regular file/)
    },
  )

  test('to a pipe, is refused', async () => {
    for (const name of files) {
      const path = await storeLayout(store, withFiles(layout, { [name]: { linkName: await pipe() } }), 'folder')
      expect(await refusal(check(path))).toMatch(/is not a regular file/)
    }
  })

  test('out of the layout that copyTo wrote is refused, even within its folder', async () => {
    const [layer] = layout.layers
    const other = await file(layer?.blob ?? Buffer.alloc(0))
    const path = await storeLayout(store, withFiles(layout, { [layer?.name ?? '']: { linkName: other } }), 'folder')
    await expect(check(path)).resolves.toMatchObject({ configDigest: layout.configDigest })
    const written: ImageSource = { path, root: path, format: 'layout' }
    expect(await refusal(checkImage(written))).toMatch(/is a link that leads out of/)
  })
})

describe('a script', () => {
  /** Writes a script. `$tar` in it is the path of an image; the script's process ID is in a file with the suffix `.pid`. */
  async function script(lines: string): Promise<string> {
    return file(`#!/bin/sh\ntar='${await file(archive.bytes)}'\necho $$ > "$0.pid"\n${lines}\n`, 0o555)
  }

  async function expectGone(path: string): Promise<void> {
    const pid = Number(await readFile(`${path}.pid`, 'utf8'))
    const state = () => readFile(`/proc/${pid}/status`, 'utf8').catch(() => 'State:\tZ')
    while (!/^State:\tZ/m.test(await state())) await sleep(5)
  }

  test.each([
    ['', 'cat "$tar"; exec cat /dev/zero'],
    [', ignoring signals', 'trap "" TERM INT HUP PIPE; cat "$tar"; while :; do head -c 100000 /dev/zero; done'],
    [', with gzip', '{ cat "$tar"; cat /dev/zero; } | gzip -1'],
  ])('that streams on after the tar is ended%s', async (_, lines) => {
    const path = await script(lines)
    for (const copy of [undefined, new PassThrough().resume()]) {
      const reading = readImage(await findSource(path, store), { ...(copy && { copy }) })
      expect(await refusal(reading)).toMatch(
        /continues for more than 16\.8 MB after the end of the image's tar\nNothing was published/,
      )
      copy?.destroy()
      await expectGone(path)
    }
  })

  test('whose child keeps the output open is waited for only until the output is silent', async () => {
    const path = await script('sleep 600 & cat "$tar"')
    await expect(readImage(await findSource(path, store))).resolves.toMatchObject({ names: ['app:nix'] })
  })

  test('that leads out of the store is not run', async () => {
    const outside = join(folder, 'script')
    await writeFile(outside, `#!/bin/sh\ntouch '${folder}/was-run'\n`, { mode: 0o555 })
    const source: ImageSource = { path: await linkTo(outside), root: store, format: 'script' }
    expect(await refusal(readImage(source))).toMatch(/leads out of/)
    await expect(readFile(join(folder, 'was-run'))).rejects.toThrow('ENOENT')
  })

  test('whose interpreter is a loop of links is an error that says so', async () => {
    const path = await linkTo(`result-${files}`)
    const reading = readImage(await findSource(await file(`#!${path}\n`, 0o555), store))
    expect(await refusal(reading)).toMatch(/should write an image to its standard output, but failed\n {2}.*ELOOP/)
  })

  test('may write byte by byte', async () => {
    const bytes = `exec '${process.execPath}' -e 'for (const b of fs.readFileSync("'$tar'")) fs.writeSync(1, Buffer.of(b))'`
    await expect(check(await script(bytes))).resolves.toMatchObject({ names: ['app:nix'] })
  })

  test('is quoted in the error without workflow commands, colours and hidden characters', async () => {
    const path = await script('printf "\\033[31m::error::a\\342\\200\\256b\\033[0m\\n" >&2; exit 1')
    expect(await refusal(readImage(await findSource(path, store)))).not.toContain('\u001b')
  })
})

describe('more layers than a runtime runs', () => {
  const diffIds = Array.from({ length: 1001 }, (_, at) => digestOf(Buffer.from(`${at}`)))
  const rootfs = { type: 'layers', diff_ids: diffIds }

  test.each<[string, () => Promise<string>]>([
    ['in a docker archive', () => file(makeArchive({ layers: [], config: { rootfs } }).bytes)],
    [
      'in its manifest.json',
      () => file(makeArchive({ layers: [], manifest: { Layers: Array.from({ length: 1001 }, () => 'a') } }).bytes),
    ],
    ['in an OCI layout', () => storeLayout(store, makeLayout({ layers: [], config: { rootfs } }).files, 'folder')],
    [
      'described by nix2container',
      () => file(JSON.stringify({ 'image-config': {}, layers: diffIds.map((diff_ids) => ({ diff_ids })) })),
    ],
  ])('are refused: %s', async (_, make) => {
    expect(await refusal(check(await make()))).toMatch(/it has 1001 layers/)
  })

  test('the largest number of layers that a runtime runs is read, also if all are the same', async () => {
    const many = makeLayout({ layers: Array.from({ length: 1000 }, () => 'same') })
    await expect(check(await storeLayout(store, many.files, 'folder'))).resolves.toMatchObject({
      configDigest: many.configDigest,
    })
  })
})

test('an index that lists too many manifests is refused', async () => {
  const entries = Array.from({ length: 1001 }, (_, at) => ({ ...layout.entry, digest: digestOf(Buffer.from(`${at}`)) }))
  const path = await storeLayout(store, withFiles(layout, { 'index.json': indexOf(entries) }), 'folder')
  expect(await refusal(check(path))).toMatch(/its index\.json lists 1001 manifests; the limit is 1000/)
})

describe('memory is limited, and the error explained, for', () => {
  /** Reads an image in a separate process. */
  function readMeasured(path: string): Promise<Measured> {
    return measure(
      `const { findSource } = await load('image/source.ts')
      const { readImage } = await load('image/open-image.ts')
      const { names } = await readImage(await findSource(args[0]))
      return names`,
      path,
    )
  }

  /** Writes a compressed tar. */
  async function packed(parts: Iterable<Buffer>): Promise<string> {
    const path = newPath()
    const out = await open(path, 'w')
    const compressor = createZstdCompress()
    compressor.pipe(out.createWriteStream())
    const closed = new Promise((resolve) => compressor.once('end', resolve))
    for (const part of inChunks(parts))
      if (!compressor.write(part)) await new Promise((go) => compressor.once('drain', go))
    compressor.end()
    await closed
    return path
  }

  /** Joins small parts, because each write to a compressor takes a while. */
  function* inChunks(parts: Iterable<Buffer>): Generator<Buffer> {
    let chunk: Buffer[] = []
    let length = 0
    for (const part of parts) {
      chunk.push(part)
      length += part.length
      if (length < 1_000_000) continue
      yield Buffer.concat(chunk)
      chunk = []
      length = 0
    }
    yield Buffer.concat(chunk)
  }

  function* tars(count: number, member: (at: number) => TarMember): Generator<Buffer> {
    for (let at = 0; at < count; at++) yield writeTar([member(at)], 0)
  }

  const megabyte = 'n'.repeat(1_000_000)
  const long = 'n'.repeat(4000)
  const json = (start: string, element: string) => `${start}[${`${element},`.repeat(990_000)}${element}]`

  test.each<[string, () => Promise<string>, RegExp]>([
    [
      'GNU names of a megabyte',
      () => packed(tars(600, (at) => ({ name: `${at}${megabyte}`, header: 'gnu' }))),
      /is damaged: a header of \d+ bytes/,
    ],
    [
      'GNU names of the maximum length',
      () => packed(tars(10_000, (at) => ({ name: `${at}${long}`, header: 'gnu' }))),
      /it has more files than any image/,
    ],
    [
      'hundreds of thousands of short names',
      () => packed(tars(130_000, (at) => ({ name: `${at}` }))),
      /it has more files than any image/,
    ],
    ['one name repeated', () => packed(tars(130_000, () => ({ name: 'same' }))), /it has more files than any image/],
    [
      'pax keys for all files',
      () =>
        packed(
          tars(120, (at) => ({
            name: 'g',
            content: paxRecords(at, 5000),
            alter: (block) => void block.write('g', 156),
          })),
        ),
      /more than 100 headers for one file/,
    ],
    [
      'pax keys for all files, between files',
      () =>
        packed(
          tars(1200, (at) => ({
            name: at % 2 ? 'g' : `${at}`,
            content: at % 2 ? paxRecords(at, 5000) : '',
            alter: (block) => void (at % 2 && block.write('g', 156)),
          })),
        ),
      /is a tar but not an image/,
    ],
    [
      'a million wrong elements in manifest.json',
      () => file(writeTar([{ name: 'manifest.json', content: json('', '0') }])),
      /its manifest\.json, at 0: Invalid type/,
    ],
    [
      'a million wrong elements in a config',
      () => file(makeArchive({ config: { rootfs: { diff_ids: Array.from({ length: 990_000 }, () => 0) } } }).bytes),
      /diff_ids\.0: is not a sha256 digest/,
    ],
    [
      'a million wrong elements in index.json',
      () =>
        storeLayout(
          store,
          withFiles(layout, {
            'index.json': Buffer.from(
              json('{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":', '0').concat('}'),
            ),
          }),
          'folder',
        ),
      /manifests\.0: Invalid type/,
    ],
    [
      'a million wrong elements in a description',
      () => file(`${json('{"image-config":{},"layers":', '0')}}`),
      /buildImage did not write it: layers\.0: Invalid type/,
    ],
    [
      'millions of values in a description',
      () => file(`{"image-config":{},"layers":[${'{},'.repeat(2_500_000)}{}]}`),
      /buildImage did not write it: it has more than 1000000 values/,
    ],
    ['thousands of links to one JSON file', linksToOne, /it contains more than 67108864 bytes of JSON/],
  ])('%s', async (_, make, message) => {
    const { error, value, peak } = await readMeasured(await make())
    expect(value).toBeUndefined()
    expect(error?.message).toMatch(message)
    expect(['ImageError', 'FileError']).toContain(error?.name)
    expect(error?.message.length).toBeLessThan(70_000)
    expect(peak).toBeLessThan(MEMORY_LIMIT)
  })

  function paxRecords(from: number, count: number): string {
    const keys = Array.from({ length: count }, (_, at) => `key.${String(from * count + at).padStart(20, '0')}`)
    return keys.map((key) => `30 ${key}=v\n`).join('')
  }

  /** Writes a layout whose index lists a thousand manifests, all of them links to one of 4 MB. */
  async function linksToOne(): Promise<string> {
    const manifest = Buffer.from(
      JSON.stringify({ ...JSON.parse(layout.manifest.toString()), annotations: { a: 'x'.repeat(4_000_000) } }),
    )
    const digests = Array.from({ length: 1000 }, (_, at) => digestOf(Buffer.from(`${at}`)))
    const links = digests.map((digest): [string, LayoutFile] => [blobName(digest), { linkName: 'one' }])
    const entries = digests.map((digest) => ({ ...layout.entry, digest, size: manifest.length }))
    const all = { ...Object.fromEntries(links), 'blobs/sha256/one': manifest, 'index.json': indexOf(entries) }
    return storeLayout(store, withFiles(layout, all), 'folder')
  }

  test('a layer with a large zstd window in an archive with a large window', async () => {
    const pack = (bytes: Buffer) => {
      // As a stream, because zstd reduces the window for content of a known, smaller size.
      const compressor = createZstdCompress({ params: { [constants.ZSTD_c_windowLog]: 27 } })
      compressor.end(bytes)
      return buffer(compressor)
    }
    const large = writeTar([{ name: 'zeros', content: Buffer.alloc(150_000_000) }])
    const path = await file(await pack(makeArchive({ layers: [large, await pack(large)] }).bytes))
    const { error, peak } = await measure(
      `const { findSource } = await load('image/source.ts')
      const { checkImage } = await load('push/check.ts')
      await checkImage(await findSource(args[0]))`,
      path,
    )
    expect(error).toMatchObject({
      name: 'ImageError',
      message: expect.stringMatching(/its zstd window is larger than 8 MiB[\s\S]*a level of at most 19/),
    })
    expect(peak).toBeLessThan(MEMORY_LIMIT)
  })
})
