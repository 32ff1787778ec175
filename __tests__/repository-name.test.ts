import { execFile } from 'node:child_process'
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, test } from '@jest/globals'

// package.json has the repository's name on GitHub. All other files that name it must agree.

const checkout = fileURLToPath(new URL('..', import.meta.url))
const run = promisify(execFile)

/** The full name of any owner's repository that is named like this project. */
const NAME = /(?<![A-Za-z0-9_.-])[A-Za-z0-9][A-Za-z0-9-]*\/nix-image-action(?![A-Za-z0-9_-]|\/nix-image-action)/g

async function readName(folder: string): Promise<string> {
  const { repository } = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8'))
  return /github\.com\/(.+)\.git$/.exec(repository.url)?.[1] ?? ''
}

async function trackedFiles(): Promise<readonly string[]> {
  const { stdout } = await run('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
    cwd: checkout,
  })
  return stdout.split('\0').filter((path) => path !== '' && !path.startsWith('dist/'))
}

/** Lists the names that occur in the files of a checkout, as `file: name`. */
async function namesIn(folder: string, paths: readonly string[]): Promise<readonly string[]> {
  const found = paths.map(async (path) => {
    const text = await readFile(join(folder, path), 'latin1').catch(() => '')
    return (text.match(NAME) ?? []).map((name) => `${path}: ${name}`)
  })
  return (await Promise.all(found)).flat()
}

test('all files name the repository as package.json does', async () => {
  const name = await readName(checkout)
  const found = await namesIn(checkout, await trackedFiles())
  expect(found).toContain(`README.md: ${name}`)
  expect(found.filter((one) => !one.endsWith(`: ${name}`))).toEqual([])
})

test('`npm run rename` changes the name in all files', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'rename-'))
  try {
    const paths = (await trackedFiles()).filter((path) => !path.startsWith('__tests__/'))
    for (const path of paths) {
      await mkdir(dirname(join(folder, path)), { recursive: true })
      await cp(join(checkout, path), join(folder, path))
    }
    const similar =
      'https://github.com/nix-image-action/nix-image-action-example, not-nix-image-action/nix-image-action2'
    await writeFile(join(folder, 'similar.md'), similar)
    await run('git', ['init', '--quiet'], { cwd: folder })
    await run('git', ['add', '--all'], { cwd: folder })
    const rename = (name: string) => run(process.execPath, [join(folder, 'scripts/rename.mjs'), name])

    await expect(rename('no-owner')).rejects.toThrow('npm run rename -- owner/name')
    const before = await namesIn(folder, paths)
    await rename('some-fork/images')
    expect(await readName(folder)).toBe('some-fork/images')
    expect(await readFile(join(folder, 'README.md'), 'utf8')).toContain('uses: some-fork/images@v1')
    expect(await namesIn(folder, paths)).toEqual([])
    expect(await readFile(join(folder, 'similar.md'), 'utf8')).toBe(similar)

    await rename(await readName(checkout))
    expect(await namesIn(folder, paths)).toEqual(before)
  } finally {
    await rm(folder, { recursive: true })
  }
})
