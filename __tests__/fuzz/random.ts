/** A source of random values that a seed determines. */
export interface Random {
  /** Returns a whole number from 0 to `most`, which is included. */
  upTo(most: number): number
  /** Returns true once in `times` calls, on average. */
  oneIn(times: number): boolean
  pick<Item>(items: readonly Item[]): Item
  bytes(length: number): Buffer
}

/** Returns the random values of one case. They depend on the seed and the case's number alone. */
export function randomOf(seed: number, number: number): Random {
  const next = mulberry32(mix(seed, number))
  const upTo = (most: number) => Math.floor(next() * (most + 1))
  return {
    upTo,
    oneIn: (times) => upTo(times - 1) === 0,
    pick(items) {
      if (items.length === 0) throw new Error('There is nothing to pick from')
      return items[upTo(items.length - 1)] as (typeof items)[number]
    },
    bytes: (length) => Buffer.from(Uint8Array.from({ length }, () => upTo(255))),
  }
}

/** Returns how many times something is done: mostly few, seldom many. */
export function fewOf(random: Random, most: number): number {
  return random.upTo(random.oneIn(4) ? most : Math.min(most, 3))
}

/** Returns a length: mostly short, seldom as long as `most`. */
export function lengthOf(random: Random, most: number): number {
  return random.upTo(random.pick([4, 40, 300, 300, 5000].map((length) => Math.min(length, most)).concat(most)))
}

/** Returns a function that gives numbers from 0 to 1. https://github.com/bryc/code/blob/master/jshash/PRNGs.md#mulberry32 */
function mulberry32(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let value = Math.imul(state ^ (state >>> 15), 1 | state)
    value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value
    return ((value ^ (value >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Spreads seed and number over 32 bits, so that neighbours share nothing. */
function mix(seed: number, number: number): number {
  let hash = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(number + 1, 0xc2b2ae35)
  hash = Math.imul(hash ^ (hash >>> 16), 0x7feb352d)
  return (hash ^ (hash >>> 15)) | 0
}
