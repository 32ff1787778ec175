/** After all integration tests: ends what global-setup.ts started. */
export default async function tearDown(): Promise<void> {
  await globalThis.integrationDocker?.close()
}
