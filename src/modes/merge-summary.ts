import type { IndexAttestation } from '../attest/attest.ts'
import type { ImageChanges } from '../changes/image-changes.ts'
import { describeChanges } from '../changes/report.ts'
import { code, codeBlock, codeCell, joinLines, table } from '../markdown.ts'
import { formatPlatform, type Platform } from '../oci/platform.ts'
import { formatReference, formatRepository, shortDigest } from '../oci/reference.ts'
import type { TagPlan } from '../publish/tag-plan.ts'
import { cut, formatBytes, sanitizeLine } from '../text.ts'

/** The result of a merge. */
export interface MergedImage {
  /** The index in each repository. */
  readonly index: readonly string[]
  readonly plans: readonly TagPlan[]
  readonly platforms: readonly MergedPlatform[]
  /** `false`: everything was checked, but nothing was published. */
  readonly pushed: boolean
  readonly changed: boolean
  /** Against the image that the first existing tag pointed to. */
  readonly changes?: ImageChanges | undefined
  readonly attestation?: IndexAttestation | undefined
}

export interface MergedPlatform {
  readonly platform: Platform
  readonly digest: string
  /** The compressed size of all layers, in bytes. */
  readonly size: number
}

/** Returns the summary of a merge as Markdown. */
export function summarizeMerge(image: MergedImage): string {
  const { index, plans, platforms, pushed, changed, changes, attestation } = image
  const repositories = new Set(plans.map(({ tag: { repository } }) => formatRepository(repository)))
  const tags = plans.map((plan) => [
    // In one repository, only the tags differ.
    codeCell(repositories.size > 1 ? formatReference(plan.tag) : plan.tag.tag),
    describeTagChange(plan),
  ])
  return joinLines(
    `### ${pushed ? (changed ? 'Published' : 'Unchanged') : 'Checked, not published'}`,
    '',
    ...(pushed ? pullCommands(plans) : []),
    ...table(['tag', pushed ? 'change' : 'planned change'], tags),
    ...table(
      ['platform', 'size', 'digest'],
      platforms.map(({ platform, size, digest }) => [formatPlatform(platform), formatBytes(size), code(digest)]),
    ),
    ...index.flatMap((reference) => [`Index: ${code(reference)}`, '']),
    ...(attestation === undefined ? [] : [describeAttestation(attestation), '']),
    ...(changes === undefined ? [] : describeChanges(changes)),
  )
}

function describeAttestation({ digest, url }: IndexAttestation): string {
  return `Provenance: ${code(digest)}${url === undefined ? '' : `, [stored on GitHub](${url})`}`
}

function describeTagChange({ before, action, gained, lost, now }: TagPlan): string {
  const from = before.stored === undefined ? '' : code(shortDigest(before.stored.digest))
  switch (action) {
    case 'created':
      return 'new'
    case 'kept':
      return 'unchanged'
    case 'moved':
      return [`moved from ${from}`, ...gained.map(signed('+')), ...lost.map(signed('−'))].join(', ')
    case 'skipped':
      return `not moved: ${from} is from the newer commit ${code(shortCommit(before.revision))}`
    case 'overtaken':
      return now === undefined ? 'deleted by another run' : `moved to ${code(shortDigest(now))} by another run`
  }
}

/** The commit comes from an annotation of a published image, which may contain anything. */
function shortCommit(revision = 'unknown'): string {
  const line = sanitizeLine(revision)
  return /^[0-9a-f]{40}$/.test(line) ? line.slice(0, 12) : cut(line, 40)
}

function signed(sign: string): (platform: Platform) => string {
  return (platform) => `${sign} ${formatPlatform(platform)}`
}

/** Returns a command for each repository, with its first tag. */
function pullCommands(plans: readonly TagPlan[]): readonly string[] {
  const published = plans.filter(({ action }) => action !== 'skipped' && action !== 'overtaken')
  const byRepository = Map.groupBy(published, ({ tag: { repository } }) => formatRepository(repository))
  const commands = [...byRepository.values()].flatMap(([first]) =>
    first === undefined ? [] : `docker pull ${formatReference(first.tag)}`,
  )
  return commands.length === 0 ? [] : codeBlock(commands.join('\n'), 'sh')
}
