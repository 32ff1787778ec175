const SHOWN = 20

/** Names for people, of many only those that are most like the one that was asked for, and how many more there are. */
export function printNearest(names: readonly string[], wanted: string): string {
  if (names.length <= SHOWN) return names.join(', ')
  const distances = new Map(names.map((name) => [name, distance(name.toLowerCase(), wanted.toLowerCase())]))
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
