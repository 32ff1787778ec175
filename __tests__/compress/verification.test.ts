import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, afterEach, beforeAll, expect, jest, test } from '@jest/globals'
import * as pool from '../../src/compress/deflate-pool.ts'
import { makeArchive, writeTar } from '../support/image.ts'
import { startRegistry } from '../support/registry.ts'
import { prepareRunner } from '../support/runner.ts'

// A compressor that makes one wrong byte, in the middle of its output, while `isFaulty`.
let isFaulty = false
const deflate = pool.createDeflatePool(1)
const faultyDeflate: pool.Deflate = async (block, level) => {
  const deflated = await deflate.compress(block, level)
  const middle = deflated.compressed.length >> 1
  if (isFaulty) deflated.compressed.writeUInt8(deflated.compressed.readUInt8(middle) ^ 1, middle)
  return deflated
}
jest.unstable_mockModule('../../src/compress/deflate-pool.ts', () => ({
  ...pool,
  createDeflatePool: () => ({ ...deflate, compress: faultyDeflate }),
}))
const { verifySample } = await import('../../src/compress/gzip.ts')
const { run } = await import('../../src/run.ts')

const environment = { ...process.env }
const layer = writeTar([{ name: 'words', content: 'many words, again and again\n'.repeat(9_000) }])
let folder: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'verification-'))
})

afterEach(() => {
  jest.restoreAllMocks()
  process.env = { ...environment }
})

afterAll(async () => {
  await deflate.close()
  await rm(folder, { recursive: true })
})

const block = () => Buffer.from(Buffer.allocUnsafeSlow(100_000).fill('some words '))

test('the first block and every 64th are decompressed and compared before they are used', async () => {
  const compress = verifySample(faultyDeflate)
  const failed: number[] = []
  for (let count = 0; count < 130; count++) {
    isFaulty = [0, 1, 63, 64, 65, 128].includes(count)
    await compress(block(), 4).catch(() => failed.push(count))
  }
  expect(failed).toEqual([0, 64, 128])
})

test.each([
  ['ends early', (bytes: Buffer) => bytes.subarray(0, bytes.length >> 1)],
  ['is empty', () => Buffer.alloc(0)],
  ['continues after the block', (bytes: Buffer) => Buffer.concat([bytes, bytes])],
])('output that %s is a defect', async (_, damage) => {
  isFaulty = false
  const compress = verifySample(async (filled, level) => {
    const { compressed, block } = await faultyDeflate(filled, level)
    return { compressed: damage(compressed), block }
  })
  await expect(compress(block(), 4)).rejects.toThrow('does not decompress to its original content')
})

test('a compressor that makes a mistake fails the step as a defect, and no layer or image is uploaded', async () => {
  await mkdir(join(folder, 'bin'))
  const image = join(folder, `store/${'0'.repeat(32)}-image.tar`)
  await mkdir(dirname(image))
  await writeFile(image, makeArchive({ layers: [layer] }).bytes)
  await writeFile(join(folder, 'bin/nix'), `#!/bin/sh\nprintf '[{"drvPath":"","outputs":{"out":"%s"}}]' ${image}\n`)
  await chmod(join(folder, 'bin/nix'), 0o755)
  const server = await startRegistry()
  const runner = await prepareRunner({
    inputs: { mode: 'build', image: `${server.host}/app`, 'push-with': 'registry' },
    env: {
      PATH: `${join(folder, 'bin')}:${process.env['PATH']}`,
      ACTIONS_RUNTIME_TOKEN: '',
      ACTIONS_RESULTS_URL: '',
    },
  })
  try {
    process.env = { ...runner.env }
    let log = ''
    jest.spyOn(process.stdout, 'write').mockImplementation((text) => {
      log += String(text)
      return true
    })
    isFaulty = true
    expect(await run(process.env)).toBe(1)
    expect(log).toMatch(
      /::error::This is a bug in nix-image-action. Please report it: a block of a layer, compressed at level 4, does not decompress to its original content\. The image was not published/,
    )
    expect(server.requests.filter(({ method }) => method === 'PUT')).toEqual([])
  } finally {
    await runner.close()
    await server.close()
  }
})
