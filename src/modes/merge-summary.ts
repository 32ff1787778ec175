import { code, joinLines } from '../actions/markdown.ts'
import { formatPlatform, type Platform } from '../oci/platform.ts'
import { formatReference } from '../oci/reference.ts'
import type { TagPlan } from '../publish/tag-plan.ts'

/** The result of a merge. */
export interface MergedImage {
  /** Of the index. */
  readonly digest: string
  readonly plans: readonly TagPlan[]
  readonly platforms: readonly { readonly system: string; readonly platform: Platform; readonly digest: string }[]
  /** `false`: everything was checked, but nothing was published. */
  readonly pushed: boolean
  readonly changed: boolean
}

/** Returns the summary of a merge as Markdown. */
export function summarizeMerge({ digest, plans, platforms, pushed, changed }: MergedImage): string {
  const heading = pushed ? (changed ? '# Published' : '# Unchanged') : '# Checked, not published'
  return joinLines(
    heading,
    '',
    `Index ${code(digest)}`,
    '',
    `| tag | ${pushed ? '' : 'would be '}| from | to | platforms |`,
    '|---|---|---|---|---|',
    ...plans.map((plan) => describeTag(plan, digest)),
    '',
    '| platform | system | digest |',
    '|---|---|---|',
    ...platforms.map((one) => `| ${formatPlatform(one.platform)} | ${one.system} | ${code(one.digest)} |`),
    '',
    ...(pushed ? pullCommand(plans) : []),
  )
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
