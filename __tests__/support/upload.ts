import { gzipSync } from 'node:zlib'
import { digestOf } from './digest.ts'
import { type ArchiveOptions, makeArchive } from './image.ts'

// Pushes images to a real registry without this action's code, as other builders do. Push images that share blobs one
// after another: Docker Distribution may lose a blob that is uploaded twice at the same time.

export interface UploadedManifest {
  readonly mediaType: string
  readonly digest: string
  /** In bytes. */
  readonly size: number
}

/** The image of one platform as BuildKit pushes it: an index of the image and its attestations. */
export interface AttestedImage extends UploadedManifest {
  readonly image: UploadedManifest
  readonly attestation: UploadedManifest
}

const OCI = 'application/vnd.oci.image'
const INDEX = `${OCI}.index.v1+json`

/**
 * Uploads a small image with gzip layers.
 * @param name the repository, host and path
 */
export async function uploadImage(name: string, options: ArchiveOptions = {}): Promise<UploadedManifest> {
  const { config, layers } = makeArchive(options)
  return uploadManifest(name, {
    mediaType: `${OCI}.manifest.v1+json`,
    config: await uploadBlob(name, `${OCI}.config.v1+json`, config),
    layers: await Promise.all(layers.map(({ bytes }) => uploadBlob(name, `${OCI}.layer.v1.tar+gzip`, gzipSync(bytes)))),
  })
}

export interface AttestedOptions extends ArchiveOptions {
  /**
   * The form of the attestation: older BuildKit versions push an image, newer ones an artifact that refers to its
   * subject.
   */
  readonly attestedBy?: 'image' | 'artifact'
}

/**
 * Uploads an image with its provenance by digest, as BuildKit does:
 * https://docs.docker.com/build/metadata/attestations/attestation-storage/
 */
export async function uploadAttestedImage(
  name: string,
  { attestedBy = 'image', ...options }: AttestedOptions = {},
): Promise<AttestedImage> {
  const { architecture = 'amd64', os = 'linux', variant } = options
  const image = await uploadImage(name, options)
  const attestation = await uploadAttestation(name, image, attestedBy)
  const index = await uploadManifest(name, {
    mediaType: INDEX,
    manifests: [
      { ...image, platform: { architecture, os, ...(variant !== undefined && { variant }) } },
      {
        ...attestation,
        annotations: {
          'vnd.docker.reference.digest': image.digest,
          'vnd.docker.reference.type': 'attestation-manifest',
        },
        platform: { architecture: 'unknown', os: 'unknown' },
      },
    ],
  })
  return { ...index, image, attestation }
}

const IN_TOTO = 'application/vnd.in-toto+json'
const PREDICATE = 'https://slsa.dev/provenance/v1'

async function uploadAttestation(
  name: string,
  subject: UploadedManifest,
  by: 'image' | 'artifact',
): Promise<UploadedManifest> {
  const statement = json({
    _type: 'https://in-toto.io/Statement/v0.1',
    predicateType: PREDICATE,
    subject: [{ name: 'pkg:docker/app', digest: { sha256: subject.digest.replace('sha256:', '') } }],
    predicate: { buildDefinition: {}, runDetails: {} },
  })
  const layer = await uploadBlob(name, IN_TOTO, statement)
  const layers = [{ ...layer, annotations: { 'in-toto.io/predicate-type': PREDICATE } }]
  const mediaType = `${OCI}.manifest.v1+json`
  if (by === 'artifact') {
    const artifactType = 'application/vnd.docker.attestation.manifest.v1+json'
    const config = await uploadBlob(name, 'application/vnd.oci.empty.v1+json', json({}))
    return uploadManifest(name, { mediaType, artifactType, config, layers, subject })
  }
  const config = json({
    architecture: 'unknown',
    os: 'unknown',
    config: {},
    rootfs: { type: 'layers', diff_ids: [layer.digest] },
  })
  return uploadManifest(name, { mediaType, config: await uploadBlob(name, `${OCI}.config.v1+json`, config), layers })
}

async function uploadManifest(
  name: string,
  content: { readonly mediaType: string } & Readonly<Record<string, unknown>>,
): Promise<UploadedManifest> {
  const { mediaType } = content
  const bytes = json({ schemaVersion: 2, ...content })
  const digest = digestOf(bytes)
  const headers = { 'content-type': mediaType }
  await send(urlOf(name, `manifests/${digest}`), { method: 'PUT', headers, body: bytes })
  return { mediaType, digest, size: bytes.length }
}

async function uploadBlob(name: string, mediaType: string, bytes: Buffer): Promise<UploadedManifest> {
  const digest = digestOf(bytes)
  const begun = await send(urlOf(name, 'blobs/uploads/'), { method: 'POST' })
  const place = new URL(begun.headers.get('location') ?? '', begun.url)
  place.searchParams.set('digest', digest)
  const headers = { 'content-type': 'application/octet-stream' }
  await send(place, { method: 'PUT', headers, body: bytes })
  return { mediaType, digest, size: bytes.length }
}

function urlOf(name: string, path: string): URL {
  return new URL(`http://${name.replace('/', '/v2/')}/${path}`)
}

async function send(url: URL, init: RequestInit): Promise<Response> {
  const response = await fetch(url, init)
  if (response.ok) return response
  throw new Error(`${init.method} ${url} gave ${response.status}: ${await response.text()}`)
}

function json(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value))
}
