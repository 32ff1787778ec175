import { cp, mkdtemp, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Lab } from './lab.ts'

const EXAMPLE = fileURLToPath(new URL('../../examples/layered', import.meta.url))

/**
 * Creates a flake with images like examples/layered.
 * @param packages a Nix expression for the packages of x86_64-linux. `image` is the function of image.nix for this
 * system. `complete` removes the attributes that name the description: the image is then built in full.
 * @returns the new folder
 */
export async function layeredFlake(lab: Lab, packages: string): Promise<string> {
  const folder = await mkdtemp(join(lab.folder, 'layered-'))
  await cp(EXAMPLE, folder, { recursive: true })
  const flake = `{
  outputs = _: let
    image = arguments: import ./image.nix ({ system = "x86_64-linux"; architecture = "amd64"; } // arguments);
    complete = image: removeAttrs image [ "stream" "conf" ];
    run = name: command: derivation {
      inherit name; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/usr/bin:/bin"; args = [ "-euc" command ];
    };
  in { packages.x86_64-linux = ${packages}; };
}
`
  await writeFile(join(folder, 'flake.nix'), flake)
  return folder
}

/** Returns the store path that has this name. */
export async function storePathNamed(lab: Lab, name: string): Promise<string> {
  const folder = lab.nix.NIX_STORE_DIR ?? ''
  const found = (await readdir(folder)).filter((entry) => entry.slice(33) === name)
  if (found.length !== 1) throw new Error(`The store has ${found.length} paths with the name ${name}`)
  return join(folder, found[0] ?? '')
}

const RECIPE = 'io.github.nix-image-action.layer-recipe'

interface Descriptor {
  readonly digest: string
  readonly size: number
  readonly mediaType: string
  readonly annotations?: Readonly<Record<string, string>>
}

/** A manifest whose layers have no recipes. */
export interface ReadManifest {
  readonly config: Descriptor
  readonly layers: readonly Descriptor[]
  readonly annotations?: Readonly<Record<string, string>>
}

export interface ReadImage {
  readonly manifest: ReadManifest
  /** One per layer, undefined for a layer without one. */
  readonly recipes: readonly (string | undefined)[]
  /** The config, as text. */
  readonly config: string
}

/**
 * Reads an image from a registry.
 * @param reference with a digest
 */
export async function readPushed(reference = ''): Promise<ReadImage> {
  const [, host, repository, digest] = /^([^/]+)\/([^@]+)@(.+)$/.exec(reference) ?? []
  const read = async (path: string): Promise<string> => {
    const accept = 'application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json'
    const answer = await fetch(`http://${host}/v2/${repository}/${path}`, { headers: { accept } })
    if (!answer.ok) throw new Error(`${host} answers ${answer.status} for ${path} of ${repository}`)
    return answer.text()
  }
  const manifest: ReadManifest = JSON.parse(await read(`manifests/${digest}`))
  const layers = manifest.layers.map(({ annotations = {}, ...layer }) => {
    const { [RECIPE]: _, ...others } = annotations
    return Object.keys(others).length === 0 ? layer : { ...layer, annotations: others }
  })
  return {
    manifest: { ...manifest, layers },
    recipes: manifest.layers.map(({ annotations }) => annotations?.[RECIPE]),
    config: await read(`blobs/${manifest.config.digest}`),
  }
}
