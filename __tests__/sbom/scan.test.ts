import { execFile } from 'node:child_process'
import { chmod, link, mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { modulePurl } from '../../src/sbom/purl.ts'
import { scanModules, startProgramScan } from '../../src/sbom/scan.ts'
import { auditableSection, elfFile, goBuildInfoSection } from './elf-file.ts'

const LOG = { info: () => undefined, warning: () => undefined, debug: () => undefined }
let store: string

beforeEach(async () => {
  store = await mkdtemp(join(tmpdir(), 'store-'))
})

afterEach(() => rm(store, { recursive: true }))

function goProgram(name: string): Buffer {
  const lines = [`mod\texample.com/${name}\t(devel)\t`, 'dep\texample.com/shared\tv1.0.0']
  return elfFile([{ name: '.go.buildinfo', content: goBuildInfoSection('go1.26.1', lines) }])
}

const RUST = elfFile([
  { name: '.dep-v0', content: auditableSection([{ name: 'itoa', version: '1.0.9', source: 'local' }]) },
])

function pathOf(digit: string, name: string): string {
  return join(store, `${digit.repeat(32)}-${name}`)
}

async function addFile(path: string, content: Buffer | string, mode = 0o555): Promise<void> {
  await mkdir(join(path, '..'), { recursive: true })
  await writeFile(path, content)
  await chmod(path, mode)
}

async function scanned(paths: readonly string[]): Promise<Readonly<Record<string, readonly string[]>>> {
  const found = await scanModules(paths, LOG)
  return Object.fromEntries(found.map(({ path, modules }) => [path.slice(store.length + 34), modules.map(modulePurl)]))
}

test('finds the modules of programs and libraries by store path', async () => {
  await addFile(join(pathOf('0', 'go'), 'bin/one'), goProgram('one'))
  await addFile(join(pathOf('0', 'go'), 'bin/nested/two'), goProgram('two'))
  await addFile(pathOf('1', 'file'), goProgram('file'))
  await addFile(join(pathOf('2', 'rust'), 'lib/librust.so'), RUST, 0o444)
  await addFile(join(pathOf('3', 'none'), 'bin/script'), '#!/bin/sh\n')
  const found = await scanned(
    ['3', '2', '1', '0'].map((digit) => pathOf(digit, { 0: 'go', 1: 'file', 2: 'rust' }[digit] ?? 'none')),
  )
  expect(Object.entries(found)).toEqual([
    [
      'go',
      [
        'pkg:golang/example.com/one',
        'pkg:golang/example.com/shared@v1.0.0',
        'pkg:golang/example.com/two',
        'pkg:golang/stdlib@1.26.1',
      ],
    ],
    ['file', ['pkg:golang/example.com/file', 'pkg:golang/example.com/shared@v1.0.0', 'pkg:golang/stdlib@1.26.1']],
    ['rust', ['pkg:cargo/itoa@1.0.9']],
  ])
})

test('skips data files, links, pipes and paths that do not exist', async () => {
  await addFile(join(pathOf('0', 'go'), 'bin/one'), goProgram('one'))
  const other = pathOf('1', 'other')
  await addFile(join(other, 'share/data'), goProgram('two'), 0o444)
  await addFile(join(other, 'share/data.json'), goProgram('three'))
  await symlink(join(pathOf('0', 'go'), 'bin/one'), join(other, 'link'))
  await symlink(pathOf('0', 'go'), join(other, 'folder'))
  await symlink(pathOf('0', 'go'), pathOf('2', 'link'))
  await promisify(execFile)('mkfifo', ['-m', '777', join(other, 'pipe.so')])
  expect(await scanned([other, pathOf('2', 'link'), pathOf('4', 'absent'), join(store, 'not-a-store-path')])).toEqual(
    {},
  )
})

describe('programs that were seen in layers', () => {
  /** Searches all files of the store, as if layers contained them. */
  async function seen(...more: readonly string[]) {
    const scan = startProgramScan({ name: store, place: store })
    const entries = await readdir(store, { recursive: true, withFileTypes: true })
    for (const entry of entries) if (entry.isFile()) scan.add(join(entry.parentPath, entry.name))
    for (const path of more) scan.add(path)
    return (await scan.found()).toSorted((one, other) => (one.path < other.path ? -1 : 1))
  }

  test('have the modules that a search of their store paths finds', async () => {
    const [go, rust] = [pathOf('0', 'go'), pathOf('2', 'rust')]
    await addFile(join(go, 'bin/one'), goProgram('one'))
    await addFile(join(go, 'bin/nested/two'), goProgram('two'))
    await link(join(go, 'bin/one'), join(go, 'bin/same'))
    await addFile(join(go, 'share/data'), goProgram('three'), 0o444)
    await addFile(join(go, 'share/data.json'), goProgram('four'))
    await addFile(pathOf('1', 'file.sh'), goProgram('file'))
    await addFile(join(rust, 'lib/librust.so'), RUST, 0o444)
    const found = await seen(join(go, 'bin/one'))
    expect(found).toEqual(await scanModules([go, pathOf('1', 'file.sh'), rust], LOG))
    expect(found).toHaveLength(3)
  })

  test('are read in their store paths only', async () => {
    const [go, other] = [pathOf('0', 'go'), pathOf('1', 'other')]
    await addFile(join(store, 'outside/bin/one'), goProgram('one'))
    await addFile(join(other, 'share/none'), '')
    await symlink(join(store, 'outside/bin'), join(other, 'bin'))
    await symlink(join(store, 'outside/bin/one'), join(other, 'one'))
    await symlink(join(store, 'outside/bin/one'), go)
    const names = ['bin/one', 'one', '../outside/bin/one', 'share/../../outside/bin/one', 'absent/one']
    expect(await seen(go, ...names.map((name) => `${other}/${name}`))).toEqual([])
  })

  test('are skipped if their names lead nowhere on this machine', async () => {
    const go = pathOf('0', 'go')
    await addFile(join(go, 'share/file'), '')
    await addFile(join(go, 'bin/one'), goProgram('one'))
    const names = ['share/file/bin/one', `${'n'.repeat(300)}/one`, `${'folder/'.repeat(1000)}one`, 'bi\0n/one']
    const found = await seen(...names.map((name) => `${go}/${name}`))
    expect(found.map(({ path }) => path)).toEqual([go])
  })

  test('are read where the store is', async () => {
    await addFile(join(pathOf('0', 'go'), 'bin/one'), goProgram('one'))
    const scan = startProgramScan({ name: '/nix/store', place: store })
    scan.add(`/nix/store/${'0'.repeat(32)}-go/bin/one`)
    expect((await scan.found()).map(({ path }) => path)).toEqual([`/nix/store/${'0'.repeat(32)}-go`])
  })
})
