// Compares the compressor of wasm/ with zlib on one thread: CPU time and size, medians of interleaved runs.
//
//   node scripts/bench/deflate.ts          100 MB, 5 runs
//   node scripts/bench/deflate.ts 50 3     50 MB, 3 runs
import { fileURLToPath } from 'node:url'
import { constants, deflateRawSync } from 'node:zlib'
import { createDeflater } from '../../__tests__/support/deflater.ts'
import { BLOCK_LIMIT } from '../../src/compress/deflate-pool.ts'
import { collectFiles } from './images.ts'
import { median } from './measure.ts'

const [megabytes = '100', runs = '5'] = process.argv.slice(2)
const files = await collectFiles(
  fileURLToPath(new URL('../../node_modules', import.meta.url)),
  Number(megabytes) * 1_000_000,
)
// Blocks that do not compress are stored, whichever compressor is used.
const content = Buffer.concat(files.filter(({ name }) => !name.endsWith('/noise')).map((file) => file.content))
const blocks = Array.from({ length: Math.ceil(content.length / BLOCK_LIMIT) }, (_, at) =>
  content.subarray(at * BLOCK_LIMIT, (at + 1) * BLOCK_LIMIT),
)

const options = { finishFlush: constants.Z_SYNC_FLUSH, chunkSize: BLOCK_LIMIT }
const own = createDeflater()
const zlib = (block: Buffer, level: number) => deflateRawSync(block, { ...options, level })

console.log(`${(content.length / 1e6).toFixed(0)} MB, medians of ${runs} runs\n`)
console.log('| level | MB/s | zlib | speed | MB | zlib | size |\n|---|---|---|---|---|---|---|')
for (const level of [1, 2, 3, 4]) {
  const [ours, theirs]: [Result[], Result[]] = [[], []]
  for (let count = 0; count < Number(runs); count++) {
    ours.push(measureBlocks(own, level))
    theirs.push(measureBlocks(zlib, level))
  }
  const [speed, zlibSpeed] = [ours, theirs].map(
    (all) => content.length / 1e6 / median(all.map(({ seconds }) => seconds)),
  ) as [number, number]
  const [size, zlibSize] = [(ours[0]?.size ?? 0) / 1e6, (theirs[0]?.size ?? 0) / 1e6]
  const cells = [speed.toFixed(0), zlibSpeed.toFixed(0), `${(speed / zlibSpeed).toFixed(2)} ×`]
  const sizes = [size.toFixed(1), zlibSize.toFixed(1), `${(size / zlibSize).toFixed(3)} ×`]
  console.log(`| ${[level, ...cells, ...sizes].join(' | ')} |`)
}

interface Result {
  /** CPU time. */
  readonly seconds: number
  /** In bytes. */
  readonly size: number
}

function measureBlocks(compress: (block: Buffer, level: number) => Uint8Array, level: number): Result {
  const started = process.cpuUsage()
  const size = blocks.reduce((sum, block) => sum + compress(block, level).length, 0)
  const { user, system } = process.cpuUsage(started)
  return { seconds: (user + system) / 1e6, size }
}
