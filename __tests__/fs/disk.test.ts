import { mkdtemp, rm, statfs } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { formatFreeSpace, freeSpace, shortOfSpace } from '../../src/fs/disk.ts'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'disk-'))
})
afterAll(() => rm(folder, { recursive: true }))

describe('free space', () => {
  test('is returned once per file system, even for folders that do not exist', async () => {
    const folders = [folder, join(folder, 'not/there/yet')]
    const [disk, ...more] = await freeSpace(folders)
    expect(more).toEqual([])
    expect(disk?.folders).toEqual(folders)
    const { blocks, bsize } = await statfs(folder)
    expect(disk?.free).toBeGreaterThan(0)
    expect(disk?.free).toBeLessThanOrEqual(blocks * bsize)
  })

  test('is returned for each file system', async () => {
    const disks = await freeSpace([folder, '/proc'])
    expect(disks.map(({ folders }) => folders)).toEqual([[folder], ['/proc']])
  })
})

const gigabytes = (free: number, ...folders: readonly string[]) => ({ folders, free: free * 1e9 })

test('free space is formatted with the folders', () => {
  expect(formatFreeSpace([gigabytes(70.94, '/nix/store', '/tmp')])).toBe('70.9 GB are free for /nix/store and /tmp')
  expect(formatFreeSpace([gigabytes(0.02, '/nix/store'), gigabytes(3, '/tmp')])).toBe(
    '20.0 MB are free for /nix/store, 3.0 GB for /tmp',
  )
})

test('less than 2 GB are short', () => {
  const short = gigabytes(1.99, '/nix/store')
  expect(shortOfSpace([short, gigabytes(2, '/tmp')])).toEqual([short])
})
