/** A deterministic source of random values. */
export interface Random {
  /** Returns an integer from 0 to `most`, inclusive. */
  upTo(most: number): number
  /** Returns true in one of `times` calls on average. */
  oneIn(times: number): boolean
  pick<Item>(items: readonly Item[]): Item
  bytes(length: number): Buffer
}

/** Returns the random values of a case, which depend only on the seed and the case's number. */
export function randomOf(seed: number, number: number): Random {
  const next = mulberry32(mix(seed, number))
  const upTo = (most: number) => Math.floor(next() * (most + 1))
  return {
    upTo,
    oneIn: (times) => upTo(times - 1) === 0,
    pick(items) {
      if (items.length === 0) throw new Error('The list to pick from is empty')
      return items[upTo(items.length - 1)] as (typeof items)[number]
    },
    bytes: (length) => Buffer.from(Uint8Array.from({ length }, () => upTo(255))),
  }
}

/** Returns a number of repetitions: usually small, rarely large. */
export function fewOf(random: Random, most: number): number {
  return random.upTo(random.oneIn(4) ? most : Math.min(most, 3))
}

/** Returns a length: usually short, rarely as long as `most`. */
export function lengthOf(random: Random, most: number): number {
  return random.upTo(random.pick([4, 40, 300, 300, 5000].map((length) => Math.min(length, most)).concat(most)))
}

/** Returns a function that returns numbers between 0 and 1: https://github.com/bryc/code/blob/master/jshash/PRNGs.md#mulberry32 */
function mulberry32(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let value = Math.imul(state ^ (state >>> 15), 1 | state)
    value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value
    return ((value ^ (value >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Hashes seed and number to 32 bits, so that the values of adjacent cases are unrelated. */
function mix(seed: number, number: number): number {
  let hash = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(number + 1, 0xc2b2ae35)
  hash = Math.imul(hash ^ (hash >>> 16), 0x7feb352d)
  return (hash ^ (hash >>> 15)) | 0
}
