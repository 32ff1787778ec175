/** Like Promise.all, but waits for all promises to settle before rejecting, so that callers can clean up safely. */
export async function settleAll<Value>(promises: readonly Promise<Value>[]): Promise<Value[]> {
  await Promise.allSettled(promises)
  return Promise.all(promises)
}
