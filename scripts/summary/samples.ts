import type { Verification } from '../../src/changes/verification.ts'
import { summarizeBuild } from '../../src/modes/build-summary.ts'
import { summarizeFailure } from '../../src/modes/failure-summary.ts'
import { summarizeMerge } from '../../src/modes/merge-summary.ts'
import type { PhaseTime } from '../../src/modes/phases.ts'
import { summarizePlan } from '../../src/modes/plan.ts'
import { summarizeVerification } from '../../src/modes/verify-report.ts'
import { OCI_MANIFEST } from '../../src/oci/manifest.ts'
import { type Digest, digestOf, type Repository } from '../../src/oci/reference.ts'
import type { TagPlan } from '../../src/publish/tag-plan.ts'

/** The parts of a sample that a workflow chooses, and that may be long. */
export interface SampleNames {
  readonly repositories: readonly [Repository, ...Repository[]]
  /** The name of a package, which is part of store paths. */
  readonly package: string
  readonly tag: string
  readonly runner: string
}

/** The names in the picture. */
export const SAMPLE_NAMES: SampleNames = {
  repositories: [{ host: 'ghcr.io', path: 'owner/app' }],
  package: 'app',
  tag: 'v1.2.0',
  runner: 'ubuntu-24.04-arm',
}

/** Names that are as long as registries and Nix allow. */
export const LONG_NAMES: SampleNames = {
  repositories: [
    {
      host: 'registry.long-subdomain.of-a-large-organization.example',
      path: `${'a-long-name/'.repeat(20)}application`,
    },
    { host: 'ghcr.io', path: 'owner/app' },
  ],
  package: `${'a-long-name-'.repeat(15)}app`,
  tag: 'v1.2.0-'.repeat(18),
  runner: `self-hosted-${'runner-label-'.repeat(20)}`,
}

const AMD64 = { os: 'linux', architecture: 'amd64' }
const ARM64 = { os: 'linux', architecture: 'arm64' }
const COMMIT = '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b'
const NEWER = '60303ae22b998861bce3b28f33eec1be758a213c'
const TIMES: readonly PhaseTime[] = [
  { phase: 'check access', time: 640 },
  { phase: 'evaluate', time: 6200 },
  { phase: 'fetch and build', time: 62_000 },
  { phase: 'read and push', time: 13_400 },
  { phase: 'hand over', time: 910 },
]

function imagePath(name: string): string {
  return storePath(`docker-image-${name}.tar.gz`)
}

function storePath(name: string): string {
  return `/nix/store/0sv3ms1v4f3a2c1bq7r9z8y6x5w4d0l2-${name}`
}

/** Returns a digest that is different for each name. */
function sampleDigest(name: string): Digest {
  return digestOf(Buffer.from(name))
}

/** Returns a sample of each summary, as Markdown. The data are examples. */
export function sampleSummaries(names: SampleNames = SAMPLE_NAMES): Readonly<Record<string, string>> {
  return {
    merge: sampleMerge(names),
    build: sampleBuild(names),
    failure: sampleFailure(names),
    plan: summarizePlan([
      { system: 'x86_64-linux', runner: 'ubuntu-24.04', unchanged: true },
      { system: 'aarch64-linux', runner: names.runner },
    ]),
    verify: sampleVerification(names),
  }
}

/** Returns the samples that the picture in the README shows. */
export function pictured(): readonly string[] {
  const { merge = '', build = '' } = sampleSummaries()
  return [merge, build]
}

function sampleBuild({ repositories, package: name }: SampleNames): string {
  const digest = sampleDigest('arm64')
  return summarizeBuild({
    system: 'aarch64-linux',
    platform: ARM64,
    storePath: imagePath(name),
    images: repositories,
    tag: `${COMMIT.slice(0, 7)}-aarch64-linux`,
    pushed: repositories.map((repository) => ({ repository, digest })),
    traffic: { sent: 3_140_000, total: 38_700_000, layers: 60, reusedLayers: 58 },
    sbom: { digest: sampleDigest('sbom'), path: '' },
    times: TIMES,
  })
}

function sampleMerge({ repositories, package: name, tag }: SampleNames): string {
  const index = sampleDigest('index')
  const before = { bytes: Buffer.from('before'), digest: sampleDigest('before'), mediaType: OCI_MANIFEST }
  const plans = repositories.flatMap((repository): readonly TagPlan[] => {
    const planned = (text: string, action: TagPlan['action'], revision?: string): TagPlan => {
      const place = { repository, tag: text }
      const stored = action === 'created' ? {} : { stored: before }
      const gained = action === 'moved' ? [ARM64] : []
      return { tag: place, before: { tag: place, platforms: [], revision, ...stored }, action, gained, lost: [] }
    }
    return [planned('latest', 'moved'), planned(tag, 'created'), planned('edge', 'skipped', NEWER)]
  })
  const [repository] = repositories
  const updated = [
    { name, from: '1.1.4', to: '1.2.0' },
    { name: 'openssl', from: '3.5.2', to: '3.5.4' },
  ]
  const packages = { updated, added: [{ name: 'tzdata', version: '2026a' }], removed: [], rebuilt: 3 }
  return summarizeMerge({
    index: repositories.map(({ host, path }) => `${host}/${path}@${index}`),
    plans,
    platforms: [
      { platform: AMD64, digest: sampleDigest('amd64'), size: 39_300_000 },
      { platform: ARM64, digest: sampleDigest('arm64'), size: 38_700_000 },
    ],
    pushed: true,
    changed: true,
    changes: {
      against: { repository, tag: 'latest', digest: before.digest },
      platforms: [
        {
          system: 'x86_64-linux',
          platform: AMD64,
          packages,
          size: { before: 38_900_000, after: 39_300_000 },
        },
      ],
    },
  })
}

function sampleFailure({ repositories: [{ host, path }], package: name }: SampleNames): string {
  return summarizeFailure({
    step: 'Build',
    image: `${host}/${path}`,
    platform: 'linux/arm64',
    failure: {
      message: `Nix could not build .#packages.aarch64-linux.containerImage`,
      detail: [
        `error: builder for '${storePath(`${name}-1.2.0.drv`)}' failed with exit code 2;`,
        '       last 3 log lines:',
        '       > src/main.c:12:5: error: implicit declaration of function ‘start’ [-Wimplicit-function-declaration]',
        '       > make: *** [Makefile:4: app] Error 1',
        `       For full logs, run 'nix log ${storePath(`${name}-1.2.0.drv`)}'.`,
      ].join('\n'),
      hint: 'Fix the build. To run it on your machine:\n  nix build .#packages.aarch64-linux.containerImage',
    },
    writes: [],
    times: TIMES.slice(0, 3),
  })
}

function sampleVerification({ repositories: [repository], package: name }: SampleNames): string {
  const layer = (text: string) => ({ number: 7, diffId: sampleDigest(text), storePaths: [storePath(`${name}-1.2.0`)] })
  const { differences, addedLabels }: Verification = {
    differences: [
      { part: 'layer', published: layer('published'), built: layer('built') },
      { part: 'config', field: 'config.Env' },
    ],
    addedLabels: { 'org.opencontainers.image.created': '2026-01-01T00:00:00Z' },
  }
  const [platform, mediaType, digest] = [ARM64, OCI_MANIFEST, sampleDigest('arm64')]
  const manifest = { bytes: Buffer.alloc(0), digest, mediaType }
  const own = { manifest, descriptor: { mediaType, digest, size: 1000 }, annotations: {}, blobs: [] }
  return summarizeVerification(
    {
      reference: { repository, tag: 'latest' },
      system: 'aarch64-linux',
      platform,
      published: {
        image: {
          ...{ repository, platform, digest, mediaType, size: 1000, own, attestations: [], labels: {} },
          ...{ configDigest: sampleDigest('config'), configBytes: Buffer.alloc(0) },
        },
        revision: COMMIT,
        addedLabels: [],
      },
      revision: COMMIT,
      storePath: imagePath(name),
      differences,
      addedLabels,
    },
    TIMES.slice(0, 3),
  )
}
