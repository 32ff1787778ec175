import { cut } from '../text.ts'

const SHOWN = 20
/** In characters: a flake may call its packages anything, and to compare names takes time for each of their characters. */
const NAME_LIMIT = 100

/** Names for people, of many only those that are most like the one that was asked for, and how many more there are. */
export function formatNearest(all: readonly string[], wanted: string): string {
  const names = all.map((name) => cut(name, NAME_LIMIT))
  if (names.length <= SHOWN) return names.join(', ')
  const distances = new Map(
    names.map((name) => [name, distance(name.toLowerCase(), wanted.slice(0, NAME_LIMIT).toLowerCase())]),
  )
  const nearest = names.toSorted((one, other) => (distances.get(one) ?? 0) - (distances.get(other) ?? 0))
  return `${nearest.slice(0, SHOWN).join(', ')} and ${names.length - SHOWN} more`
}

/** How many characters have to be added, taken away or replaced (Levenshtein's). */
function distance(from: string, to: string): number {
  const target = [...to]
  let row = [0, ...target.map((_, at) => at + 1)]
  for (const character of from) {
    const next = [(row[0] ?? 0) + 1]
    for (const [at, other] of target.entries()) {
      const replaced = (row[at] ?? 0) + (character === other ? 0 : 1)
      next.push(Math.min(replaced, (row[at + 1] ?? 0) + 1, (next[at] ?? 0) + 1))
    }
    row = next
  }
  return row[target.length] ?? 0
}
