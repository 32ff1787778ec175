import { code, lines } from '../markdown.ts'
import { type Platform, printPlatform } from '../oci/platform.ts'
import { printBytes } from '../units.ts'
import { bytesOf, type PushedLayer } from './push.ts'

/** What build mode has to show. */
export interface BuiltImage {
  readonly system: string
  readonly platform: Platform
  readonly storePath: string
  /** One for each repository that it was pushed to; none where nothing was to be pushed. */
  readonly pushed: readonly { readonly reference: string; readonly digest: string }[]
  /** Absent where Docker pushed. */
  readonly layers?: readonly PushedLayer[]
}

/** The summary of a build, as Markdown. */
export function summarizeBuild({ system, platform, storePath, pushed, layers }: BuiltImage): string {
  const rows = pushed.map(({ reference, digest }) => `| ${code(reference)} | ${code(digest)} |`)
  const result =
    rows.length > 0 ? ['| pushed as | digest |', '|---|---|', ...rows] : ['Nothing was pushed: `push` is `false`.']
  return lines(
    `### Built for ${system} (${printPlatform(platform)})`,
    '',
    `Nix built ${code(storePath)}.`,
    '',
    ...result,
    '',
    ...(layers === undefined ? [] : describeLayers(layers)),
  )
}

function describeLayers(layers: readonly PushedLayer[]): readonly string[] {
  const rows = [
    { name: 'reused', some: layers.filter(({ reused }) => reused) },
    { name: 'pushed', some: layers.filter(({ reused }) => !reused) },
  ]
  return [
    '| layers | number | compressed |',
    '|---|---|---|',
    ...rows.map(({ name, some }) => `| ${name} | ${some.length} | ${printBytes(bytesOf(some))} |`),
  ]
}
