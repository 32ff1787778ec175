/** A cache of values that expire. Concurrent requests for a key share one fetch; failures are not cached. */
export interface ExpiringCache<Value> {
  /** Returns the value of a key, fetching it if necessary. */
  get(key: string, fetch: () => Promise<Expiring<Value>>): Promise<Value>
  /** Returns the value of a key if it has been fetched and has not expired. */
  peek(key: string): Value | undefined
  /** Reports whether a key has a value that has not expired, or one that is being fetched. */
  has(key: string): boolean
  /** Returns the values that have been fetched, including those that have expired. */
  values(): readonly Value[]
  delete(condition: (value: Value) => boolean): void
}

export interface Expiring<Value> {
  readonly value: Value
  /** In milliseconds since 1970. */
  readonly expires: number
}

interface Entry<Value> {
  readonly pending: Promise<Value>
  /** Undefined while the value is being fetched. */
  fetched?: Expiring<Value>
}

export function createExpiringCache<Value>(): ExpiringCache<Value> {
  const entries = new Map<string, Entry<Value>>()

  function current(key: string): Entry<Value> | undefined {
    const entry = entries.get(key)
    return entry?.fetched === undefined || entry.fetched.expires > Date.now() ? entry : undefined
  }

  return {
    get(key, fetch) {
      const known = current(key)
      if (known !== undefined) return known.pending
      const entry: Entry<Value> = {
        pending: fetch().then((fetched) => {
          entry.fetched = fetched
          return fetched.value
        }),
      }
      entries.set(key, entry)
      entry.pending.catch(() => entries.get(key) === entry && entries.delete(key))
      return entry.pending
    },
    peek: (key) => current(key)?.fetched?.value,
    has: (key) => current(key) !== undefined,
    values: () => [...entries.values()].flatMap(({ fetched }) => (fetched === undefined ? [] : [fetched.value])),
    delete(condition) {
      for (const [key, { fetched }] of entries)
        if (fetched !== undefined && condition(fetched.value)) entries.delete(key)
    },
  }
}
