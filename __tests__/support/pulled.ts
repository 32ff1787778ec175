import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { constants } from 'node:fs'
import { lstat, mkdtemp, readdir, readFile, readlink, writeFile } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { promisify } from 'node:util'
import { gunzipSync } from 'node:zlib'
import { digestOf } from './digest.ts'
import { unzstd } from './layer-content.ts'

const run = promisify(execFile)

/** An image as another tool has pulled it. */
export interface PulledImage {
  readonly configDigest: string
  readonly architecture: string
  readonly diffIds: readonly string[]
  /** The digests of the decompressed layers. */
  readonly unpacked: readonly string[]
  readonly mediaTypes: readonly string[]
  /** The files of all layers combined. */
  readonly files: readonly string[]
}

interface Descriptor {
  readonly mediaType: string
  readonly digest: string
}

interface Config {
  readonly architecture: string
  readonly rootfs: { readonly diff_ids: readonly string[] }
}

/**
 * Copies an image with skopeo, which verifies the digest of each blob.
 * @param parent a temporary folder, which the caller removes
 */
export async function pullWithSkopeo(reference: string, parent: string): Promise<PulledImage> {
  const folder = await mkdtemp(join(parent, 'pulled-'))
  await run('skopeo', ['copy', '--src-tls-verify=false', `docker://${reference}`, `oci:${folder}:copy`])
  const blob = (digest = '') => readFile(join(folder, 'blobs', ...digest.split(':')))
  const index: { readonly manifests: readonly Descriptor[] } = JSON.parse(
    await readFile(join(folder, 'index.json'), 'utf8'),
  )
  const manifest: { readonly config: Descriptor; readonly layers: readonly Descriptor[] } = JSON.parse(
    (await blob(index.manifests[0]?.digest)).toString(),
  )
  const { architecture, rootfs }: Config = JSON.parse((await blob(manifest.config.digest)).toString())
  const tars = await Promise.all(
    manifest.layers.map(async ({ digest, mediaType }) => {
      const bytes = await blob(digest)
      return mediaType.endsWith('zstd') ? unzstd(bytes) : gunzipSync(bytes)
    }),
  )
  return {
    configDigest: manifest.config.digest,
    architecture,
    diffIds: rootfs.diff_ids,
    unpacked: tars.map((tar) => digestOf(tar)),
    mediaTypes: manifest.layers.map(({ mediaType }) => mediaType),
    files: await filesOf(tars, parent),
  }
}

/**
 * Extracts layers on top of each other with tar: names, types, modes, and the content of files.
 * @param parent a temporary folder, which the caller removes
 */
export async function filesOf(layers: readonly Buffer[], parent: string): Promise<readonly string[]> {
  const folder = await mkdtemp(join(parent, 'files-'))
  const path = `${folder}.tar`
  for (const layer of layers) {
    await writeFile(path, layer)
    await run('tar', ['-C', folder, '-xpf', path])
  }
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  const told = entries.map(async (entry) => {
    const at = join(entry.parentPath, entry.name)
    return `${relative(folder, at)} ${await describeEntry(at)}`
  })
  return (await Promise.all(told)).sort()
}

async function describeEntry(path: string): Promise<string> {
  const { mode, nlink } = await lstat(path)
  if ((mode & constants.S_IFMT) === constants.S_IFLNK) return `→ ${await readlink(path)}`
  if ((mode & constants.S_IFMT) === constants.S_IFDIR) return `folder ${(mode & 0o7777).toString(8)}`
  const hash = createHash('sha256').update(await readFile(path))
  return `file ${(mode & 0o7777).toString(8)} ${nlink} ${hash.digest('hex')}`
}
