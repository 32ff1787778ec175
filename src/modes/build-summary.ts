import { code, lines } from '../actions/markdown.ts'
import { formatPlatform, type Platform } from '../oci/platform.ts'
import { bytesOf, type PushedLayer } from '../push/pushing.ts'
import { formatBytes } from '../units.ts'

/** What build mode has to show. */
export interface BuiltImage {
  readonly system: string
  readonly platform: Platform
  readonly storePath: string
  /** One for each repository that it was pushed to; none where nothing was to be pushed. */
  readonly pushed: readonly { readonly reference: string; readonly digest: string }[]
  /** Absent where Docker pushed, and where nothing was to be built. */
  readonly layers?: readonly PushedLayer[]
  /** It was published before, and so not built: `relabelled` where only its labels are other ones now. */
  readonly kept?: 'whole' | 'relabelled'
}

/** The summary of a build, as Markdown. */
export function summarizeBuild({ system, platform, storePath, pushed, layers, kept }: BuiltImage): string {
  const rows = pushed.map(({ reference, digest }) => `| ${code(reference)} | ${code(digest)} |`)
  const result =
    rows.length > 0
      ? [`| ${kept === 'whole' ? 'published' : 'pushed'} as | digest |`, '|---|---|', ...rows]
      : ['Nothing was pushed: `push` is `false`.']
  return lines(
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
  const labels = kept === 'relabelled' ? ' Its labels are new.' : ''
  return `${code(storePath)} is published already; nothing was built.${labels}`
}

function describeLayers(layers: readonly PushedLayer[]): readonly string[] {
  const rows = [
    { name: 'reused', some: layers.filter(({ reused }) => reused) },
    { name: 'pushed', some: layers.filter(({ reused }) => !reused) },
  ]
  return [
    '| layers | number | compressed |',
    '|---|---|---|',
    ...rows.map(({ name, some }) => `| ${name} | ${some.length} | ${formatBytes(bytesOf(some))} |`),
  ]
}
