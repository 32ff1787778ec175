import type { ResourceDescriptor } from '../nix/flake-lock.ts'
import { byPlatform, formatPlatform, type Platform } from '../oci/platform.ts'
import { type Digest, formatRepository, type Repository } from '../oci/reference.ts'
import type { Claims } from './identity.ts'

/** https://slsa.dev/spec/v1.0/provenance */
export const PROVENANCE_TYPE = 'https://slsa.dev/provenance/v1'

/** https://actions.github.io/buildtypes/workflow/v1 */
const BUILD_TYPE = 'https://actions.github.io/buildtypes/workflow/v1'

/** How the image of a platform was built. */
export interface PlatformBuild {
  readonly platform: Platform
  /** The Nix system. */
  readonly system: string
  readonly digest: Digest
  /** The path of the derivation. Absent if it is unknown. */
  readonly derivation?: string | undefined
  /** The store path of the image. Absent if it is unknown. */
  readonly storePath?: string | undefined
  /** The commit that was built. Absent if it is unknown. */
  readonly revision?: string | undefined
  /** The URL of the repository that has the commit. Absent if it is unknown. */
  readonly source?: string | undefined
  /** The locked inputs of the flake. */
  readonly inputs?: readonly ResourceDescriptor[] | undefined
}

/** An index, and how it was built. */
export interface BuildDescription {
  /** The repository whose name the subjects get. */
  readonly image: Repository
  readonly index: Digest
  readonly builds: readonly PlatformBuild[]
  /** The URL of the Git host, without a slash at the end. */
  readonly server: string
  readonly claims: Claims
}

/**
 * Returns the provenance of an index and of its images as an in-toto statement. Deterministic.
 * Source: https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
 */
export function composeProvenance({ image, index, builds, server, claims }: BuildDescription): string {
  const name = formatRepository(image)
  const sorted = builds.toSorted((one, other) => byPlatform(one, other))
  const digests = [...new Set([index, ...sorted.map(({ digest }) => digest)])]
  const repository = `${server}/${claims.repository}`
  return JSON.stringify({
    _type: 'https://in-toto.io/Statement/v1',
    subject: digests.map((digest) => ({ name, digest: { sha256: digest.slice('sha256:'.length) } })),
    predicateType: PROVENANCE_TYPE,
    predicate: {
      buildDefinition: {
        buildType: BUILD_TYPE,
        externalParameters: {
          workflow: { ref: claims.ref, repository, path: workflowPath(claims) },
        },
        internalParameters: {
          github: {
            event_name: claims.event_name,
            repository_id: claims.repository_id,
            repository_owner_id: claims.repository_owner_id,
            runner_environment: claims.runner_environment,
          },
        },
        resolvedDependencies: [
          { uri: `git+${repository}@${claims.ref}`, digest: { gitCommit: claims.sha } },
          ...otherCommits(sorted, claims),
          ...distinctInputs(sorted),
          ...sorted.flatMap(describePlatform),
        ],
      },
      runDetails: {
        builder: { id: `${server}/${claims.job_workflow_ref}` },
        metadata: {
          invocationId: `${repository}/actions/runs/${claims.run_id}/attempts/${claims.run_attempt}`,
        },
      },
    },
  })
}

/** Returns the path in `owner/name/.github/workflows/release.yml@refs/heads/main`. */
function workflowPath({ repository, workflow_ref: reference }: Claims): string {
  const path = reference.startsWith(`${repository}/`) ? reference.slice(repository.length + 1) : reference
  return path.split('@')[0] ?? path
}

/** Returns the commits that were built, without the one of the run. A commit is no evidence without its repository. */
function otherCommits(builds: readonly PlatformBuild[], { sha }: Claims): readonly ResourceDescriptor[] {
  const commits = builds.flatMap(({ revision, source }): [string, string][] =>
    revision === undefined || source === undefined || revision === sha ? [] : [[`git+${source}@${revision}`, revision]],
  )
  return [...new Map(commits)].map(([uri, gitCommit]) => ({ uri, digest: { gitCommit } }))
}

/** Returns the inputs of all platforms, which usually are the same. */
function distinctInputs(builds: readonly PlatformBuild[]): readonly ResourceDescriptor[] {
  const inputs = builds.flatMap(({ inputs = [] }) => inputs.map(serializeResource))
  const distinct = new Map(inputs.map((input) => [JSON.stringify(input), input]))
  return [...distinct].sort(([one], [other]) => (one < other ? -1 : 1)).map(([, input]) => input)
}

function serializeResource({ name, uri, digest, annotations }: ResourceDescriptor): ResourceDescriptor {
  return {
    ...(name !== undefined && { name }),
    uri,
    ...(digest && { digest: sortKeys(digest) }),
    ...(annotations && { annotations: sortKeys(annotations) }),
  }
}

function sortKeys(fields: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  return Object.fromEntries(Object.entries(fields).sort(([one], [other]) => (one < other ? -1 : 1)))
}

function describePlatform(build: PlatformBuild): readonly ResourceDescriptor[] {
  const { platform, system, digest, derivation, storePath, revision, source } = build
  const path = derivation ?? storePath
  if (path === undefined) return []
  return [
    {
      name: formatPlatform(platform),
      uri: `nix:${path}`,
      annotations: {
        image: digest,
        ...(storePath && { outputPath: storePath }),
        ...(source && revision && { revision }),
        system,
      },
    },
  ]
}
