import { describe, expect, test } from '@jest/globals'
import { type BuildDescription, composeProvenance, type PlatformBuild } from '../../src/attest/provenance.ts'
import type { ResourceDescriptor } from '../../src/nix/flake-lock.ts'
import { CLAIMS } from '../support/sigstore.ts'

const index = `sha256:${'0'.repeat(64)}` as const
const amd64 = `sha256:${'1'.repeat(64)}` as const
const arm64 = `sha256:${'2'.repeat(64)}` as const
const nixpkgs = {
  name: 'nixpkgs',
  uri: 'git+https://github.com/NixOS/nixpkgs@abc',
  digest: { gitCommit: 'abc' },
  annotations: { narHash: 'sha256-x' },
}

const description: BuildDescription = {
  image: { host: 'ghcr.io', path: 'owner/app' },
  index,
  builds: [
    {
      platform: { os: 'linux', architecture: 'arm64' },
      system: 'aarch64-linux',
      digest: arm64,
      revision: CLAIMS.sha,
      source: 'https://github.com/Owner/App',
      derivation: '/nix/store/b-app.drv',
      storePath: '/nix/store/b-app',
      inputs: [nixpkgs],
    },
    {
      platform: { os: 'linux', architecture: 'amd64' },
      system: 'x86_64-linux',
      digest: amd64,
      revision: CLAIMS.sha,
      source: 'https://github.com/Owner/App',
      storePath: '/nix/store/a-app',
      inputs: [{ uri: 'path:./lib' }, nixpkgs],
    },
  ],
  server: 'https://github.com',
  claims: CLAIMS,
}

test('the provenance names the images, the workflow, the commit, the inputs and the derivations', () => {
  const name = 'ghcr.io/owner/app'
  expect(JSON.parse(composeProvenance(description))).toEqual({
    _type: 'https://in-toto.io/Statement/v1',
    subject: ['0', '1', '2'].map((digit) => ({ name, digest: { sha256: digit.repeat(64) } })),
    predicateType: 'https://slsa.dev/provenance/v1',
    predicate: {
      buildDefinition: {
        buildType: 'https://actions.github.io/buildtypes/workflow/v1',
        externalParameters: {
          workflow: {
            ref: 'refs/heads/main',
            repository: 'https://github.com/Owner/App',
            path: '.github/workflows/release.yml',
          },
        },
        internalParameters: {
          github: {
            event_name: 'push',
            repository_id: '1234',
            repository_owner_id: '56',
            runner_environment: 'github-hosted',
          },
        },
        resolvedDependencies: [
          { uri: 'git+https://github.com/Owner/App@refs/heads/main', digest: { gitCommit: CLAIMS.sha } },
          nixpkgs,
          { uri: 'path:./lib' },
          {
            name: 'linux/amd64',
            uri: 'nix:/nix/store/a-app',
            annotations: { image: amd64, outputPath: '/nix/store/a-app', revision: CLAIMS.sha, system: 'x86_64-linux' },
          },
          {
            name: 'linux/arm64',
            uri: 'nix:/nix/store/b-app.drv',
            annotations: {
              image: arm64,
              outputPath: '/nix/store/b-app',
              revision: CLAIMS.sha,
              system: 'aarch64-linux',
            },
          },
        ],
      },
      runDetails: {
        builder: { id: 'https://github.com/Owner/App/.github/workflows/release.yml@refs/heads/main' },
        metadata: { invocationId: 'https://github.com/Owner/App/actions/runs/42/attempts/1' },
      },
    },
  })
})

test('the order of the platforms and of the fields of their inputs does not matter', () => {
  const { annotations, digest, uri, name } = nixpkgs
  const reordered = { annotations, digest, uri, name }
  const builds = description.builds
    .toReversed()
    .map((build) => ({ ...build, inputs: [reordered, { uri: 'path:./lib' }] }))
  expect(composeProvenance({ ...description, builds })).toBe(composeProvenance(description))
})

describe('commits other than that of the run', () => {
  const [one, other] = ['e'.repeat(40), 'f'.repeat(40)]
  const OWN = 'https://github.com/Owner/App'

  /** The commits of the provenance, and those of the platforms. */
  function commitsOf(...commits: readonly Pick<PlatformBuild, 'revision' | 'source'>[]) {
    const builds = description.builds.map((build, at) => ({ ...build, inputs: [], ...commits[at] }))
    const { predicate } = JSON.parse(composeProvenance({ ...description, builds }))
    const all: readonly ResourceDescriptor[] = predicate.buildDefinition.resolvedDependencies
    const listed = all.filter(({ digest }) => digest !== undefined)
    expect(listed[0]?.digest).toEqual({ gitCommit: CLAIMS.sha })
    const platforms = all.filter(({ name }) => name !== undefined)
    return {
      listed: listed.slice(1).map(({ uri }) => uri),
      platforms: platforms.map(({ name, annotations }) => [name, annotations?.revision]),
    }
  }

  test('are dependencies of their own, with their repositories', () => {
    const fork = 'https://github.com/Fork/App'
    expect(commitsOf({ revision: one, source: OWN }, { revision: other, source: fork })).toEqual({
      listed: [`git+${fork}@${other}`, `git+${OWN}@${one}`],
      platforms: [
        ['linux/amd64', other],
        ['linux/arm64', one],
      ],
    })
  })

  test('are listed once', () => {
    const commit = { revision: one, source: OWN }
    expect(commitsOf(commit, commit).listed).toEqual([`git+${OWN}@${one}`])
  })

  test('are not listed if their repository is unknown', () => {
    const { listed, platforms } = commitsOf(
      { revision: one, source: undefined },
      { revision: other, source: undefined },
    )
    expect(listed).toEqual([])
    expect(platforms.map(([, revision]) => revision)).toEqual([undefined, undefined])
  })
})

test('a reusable workflow is the builder, and its caller the workflow', () => {
  const claims = { ...CLAIMS, job_workflow_ref: 'Other/Flows/.github/workflows/image.yml@refs/tags/v1' }
  const { predicate } = JSON.parse(composeProvenance({ ...description, claims }))
  expect(predicate.runDetails.builder.id).toBe(
    'https://github.com/Other/Flows/.github/workflows/image.yml@refs/tags/v1',
  )
  expect(predicate.buildDefinition.externalParameters.workflow.path).toBe('.github/workflows/release.yml')
})
