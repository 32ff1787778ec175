/** As Promise.all, but where one fails the others are waited for: what they work with must not be taken away. */
export async function allOf<Result>(work: readonly Promise<Result>[]): Promise<readonly Result[]> {
  await Promise.allSettled(work)
  return Promise.all(work)
}
