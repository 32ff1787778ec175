import { expect, test } from '@jest/globals'
import { compareBuilt, findComparable, type ImageChanges } from '../../src/changes/image-changes.ts'
import { namesAllStorePaths, storePathsIn } from '../../src/image/layered-config.ts'
import { parseConfig } from '../../src/oci/manifest.ts'
import { type Client, open, start } from '../registry/connect.ts'
import { type SeedDetails, seedImage, seedIndex } from '../support/seed.ts'

const AMD64 = { os: 'linux', architecture: 'amd64' }
const ARM64 = { os: 'linux', architecture: 'arm64' }

function path(name: string): string {
  return `/nix/store/${'0'.repeat(32)}-${name}`
}

/** Returns the config of an image with this history. */
function configOf(history: readonly object[] | undefined) {
  const config = { os: 'linux', architecture: 'amd64', rootfs: { type: 'layers', diff_ids: [] }, history }
  return parseConfig(Buffer.from(JSON.stringify(config)), 'the config')
}

const BUILT = configOf([
  { comment: `store paths: ['${path('glibc-2.40-66')}', '${path('glibc-2.40-66-bin')}']` },
  { comment: `store paths: ['${path('app-customisation-layer')}']` },
])

/** Compares the build with these tags of `app`. */
async function compareWith(
  client: Client,
  tags: readonly string[],
  platform = AMD64,
): Promise<ImageChanges | undefined> {
  const log = { info: (line: string) => void lines.push(line), warning: () => undefined, debug: () => undefined }
  const lines = client.lines as string[]
  const references = tags.map((tag) => ({ repository: client.repository, tag }))
  const found = await findComparable(client, references, platform, log)
  return found && compareBuilt(found, { system: 'x86_64-linux', platform, config: BUILT }, log)
}

/** Opens a registry with an index of an arm64 image and this amd64 image under `latest`. */
async function publish(details: SeedDetails): Promise<Client> {
  const server = await start()
  const entries = [
    { ...(await seedImage(server, 'app', ARM64)), platform: ARM64 },
    { ...(await seedImage(server, 'app', AMD64, 'old', details)), platform: AMD64 },
  ]
  seedIndex(server, 'app', entries, 'latest')
  const [old] = entries
  if (old !== undefined) server.seedTag('app', 'arm', old.digest)
  return open(server.host)
}

test('a build is compared with its platform’s image of the first tag that exists', async () => {
  const client = await publish({ storePaths: [path('glibc-2.40-36')] })
  expect(await compareWith(client, ['none', 'latest'])).toEqual({
    against: { repository: client.repository, tag: 'latest' },
    platforms: [
      {
        system: 'x86_64-linux',
        platform: AMD64,
        packages: { added: [], removed: [], updated: [{ name: 'glibc', from: '2.40-36', to: '2.40-66' }], rebuilt: 0 },
      },
    ],
  })
  expect(client.lines).toEqual([])
})

test('a tag without an image for the platform is skipped', async () => {
  const client = await publish({ storePaths: [path('glibc-2.40-36')] })
  expect(await compareWith(client, ['arm', 'latest'])).toMatchObject({ against: { tag: 'latest' } })
  expect(await compareWith(client, ['arm'])).toBeUndefined()
})

test('without a published image, there is nothing to compare with', async () => {
  const client = open((await start()).host)
  expect(await compareWith(client, ['latest'])).toBeUndefined()
  expect(await compareWith(client, [])).toBeUndefined()
})

test('a registry that refuses to be read is one line in the log', async () => {
  const server = await start({ auth: { kind: 'basic', user: 'octocat', password: 'secret' } })
  const client = open(server.host)
  expect(await compareWith(client, ['latest'])).toBeUndefined()
  expect(client.lines).toEqual([
    expect.stringMatching(/^Can't compare the image with .*\/app:latest: .*authentication required/),
  ])
})

test('a published image that does not name its store paths is one line in the log', async () => {
  const client = await publish({})
  expect(await compareWith(client, ['latest'])).toMatchObject({ platforms: [] })
  expect(client.lines).toEqual([
    `Can't compare the packages for linux/amd64: the config of ${client.repository.host}/app:latest names no store paths`,
  ])
})

test('the store paths are those that dockerTools names, without the files of the root folder', () => {
  expect(storePathsIn(BUILT)).toEqual([path('glibc-2.40-66'), path('glibc-2.40-66-bin')])
  // Below them are the layers of a base image.
  const based = [{ comment: "store paths: ['abc/layer.tar']" }, { comment: `store paths: ['${path('a-1')}']` }]
  expect(storePathsIn(configOf(based))).toEqual([path('a-1')])
  // Images of nix2container, of Docker, and without a history.
  expect(storePathsIn(configOf([{ created_by: 'nix2container' }, {}]))).toBeUndefined()
  expect(storePathsIn(configOf([{ created_by: 'RUN true', comment: 'buildkit.dockerfile.v0' }]))).toBeUndefined()
  expect(storePathsIn(configOf(undefined))).toBeUndefined()
})

test('a build can rely on the config for all store paths only if each layer names its own', () => {
  const diffIds = [`sha256:${'1'.repeat(64)}`, `sha256:${'2'.repeat(64)}`] as const
  const named = `store paths: ['${path('a-1')}']`
  const rootLayer = `store paths: ['${path('app-customisation-layer')}']`
  const names = (...comments: readonly (string | undefined)[]) => namesAllStorePaths({ comments, diffIds })
  expect(names(named, rootLayer)).toBe(true)
  expect(names(named, 'store paths: []')).toBe(true)
  for (const [one, other] of [
    [undefined, named],
    ['a layer of a base image', named],
    [rootLayer, 'store paths: []'],
  ])
    expect(names(one, other)).toBe(false)
  expect(names(named)).toBe(false)
  expect(names()).toBe(false)
})
