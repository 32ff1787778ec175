import { code, joinLines } from '../actions/markdown.ts'
import { formatPlatform, type Platform } from '../oci/platform.ts'
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
  readonly kept?: 'whole' | 'relabelled'
}

/** Returns the summary of a build as Markdown. */
export function summarizeBuild({ system, platform, storePath, pushed, layers, kept }: BuiltImage): string {
  const rows = pushed.map(({ reference, digest }) => `| ${code(reference)} | ${code(digest)} |`)
  const result =
    rows.length > 0
      ? [`| ${kept === 'whole' ? 'published' : 'pushed'} as | digest |`, '|---|---|', ...rows]
      : ['Nothing was pushed: `push` is `false`.']
  return joinLines(
    `### ${kept ? 'Unchanged' : 'Built'} for ${system} (${formatPlatform(platform)})`,
    '',
    describeOrigin(storePath, kept),
    '',
    ...result,
    '',
    ...(layers === undefined ? [] : describeLayers(layers)),
  )
}

function describeOrigin(storePath: string, kept: BuiltImage['kept']): string {
  if (kept === undefined) return `Nix built ${code(storePath)}.`
  const labels = kept === 'relabelled' ? ' Its labels were updated.' : ''
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
