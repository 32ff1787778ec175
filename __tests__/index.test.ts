import { spawnSync } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { expect, test } from '@jest/globals'

test('Node still supports the flags of V8 that the action sets', async () => {
  const source = await readFile(new URL('../src/index.ts', import.meta.url), 'utf8')
  const flags = [...source.matchAll(/setFlagsFromString\('([^']+)'\)/g)].flatMap(([, flag]) => flag ?? [])
  expect(flags).toEqual(['--heap-growing-percent=400'])
  // Unlike setFlagsFromString, the command line refuses flags that don't exist.
  const statusWith = (flag: string) => spawnSync(process.execPath, [flag, '--eval', '']).status
  expect(flags.map(statusWith)).toEqual([0])
  expect(statusWith('--heap-growing-promille=500')).not.toBe(0)
})
