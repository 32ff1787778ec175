import { beforeEach, expect, test } from '@jest/globals'
import { indexAt, mergeWith, openRegistry, type PushDetails, push, records, refusalOf } from '../support/merging.ts'
import type { TestRegistry } from '../support/registry.ts'
import { seedAttestation, seedIndex } from '../support/seed.ts'

// The index repeats the store paths in its images' manifests, so that a later build can skip an unchanged image.

const KEY = 'io.github.nix-image-action.store-path'
const LABELS = 'io.github.nix-image-action.labels'
const COMPRESSION = 'io.github.nix-image-action.compression'
const storePath = `/nix/store/${'1'.repeat(32)}-image.tar.gz`

let registry: TestRegistry
beforeEach(async () => {
  registry = await openRegistry()
})

/** Returns the annotations of the images' entries, for an image whose manifest has these annotations. */
async function annotationsOf(details: PushDetails = {}, annotations = ''): Promise<readonly unknown[]> {
  const images = await push(registry, 'app', ['x86_64-linux'], details)
  await mergeWith(registry, { digests: records(images), tags: 'latest', annotations })
  return indexAt(registry, 'latest').manifests.map((entry) => entry.annotations)
}

type Claim = readonly [string, Readonly<Record<string, unknown>>, Readonly<Record<string, string>>]
const CLAIMS: readonly Claim[] = [
  ['its store path', { labels: [], storePath }, { [KEY]: storePath }],
  ['the keys of its labels', { labels: ['b', 'a"\n'], storePath }, { [KEY]: storePath, [LABELS]: '["a\\"\\n","b"]' }],
  ['its compression', { labels: [], compression: 'gzip', storePath }, { [KEY]: storePath, [COMPRESSION]: 'gzip' }],
]

test.each(CLAIMS)('the index lists an image with %s from its manifest', async (_, record, annotations) => {
  expect(await annotationsOf({ record, annotations: { ...annotations, 'org.example': 'x' } })).toEqual([annotations])
})

test.each(CLAIMS.map(([message, record]) => [message, record] as const))(
  'the index does not list an image with %s if only its record has it',
  async (_, record) => {
    expect(await annotationsOf({ record })).toEqual([undefined])
  },
)

test('the index lists an image with its store path even if the record does not have it', async () => {
  expect(await annotationsOf({ annotations: { [KEY]: storePath } })).toEqual([{ [KEY]: storePath }])
})

test('the index says of an image that was given by a bare digest that its SBOM is unknown', async () => {
  const [{ image }] = await push(registry, 'app', ['x86_64-linux'], { annotations: { [KEY]: storePath } })
  await mergeWith(registry, { digests: image.digest, tags: 'latest' })
  expect(indexAt(registry, 'latest').manifests.map((entry) => entry.annotations)).toEqual([
    { [KEY]: storePath, 'io.github.nix-image-action.sbom': 'unknown' },
  ])
})

test('an invalid store path in a manifest is not listed', async () => {
  expect(await annotationsOf({ annotations: { [KEY]: '/nix/store/image.tar.gz' } })).toEqual([undefined])
})

const other = storePath.replace('1', '2')
test.each([
  ['store path', { labels: [], storePath: other }, other],
  ['list of labels', { labels: ['a'], storePath }, `${storePath}, labels a`],
  ['compression', { labels: [], compression: 'zstd', storePath }, `${storePath}, compression zstd`],
])('a record whose %s differs from the manifest is refused', async (_, record, said) => {
  const images = await push(registry, 'app', ['x86_64-linux'], { record, annotations: { [KEY]: storePath } })
  const refusal = await refusalOf(registry, { digests: records(images), tags: 'latest' })
  expect(refusal).toBe(
    `${registry.host}/app@${images[0].image.digest} does not match its record
  line 1 of \`digests\` says that it was built from ${said}
  but its manifest says ${storePath}
Nothing was published. Run the build of this system again.`,
  )
})

test('the store path is listed with the annotations of users, which can’t change it', async () => {
  const given = `manifest-descriptor:org.example.speed=fast\nmanifest-descriptor:${KEY}=/nix/store/other`
  const annotations = { [KEY]: storePath }
  expect(await annotationsOf({ annotations }, given)).toEqual([{ ...annotations, 'org.example.speed': 'fast' }])
  expect(await annotationsOf({}, given)).toEqual([{ 'org.example.speed': 'fast' }])
})

test('an attestation is listed without a store path', async () => {
  const [{ image, entry }] = await push(registry, 'app', ['x86_64-linux'], { annotations: { [KEY]: storePath } })
  const digest = seedIndex(registry, 'app', [entry, await seedAttestation(registry, 'app', image)])
  await mergeWith(registry, { digests: digest, tags: 'latest' })
  const [own, attestation, ...more] = indexAt(registry, 'latest').manifests
  expect(more).toEqual([])
  expect(own?.annotations).toEqual({ [KEY]: storePath })
  expect(attestation?.annotations).not.toHaveProperty(KEY)
})

test('a store path that only an existing index names is not listed', async () => {
  const [{ entry }] = await push(registry, 'app', ['x86_64-linux'])
  const digest = seedIndex(registry, 'app', [{ ...entry, annotations: { [KEY]: storePath } }])
  await mergeWith(registry, { digests: digest, tags: 'latest' })
  expect(indexAt(registry, 'latest').manifests.map(({ annotations }) => annotations)).toEqual([undefined])
})

test('annotations of a Docker manifest are ignored', async () => {
  const [{ image }] = await push(registry, 'app', ['x86_64-linux'], { annotations: { [KEY]: storePath } })
  const type = 'application/vnd.docker.distribution.manifest.v2+json'
  const document = JSON.parse(String(registry.manifest('app', image.digest)?.bytes))
  const bytes = Buffer.from(JSON.stringify({ ...document, mediaType: type }))
  await mergeWith(registry, { digests: registry.seedManifest('app', bytes, type), tags: 'latest' })
  expect(indexAt(registry, 'latest').manifests.map(({ annotations }) => annotations)).toEqual([undefined])
})
