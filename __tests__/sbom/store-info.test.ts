import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { parsePathInfo, readStoreInfo, toSri } from '../../src/sbom/store-info.ts'

const PATH = `/nix/store/${'0'.repeat(32)}-hello-2.12`
const GLIBC = `/nix/store/${'1'.repeat(32)}-glibc-2.40`
const DERIVER = `/nix/store/${'2'.repeat(32)}-hello-2.12.drv`
const INVALID = `/nix/store/${'3'.repeat(32)}-gone`
/** The hash of no bytes. */
const SRI = 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='
const BASE32 = 'sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73'
const BASE16 = 'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
const HELLO = { path: PATH, narHash: SRI, references: [PATH, GLIBC], deriver: DERIVER }
const FACTS = { narHash: SRI, narSize: 1, references: [GLIBC, PATH], deriver: DERIVER, ca: null, signatures: [] }
const base = (path: string) => path.slice('/nix/store/'.length)

describe('the output of nix path-info --json', () => {
  test.each([
    [
      '2.8',
      [
        { ...FACTS, path: PATH, narHash: BASE32 },
        { path: INVALID, valid: false },
      ],
    ],
    ['2.19', { [PATH]: FACTS, [INVALID]: null }],
    [
      '2.33, in the second version of the format',
      {
        version: 2,
        storeDir: '/nix/store',
        info: {
          [base(PATH)]: { ...FACTS, references: [base(GLIBC), base(PATH)], deriver: base(DERIVER) },
          [base(INVALID)]: null,
        },
      },
    ],
    [
      'with hashes as objects',
      {
        version: 2,
        storeDir: '/nix/store',
        info: { [base(PATH)]: { ...FACTS, narHash: { algorithm: 'sha256', format: 'base64', hash: SRI.slice(7) } } },
      },
    ],
  ])('of Nix %s is read', (_, output) => {
    expect(parsePathInfo(JSON.stringify(output))).toEqual([HELLO])
  })

  test('may have no derivation', () => {
    const [info] = parsePathInfo(JSON.stringify({ [PATH]: { ...FACTS, deriver: null } })) ?? []
    expect(info).toEqual({ path: PATH, narHash: SRI, references: [PATH, GLIBC] })
  })

  test.each(['', 'null', '3', '{"a":1}', '[{}]'])('in an unknown form is refused: %s', (output) => {
    expect(parsePathInfo(output)).toBeUndefined()
  })
})

test.each([SRI, BASE32, BASE16])('the hash %s is written in one notation', (hash) => {
  expect(toSri(hash)).toBe(SRI)
})

test.each(['', 'sha256-x', 'sha1:0', `sha256:${'z'.repeat(52)}`, `md5:${'0'.repeat(52)}`])(
  '%s is not a hash of a NAR',
  (hash) => {
    expect(toSri(hash)).toBeUndefined()
  },
)

describe('the local store', () => {
  const { PATH: path, NIX_STORE_DIR: storeDir } = process.env
  let folder: string
  let messages: string[]
  const log = { info: (line: string) => void messages.push(line), warning: () => undefined, debug: () => undefined }

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'nix-stub-'))
    messages = []
    process.env['PATH'] = `${folder}${delimiter}${path}`
    process.env['NIX_STORE_DIR'] = join(folder, 'store')
  })

  afterEach(async () => {
    process.env['PATH'] = path
    if (storeDir === undefined) delete process.env['NIX_STORE_DIR']
    else process.env['NIX_STORE_DIR'] = storeDir
    await rm(folder, { recursive: true })
  })

  /** Installs a shell script as Nix. It writes the number of its arguments to the file `runs`. */
  async function nixIs(script: string): Promise<void> {
    await writeFile(join(folder, 'nix'), `#!/bin/sh\necho "$#" >> '${folder}/runs'\n${script}\n`, { mode: 0o755 })
  }

  async function addPaths(count: number): Promise<readonly string[]> {
    const paths = Array.from({ length: count }, (_, at) => join(folder, 'store', `${String(at).padStart(32, '0')}-p`))
    for (const one of paths) await mkdir(one, { recursive: true })
    return paths
  }

  test('is asked once, and only for the paths that it has', async () => {
    const [one = ''] = await addPaths(1)
    const absent = join(folder, 'store', `${'a'.repeat(32)}-absent`)
    await nixIs(`echo '${JSON.stringify({ [one]: { narHash: BASE32, references: [], deriver: null } })}'`)
    expect(await readStoreInfo([absent, one, one], log)).toEqual([
      { path: one, narHash: SRI, references: [] },
      { path: absent },
    ])
    // The experimental features take two arguments, the command and its options three.
    expect(await readFile(join(folder, 'runs'), 'utf8')).toBe('6\n')
    expect(messages).toEqual([])
  })

  test('is not asked for an image without any of its paths', async () => {
    await nixIs('exit 1')
    const absent = join(folder, 'store', `${'a'.repeat(32)}-absent`)
    expect(await readStoreInfo([absent], log)).toEqual([{ path: absent }])
    expect(messages).toEqual([])
  })

  test('is asked in parts for thousands of paths', async () => {
    const paths = await addPaths(2500)
    await nixIs('echo "{}"')
    await readStoreInfo(paths, log)
    const counts = (await readFile(join(folder, 'runs'), 'utf8')).trim().split('\n')
    expect(counts.length).toBe(Math.ceil((2500 * ((paths[0]?.length ?? 0) + 1)) / 100_000))
    expect(counts.reduce((sum, count) => sum + Number(count) - 5, 0)).toBe(2500)
  })

  test.each([
    ["echo 'error: the database is locked' >&2; exit 1", 'nix path-info failed: error: the database is locked'],
    ['echo nonsense', 'the output of nix path-info --json has an unknown form'],
  ])('that fails costs the facts, and one line in the log: %s', async (script, reason) => {
    const [one = ''] = await addPaths(1)
    await nixIs(script)
    expect(await readStoreInfo([one], log)).toEqual([{ path: one }])
    expect(messages).toEqual([`The SBOM lists store paths without hashes and references: ${reason}`])
  })
})
