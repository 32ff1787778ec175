import { code, lines } from '../markdown.ts'
import { type Platform, printPlatform } from '../oci/platform.ts'

/** What merge mode has to show. */
export interface PublishedIndex {
  readonly image: string
  readonly digest: string
  /** Full references. */
  readonly tags: readonly string[]
  readonly platforms: readonly { readonly system: string; readonly platform: Platform; readonly digest: string }[]
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
