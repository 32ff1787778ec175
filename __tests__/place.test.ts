import { execFile } from 'node:child_process'
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, test } from '@jest/globals'

// The repository's place on GitHub stands in package.json. All other files that name it must agree.

const checkout = fileURLToPath(new URL('..', import.meta.url))
const run = promisify(execFile)

/** The place of a repository with the name of this project, of any owner. */
const PLACE = /(?<![A-Za-z0-9_.-])[A-Za-z0-9][A-Za-z0-9-]*\/nix-image-action(?![A-Za-z0-9_-]|\/nix-image-action)/g

async function readPlace(folder: string): Promise<string> {
  const { repository } = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8'))
  return /github\.com\/(.+)\.git$/.exec(repository.url)?.[1] ?? ''
}

async function trackedFiles(): Promise<readonly string[]> {
  const { stdout } = await run('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
    cwd: checkout,
  })
  return stdout.split('\0').filter((path) => path !== '' && !path.startsWith('dist/'))
}

/** Lists the places that the files of a checkout name, as `file: place`. */
async function placesIn(folder: string, paths: readonly string[]): Promise<readonly string[]> {
  const found = paths.map(async (path) => {
    const text = await readFile(join(folder, path), 'latin1').catch(() => '')
    return (text.match(PLACE) ?? []).map((place) => `${path}: ${place}`)
  })
  return (await Promise.all(found)).flat()
}

test('all files name the place of the repository that package.json has', async () => {
  const place = await readPlace(checkout)
  const found = await placesIn(checkout, await trackedFiles())
  expect(found).toContain(`README.md: ${place}`)
  expect(found.filter((one) => !one.endsWith(`: ${place}`))).toEqual([])
})

test('`npm run rename` changes the place in all files', async () => {
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
    const rename = (place: string) => run(process.execPath, [join(folder, 'scripts/rename.mjs'), place])

    await expect(rename('no-place')).rejects.toThrow('npm run rename -- owner/name')
    const before = await placesIn(folder, paths)
    await rename('some-fork/images')
    expect(await readPlace(folder)).toBe('some-fork/images')
    expect(await readFile(join(folder, 'README.md'), 'utf8')).toContain('uses: some-fork/images@v1')
    expect(await placesIn(folder, paths)).toEqual([])
    expect(await readFile(join(folder, 'similar.md'), 'utf8')).toBe(similar)

    await rename(await readPlace(checkout))
    expect(await placesIn(folder, paths)).toEqual(before)
  } finally {
    await rm(folder, { recursive: true })
  }
})
