import type { Content } from './backend.ts'
import type { System } from './programs.ts'

export const OLD_COMMIT = '1'.repeat(40)
export const COMMIT = '2'.repeat(40)
export const NEW_COMMIT = '3'.repeat(40)

/** The services that the action uses. */
export type Service = 'registry' | 'mirror' | 'artifacts' | 'git' | 'docker'

/** The results of earlier runs of the action. */
export interface LayerCache {
  /** By version, for both systems, without tags. */
  readonly images: Readonly<Record<'old' | 'new', Content>>
  /** The index of the old images, from an older or a newer commit than the run's. */
  readonly index: Readonly<Record<'older' | 'newer', Content>>
  /** By version and system; `<registry>` stands for the host and `<path>` for the repository. */
  readonly records: Readonly<Record<'old' | 'new', Readonly<Record<System, string>>>>
}

/** A use of the action. */
export interface Scenario {
  readonly name: string
  /** The services whose requests get faults. */
  readonly breaks: readonly Service[]
  readonly inputs: (place: Place) => Readonly<Record<string, string>>
  readonly env?: Readonly<Record<string, string>>
  /** The content of the registry before the run. */
  readonly holds: (published: LayerCache) => readonly Content[]
  /** The records in the run's artifacts before the step. */
  readonly artifacts?: (published: LayerCache) => readonly string[]
  /** Tags that a successful run may move or not move, if a warning names them. */
  readonly mayMove?: readonly string[]
}

/** The names of repositories. */
export interface Place {
  readonly image: string
  readonly sibling: string
  readonly mirror: string
  readonly records: readonly string[]
}

const BUILD = { mode: 'build', system: 'x86_64-linux', flake: '.' } as const
const MERGE = { mode: 'merge', systems: 'x86_64-linux, aarch64-linux' } as const

export const SCENARIOS: readonly Scenario[] = [
  {
    name: 'build',
    breaks: ['registry', 'artifacts'],
    inputs: ({ image, sibling }) => ({ ...BUILD, image: `${image}\n${sibling}` }),
    holds: () => [],
  },
  {
    name: 'build with an earlier image',
    breaks: ['registry'],
    inputs: ({ image }) => ({ ...BUILD, image, labels: 'org.example.run=2' }),
    holds: ({ index }) => [index.older],
  },
  {
    name: 'unchanged build',
    breaks: ['registry', 'artifacts'],
    env: { NIX_VERSION: 'old' },
    inputs: ({ image }) => ({ ...BUILD, image }),
    holds: ({ index }) => [index.older],
    artifacts: ({ records }) => [records.old['x86_64-linux']],
  },
  {
    name: 'build with Docker',
    breaks: ['docker', 'registry'],
    inputs: ({ image }) => ({ ...BUILD, image, 'push-with': 'docker', rebuild: 'true' }),
    holds: () => [],
  },
  {
    name: 'merge',
    breaks: ['registry', 'git'],
    inputs: ({ image, records }) => ({ ...MERGE, image, digests: records.join('\n'), tags: 'new\nv1\nlatest' }),
    holds: ({ images, index }) => [images.new, index.older],
  },
  {
    name: 'merge of an older commit',
    breaks: ['registry', 'git'],
    inputs: ({ image, records }) => ({ ...MERGE, image, digests: records.join('\n'), tags: 'new\nlatest' }),
    holds: ({ images, index }) => [images.new, index.newer],
    mayMove: ['latest'],
  },
  {
    name: 'merge with artifacts',
    breaks: ['artifacts'],
    inputs: ({ image }) => ({ ...MERGE, image, tags: 'new\nlatest' }),
    holds: ({ images, index }) => [images.new, index.older],
    artifacts: ({ records }) => Object.values(records.new),
  },
  {
    name: 'merge with a mirror',
    breaks: ['registry', 'mirror'],
    inputs: ({ image, mirror, records }) => ({
      ...MERGE,
      image: `${image}\n${mirror}`,
      digests: records.join('\n'),
      tags: 'v1\nlatest',
    }),
    holds: ({ images, index }) => [images.new, index.older],
  },
  {
    name: 'plan',
    breaks: ['registry'],
    env: { NIX_VERSION: 'old' },
    inputs: ({ image }) => ({ mode: 'plan', image, flake: '.' }),
    holds: ({ index }) => [index.older],
  },
]
