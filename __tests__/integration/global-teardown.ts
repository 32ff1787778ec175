/** Stops everything that global-setup.ts started, after all integration tests. */
export default async function tearDown(): Promise<void> {
  await globalThis.integrationDocker?.close()
}
