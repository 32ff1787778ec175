import { beforeEach, describe, expect, test } from '@jest/globals'
import { openSigstore, openStore, referrersOf } from '../attest/attesting.ts'
import type { GitHost } from '../support/git-host.ts'
import {
  COMMIT,
  type MergeCall,
  mergeWith,
  namesIn,
  openRegistry,
  push,
  pushOld,
  records,
  refusalOf,
  rewrite,
  said,
  TOKEN,
  TWO_SYSTEMS,
  writesTo,
} from '../support/merging.ts'
import type { FaultOf, TestRegistry } from '../support/registry.ts'
import { CLAIMS, type Sigstore, SUBJECT } from '../support/sigstore.ts'

const NEXT = '9'.repeat(40)
const derivation = (name: string) => `/nix/store/${'d'.repeat(32)}-${name}.drv`
const nixpkgs = {
  name: 'nixpkgs',
  uri: 'git+https://github.com/NixOS/nixpkgs@abc',
  digest: { gitCommit: 'abc' },
}

let registry: TestRegistry
let sigstore: Sigstore
let git: GitHost

beforeEach(async () => {
  registry = await openRegistry()
  sigstore = await openSigstore()
  git = await openStore()
})

const wanted = { attest: 'true', tags: 'latest,{sha}', 'allow-missing-platforms': 'true' }

function attested(call: MergeCall = {}): MergeCall {
  return { sigstore, token: TOKEN, ...call, env: { GITHUB_API_URL: git.api, ...call.env } }
}

/** Pushes the images of two systems, and returns their records. */
async function built(): Promise<{ readonly digests: string; readonly images: readonly string[] }> {
  const pushed = await push(registry, 'app', TWO_SYSTEMS)
  const images = pushed.map(({ image }) => image.digest)
  const described = pushed.map(({ record }) => ({
    record: rewrite(record, { derivation: derivation(JSON.parse(record).system), inputs: [nixpkgs] }),
  }))
  return { digests: records(described), images }
}

/** The signed statement of an attestation. Verifies its signature. */
async function statementOf(attestation: string) {
  const manifest = JSON.parse(String(registry.manifest('app', attestation)?.bytes))
  const bundle = (await registry.blob('app', manifest.layers[0].digest)) ?? Buffer.alloc(0)
  expect(sigstore.verify(bundle, 'public').identity?.subjectAlternativeName).toBe(SUBJECT)
  return JSON.parse(Buffer.from(JSON.parse(bundle.toString()).dsseEnvelope.payload, 'base64').toString())
}

describe('with `attest`, a merge', () => {
  test('attaches provenance to the index and each image before it moves a tag', async () => {
    const { digests, images } = await built()
    const { outputs, summary } = await mergeWith(registry, { ...wanted, digests }, attested())
    const [index = '', attestation = ''] = [outputs.digest, outputs.attestation]
    expect(registry.tags('app').get('latest')).toBe(index)
    for (const subject of [index, ...images]) expect(await referrersOf(registry, subject)).toHaveLength(1)
    expect((await referrersOf(registry, index))[0]?.digest).toBe(attestation)
    expect(summary).toContain(`Provenance: \`${attestation}\``)
    expect(summary).toContain('(https://github.com/Owner/App/attestations/1)')
    const writes = writesTo(registry).filter((write) => write.startsWith('PUT'))
    const attached = writes.findLastIndex((write) => /manifests\/sha256[:-]/.test(write))
    expect(writes.findIndex((write) => /manifests\/(latest|0123456)/.test(write))).toBeGreaterThan(attached)
  })

  test('names the commit, the derivations, the store paths and the inputs of the flake', async () => {
    const { digests, images } = await built()
    const { outputs } = await mergeWith(registry, { ...wanted, digests }, attested())
    const { subject, predicate } = await statementOf(outputs.attestation ?? '')
    const name = namesIn(registry, 'app')
    expect(subject).toEqual(
      [outputs.digest ?? '', ...images].map((digest) => ({ name, digest: { sha256: digest.slice(7) } })),
    )
    const [commit, ...dependencies] = predicate.buildDefinition.resolvedDependencies
    expect(commit).toEqual({ uri: 'git+https://github.com/Owner/App@refs/heads/main', digest: { gitCommit: COMMIT } })
    expect(dependencies).toEqual([
      nixpkgs,
      ...[
        ['x86_64-linux', 'linux/amd64'],
        ['aarch64-linux', 'linux/arm64'],
      ].map(([system = '', platform], at) => ({
        name: platform,
        uri: `nix:${derivation(system)}`,
        annotations: {
          image: images[at],
          outputPath: '/nix/store/00000000000000000000000000000000-image.tar.gz',
          system,
        },
      })),
    ])
  })

  test('names the commit of each image, with the repository that has it', async () => {
    const { digests } = await built()
    const [one = '', other = ''] = digests.split('\n')
    const source = 'https://github.com/Other/App'
    const changed = [
      rewrite(one, { revision: COMMIT, source: 'https://github.com/Owner/App' }),
      rewrite(other, { revision: NEXT, source }),
    ]
    const { outputs } = await mergeWith(registry, { ...wanted, digests: changed.join('\n') }, attested())
    const { predicate } = await statementOf(outputs.attestation ?? '')
    const [run, next, , ...platforms] = predicate.buildDefinition.resolvedDependencies
    expect(run.digest).toEqual({ gitCommit: COMMIT })
    expect(next).toEqual({ uri: `git+${source}@${NEXT}`, digest: { gitCommit: NEXT } })
    expect(platforms).toMatchObject([{ annotations: { revision: COMMIT } }, { annotations: { revision: NEXT } }])
  })

  test.each([
    ['lists', true],
    ['does not list', false],
  ])('attests nothing twice at a registry that %s referrers', async (_, referrers) => {
    registry = await openRegistry({ referrers })
    const { digests } = await built()
    const first = await mergeWith(registry, { ...wanted, digests }, attested())
    const again = await mergeWith(registry, { ...wanted, digests }, attested())
    const later = await mergeWith(registry, { ...wanted, digests }, attested({ sha: NEXT }))
    for (const { outputs } of [again, later])
      expect(outputs).toMatchObject({ digest: first.outputs.digest, attestation: first.outputs.attestation })
    expect(sigstore.requests.filter(({ service }) => service === 'fulcio')).toHaveLength(1)
    expect(git.bundles).toHaveLength(1)
    expect(await referrersOf(registry, first.outputs.digest ?? '')).toHaveLength(1)
  })

  test.each(['refs/heads/feature', 'refs/tags/v1.0.0'])(
    'attests an unchanged index that %s has published from the same commit',
    async (ref) => {
      const { digests, images } = await built()
      const signer = CLAIMS.job_workflow_ref.replace(/@.*/, `@${ref}`)
      const other = await openSigstore({ ...CLAIMS, ref, job_workflow_ref: signer })
      const first = await mergeWith(registry, { ...wanted, tags: '{sha}', digests }, attested({ sigstore: other }))
      const { outputs } = await mergeWith(registry, { ...wanted, digests }, attested())
      expect(outputs.digest).toBe(first.outputs.digest)
      // Verifies that this run's services have signed it.
      await statementOf(outputs.attestation ?? '')
      for (const subject of [outputs.digest ?? '', ...images])
        expect(await referrersOf(registry, subject)).toHaveLength(2)
    },
  )

  test('attests an unchanged index that was published without provenance', async () => {
    const { digests } = await built()
    const first = await mergeWith(registry, { ...wanted, digests, attest: 'false' }, attested())
    expect(first.outputs.attestation).toBeUndefined()
    expect(sigstore.requests).toEqual([])
    const second = await mergeWith(registry, { ...wanted, digests }, attested({ sha: NEXT }))
    expect(second.outputs.digest).toBe(first.outputs.digest)
    expect(await referrersOf(registry, second.outputs.digest ?? '')).toHaveLength(1)
  })

  test('publishes if only GitHub stores no attestations, and says so', async () => {
    git = await openStore(false)
    const { digests } = await built()
    const { outputs } = await mergeWith(registry, { ...wanted, digests }, attested())
    expect(registry.tags('app').get('latest')).toBe(outputs.digest)
    expect(said.join('\n')).toContain('permissions:\n    attestations: write')
  })

  test('signs and publishes nothing with `push: false`, and needs no identity', async () => {
    const { digests } = await built()
    await mergeWith(registry, { ...wanted, digests, push: 'false' })
    expect(writesTo(registry)).toEqual([])
    expect(sigstore.requests).toEqual([])
  })
})

test('without an identity, nothing is published, and the error has the permissions', async () => {
  const { digests } = await built()
  const count = registry.requests.length
  const message = await refusalOf(registry, { ...wanted, digests })
  expect(message).toContain("Can't sign the provenance: this job has no identity token")
  expect(message).toContain('permissions:\n    contents: read\n    id-token: write')
  expect(registry.requests).toHaveLength(count)
})

describe('every tag stays as it was if a merge fails at', () => {
  /** Breaks something, and expects that the next merge publishes. */
  async function failsOnce(breakIt: () => void, repair: () => void): Promise<string> {
    await pushOld(registry, ['latest'])
    const { digests } = await built()
    breakIt()
    const message = await refusalOf(registry, { ...wanted, digests }, attested())
    repair()
    const { outputs } = await mergeWith(registry, { ...wanted, digests }, attested())
    expect(registry.tags('app').get('latest')).toBe(outputs.digest)
    expect(await referrersOf(registry, outputs.digest ?? '')).toHaveLength(1)
    return message
  }

  test.each(['identity', 'fulcio', 'rekor'] as const)('the service %s', async (service) => {
    const message = await failsOnce(
      () => sigstore.setFault(service, 500),
      () => sigstore.setFault(service, undefined),
    )
    expect(message).toContain('No tag has moved. Run the job again.')
  })

  test.each<[string, FaultOf]>([
    ['the upload of the attestation', ({ route, method }) => refused(method === 'PUT' && route === 'upload')],
    [
      'the manifests of the attestation',
      ({ method, reference = '', headers }) =>
        refused(
          method === 'PUT' && reference.startsWith('sha256:') && /manifest\.v1/.test(`${headers['content-type']}`),
        ),
    ],
    ['the list of referrers', ({ method, reference = '' }) => refused(method === 'PUT' && /^sha256-/.test(reference))],
  ])('attaching: %s', async (_, fault) => {
    await failsOnce(
      () => registry.setFault(fault),
      () => registry.setFault(undefined),
    )
    // Both runs signed: the first one failed after that.
    expect(git.bundles).toHaveLength(2)
  })

  test("GitHub's API", async () => {
    const message = await failsOnce(
      () => git.setFault({ status: 500, body: '{"message":"Server Error"}' }),
      () => git.setFault({ status: 500 }, 0),
    )
    expect(message).toContain("Can't store the attestation with Owner/App on GitHub")
  })
})

function refused(matches: boolean): ReturnType<FaultOf> {
  return matches ? { kind: 'status', status: 403 } : undefined
}

describe('another repository', () => {
  test('gets the attestations of a new index, signed once', async () => {
    const { digests, images } = await built()
    const image = namesIn(registry, 'app', 'mirror')
    const { outputs } = await mergeWith(registry, { ...wanted, image, digests }, attested())
    for (const subject of [outputs.digest ?? '', ...images])
      expect(await referrersOf(registry, subject, 'mirror')).toEqual(await referrersOf(registry, subject))
    expect(git.bundles).toHaveLength(1)
  })

  test.each(['true', 'false'])('gets the attestations of an unchanged index, with `attest: %s`', async (attest) => {
    const { digests, images } = await built()
    const first = await mergeWith(registry, { ...wanted, digests }, attested())
    const image = namesIn(registry, 'app', 'mirror')
    const { outputs } = await mergeWith(registry, { ...wanted, attest, image, digests }, attested({ sha: NEXT }))
    expect(outputs.digest).toBe(first.outputs.digest)
    for (const subject of [outputs.digest ?? '', ...images])
      expect(await referrersOf(registry, subject, 'mirror')).toEqual(await referrersOf(registry, subject))
    expect(git.bundles).toHaveLength(1)
  })
})
