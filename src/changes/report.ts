import { serializeShortened } from '../json.ts'
import type { Log } from '../log.ts'
import { code, codeCell, foldLines, table } from '../markdown.ts'
import { formatPlatform } from '../oci/platform.ts'
import { formatReference, shortDigest } from '../oci/reference.ts'
import { formatBytes } from '../text.ts'
import type { ImageChanges, PlatformChanges } from './image-changes.ts'
import type { PackageChanges, PackageEntry } from './packages.ts'

/** Logs one line for each platform. */
export function logChanges({ against, platforms }: ImageChanges, log: Log): void {
  const name = formatReference(against)
  for (const { platform, packages, size } of platforms) {
    const parts = [...(packages ? [formatPackageChanges(packages)] : []), ...(size ? [formatSizes(size)] : [])]
    log.info(`Changes for ${formatPlatform(platform)} since ${name}: ${parts.join('; ')}`)
  }
}

function formatPackageChanges(packages: PackageChanges): string {
  const counts = countsOf(packages).flatMap(({ name, count }) => (count > 0 ? [`${count} ${name}`] : []))
  if (counts.length === 0) return 'same packages'
  const rows = rowsOf(packages).map(({ change, text }) => (change === 'updated' ? text : `${text} ${change}`))
  const shown = rows.slice(0, ROWS_SHOWN)
  const more = rows.length > shown.length ? [`${rows.length - shown.length} more`] : []
  const list = shown.length > 0 ? ` (${[...shown, ...more].join(', ')})` : ''
  return `packages ${counts.join(', ')}${list}`
}

/** Returns the part of a summary about changes, as lines of Markdown. */
export function describeChanges({ against, platforms }: ImageChanges): readonly string[] {
  if (platforms.length === 0) return []
  const sized = platforms.some(({ size }) => size !== undefined)
  const { digest, ...name } = against
  // A full digest would take most of a line.
  const at = digest === undefined || against.tag === undefined ? '' : ` (${code(shortDigest(digest))})`
  // Most changes are the same for all platforms.
  const groups = Map.groupBy(platforms, ({ packages }) => JSON.stringify(packages && rowsOf(packages)))
  return [
    '### What changed',
    '',
    `Compared with ${code(formatReference(at === '' ? against : name))}${at}:`,
    '',
    ...table(
      ['platform', ...COUNTED, ...(sized ? ['compressed size'] : [])],
      platforms.map((one) => describePlatform(one, sized)),
    ),
    ...[...groups.values()].flatMap(describePackages),
  ]
}

function describePlatform({ platform, packages, size }: PlatformChanges, sized: boolean): readonly string[] {
  const counts = packages ? countsOf(packages).map(({ count }) => String(count)) : ['unknown', '', '', '']
  return [formatPlatform(platform), ...counts, ...(sized ? [size ? formatSizes(size) : ''] : [])]
}

function describePackages(same: readonly PlatformChanges[]): readonly string[] {
  const [{ packages } = {}] = same
  const rows = packages ? rowsOf(packages) : []
  if (rows.length === 0) return []
  const tabulateRows = (some: readonly Row[]) =>
    table(
      ['change', 'package'],
      some.map(({ change, text }) => [change, codeCell(text)]),
    )
  const folded = rows.slice(ROWS_SHOWN, ROWS_FOLDED)
  const left = rows.length - ROWS_SHOWN - folded.length
  const more = [...tabulateRows(folded), ...(left > 0 ? [`Not shown: ${left} more.`, ''] : [])]
  return [
    `**${same.map(({ platform }) => formatPlatform(platform)).join(', ')}**`,
    '',
    ...tabulateRows(rows.slice(0, ROWS_SHOWN)),
    ...(folded.length === 0 ? [] : foldLines(`${rows.length - ROWS_SHOWN} more`, more)),
  ]
}

const ROWS_SHOWN = 10
/** Including those above. Keeps the summary of four platforms below the runner's limit. */
const ROWS_FOLDED = 500

interface Row {
  readonly change: 'updated' | 'added' | 'removed'
  readonly text: string
}

function rowsOf({ added, removed, updated }: PackageChanges): readonly Row[] {
  return [
    ...updated.map(({ name, from, to }): Row => ({ change: 'updated', text: `${name} ${from} → ${to}` })),
    ...added.map((one): Row => ({ change: 'added', text: formatPackage(one) })),
    ...removed.map((one): Row => ({ change: 'removed', text: formatPackage(one) })),
  ]
}

function formatPackage({ name, version, outputs }: PackageEntry): string {
  return [name, ...(version === undefined ? [] : [version]), ...(outputs ? [`(${outputs.join(', ')})`] : [])].join(' ')
}

const COUNTED = ['updated', 'added', 'removed', 'rebuilt'] as const

function countsOf(packages: PackageChanges): readonly { readonly name: string; readonly count: number }[] {
  const { updated, added, removed, rebuilt } = packages
  const counts = { updated: updated.length, added: added.length, removed: removed.length, rebuilt }
  return COUNTED.map((name) => ({ name, count: counts[name] }))
}

function formatSizes({ before, after }: NonNullable<PlatformChanges['size']>): string {
  if (before === after) return formatBytes(after)
  const difference = `${after > before ? '+' : '−'}${formatBytes(Math.abs(after - before))}`
  return `${formatBytes(before)} → ${formatBytes(after)} (${difference})`
}

/**
 * Returns changes as JSON. Shortens the lists if it would be too long for a variable of the environment, and marks them
 * with `truncated`.
 */
export function serializeChanges(changes: ImageChanges | undefined): string {
  const { platforms } = changes ?? { platforms: [] }
  return serializeShortened((most) => platforms.map((one) => serializablePlatform(one, most)))
}

function serializablePlatform({ system, platform, packages, size }: PlatformChanges, most: number): object {
  return {
    system,
    platform: formatPlatform(platform),
    ...(packages && cutLists(packages, most)),
    ...(size && { size }),
  }
}

function cutLists({ added, removed, updated, rebuilt }: PackageChanges, most: number): object {
  const truncated = [added, removed, updated].some(({ length }) => length > most)
  const [first, second, third] = [added, removed, updated].map((list) => list.slice(0, most))
  return { added: first, removed: second, updated: third, rebuilt, ...(truncated && { truncated }) }
}
