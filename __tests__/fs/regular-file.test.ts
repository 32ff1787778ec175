import { execFile } from 'node:child_process'
import { appendFile, mkdir, mkdtemp, open, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { FileError } from '../../src/errors.ts'
import { contentOf, listFolder, openRegularFile, readWhole, resolveWithin } from '../../src/fs/regular-file.ts'

let folder: string
let root: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'regular-file-'))
  root = join(folder, 'store')
  await mkdir(join(root, 'inner'), { recursive: true })
  await mkdir(join(folder, 'store-secrets'))
  await writeFile(join(folder, 'secret'), 'hunter2')
  await writeFile(join(folder, 'store-secrets/secret'), 'hunter2')
  await writeFile(join(root, 'file'), 'content')
  await writeFile(join(root, 'inner/file'), 'inner content')
  await promisify(execFile)('mkfifo', [join(root, 'pipe')])
})

afterAll(async () => {
  await rm(folder, { recursive: true })
})

/** Creates a link in `root`. */
async function link(name: string, target: string): Promise<string> {
  await symlink(target, join(root, name))
  return join(root, name)
}

async function read(path: string, within = root): Promise<string> {
  const file = await openRegularFile(path, within)
  try {
    return (await readWhole(file, path)).toString()
  } finally {
    await file.handle.close()
  }
}

describe('a path', () => {
  test.each([
    ['a file', 'file', 'content'],
    ['a file in a folder', 'inner/file', 'inner content'],
  ])('to %s is read', async (_, name, content) => {
    expect(await read(join(root, name))).toBe(content)
  })

  test('may have links to `/nix/store` in a store below another root', async () => {
    const store = join(folder, 'root/nix/store')
    const text = async (path: string) => {
      const file = await openRegularFile(path, store)
      return buffer(contentOf(file, path)).then(String)
    }
    await mkdir(join(store, 'one/deep'), { recursive: true })
    await writeFile(join(store, 'one/deep/file'), 'in the store')
    await symlink('/nix/store/one', join(store, 'two'))
    await symlink('two/deep', join(store, 'three'))
    await symlink('/nix/store/three/file', join(store, 'four'))
    for (const path of ['two/deep/file', 'three/file', 'four'])
      expect(await text(join(store, path))).toBe('in the store')
    await symlink('/nix/store/missing', join(store, 'five'))
    expect(await resolveWithin(join(store, 'five'), store)).toBeUndefined()
    await symlink('/nix/store/../../../secret', join(store, 'six'))
    await symlink('/nix/store/seven', join(store, 'seven'))
    for (const path of ['six', 'seven']) await expect(text(join(store, path))).rejects.toThrow(FileError)
  })

  test('may have links to a store path that is in both stores of this runner', async () => {
    // Stands for /nix/store.
    const other = join(folder, 'system/store')
    const store = join(folder, 'root', other)
    for (const place of [other, store]) {
      await mkdir(join(place, 'one'), { recursive: true })
      await writeFile(join(place, 'one/file'), `in ${place}`)
    }
    await symlink(join(other, 'one'), join(store, 'two'))
    expect(await read(join(store, 'two/file'), store)).toBe(`in ${store}`)
  })

  test('may have links that stay in the folder', async () => {
    await link('first', 'second')
    await link('second', join(root, 'inner/../file'))
    await link('folder-link', 'inner')
    expect(await read(join(root, 'first'))).toBe('content')
    expect(await read(join(root, 'folder-link/file'))).toBe('inner content')
  })

  test.each([
    ['an absolute link', () => link('absolute', join(folder, 'secret')), ''],
    ['a relative link', () => link('relative', '../secret'), ''],
    ['a link to a link', async () => link('twice', await link('once', join(folder, 'secret'))), ''],
    ['a link to a folder', () => link('up', '..'), 'secret'],
    ['a link to a folder whose name has the same beginning', () => link('alike', '../store-secrets'), 'secret'],
    ['a link to the environment', () => link('environment', '/proc/self/environ'), ''],
    ['a link to a device', () => link('device', '/dev/zero'), ''],
  ])('that leads out of the folder by %s is not read', async (_, make, name) => {
    const path = join(await make(), name)
    const reading = read(path)
    await expect(reading).rejects.toThrow(`${path} is a link that leads out of ${root}\nThe file was not read.`)
    await expect(reading).rejects.toBeInstanceOf(FileError)
    await expect(listFolder(path, root)).rejects.toThrow('is a link that leads out of')
  })

  test('that does not exist is reported', async () => {
    expect(await resolveWithin(join(root, 'absent'), root)).toBeUndefined()
    expect(await resolveWithin(join(root, 'file/below'), root)).toBeUndefined()
    await expect(read(join(root, 'absent'))).rejects.toThrow(`${join(root, 'absent')} does not exist`)
  })

  test.each([
    ['a pipe without a writer', 'pipe', 'is not a regular file'],
    ['a folder', 'inner', 'is not a regular file'],
    ['a name that no file can have', 'a\0b', "can't be read"],
    ['a name that is too long', 'n'.repeat(5000), "can't be read"],
  ])('to %s fails immediately with an error that says so', async (_, name, message) => {
    const reading = read(join(root, name))
    await expect(reading).rejects.toThrow(message)
    await expect(reading).rejects.toBeInstanceOf(FileError)
  })

  test('with a loop of links fails with an error that says so', async () => {
    await link('here', 'there')
    const reading = read(await link('there', 'here'))
    await expect(reading).rejects.toThrow(/there can't be read\n {2}ELOOP/)
    await expect(reading).rejects.toBeInstanceOf(FileError)
  })
})

describe('a file that changes while it is read', () => {
  test('is read up to the size that it had when it was opened', async () => {
    const path = join(root, 'growing')
    await writeFile(path, 'before')
    const first = await openRegularFile(path, root)
    const second = await openRegularFile(path, root)
    await appendFile(path, ' and after')
    expect((await readWhole(first, path)).toString()).toBe('before')
    await first.handle.close()
    expect((await buffer(contentOf(second, path))).toString()).toBe('before')
  })

  test('is read to its new end if it was truncated', async () => {
    const path = join(root, 'shrinking')
    await writeFile(path, 'before')
    const file = await openRegularFile(path, root)
    const writer = await open(path, 'r+')
    await writer.truncate(3)
    await writer.close()
    expect((await readWhole(file, path)).toString()).toBe('bef')
    await file.handle.close()
  })

  test('is closed at its end, even if it is empty', async () => {
    await writeFile(join(root, 'empty'), '')
    for (const name of ['empty', 'file']) {
      const path = join(root, name)
      const file = await openRegularFile(path, root)
      await buffer(contentOf(file, path))
      expect(file.handle.fd).toBe(-1)
    }
  })
})

describe('a folder', () => {
  test('is listed in sorted order', async () => {
    expect(await listFolder(join(root, 'inner'), root)).toEqual(['file'])
    await expect(listFolder(join(root, 'absent'), root)).rejects.toBeInstanceOf(FileError)
    await expect(listFolder(join(root, 'file'), root)).rejects.toThrow("can't be read")
  })

  test('with more files than an image can have is refused', async () => {
    const crowded = join(root, 'crowded')
    await mkdir(crowded)
    for (let at = 0; at < 10_000; at++) await symlink('x', join(crowded, `file-${at}`))
    expect(await listFolder(crowded, root)).toHaveLength(10_000)
    await symlink('x', join(crowded, 'one-more'))
    const listing = listFolder(crowded, root)
    await expect(listing).rejects.toThrow(`The folder ${crowded} has more than 10000 files`)
    await expect(listing).rejects.toBeInstanceOf(FileError)
  })
})
