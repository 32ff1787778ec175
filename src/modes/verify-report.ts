import type { PublishedPlatform } from '../changes/published-platform.ts'
import {
  type ComparedLayer,
  type Difference,
  differentStorePaths,
  type LayerDifference,
  type Verification,
} from '../changes/verification.ts'
import { VerificationError } from '../errors.ts'
import { bulletList, code, codeCell, formatText, joinLines, table } from '../markdown.ts'
import { parseConfig } from '../oci/manifest.ts'
import { formatPlatform, type Platform } from '../oci/platform.ts'
import { formatReference, type Reference } from '../oci/reference.ts'
import { sanitizeLine } from '../text.ts'
import { tabulateTimes } from './build-summary.ts'
import type { PhaseTime } from './phases.ts'

/** The result of `mode: verify`. */
export interface VerificationReport extends Verification {
  readonly reference: Reference
  readonly system: string
  readonly platform: Platform
  readonly published: PublishedPlatform
  /** The commit that is checked out, if it is known. */
  readonly revision: string | undefined
  readonly storePath: string
}

/** Returns the error for a published image that differs from the build. */
export function verificationFailure(report: VerificationReport): VerificationError {
  const { reference, system, platform, differences, published } = report
  return new VerificationError({
    message: `${formatReference(reference)} for ${formatPlatform(platform)} is not the image that this source builds for ${system}`,
    detail: [`published: ${published.image.digest}`, ...describeDifferences(differences, layerCount(published))].join(
      '\n',
    ),
    hint: adviseSource(report),
  })
}

/**
 * Returns the summary of a verification as Markdown.
 * @param times how long each phase took
 */
export function summarizeVerification(report: VerificationReport, times: readonly PhaseTime[]): string {
  const { reference, platform, system, published, revision, storePath, differences, addedLabels } = report
  const labels = Object.keys(addedLabels).map(quoteName)
  const isSame = differences.length === 0
  const name = formatReference({ repository: reference.repository, digest: published.image.digest })
  return joinLines(
    `### ${isSame ? 'Verified' : 'Not verified'}: ${code(formatReference(reference))} for ${formatPlatform(platform)}`,
    '',
    `The published image is ${isSame ? '' : '**not** '}the one that this source builds.`,
    '',
    ...bulletList([
      `Published: ${code(name)}, from ${describeCommit(published.revision)}`,
      `Built for ${code(system)}: ${code(storePath)}, from ${describeCommit(revision)}`,
      ...(labels.length === 0 ? [] : [`Labels that were added at publication, not compared: ${labels.join(', ')}`]),
    ]),
    ...(isSame ? [] : [...tabulateDifferences(differences), ...formatText(adviseSource(report))]),
    ...tabulateTimes(times),
  )
}

function describeCommit(revision: string | undefined): string {
  return revision === undefined ? 'an unknown commit' : `commit ${quoteName(revision)}`
}

/** In lines. The output `differences` has all. */
const LAYERS_SHOWN = 20
const PATHS_SHOWN = 30

function describeDifferences(differences: readonly Difference[], count: number): readonly string[] {
  const layers = differences.filter((one) => one.part === 'layer')
  const fields = differences.flatMap((one) => (one.part === 'config' ? [one.field] : []))
  const { onlyPublished, onlyBuilt, otherContent } = differentStorePaths(differences)
  return [
    layers.length === 0 ? `layers: all ${count} are equal` : `layers: ${layers.length} of ${count} differ`,
    ...limitLines(
      layers.map((one) => `  ${describeLayer(one)}`),
      LAYERS_SHOWN,
    ),
    ...listPaths('store paths only in the published image', onlyPublished),
    ...listPaths('store paths only in the build', onlyBuilt),
    ...listPaths('store paths of layers with other content', otherContent),
    describeFields(fields, layers.length > 0),
  ]
}

function describeLayer({ published, built }: LayerDifference): string {
  const sides = [...(published ? [`published ${published.diffId}`] : []), ...(built ? [`built ${built.diffId}`] : [])]
  const numbers = new Set([published, built].flatMap((one) => (one ? [one.number] : [])))
  return `layer ${[...numbers].join(' → ')}: ${sides.join(', ')}${sides.length === 1 ? ' only' : ''}`
}

function listPaths(title: string, paths: readonly string[]): readonly string[] {
  return paths.length === 0
    ? []
    : [
        `${title}:`,
        ...limitLines(
          paths.map((path) => `  ${path}`),
          PATHS_SHOWN,
        ),
      ]
}

function limitLines(lines: readonly string[], most: number): readonly string[] {
  return lines.length <= most ? lines : [...lines.slice(0, most), `  and ${lines.length - most} more`]
}

function describeFields(fields: readonly string[], layersDiffer: boolean): string {
  if (fields.length === 0) return 'config: equal, except for the layers'
  if (fields.includes('encoding'))
    return 'config: the same content in other bytes, such as with fields in another order'
  const names = limitLines(fields, LAYERS_SHOWN).join(', ')
  const except = layersDiffer ? '' : '; everything else is equal'
  return `config: ${names} ${fields.length === 1 ? 'differs' : 'differ'}${except}`
}

/** Says what to do, depending on whether the published commit is the one that was built. */
function adviseSource({ published: { revision: published }, revision, differences }: VerificationReport): string {
  if (published !== undefined && published !== revision) {
    const built = revision === undefined ? 'The commit that was built is unknown' : `Commit ${revision} was built`
    return `${built}, but the index names commit ${published}. Check out that commit before this step:
  - uses: actions/checkout@v7
    with:
      ref: ${published}`
  }
  const { otherContent } = differentStorePaths(differences)
  const commit =
    published === undefined
      ? 'The index does not name its commit (annotation org.opencontainers.image.revision). Check out the commit that the image was published from.'
      : `The index names the commit that was built, ${published}.`
  const inputs = 'Use the same flake.lock, `attribute` and `nix-args` as when it was published.'
  const rebuild =
    otherContent.length > 0
      ? ` If the build is not reproducible, its content differs each time. To check that, run:\n  nix build --rebuild ${otherContent[0]}`
      : ''
  return `${commit} ${inputs}${rebuild}`
}

function tabulateDifferences(differences: readonly Difference[]): readonly string[] {
  const layers = differences.filter((one) => one.part === 'layer')
  const fields = differences.flatMap((one) => (one.part === 'config' ? [one.field] : []))
  const shown = layers.slice(0, LAYERS_SHOWN)
  // The layers of both sides are below each other: beside each other, their digests would be too wide.
  const rows = shown.flatMap(({ published, built }) => [
    ...describeSide('published', published),
    ...describeSide('built', built),
  ])
  return [
    ...table(['layer', 'image', 'diff ID and store paths'], rows),
    ...(layers.length > shown.length ? [`Not shown: ${layers.length - shown.length} more.`, ''] : []),
    ...(fields.length === 0
      ? []
      : [`Different in the config: ${fields.slice(0, LAYERS_SHOWN).map(quoteName).join(', ')}`, '']),
  ]
}

function describeSide(side: string, layer: ComparedLayer | undefined): readonly (readonly string[])[] {
  if (layer === undefined) return []
  const { storePaths = [], diffId, number } = layer
  const paths = storePaths.slice(0, PATHS_SHOWN).map(codeCell)
  const more = storePaths.length > paths.length ? [`and ${storePaths.length - paths.length} more`] : []
  return [[String(number), side, [code(diffId), ...paths, ...more].join('<br>')]]
}

/** Formats a name from the published image, which may contain any characters. */
function quoteName(text: string): string {
  return code(sanitizeLine(text))
}

function layerCount({ image }: PublishedPlatform): number {
  return parseConfig(image.configBytes, 'the config').diffIds.length
}
