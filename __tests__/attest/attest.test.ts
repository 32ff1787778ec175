import { beforeEach, describe, expect, test } from '@jest/globals'
import type { Claims } from '../../src/attest/identity.ts'
import { digestOf } from '../support/digest.ts'
import type { GitHost } from '../support/git-host.ts'
import { ALL_SYSTEMS, openRegistry } from '../support/merging.ts'
import type { TestRegistry } from '../support/registry.ts'
import { CLAIMS, identityToken, REQUEST_TOKEN, type Sigstore, SUBJECT } from '../support/sigstore.ts'
import {
  attestWith,
  holdWaves,
  lines,
  notices,
  openSigstore,
  openStore,
  publish,
  referrersOf,
  refusalOf,
  secrets,
} from './attesting.ts'

const BUNDLE = 'application/vnd.dev.sigstore.bundle.v0.3+json'
const PREDICATE_TYPE = 'dev.sigstore.bundle.predicateType'
const PROVENANCE = 'https://slsa.dev/provenance/v1'
const [WORKFLOW] = CLAIMS.job_workflow_ref.split('@')

let sigstore: Sigstore
let git: GitHost

beforeEach(async () => {
  sigstore = await openSigstore()
  git = await openStore()
})

describe.each([
  ['a registry that lists referrers', true],
  ['a registry that does not list referrers', false],
])('in %s', (_, referrers) => {
  let registry: TestRegistry

  beforeEach(async () => {
    registry = await openRegistry({ referrers })
  })

  test('the index and each image get the same attestation, signed once', async () => {
    const published = await publish([registry])
    const { digest, url } = await attestWith({ registries: [registry], published, sigstore, git })
    expect(url).toBe('https://github.com/Owner/App/attestations/1')
    const subjects = [published.digest, ...published.images.map(({ image }) => image.digest)]
    const bundles = new Set<string>()
    for (const subject of subjects) {
      const entries = await referrersOf(registry, subject)
      const [{ digest: attestation = '', ...entry } = {}] = entries
      expect(entries).toHaveLength(1)
      expect(entry).toMatchObject({
        artifactType: BUNDLE,
        annotations: { [PREDICATE_TYPE]: PROVENANCE },
      })
      const manifest = JSON.parse(String(registry.manifest('app', attestation)?.bytes))
      const bundle = await registry.blob('app', manifest.layers[0].digest)
      bundles.add(String(bundle))
      expect(manifest).toEqual({
        schemaVersion: 2,
        mediaType: 'application/vnd.oci.image.manifest.v1+json',
        artifactType: BUNDLE,
        config: { mediaType: 'application/vnd.oci.empty.v1+json', digest: digestOf('{}'), size: 2, data: 'e30=' },
        layers: [{ mediaType: BUNDLE, digest: digestOf(bundle ?? ''), size: bundle?.length }],
        subject: {
          mediaType: registry.manifest('app', subject)?.mediaType,
          digest: subject,
          size: registry.manifest('app', subject)?.bytes.length,
        },
        annotations: {
          'dev.sigstore.bundle.content': 'dsse-envelope',
          [PREDICATE_TYPE]: PROVENANCE,
        },
      })
    }
    expect((await referrersOf(registry, published.digest))[0]?.digest).toBe(digest)
    const [bundle = ''] = bundles
    expect(bundles.size).toBe(1)
    expect(git.bundles).toEqual([bundle])
    const signer = sigstore.verify(Buffer.from(bundle), 'public')
    expect(signer.identity?.subjectAlternativeName).toBe(SUBJECT)
    const statement = JSON.parse(Buffer.from(JSON.parse(bundle).dsseEnvelope.payload, 'base64').toString())
    expect(statement.subject).toEqual(
      subjects.map((one) => ({ name: `${registry.host}/app`, digest: { sha256: one.slice(7) } })),
    )
    expect(sigstore.requests.map(({ service }) => service)).toEqual(['identity', 'fulcio', 'rekor'])
    expect(lines.join('\n')).toContain(`Attested ${registry.host}/app@${published.digest} and its 2 images`)
  })

  test('a repeated run attests nothing twice', async () => {
    const published = await publish([registry])
    const call = { registries: [registry], published, sigstore, git }
    const first = await attestWith(call)
    const before = new Map(registry.tags('app'))
    const count = registry.requests.length
    expect(await attestWith(call)).toEqual({ digest: first.digest })
    expect(signatures()).toBe(1)
    expect(git.bundles).toHaveLength(1)
    expect(registry.tags('app')).toEqual(before)
    expect(registry.requests.slice(count).filter(({ method }) => method !== 'GET' && method !== 'HEAD')).toEqual([])
    expect(lines.at(-1)).toContain('already attested')
  })

  test('a new index and all of its images get the same attestation, also an image that has another one', async () => {
    const one = await publish([registry], ['x86_64-linux'])
    await attestWith({ registries: [registry], published: one, sigstore, git })
    const published = await publish([registry])
    await attestWith({ registries: [registry], published, sigstore, git })
    expect(await bundlesOf(registry, published.digest)).toEqual(git.bundles.slice(1))
    const [unchanged, added] = published.images.map(({ image }) => image.digest)
    expect(await bundlesOf(registry, unchanged)).toEqual(git.bundles)
    expect(await bundlesOf(registry, added)).toEqual(git.bundles.slice(1))
  })

  test.each<[string, Partial<Claims>]>([
    ['another branch', { ref: 'refs/heads/feature', job_workflow_ref: `${WORKFLOW}@refs/heads/feature` }],
    ['another workflow', { job_workflow_ref: 'Owner/App/.github/workflows/other.yml@refs/heads/main' }],
    // The signer of all runs that call the same version of a reusable workflow is the same.
    ['another branch that calls the same workflow', { ref: 'refs/heads/feature' }],
    ['another repository that calls the same workflow', { repository: 'Owner/Fork' }],
  ])('the attestation of %s is not that of this run, which adds one of its own', async (_, claims) => {
    const published = await publish([registry])
    const other = await openSigstore({ ...CLAIMS, ...claims })
    await attestWith({ registries: [registry], published, sigstore: other, git })
    const { digest } = await attestWith({ registries: [registry], published, sigstore, git })
    expect(await attestWith({ registries: [registry], published, sigstore, git })).toEqual({ digest })
    expect(signatures()).toBe(1)
    for (const subject of [published.digest, ...published.images.map(({ image }) => image.digest)]) {
      const [theirs, own = ''] = await bundlesOf(registry, subject)
      expect([theirs, own]).toEqual(git.bundles)
      sigstore.verify(Buffer.from(own), 'public')
    }
  })

  test.each<[string, (bundle: string) => string]>([
    ['is not a bundle', () => '{}'],
    ['has no certificate', (bundle) => bundle.replace('"certificate"', '"publicKey"')],
    ['has a certificate that can’t be read', (bundle) => bundle.replace(/("rawBytes":")[^"]{9}/, '$1AAAAAAAAA')],
    ['has a certificate that is too long', (bundle) => bundle.replace('"rawBytes":"', `$&${'\\n'.repeat(40_000)}`)],
    ['is too large', (bundle) => bundle + ' '.repeat(4 * 1024 * 1024)],
    [
      'is about another image',
      (bundle) => {
        const { dsseEnvelope, ...rest } = JSON.parse(bundle)
        const statement = JSON.parse(Buffer.from(dsseEnvelope.payload, 'base64').toString())
        const subject = [{ name: 'a', digest: { sha256: '0'.repeat(64) } }]
        const payload = Buffer.from(JSON.stringify({ ...statement, subject })).toString('base64')
        return JSON.stringify({ ...rest, dsseEnvelope: { ...dsseEnvelope, payload } })
      },
    ],
  ])('an attestation that %s does not count', async (_, change) => {
    const published = await publish([registry])
    const elsewhere = await openRegistry({ referrers: true })
    await publish([elsewhere])
    await attestWith({ registries: [elsewhere], published, sigstore, git })
    const bundle = change(git.bundles[0] ?? '')
    expect(bundle).not.toBe(git.bundles[0])
    for (const subject of [published.digest, ...published.images.map(({ image }) => image.digest)])
      await seedReferrer(registry, subject, { [PREDICATE_TYPE]: PROVENANCE }, referrers, bundle)
    await attestWith({ registries: [registry], published, sigstore, git })
    expect(signatures()).toBe(2)
    expect(await bundlesOf(registry, published.digest)).toEqual([bundle, git.bundles[1]])
  })

  test('attestations of other types remain, and are no provenance', async () => {
    const published = await publish([registry])
    const other = { [PREDICATE_TYPE]: 'https://spdx.dev/Document' }
    const entry = await seedReferrer(registry, published.digest, other, referrers)
    await attestWith({ registries: [registry], published, sigstore, git })
    const entries = await referrersOf(registry, published.digest)
    expect(entries).toHaveLength(2)
    expect(entries[0]).toEqual(entry)
  })

  test('a repeated run reads the bundle once, and the rest at the same time', async () => {
    const published = await publish([registry])
    await attestWith({ registries: [registry], published, sigstore, git })
    const waves = holdWaves(registry, (kind) => (kind === 'GET blob' ? 1 : 3))
    await attestWith({ registries: [registry], published, sigstore, git })
    expect(waves).toEqual([
      '3 × GET referrers',
      ...(referrers ? [] : ['3 × GET manifest by tag']),
      '3 × GET manifest by digest',
      '1 × GET blob',
    ])
    expect(signatures()).toBe(1)
  })

  test.each([1, 2, 8])(
    'the number of requests in sequence does not depend on the number of platforms: %d',
    async (platforms) => {
      const published = await publish([registry], ALL_SYSTEMS.slice(0, platforms))
      const subjects = platforms + 1
      const waves = holdWaves(registry, (kind) => (/manifest|referrers/.test(kind) ? subjects : 2))
      await attestWith({ registries: [registry], published, sigstore, git })
      expect(sigstore.requests.map(({ service }) => service)).toEqual(['identity', 'fulcio', 'rekor'])
      expect(git.requests.map(({ path }) => path)).toEqual(['/repos/Owner/App/attestations'])
      // The bundle, and the config that all artifacts share.
      const blobs = ['2 × HEAD blob', '2 × POST uploads', '2 × PUT upload']
      const read = ['GET referrers', ...(referrers ? [] : ['GET manifest by tag'])]
      const write = ['PUT manifest by digest', ...(referrers ? [] : ['GET manifest by tag', 'PUT manifest by tag'])]
      const each = (kinds: readonly string[]) => kinds.map((kind) => `${subjects} × ${kind}`)
      expect(waves).toEqual([...each(read), ...blobs, ...each(write)])
    },
    // In milliseconds: requests in sequence never finish.
    15_000,
  )
})

/** The number of times that this run's services have signed. */
function signatures(): number {
  return sigstore.requests.filter(({ service }) => service === 'fulcio').length
}

/** The bundles that are attached to a manifest, in the order of their lists. */
async function bundlesOf(registry: TestRegistry, digest = ''): Promise<readonly string[]> {
  const entries = await referrersOf(registry, digest)
  const layers = entries.map((entry) => JSON.parse(String(registry.manifest('app', entry.digest)?.bytes)).layers[0])
  return Promise.all(layers.map(async (layer) => String(await registry.blob('app', layer.digest))))
}

/** Adds a referrer, like another tool would. Returns its entry. */
async function seedReferrer(
  registry: TestRegistry,
  digest: string,
  annotations: Readonly<Record<string, string>>,
  listed: boolean,
  bundle = '{}',
): Promise<object> {
  const mediaType = 'application/vnd.oci.image.manifest.v1+json'
  const config = {
    mediaType: 'application/vnd.oci.empty.v1+json',
    digest: await registry.seedBlob('app', Buffer.from('{}')),
    size: 2,
  }
  const subject = { mediaType: 'application/vnd.oci.image.index.v1+json', digest, size: 1 }
  const layer = {
    mediaType: BUNDLE,
    digest: await registry.seedBlob('app', Buffer.from(bundle)),
    size: Buffer.byteLength(bundle),
  }
  const manifest = { schemaVersion: 2, mediaType, artifactType: BUNDLE, config, layers: [layer], subject, annotations }
  const bytes = Buffer.from(JSON.stringify(manifest))
  const entry = {
    mediaType,
    digest: registry.seedManifest('app', bytes, mediaType),
    size: bytes.length,
    artifactType: BUNDLE,
    annotations,
  }
  if (listed) return entry
  // Fields that this action does not know remain as well.
  const own = { ...entry, data: 'e30=' }
  const index = { schemaVersion: 2, mediaType: subject.mediaType, manifests: [own], annotations: { a: 'b' } }
  registry.seedManifest('app', Buffer.from(JSON.stringify(index)), subject.mediaType, digest.replace(':', '-'))
  return own
}

test('each registry gets the attestation, with and without support for referrers', async () => {
  const registries = [await openRegistry({ referrers: true }), await openRegistry()]
  const published = await publish(registries)
  await attestWith({ registries, published, sigstore, git })
  const digests = await Promise.all(registries.map((registry) => referrersOf(registry, published.digest)))
  expect(digests[0]).toHaveLength(1)
  expect(digests[1]?.[0]?.digest).toBe(digests[0]?.[0]?.digest)
  expect([...(registries[0]?.tags('app').keys() ?? [])]).toEqual([])
  expect(sigstore.requests).toHaveLength(3)
})

test('an attestation that was deleted is made again, and its entry is replaced if the registry refuses it', async () => {
  const registry = await openRegistry()
  const published = await publish([registry])
  const call = { registries: [registry], published, sigstore, git }
  const { digest } = await attestWith(call)
  await fetch(`http://${registry.host}/v2/app/manifests/${digest}`, { method: 'DELETE' })
  const again = await attestWith(call)
  expect((await referrersOf(registry, published.digest)).map((one) => one.digest)).toEqual([again.digest])
})

test('private repositories get a timestamp rather than an entry in the public log', async () => {
  const registry = await openRegistry()
  const published = await publish([registry])
  await attestWith({ registries: [registry], published, sigstore, git, kind: 'private' })
  expect(sigstore.requests.map(({ service }) => service)).toEqual(['identity', 'fulcio', 'timestamp'])
  sigstore.verify(Buffer.from(git.bundles[0] ?? ''), 'private')
})

test('identity tokens are masked, and never sent to the registry or the Git host', async () => {
  const registry = await openRegistry()
  await attestWith({ registries: [registry], published: await publish([registry]), sigstore, git })
  expect(secrets).toEqual([identityToken()])
  const headers = JSON.stringify([registry.requests.map((request) => request.headers), git.requests])
  expect(headers).not.toContain(identityToken())
  expect(headers).not.toContain(REQUEST_TOKEN)
  expect(lines.join()).not.toContain(identityToken())
})

describe('if something fails, only the attestation is missing:', () => {
  let registry: TestRegistry

  beforeEach(async () => {
    registry = await openRegistry()
  })

  /** Breaks a service, and expects that a later run succeeds. */
  async function failsOnce(breakIt: () => void, repair: () => void): Promise<string> {
    const published = await publish([registry])
    const call = { registries: [registry], published, sigstore, git }
    registry.seedTag('app', 'latest', published.digest)
    breakIt()
    const message = await refusalOf(attestWith(call))
    expect(registry.tags('app').get('latest')).toBe(published.digest)
    repair()
    await attestWith(call)
    expect(await referrersOf(registry, published.digest)).toHaveLength(1)
    return message
  }

  test.each(['identity', 'fulcio', 'rekor'] as const)('%s', async (service) => {
    const message = await failsOnce(
      () => sigstore.setFault(service, 500),
      () => sigstore.setFault(service, undefined),
    )
    expect(message).toContain('answered with status 500')
    expect(message).toContain('No tag has moved. Run the job again.')
  })

  test('attaching', async () => {
    const message = await failsOnce(
      () =>
        registry.setFault(({ method, route }) =>
          method === 'PUT' && route === 'manifest' ? { kind: 'status', status: 403 } : undefined,
        ),
      () => registry.setFault(undefined),
    )
    expect(message).toContain('403')
  })

  test("GitHub's API", async () => {
    const message = await failsOnce(
      () => git.setFault({ status: 500, body: '{"message":"Server Error"}' }),
      () => git.setFault({ status: 500 }, 0),
    )
    expect(message).toContain("Can't store the attestation with Owner/App on GitHub")
    expect(message).toContain('Server Error')
    expect(git.bundles).toHaveLength(1)
  })

  test("GitHub's API, which receives the bundle at the same time as the registry", async () => {
    const published = await publish([registry])
    git.setFault({ status: 500 })
    await refusalOf(attestWith({ registries: [registry], published, sigstore, git }))
    const written = registry.requests.filter(({ method }) => method === 'PUT').map(({ route }) => route)
    expect(written).toEqual(['upload', 'upload'])
  })
})

test.each([
  ['without the permission', false, undefined, 'answered with status 403 (Resource not accessible by integration)'],
  ['without a token', true, '', 'the input `token` is empty'],
])('%s to store attestations with GitHub, they are only in the registry', async (_, granted, token, why) => {
  const registry = await openRegistry()
  const host = await openStore(granted)
  const published = await publish([registry])
  const call = { registries: [registry], published, sigstore, git: host }
  const { url } = await attestWith(token === undefined ? call : { ...call, token })
  expect(url).toBeUndefined()
  expect(await referrersOf(registry, published.digest)).toHaveLength(1)
  expect(notices).toHaveLength(1)
  expect(notices[0]).toContain(why)
  expect(notices[0]).toContain('permissions:\n    attestations: write')
  // A later run with the permission does not sign again, so the notice must not promise that.
  await attestWith({ ...call, git })
  expect(git.bundles).toEqual([])
  expect(notices[0]).toContain('finds it only with `--bundle-from-oci`, also after this job runs again')
  expect(notices[0]).toContain('To store later attestations on GitHub as well')
})
