import { createHash } from 'node:crypto'
import { readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { writeTar } from '../../__tests__/support/image.ts'

/** A Docker archive on disk. */
export interface BenchImage {
  readonly path: string
  /** Uncompressed, in bytes. */
  readonly size: number
}

export interface SourceFile {
  readonly name: string
  readonly content: Buffer
}

/**
 * Collects files like those of an image, of a total size: programs and text from node_modules, and some incompressible
 * files. Repeats files with changes if node_modules is smaller.
 */
export async function collectFiles(folder: string, size: number): Promise<readonly SourceFile[]> {
  const paths = (await readdir(folder, { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .sort()
  const files: SourceFile[] = []
  const sizeOf = () => files.reduce((sum, { content }) => sum + content.length, 0)
  for (let round = 0; sizeOf() < size; round++) {
    files.push(...(await readRound(paths, round, size - sizeOf(), size / 8)))
    files.push({ name: `store/${round}/noise`, content: createNoise(Math.min(size / 12, 50_000_000), round) })
  }
  return files
}

async function readRound(
  paths: readonly string[],
  round: number,
  wanted: number,
  largest: number,
): Promise<readonly SourceFile[]> {
  const files: SourceFile[] = []
  let collected = 0
  for (const path of paths) {
    if (collected >= wanted) break
    if ((await stat(path)).size > largest) continue
    const content = await readFile(path)
    // Changes a few bytes, so that rounds differ.
    if (round > 0) for (let at = round; at < content.length; at += 4096) content[at] = (content[at] ?? 0) ^ round
    files.push({ name: `store/${round}/${files.length}`, content })
    collected += content.length
  }
  return files
}

/** Writes an image whose files are distributed over layers of about the same size. */
export async function writeImage(path: string, files: readonly SourceFile[], count: number): Promise<BenchImage> {
  const total = files.reduce((sum, { content }) => sum + content.length, 0)
  const layers: Buffer[] = []
  let group: SourceFile[] = []
  let size = 0
  for (const file of files) {
    group.push(file)
    size += file.content.length
    if (size < (total * (layers.length + 1)) / count) continue
    layers.push(writeTar(group))
    group = []
  }
  if (group.length > 0) layers.push(writeTar(group))
  return writeArchive(path, layers)
}

/** Writes the same image with one changed layer: the middle one has a new file. */
export async function changeOneLayer(path: string, files: readonly SourceFile[], count: number): Promise<BenchImage> {
  const middle = Math.floor(files.length / 2)
  const changed = files.toSpliced(middle, 0, { name: 'store/changed', content: Buffer.from('changed') })
  return writeImage(path, changed, count)
}

async function writeArchive(path: string, layers: readonly Buffer[]): Promise<BenchImage> {
  const diffIds = layers.map((layer) => createHash('sha256').update(layer).digest('hex'))
  const config = JSON.stringify({
    architecture: process.arch === 'arm64' ? 'arm64' : 'amd64',
    os: 'linux',
    created: '1970-01-01T00:00:01Z',
    config: { Cmd: ['/store/0/0'] },
    rootfs: { type: 'layers', diff_ids: diffIds.map((id) => `sha256:${id}`) },
  })
  const configName = `${createHash('sha256').update(config).digest('hex')}.json`
  const manifest = JSON.stringify([
    { Config: configName, RepoTags: ['bench:nix'], Layers: diffIds.map((id) => `${id}/layer.tar`) },
  ])
  const members = [
    ...layers.map((content, at) => ({ name: `${diffIds[at]}/layer.tar`, content })),
    { name: configName, content: config },
    { name: 'manifest.json', content: manifest },
  ]
  const bytes = writeTar(members)
  await writeFile(path, bytes)
  return { path, size: bytes.length }
}

/** Returns pseudo-random bytes (xorshift), the same for the same arguments. */
function createNoise(size: number, seed: number): Buffer {
  const noise = Buffer.allocUnsafe(Math.floor(size / 4) * 4)
  let state = 0x9e3779b9 ^ (seed + 1)
  for (let at = 0; at < noise.length; at += 4) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    noise.writeInt32LE(state, at)
  }
  return noise
}
