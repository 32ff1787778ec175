import { beforeEach, expect, test } from '@jest/globals'
import { indexAt, mergeWith, openRegistry, type PushDetails, push, records, refusalOf } from '../support/merging.ts'
import type { TestRegistry } from '../support/registry.ts'
import { seedAttestation, seedIndex } from '../support/seed.ts'

// The index repeats what the manifests of its images say they were built from, which a later build looks at first.

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

test.each(CLAIMS)('an image is listed with %s, as its manifest has it', async (_, record, annotations) => {
  expect(await annotationsOf({ record, annotations: { ...annotations, 'org.example': 'x' } })).toEqual([annotations])
})

test.each(CLAIMS.map(([message, record]) => [message, record] as const))(
  'a record is not believed: what it alone says of %s is not published',
  async (_, record) => {
    expect(await annotationsOf({ record })).toEqual([undefined])
  },
)

test('what the manifest says is published, even if the record does not say it', async () => {
  expect(await annotationsOf({ annotations: { [KEY]: storePath } })).toEqual([{ [KEY]: storePath }])
})

test('a manifest that names no store path is listed without', async () => {
  expect(await annotationsOf({ annotations: { [KEY]: '/nix/store/image.tar.gz' } })).toEqual([undefined])
})

const other = storePath.replace('1', '2')
test.each([
  ['store path', { labels: [], storePath: other }, other],
  ['labels', { labels: ['a'], storePath }, `${storePath}, labels a`],
  ['compression', { labels: [], compression: 'zstd', storePath }, `${storePath}, compression zstd`],
])('a record that says another %s than the manifest is refused', async (_, record, said) => {
  const images = await push(registry, 'app', ['x86_64-linux'], { record, annotations: { [KEY]: storePath } })
  const refusal = await refusalOf(registry, { digests: records(images), tags: 'latest' })
  expect(refusal).toBe(
    `${registry.host}/app@${images[0].image.digest} does not match its record
  line 1 of \`digests\` says that it was built from ${said}
  but its manifest says ${storePath}
Nothing was published. Run the build of this system again.`,
  )
})

test('it is listed beside the annotations of users, who can’t say another', async () => {
  const given = `manifest-descriptor:org.example.speed=fast\nmanifest-descriptor:${KEY}=/nix/store/other`
  const annotations = { [KEY]: storePath }
  expect(await annotationsOf({ annotations }, given)).toEqual([{ ...annotations, 'org.example.speed': 'fast' }])
  expect(await annotationsOf({}, given)).toEqual([{ 'org.example.speed': 'fast' }])
})

test('what is attested about an image has none', async () => {
  const [{ image, entry }] = await push(registry, 'app', ['x86_64-linux'], { annotations: { [KEY]: storePath } })
  const digest = seedIndex(registry, 'app', [entry, await seedAttestation(registry, 'app', image)])
  await mergeWith(registry, { digests: digest, tags: 'latest' })
  const [own, attestation, ...more] = indexAt(registry, 'latest').manifests
  expect(more).toEqual([])
  expect(own?.annotations).toEqual({ [KEY]: storePath })
  expect(attestation?.annotations).not.toHaveProperty(KEY)
})

test('what an index around the image claims is not believed', async () => {
  const [{ entry }] = await push(registry, 'app', ['x86_64-linux'])
  const digest = seedIndex(registry, 'app', [{ ...entry, annotations: { [KEY]: storePath } }])
  await mergeWith(registry, { digests: digest, tags: 'latest' })
  expect(indexAt(registry, 'latest').manifests.map(({ annotations }) => annotations)).toEqual([undefined])
})

test('a manifest of Docker’s type has no annotations, whatever it says', async () => {
  const [{ image }] = await push(registry, 'app', ['x86_64-linux'], { annotations: { [KEY]: storePath } })
  const type = 'application/vnd.docker.distribution.manifest.v2+json'
  const document = JSON.parse(String(registry.manifest('app', image.digest)?.bytes))
  const bytes = Buffer.from(JSON.stringify({ ...document, mediaType: type }))
  await mergeWith(registry, { digests: registry.seedManifest('app', bytes, type), tags: 'latest' })
  expect(indexAt(registry, 'latest').manifests.map(({ annotations }) => annotations)).toEqual([undefined])
})
