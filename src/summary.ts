import { type Platform, printPlatform } from './oci/platform.ts'
import { bytesOf, type PushedLayer } from './push.ts'
import { printBytes } from './units.ts'

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

/** What merge mode has to show. */
export interface PublishedIndex {
  readonly image: string
  readonly digest: string
  /** Full references. */
  readonly tags: readonly string[]
  readonly platforms: readonly { readonly system: string; readonly platform: Platform; readonly digest: string }[]
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

/** The summary of a merge, as Markdown. */
export function summarizeMerge(indexes: readonly PublishedIndex[], pushed: boolean): string {
  const heading = pushed ? '# Published' : '# Checked, not published'
  return lines(heading, '', ...indexes.flatMap((index) => describeIndex(index, pushed)))
}

function describeIndex({ image, digest, tags, platforms }: PublishedIndex, pushed: boolean): readonly string[] {
  const [first = `${image}@${digest}`] = tags
  return [
    ...tags.map((tag) => `- ${code(tag)}`),
    '',
    `Index ${code(digest)}`,
    '',
    '| platform | system | digest |',
    '|---|---|---|',
    ...platforms.map((one) => `| ${printPlatform(one.platform)} | ${one.system} | ${code(one.digest)} |`),
    '',
    ...(pushed ? ['```sh', `docker pull ${first}`, '```', ''] : []),
  ]
}

/** References and digests can't hold a backtick; store paths and system names neither. */
function code(text: string): string {
  return `\`${text.replaceAll('`', '')}\``
}

function lines(...all: readonly string[]): string {
  return `${all.join('\n').trimEnd()}\n`
}
