import type { IndexAttestation } from '../attest/attest.ts'
import type { ImageChanges } from '../changes/image-changes.ts'
import { describeChanges } from '../changes/report.ts'
import { formatPlatform, type Platform } from '../oci/platform.ts'
import { formatReference } from '../oci/reference.ts'
import type { TagPlan } from '../publish/tag-plan.ts'
import type { PublishedSbom } from '../push/sbom.ts'
import { type CompressedLayer, totalSize } from '../push/uploads.ts'
import { formatBytes } from '../text.ts'

/** The result of a build. */
export interface BuiltImage {
  readonly system: string
  readonly platform: Platform
  readonly storePath: string
  /** One for each repository. Empty with `push: false`. */
  readonly pushed: readonly { readonly reference: string; readonly digest: string }[]
  /** Absent if Docker pushed or nothing was built. */
  readonly layers?: readonly CompressedLayer[]
  /** Set if the image was already published. `relabelled`: only its labels were updated. */
  readonly reused?: 'as-is' | 'relabelled'
  /** Absent if the image has no SBOM. */
  readonly sbom?: PublishedSbom | undefined
  /** Set if it was compared with a published image. */
  readonly changes?: ImageChanges | undefined
}

/** Returns the summary of a build as Markdown. */
export function summarizeBuild(image: BuiltImage): string {
  const { system, platform, storePath, pushed, layers, reused, changes } = image
  const rows = pushed.map(({ reference, digest }) => `| ${code(reference)} | ${code(digest)} |`)
  const result =
    rows.length > 0
      ? [`| ${reused === 'as-is' ? 'published' : 'pushed'} as | digest |`, '|---|---|', ...rows]
      : ['Nothing was pushed: `push` is `false`.']
  return joinLines(
    `### ${reused ? 'Unchanged' : 'Built'} for ${system} (${formatPlatform(platform)})`,
    '',
    describeOrigin(storePath, reused),
    '',
    ...result,
    '',
    ...(layers === undefined ? [] : describeLayers(layers)),
    ...(changes === undefined ? [] : describeChanges(changes)),
  )
}

function describeOrigin(storePath: string, reused: BuiltImage['reused']): string {
  if (reused === undefined) return `Nix built ${code(storePath)}.`
  const labels = reused === 'relabelled' ? ' Its labels were updated.' : ''
  return `${code(storePath)} is already published, so nothing was built.${labels}`
}

function describeLayers(layers: readonly CompressedLayer[]): readonly string[] {
  const rows = [
    { name: 'reused', some: layers.filter(({ reused }) => reused) },
    { name: 'pushed', some: layers.filter(({ reused }) => !reused) },
  ]
  return [
    '| layers | number | compressed |',
    '|---|---|---|',
    ...rows.map(({ name, some }) => `| ${name} | ${some.length} | ${formatBytes(totalSize(some))} |`),
  ]
}

/** The result of a merge. */
export interface MergedImage {
  /** Of the index. */
  readonly digest: string
  readonly plans: readonly TagPlan[]
  readonly platforms: readonly { readonly system: string; readonly platform: Platform; readonly digest: string }[]
  /** `false`: everything was checked, but nothing was published. */
  readonly pushed: boolean
  readonly changed: boolean
  /** Against the image that the first existing tag pointed to. */
  readonly changes?: ImageChanges | undefined
  readonly attestation?: IndexAttestation | undefined
}

/** Returns the summary of a merge as Markdown. */
export function summarizeMerge(image: MergedImage): string {
  const { digest, plans, platforms, pushed, changed, changes, attestation } = image
  const heading = pushed ? (changed ? '# Published' : '# Unchanged') : '# Checked, not published'
  return joinLines(
    heading,
    '',
    `Index ${code(digest)}`,
    '',
    ...(attestation === undefined ? [] : [describeAttestation(attestation), '']),
    `| tag | ${pushed ? '' : 'would be '}| from | to | platforms |`,
    '|---|---|---|---|---|',
    ...plans.map((plan) => describeTag(plan, digest)),
    '',
    '| platform | system | digest |',
    '|---|---|---|',
    ...platforms.map((one) => `| ${formatPlatform(one.platform)} | ${one.system} | ${code(one.digest)} |`),
    '',
    ...(changes === undefined ? [] : describeChanges(changes)),
    ...(pushed ? pullCommand(plans) : []),
  )
}

function describeAttestation({ digest, url }: IndexAttestation): string {
  return `Provenance ${code(digest)}${url === undefined ? '' : `, [stored on GitHub](${url})`}`
}

function describeTag({ tag, before, action, gained, lost, now }: TagPlan, digest: string): string {
  const from = before.stored === undefined ? '' : code(before.stored.digest)
  const to = action === 'skipped' ? '' : action === 'overtaken' ? now : digest
  const platforms = action === 'moved' ? [...gained.map(signed('+')), ...lost.map(signed('−'))].join(', ') : ''
  return `| ${code(formatReference(tag))} | ${action} | ${from} | ${to ? code(to) : ''} | ${platforms} |`
}

function signed(sign: string): (platform: Platform) => string {
  return (platform) => `${sign} ${formatPlatform(platform)}`
}

function pullCommand(plans: readonly TagPlan[]): readonly string[] {
  const first = plans.find(({ action }) => action !== 'skipped' && action !== 'overtaken')
  return first === undefined ? [] : ['```sh', `docker pull ${formatReference(first.tag)}`, '```', '']
}

/** A job of the build matrix. */
export interface PlannedBuild {
  readonly system: string
  /** A label for `runs-on`. */
  readonly runner: string
  /** Set if its image is already published. */
  readonly unchanged?: true
}

/** Returns the summary of a plan as Markdown. */
export function summarizePlan(builds: readonly PlannedBuild[]): string {
  return joinLines(
    '# Planned',
    '',
    '| system | runner | image |',
    '|---|---|---|',
    ...builds.map(
      ({ system, runner, unchanged }) => `| ${system} | ${code(runner)} | ${unchanged ? 'unchanged' : 'to be built'} |`,
    ),
  )
}

/** Formats inline code. Removes backticks, which references, digests, store paths and systems don't contain. */
export function code(text: string): string {
  return `\`${text.replaceAll('`', '')}\``
}

/** Joins lines of Markdown, with one line break at the end. */
export function joinLines(...all: readonly string[]): string {
  return `${all.join('\n').trimEnd()}\n`
}
