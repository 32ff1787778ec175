import { mkdir, mkdtemp, realpath, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { unrelatedDescription } from '../../src/nix/derivation.ts'

// Whether an image has the content that its attributes `stream` and `conf` describe. A user may have changed its derivation
// with `overrideAttrs`, which keeps the attributes.

let store: string
let stream: string
let conf: string
beforeEach(async () => {
  store = join(await mkdtemp(join(await realpath(tmpdir()), 'derivation-')), 'store')
  await mkdir(store)
  const env = { text: '{}', buildCommand: 'printf %s "$text" > $out' }
  conf = await write(path('c', 'app-conf.json.drv'), { output: path('j', 'app-conf.json'), inputs: [], env })
  stream = await writeScript(`makeWrapper /nix/store/stream $out --add-flags ${path('j', 'app-conf.json')}\n`)
})
afterEach(() => rm(join(store, '..'), { recursive: true }))

function path(hash: string, name: string): string {
  return join(store, `${hash.repeat(32)}-${name}`)
}

interface Content {
  readonly output: string
  readonly inputs: readonly string[]
  readonly args?: readonly string[]
  readonly env: Readonly<Record<string, string>>
}

/** Writes a derivation in the format of Nix. */
async function write(file: string, { output, inputs, args = ['-e'], env }: Content): Promise<string> {
  const text = (value: string) =>
    `"${value.replace(/["\\]/g, '\\$&').replaceAll('\n', '\\n').replaceAll('\t', '\\t').replaceAll('\r', '\\r')}"`
  const parts = [
    `[("out",${text(output)},"","")]`,
    `[${inputs.map((input) => `(${text(input)},["out"])`).join(',')}]`,
    `["${store}/source-stdenv.sh"]`,
    '"x86_64-linux"',
    '"/bin/bash"',
    `[${args.map(text).join(',')}]`,
    `[${Object.entries({ ...env, out: output }).map(([name, value]) => `(${text(name)},${text(value)})`)}]`,
  ]
  await writeFile(file, `Derive(${parts.join(',')})`)
  return file
}

/** Writes the derivation of the script that streams the image. */
function writeScript(buildCommand: string): Promise<string> {
  return write(path('d', 'stream-app.drv'), { output: program(), inputs: [conf], env: { buildCommand } })
}

/** Writes the derivation of an image, and returns why its description is not trusted. */
async function reasonFor(
  env: Readonly<Record<string, string>>,
  { args, ...attributes }: { stream?: string | undefined; conf?: string | undefined; args?: readonly string[] } = {},
): Promise<string | undefined> {
  const storePath = path('a', 'app.tar.gz')
  const content = { output: storePath, inputs: [stream], env, ...(args && { args }) }
  const derivation = await write(path('b', 'app.tar.gz.drv'), content)
  const evaluated = { derivation, output: 'out', storePath, nixVersion: '2.34.1', ignoredSettings: [] }
  return unrelatedDescription({ ...evaluated, stream, conf, ...attributes })
}

const program = () => path('s', 'stream-app')
const MORE = 'its derivation does not only compress the output of its attribute `stream`'
const UNUSED = 'its derivation is not a script that only runs a program on its attribute `conf`'

describe('the description of an image is trusted if the derivation only runs', () => {
  test.each([
    ['pigz, as nixpkgs writes it', '| pigz -p$NIX_BUILD_CORES -nTR > $out'],
    ['zstd, as nixpkgs writes it', '| zstd -T$NIX_BUILD_CORES > $out'],
    ['cat, as nixpkgs writes it for no compression', '| cat  > $out'],
    ['gzip', '| gzip -n9 > "$out"\n'],
    ['a compressor by its path', `| /nix/store/${'0'.repeat(32)}-xz-5.8.1-bin/bin/xz --threads=0 >\${out}`],
  ])('%s', async (_, rest) => {
    expect(await reasonFor({ buildCommand: `${program()} ${rest}`, passAsFile: 'buildCommand ' })).toBeUndefined()
  })

  test('a pipeline after options of the shell', async () => {
    expect(await reasonFor({ buildCommand: `set -o pipefail\n${program()} | gzip > $out` })).toBeUndefined()
  })

  test('a pipeline in an argument, with the program in a variable', async () => {
    for (const run of [program(), '"$stream"', '${stream}'])
      expect(await reasonFor({ stream: program() }, { args: ['-euc', `${run} | gzip > $out`] })).toBeUndefined()
  })

  test('a script that reads the description', async () => {
    const image = { derivation: stream, output: 'out', storePath: program(), nixVersion: '2.8.0', ignoredSettings: [] }
    expect(await unrelatedDescription({ ...image, stream: undefined, conf })).toBeUndefined()
  })
})

describe('the description of an image is not trusted if its derivation', () => {
  test.each([
    ['runs a command before', (run: string) => `echo; ${run} | gzip > $out`],
    ['runs a command after', (run: string) => `${run} | gzip > $out\necho >> $out`],
    ['runs a command after, on the same line', (run: string) => `${run} | gzip > $out && rm $out`],
    ['has an appended command', (run: string) => `${run} | pigz -p$NIX_BUILD_CORES -nTR > $out; cp other $out`],
    ['gives the script an argument', (run: string) => `${run} --repo_tag other:latest | gzip > $out`],
    ['gives the script an environment', (run: string) => `LC_ALL=C ${run} | gzip > $out`],
    ['runs another program on the output', (run: string) => `${run} | sed s/a/b/ > $out`],
    ['runs another program as well', (run: string) => `${run} | tar --delete etc | gzip > $out`],
    ['runs a program of a similar name', (run: string) => `${run} | not-gzip > $out`],
    ['runs a command in an argument', (run: string) => `${run} | gzip -$(cat level) > $out`],
    ['reads another file', (run: string) => `${run} | cat - other > $out`],
    ['reads another file instead', (run: string) => `${run} | cat < other > $out`],
    ['writes another file', (run: string) => `${run} | gzip > $out.gz`],
    ['writes several files', (run: string) => `${run} | gzip > copy > $out`],
    ['uses the script twice', (run: string) => `${run} | gzip > $out\n${run} | gzip > $out`],
    ['uses another script', () => `${path('t', 'stream-app')} | gzip > $out`],
    ['uses none', () => 'cp image.tar $out'],
  ])('%s', async (_, command) => {
    expect(await reasonFor({ buildCommand: command(program()) })).toBe(MORE)
  })

  test('uses the script elsewhere too', async () => {
    const buildCommand = `${program()} | gzip > $out`
    expect(await reasonFor({ buildCommand, postHook: `${program()} --help` })).toBe(MORE)
  })

  test.each([
    ['reads another description', () => `makeWrapper /nix/store/stream $out --add-flags ${path('k', 'app-conf.json')}`],
    ['reads a changed description', (file: string) => `sed s/a/b/ ${file} > conf; makeWrapper /nix/store/stream $out`],
    ['changes the output', (file: string) => `echo '/nix/store/stream ${file} | sed s/a/b/' > $out`],
  ])('is of a script that %s', async (_, command) => {
    await writeScript(command(path('j', 'app-conf.json')))
    expect(await reasonFor({ buildCommand: `${program()} | gzip > $out` })).toBe(UNUSED)
    const image = { derivation: stream, output: 'out', storePath: program(), nixVersion: '2.8.0', ignoredSettings: [] }
    expect(await unrelatedDescription({ ...image, stream: undefined, conf })).toBe(UNUSED)
  })

  test('is not in the store, or that of the script or the description is not', async () => {
    const buildCommand = `${program()} | gzip > $out`
    const missing = path('f', 'missing.drv')
    const reason = 'its derivation is not in the Nix store'
    for (const conf of [undefined, missing])
      expect(await reasonFor({ buildCommand }, { stream: missing, conf })).toBe(reason)
    expect(await reasonFor({ buildCommand }, { conf: missing })).toBe(reason)
    await rm(path('b', 'app.tar.gz.drv'))
    const image = { derivation: path('b', 'app.tar.gz.drv'), output: 'out', nixVersion: '2.34.1', ignoredSettings: [] }
    expect(await unrelatedDescription({ ...image, storePath: path('a', 'app.tar.gz'), stream, conf })).toBe(reason)
  })
})
