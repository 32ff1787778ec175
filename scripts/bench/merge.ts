import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Buildx } from '../../__tests__/support/buildx.ts'
import type { Distribution } from '../../__tests__/support/distribution.ts'
import { prepareRunner } from '../../__tests__/support/runner.ts'
import { type UploadedManifest, uploadImage } from '../../__tests__/support/upload.ts'
import type { Run } from './figures.ts'
import { measure } from './measure.ts'
import { startProxy } from './proxy.ts'

/** What is merged: images of small layers, each of which has its own, and tags that are new. */
export interface MergeSize {
  readonly platforms: number
  readonly tags: number
  /** Of each image. */
  readonly layers: number
}

/** As a registry on the internet answers, in milliseconds. */
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

/** What a merge has before it: images that are pushed already, in a repository of its own. */
interface Built {
  /** The repository, by way of the proxy. */
  readonly image: string
  readonly members: readonly Member[]
  readonly tags: readonly string[]
}

let repositories = 0

/** Merges with this action, the digest records given as text. */
export async function mergeWithAction(registry: Distribution, size: MergeSize): Promise<Run> {
  return behindProxy(registry, size, async ({ image, members, tags }) => {
    const digests = members.map((member) => recordOf(image, member, members.length)).join('\n')
    const runner = await prepareRunner({
      inputs: { mode: 'merge', image, digests, tags: tags.join('\n') },
      env: { ACTIONS_RUNTIME_TOKEN: '', ACTIONS_RESULTS_URL: '' },
      job: 'merge',
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
  // None in common, for they are uploaded at the same time.
  const layers = Array.from({ length: count }, (_, index) => `layer ${index} for ${system}`)
  return uploadImage(name, { ...platform, layers })
}

/** As a build leaves it. */
function recordOf(image: string, { at: { system, ...platform }, ...manifest }: Member, total: number): string {
  return JSON.stringify({
    schema: 1,
    image,
    system,
    platform: { os: 'linux', ...platform },
    ...manifest,
    storePath: '/nix/store/00000000000000000000000000000000-image.tar.gz',
    job: { id: 'build', total },
    run: { id: '1234567890', attempt: 1 },
  })
}

/** A merge that has published less would be quick for that. */
async function checkTags(url: string, expected: readonly string[]): Promise<void> {
  const { tags } = (await (await fetch(url)).json()) as { readonly tags: readonly string[] }
  const missing = expected.filter((tag) => !tags.includes(tag))
  if (missing.length > 0) throw new Error(`${missing.join(', ')} was not published`)
}
