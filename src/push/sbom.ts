import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { readStatement } from '../cache/published-sbom.ts'
import { diskFailure } from '../fs/disk.ts'
import type { ImageSource } from '../image/source.ts'
import type { Log } from '../log.ts'
import { EMPTY_CONFIG, OCI_MANIFEST } from '../oci/manifest.ts'
import type { Platform } from '../oci/platform.ts'
import { type Digest, formatRepository, type Repository } from '../oci/reference.ts'
import { settleAll } from '../promises.ts'
import { blobOf } from '../registry/blobs.ts'
import { putBlobEverywhere } from '../registry/copy.ts'
import type { ImageManifest, PublishedImage } from '../registry/image.ts'
import type { Registry } from '../registry/registry.ts'
import { documentIn, renameDocument, type SbomAttestation, sbomAttestation } from '../sbom/attestation.ts'
import { modulesOfSameContent, type PublishedContent } from '../sbom/published.ts'
import { scanModules, startProgramScan } from '../sbom/scan.ts'
import { spdxDocument } from '../sbom/spdx.ts'
import { readStoreInfo, type StoreAccess } from '../sbom/store-info.ts'
import type { ProgramObserver } from '../sbom/store-paths.ts'
import { completeLayers, type ImageContent, readStorePaths, withPublishedHashes } from './content.ts'

/** An image with its SBOM. */
export interface PublishedSbom {
  /** Of the attestation's manifest. */
  readonly digest: Digest
  /** The file with the SPDX document. */
  readonly path: string
}

/** The SBOM of an image that is being pushed. */
export interface PendingSbom {
  /** Receives the programs in the layers that are read, and starts to search them for modules. */
  readonly onProgram: ProgramObserver
  /**
   * Attaches the SBOM to the image in all repositories, by digest only, and writes it to a file.
   * @param images the same image in each repository
   * @returns undefined if the image has no store paths, or they are not all known
   * @throws RegistryError, DiskError
   */
  attach(contents: ImageContent, images: readonly ImageManifest[]): Promise<PublishedSbom | undefined>
}

/** The image that an SBOM is for. */
export interface SbomSettings {
  readonly platform: Platform
  /** The content of published images, which may contain the same store paths. */
  readonly published: Promise<readonly PublishedContent[]> | readonly PublishedContent[]
  readonly tempFolder: string
  /** How to reach the local Nix store. By default, it is where its name says. */
  readonly setup?: StoreAccess
}

/**
 * Starts to collect what the SBOM of an image says about its store paths, while the image is pushed: facts from Nix, and
 * the modules of their programs. Store paths that are not read for the push are searched for modules after it, unless a
 * published SBOM lists them.
 */
export function startSbom(
  { layered }: ImageSource,
  { platform, published, tempFolder, setup }: SbomSettings,
  registry: Registry,
  log: Log,
): PendingSbom {
  const known = new Set(layered?.layers.flatMap(({ storePaths = [] }) => storePaths))
  const readingFacts = readStoreInfo([...known], log, setup)
  readingFacts.catch(() => undefined)
  const programs = startProgramScan(setup?.store)
  return {
    onProgram: programs.add,
    async attach({ created, layers: pushed }, images) {
      const contents = await published
      const layers = completeLayers(pushed, contents)
      const paths = [...new Set(layers?.flatMap(({ storePaths }) => storePaths))]
      const [first] = images
      if (layers === undefined || paths.length === 0 || first === undefined) {
        log.info(`No SBOM: ${layers ? 'the image contains no store paths' : NOT_ALL_KNOWN}`)
        return undefined
      }
      const more = paths.filter((path) => !known.has(path))
      const facts = [...(await readingFacts), ...(await readStoreInfo(more, log, setup))]
      const storePaths = withPublishedHashes(facts, pushed, contents)
      const same = modulesOfSameContent(contents, storePaths)
      const read = readStorePaths(pushed, layers)
      const unread = paths.filter((path) => !read.has(path) && !same.has(path))
      const seen = (await programs.found()).filter(({ path }) => read.has(path) && !same.has(path))
      const modules = [...same.values(), ...seen, ...(await scanModules(unread, log, setup?.store))]
      const name = formatRepository(first.repository)
      const image = { name, digest: first.digest, created }
      const document = spdxDocument({ image, platform, layers, storePaths, modules })
      const repositories = images.map(({ repository }) => repository)
      return attachSbom(registry, first, repositories, document, tempFolder)
    },
  }
}

const NOT_ALL_KNOWN = 'the store paths of layers that were reused are unknown. Set `reuse-from: ""` once to read them'

/**
 * Returns the SBOM of a published image for the image that replaces it, which has the same content and perhaps other
 * labels. Attaches it if the digest differs.
 * @returns undefined if the image has no SBOM by this action
 * @throws RegistryError, DiskError
 */
export async function keepSbom(
  registry: Registry,
  published: PublishedImage,
  image: ImageManifest,
  repositories: readonly Repository[],
  tempFolder: string,
): Promise<PublishedSbom | undefined> {
  for (const { manifest } of published.attestations) {
    const statement = await readStatement(registry, published.repository, manifest.bytes, published.digest)
    const document = statement && documentIn(statement)
    if (document === undefined) continue
    if (image.digest === published.digest)
      return { digest: manifest.digest, path: await writeDocument(document, image.digest, tempFolder) }
    const renamed = renameDocument(document, published.digest, image.digest)
    return attachSbom(registry, image, repositories, renamed, tempFolder)
  }
  return undefined
}

async function attachSbom(
  registry: Registry,
  { repository, mediaType, digest, size }: ImageManifest,
  repositories: readonly Repository[],
  document: Buffer,
  tempFolder: string,
): Promise<PublishedSbom> {
  const subject = { name: formatRepository(repository), mediaType, digest, size }
  const attestation = sbomAttestation(subject, document)
  const [path] = await settleAll([
    writeDocument(document, digest, tempFolder),
    putAttestation(registry, repositories, attestation).then(() => ''),
  ])
  return { digest: attestation.digest, path: path ?? '' }
}

async function putAttestation(
  registry: Registry,
  repositories: readonly Repository[],
  { statement, manifest, digest }: SbomAttestation,
): Promise<void> {
  await settleAll([EMPTY_CONFIG, statement].map((bytes) => putBlobEverywhere(registry, repositories, blobOf(bytes))))
  await settleAll(repositories.map((repository) => registry.putManifest(repository, digest, OCI_MANIFEST, manifest)))
}

async function writeDocument(document: Buffer, image: Digest, tempFolder: string): Promise<string> {
  const path = join(tempFolder, `sbom-${image.slice('sha256:'.length, 'sha256:'.length + 12)}.spdx.json`)
  try {
    await writeFile(path, document)
  } catch (error) {
    throw await diskFailure(`Can't write the SBOM to ${path}`, tempFolder, error)
  }
  return path
}
