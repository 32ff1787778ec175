import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Buildx } from '../../__tests__/support/buildx.ts'
import type { Distribution } from '../../__tests__/support/distribution.ts'
import { startGitHost } from '../../__tests__/support/git-host.ts'
import { makeRecord } from '../../__tests__/support/record.ts'
import { prepareRunner } from '../../__tests__/support/runner.ts'
import { startSigstore } from '../../__tests__/support/sigstore.ts'
import { serveSigstoreHosts } from '../../__tests__/support/sigstore-hosts.ts'
import { type UploadedManifest, uploadImage } from '../../__tests__/support/upload.ts'
import type { Run } from './figures.ts'
import { measure } from './measure.ts'
import { startProxy } from './proxy.ts'

/** The size of a merge of images with small layers, none of them shared, to new tags. */
export interface MergeSize {
  readonly platforms: number
  readonly tags: number
  /** The number of layers of each image. */
  readonly layers: number
}

/** A typical response time of a registry or another service on the internet, in milliseconds. */
const DELAY = 50

const SYSTEMS = [
  { system: 'x86_64-linux', architecture: 'amd64' },
  { system: 'aarch64-linux', architecture: 'arm64' },
  { system: 'armv7l-linux', architecture: 'arm', variant: 'v7' },
  { system: 'armv6l-linux', architecture: 'arm', variant: 'v6' },
  { system: 'i686-linux', architecture: '386' },
  { system: 'powerpc64le-linux', architecture: 'ppc64le' },
  { system: 'riscv64-linux', architecture: 'riscv64' },
  { system: 's390x-linux', architecture: 's390x' },
] as const

interface Member extends UploadedManifest {
  readonly at: (typeof SYSTEMS)[number]
}

/** Images to merge, in a new repository. */
interface Built {
  /** The repository at the proxy. */
  readonly image: string
  readonly members: readonly Member[]
  readonly tags: readonly string[]
}

let repositories = 0

/** Services that sign and store provenance. */
export interface Attesting {
  readonly token: string
  /** The environment of a merge that uses them. */
  readonly env: Readonly<Record<string, string>>
  close(): Promise<void>
}

/** Starts Sigstore, GitHub's identity tokens and its store of attestations, with a delay of each request. */
export async function startAttesting(): Promise<Attesting> {
  const token = 'token'
  const sigstore = await startSigstore()
  const git = await startGitHost({ repository: 'Owner/App', token, parents: {}, attestations: true })
  const { fulcio } = sigstore.services.public
  const signing = await startProxy(new URL(fulcio).host, DELAY)
  const store = await startProxy(new URL(git.api).host, DELAY)
  const hosts = await serveSigstoreHosts({
    fulcio: `http://${signing.host}/fulcio`,
    rekor: `http://${signing.host}/rekor`,
  })
  return {
    token,
    env: {
      ...sigstore.env,
      ...hosts.env,
      ACTIONS_ID_TOKEN_REQUEST_URL: `http://${signing.host}/identity/token?api-version=2.0`,
      GITHUB_API_URL: `http://${store.host}`,
    },
    async close() {
      for (const server of [hosts, signing, store, sigstore, git]) await server.close()
    },
  }
}

/**
 * Merges with this action. Passes the digest records in an input.
 * @param attesting with provenance
 */
export async function mergeWithAction(registry: Distribution, size: MergeSize, attesting?: Attesting): Promise<Run> {
  return behindProxy(registry, size, async ({ image, members, tags }) => {
    const digests = members.map((member) => recordOf(image, member, members.length)).join('\n')
    const runner = await prepareRunner({
      inputs: { mode: 'merge', image, digests, tags: tags.join('\n'), attest: String(attesting !== undefined) },
      env: { ACTIONS_RUNTIME_TOKEN: '', ACTIONS_RESULTS_URL: '', ...attesting?.env },
      job: 'merge',
      ...(attesting && { token: attesting.token }),
    })
    try {
      return await measure(process.execPath, [runner.main], runner.env)
    } finally {
      await runner.close()
    }
  })
}

/** Merges with `docker buildx imagetools create`. */
export async function mergeWithBuildx(
  [program, ...first]: Buildx,
  registry: Distribution,
  size: MergeSize,
): Promise<Run> {
  return behindProxy(registry, size, async ({ image, members, tags }) => {
    const args = [
      ...[...first, 'imagetools', 'create'],
      ...tags.flatMap((tag) => ['--tag', `${image}:${tag}`]),
      ...members.map(({ digest }) => `${image}@${digest}`),
    ]
    const folder = await mkdtemp(join(tmpdir(), 'buildx-'))
    try {
      return await measure(program, args, { ...process.env, BUILDX_CONFIG: folder })
    } finally {
      await rm(folder, { recursive: true })
    }
  })
}

async function behindProxy(
  registry: Distribution,
  { platforms, tags, layers }: MergeSize,
  merge: (built: Built) => ReturnType<typeof measure>,
): Promise<Run> {
  const path = `bench/merge-${repositories++}`
  const proxy = await startProxy(registry.host, DELAY)
  try {
    const members = await Promise.all(
      SYSTEMS.slice(0, platforms).map(async (at) => ({
        at,
        ...(await uploadMember(`${registry.host}/${path}`, at, layers)),
      })),
    )
    const names = ['latest', ...Array.from({ length: tags - 1 }, (_, index) => `v1.${index}`)]
    const measured = await merge({ image: `${proxy.host}/${path}`, members, tags: names })
    await checkTags(`http://${registry.host}/v2/${path}/tags/list`, names)
    return { ...measured, requests: proxy.count() }
  } finally {
    await proxy.close()
  }
}

function uploadMember(name: string, at: Member['at'], count: number): Promise<UploadedManifest> {
  const { system, ...platform } = at
  // Not shared, because the images are uploaded at the same time.
  const layers = Array.from({ length: count }, (_, index) => `layer ${index} for ${system}`)
  return uploadImage(name, { ...platform, layers })
}

/** Returns the record that a build would create. */
function recordOf(image: string, { at: { system, ...platform }, ...manifest }: Member, total: number): string {
  const build = { job: { id: 'build', total }, run: { id: '1234567890', attempt: 1 } }
  return JSON.stringify(makeRecord({ image, system, platform: { os: 'linux', ...platform }, ...manifest, ...build }))
}

/** Fails if tags are missing, because an incomplete merge would be faster. */
async function checkTags(url: string, expected: readonly string[]): Promise<void> {
  const { tags } = (await (await fetch(url)).json()) as { readonly tags: readonly string[] }
  const missing = expected.filter((tag) => !tags.includes(tag))
  if (missing.length > 0) throw new Error(`${missing.join(', ')} is missing from the registry`)
}
