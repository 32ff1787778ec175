/** Like Promise.all, but waits for all promises to settle before rejecting, so that callers can clean up safely. */
export async function settleAll<Value>(promises: readonly Promise<Value>[]): Promise<Value[]> {
  await Promise.allSettled(promises)
  return Promise.all(promises)
}

/** The value of a promise, or the error that it was rejected with. */
export interface Settled<Value> {
  readonly value?: Value
  readonly error?: unknown
}

export async function settled<Value>(promise: Promise<Value>): Promise<Settled<Value>> {
  try {
    return { value: await promise }
  } catch (error) {
    return { error }
  }
}
