import * as v from 'valibot'
import { readJson } from '../json.ts'
import { digestOf } from '../oci/digest.ts'
import { readConfig } from './config.ts'
import { documentCalled } from './documents.ts'
import { ImageError } from './image-error.ts'
import { type Contents, damaged, listOf, memberName, type SourceImage } from './source-image.ts'

/**
 * The image of an archive as `docker save` and Nix's dockerTools write it, by its manifest.json.
 * Source: https://github.com/moby/docker-image-spec/blob/main/v1.2.md#combined-image-json--filesystem-changeset-format
 * @throws ImageError where it is damaged, or more than one
 */
export async function imageOfDockerArchive(contents: Contents, path: string): Promise<SourceImage> {
  const document = async (name: string, message: string) =>
    documentCalled(await resolve(name, contents), contents, message, path)
  const manifest = parseManifest(await document('manifest.json', 'its manifest.json'), path)
  const config = await document(manifest.Config, `its config ${manifest.Config}`)
  const image = readConfig(config, manifest.Config, path)
  if (manifest.Layers.length !== image.diffIds.length)
    throw damaged(path, `it has ${manifest.Layers.length} layers, and its config lists ${image.diffIds.length}`)
  const layers: string[] = []
  const missing: string[] = []
  for (const layer of manifest.Layers) {
    const name = await resolve(layer, contents)
    layers.push(name)
    if ((await contents.member(name))?.type !== 'file') missing.push(layer)
  }
  if (missing.length > 0) throw damaged(path, `these layers are missing: ${listOf(missing)}`)
  return {
    names: manifest.RepoTags ?? [],
    config: image,
    configDigest: digestOf(config),
    configBytes: config,
    layers: layers.map((name) => ({ name })),
  }
}

const MANIFEST = v.array(
  v.object({
    Config: v.string(),
    RepoTags: v.nullish(v.array(v.string())),
    Layers: v.nullish(v.array(v.string()), []),
  }),
)

type ManifestEntry = v.InferOutput<typeof MANIFEST>[number] & { readonly Layers: readonly string[] }

function parseManifest(bytes: Buffer, path: string): ManifestEntry {
  const read = readJson(MANIFEST, bytes)
  if (!read.ok)
    throw damaged(path, `its manifest.json${read.place === undefined ? '' : `, at ${read.place}`}: ${read.problem}`)
  const [entry, ...more] = read.value
  if (entry === undefined) throw damaged(path, 'its manifest.json lists no image')
  if (more.length > 0)
    throw new ImageError({
      message: `${path} holds ${more.length + 1} images, and only one can be pushed`,
      detail: read.value.map(({ RepoTags, Config }) => (RepoTags ?? []).join(', ') || Config).join('\n'),
      hint: 'Build each of them by its own attribute (dockerTools.mergeImages joins several into one file).',
    })
  return { ...entry, Layers: entry.Layers ?? [] }
}

/** Follows links inside the archive, as far as they lead. */
async function resolve(name: string, contents: Contents): Promise<string> {
  let at = memberName(name)
  for (let hops = 0; hops < 16; hops++) {
    const member = await contents.member(at)
    if (member?.type !== 'hard-link' && member?.type !== 'symbolic-link') return at
    at = member.target
  }
  return at
}
