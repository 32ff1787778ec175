import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** A registry, or another program of the tests, that `scripts/registries.ts` builds from its Go module. */
export interface Program {
  readonly name: string
  /** The beginning of the names of the test files that need it. Default: its name up to the first hyphen. */
  readonly tests?: string
  readonly module: string
  readonly version: string
  /** The program's package, relative to the module. */
  readonly package: string
  readonly tags?: string
  /** Folders of the module that the program reads at run time. */
  readonly resources?: readonly string[]
  /** Whether the tests of all registries need it. */
  readonly shared?: true
}

const programs = {
  distribution: {
    name: 'distribution',
    module: 'github.com/distribution/distribution/v3',
    version: 'v3.1.2',
    package: './cmd/registry',
    // A second registry.
    shared: true,
  },
  zot: { name: 'zot', module: 'zotregistry.dev/zot/v2', version: 'v2.1.20', package: './cmd/zot' },
  olareg: { name: 'olareg', module: 'github.com/olareg/olareg', version: 'v0.2.2', package: './cmd/olareg' },
  gitea: {
    name: 'gitea',
    module: 'code.gitea.io/gitea',
    version: 'v1.26.0',
    package: '.',
    tags: 'sqlite,sqlite_unlock_notify',
    resources: ['options', 'templates', 'public'],
  },
  act: { name: 'act', tests: 'reusable', module: 'github.com/nektos/act', version: 'v0.2.89', package: '.' },
  'gitea-runner': { name: 'gitea-runner', module: 'gitea.com/gitea/runner', version: 'v1.0.8', package: '.' },
  // Read published images.
  cosign: {
    name: 'cosign',
    module: 'github.com/sigstore/cosign/v3',
    version: 'v3.1.3',
    package: './cmd/cosign',
    shared: true,
  },
  oras: { name: 'oras', module: 'oras.land/oras', version: 'v1.3.6', package: './cmd/oras', shared: true },
  buildx: {
    name: 'buildx',
    module: 'github.com/docker/buildx',
    version: 'v0.38.2',
    package: './cmd/buildx',
    shared: true,
  },
} as const satisfies Readonly<Record<string, Program>>

export type ProgramName = keyof typeof programs

export const allPrograms: readonly Program[] = Object.values(programs)

/** The folder of a program, which contains the program under its name, and its resources. */
export function programFolder({ name, version }: Program): string {
  return join(fileURLToPath(new URL('../../.cache/registries', import.meta.url)), `${name}-${version}`)
}

/** Throws if the program has not been built. */
export function builtProgram(name: ProgramName): { readonly path: string; readonly folder: string } {
  const folder = programFolder(programs[name])
  const path = join(folder, name)
  if (!existsSync(path)) throw new Error(`${path} does not exist. Run "npm run test:registries", which builds it.`)
  return { path, folder }
}
