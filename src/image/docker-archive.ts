import * as v from 'valibot'
import { ImageError } from '../errors.ts'
import { readJson } from '../json.ts'
import { digestOf } from '../oci/reference.ts'
import { readImageConfig, requireDocument } from './documents.ts'
import { type Contents, damagedImage, formatNames, memberName, type SourceImage } from './source-image.ts'

/**
 * Returns the image of a docker archive, as `docker save` and Nix's dockerTools write it, from its manifest.json.
 * Source: https://github.com/moby/docker-image-spec/blob/main/v1.2.md#combined-image-json--filesystem-changeset-format
 * @throws ImageError if the archive is damaged or has several images
 */
export async function imageOfDockerArchive(contents: Contents, path: string): Promise<SourceImage> {
  const document = async (name: string, description: string) =>
    requireDocument(await followLinks(name, contents), contents, description, path)
  const archiveManifest = await document('manifest.json', 'its manifest.json')
  const manifest = parseDockerManifest(archiveManifest, path)
  const configBytes = await document(manifest.Config, `its config ${manifest.Config}`)
  const config = readImageConfig(configBytes, manifest.Config, path)
  if (manifest.Layers.length !== config.diffIds.length)
    throw damagedImage(path, `it has ${manifest.Layers.length} layers, and its config lists ${config.diffIds.length}`)
  const layerNames: string[] = []
  const missing: string[] = []
  for (const layer of manifest.Layers) {
    const name = await followLinks(layer, contents)
    layerNames.push(name)
    if ((await contents.member(name))?.type !== 'file') missing.push(layer)
  }
  if (missing.length > 0) throw damagedImage(path, `these layers are missing: ${formatNames(missing)}`)
  const names = manifest.RepoTags ?? []
  return { names, config, configDigest: digestOf(configBytes), configBytes, layerNames, archiveManifest }
}

const MANIFEST = v.array(
  v.object({
    Config: v.string(),
    RepoTags: v.nullish(v.array(v.string())),
    Layers: v.nullish(v.array(v.string()), []),
  }),
)

type ManifestEntry = v.InferOutput<typeof MANIFEST>[number] & { readonly Layers: readonly string[] }

function parseDockerManifest(bytes: Buffer, path: string): ManifestEntry {
  const read = readJson(MANIFEST, bytes)
  if (!read.ok)
    throw damagedImage(
      path,
      `its manifest.json${read.place === undefined ? '' : `, at ${read.place}`}: ${read.problem}`,
    )
  const [entry, ...more] = read.value
  if (entry === undefined) throw damagedImage(path, 'its manifest.json lists no image')
  if (more.length > 0)
    throw new ImageError({
      message: `${path} has ${more.length + 1} images, and only one can be pushed`,
      detail: read.value.map(({ RepoTags, Config }) => (RepoTags ?? []).join(', ') || Config).join('\n'),
      hint: 'Build each image by its own attribute (dockerTools.mergeImages joins several into one file).',
    })
  return { ...entry, Layers: entry.Layers ?? [] }
}

/** Follows up to 16 links inside the archive. */
async function followLinks(name: string, contents: Contents): Promise<string> {
  let at = memberName(name)
  for (let hops = 0; hops < 16; hops++) {
    const member = await contents.member(at)
    if (member?.type !== 'hard-link' && member?.type !== 'symbolic-link') return at
    at = member.target
  }
  return at
}
