import type { ImageChanges } from '../changes/image-changes.ts'
import { describeChanges } from '../changes/report.ts'
import { bulletList, code, foldLines, joinLines, table } from '../markdown.ts'
import { formatPlatform, type Platform } from '../oci/platform.ts'
import { formatReference, formatRepository, type Repository } from '../oci/reference.ts'
import type { PublishedSbom } from '../push/sbom.ts'
import { formatBytes, formatDuration } from '../text.ts'
import { type PhaseTime, totalTime } from './phases.ts'

/** The result of a build. */
export interface BuiltImage {
  readonly system: string
  readonly platform: Platform
  readonly storePath: string
  /** The repositories in the input `image`. At least one. */
  readonly images: readonly Repository[]
  /** The tag of the build. Empty if the image was pushed by digest only. */
  readonly tag: string
  /** One for each repository. Empty with `push: false`. */
  readonly pushed: readonly { readonly repository: Repository; readonly digest: string }[]
  /** Absent if Docker pushed, which does not report it, or nothing was pushed. */
  readonly traffic?: Traffic | undefined
  /** Set if the image was already published. `relabelled`: only its labels were updated. */
  readonly reused?: 'as-is' | 'relabelled'
  /** Absent if the image has no SBOM. */
  readonly sbom?: PublishedSbom | undefined
  /** Set if it was compared with a published image. */
  readonly changes?: ImageChanges | undefined
  readonly times: readonly PhaseTime[]
}

/** The upload of an image. Sizes are compressed, in bytes. */
export interface Traffic {
  readonly sent: number
  readonly total: number
  readonly layers: number
  readonly reusedLayers: number
}

/** Returns the summary of a build as Markdown. */
export function summarizeBuild(image: BuiltImage): string {
  const { platform, images, reused, times, changes } = image
  const [first] = images
  const name = first === undefined ? '' : `${code(formatRepository(first))} `
  return joinLines(
    `### ${reused ? 'Unchanged' : 'Built'}: ${name}for ${formatPlatform(platform)}`,
    '',
    `${describeResult(image)}.`,
    '',
    ...tabulateTimes(times),
    ...foldLines('Details', bulletList(listDetails(image))),
    ...(changes === undefined ? [] : describeChanges(changes)),
  )
}

function describeResult({ pushed, reused, traffic, times }: BuiltImage): string {
  const parts = [
    `**${formatDuration(totalTime(times))}**`,
    ...(reused === undefined ? [] : ['already published, so nothing was built']),
    ...(reused === 'relabelled' ? ['its labels were updated'] : []),
    ...(traffic === undefined ? [] : describeTraffic(traffic)),
  ]
  if (pushed.length === 0) return [...parts, 'not pushed: `push` is `false`'].join(', ')
  return [...parts, ...(traffic === undefined ? ['pushed by Docker'] : [])].join(', ')
}

function describeTraffic({ sent, total, layers, reusedLayers }: Traffic): readonly string[] {
  return [
    `${formatBytes(sent)} of ${formatBytes(total)} uploaded`,
    `${reusedLayers} of ${layers} ${layers === 1 ? 'layer' : 'layers'} reused`,
  ]
}

/** Returns the times of phases as a table, one column for each. */
export function tabulateTimes(times: readonly PhaseTime[]): readonly string[] {
  if (times.length === 0) return []
  return table(
    times.map(({ phase }) => phase),
    [times.map(({ time }) => formatDuration(time))],
  )
}

function listDetails({ system, storePath, pushed, tag, sbom }: BuiltImage): readonly string[] {
  return [
    `System: ${code(system)}`,
    `Store path: ${code(storePath)}`,
    ...pushed.flatMap(({ repository, digest }) => [
      `Image: ${code(`${formatRepository(repository)}@${digest}`)}`,
      ...(tag === '' ? [] : [`Tag: ${code(formatReference({ repository, tag }))}`]),
    ]),
    ...(sbom === undefined ? [] : [`SBOM: ${code(sbom.digest)}`]),
  ]
}
