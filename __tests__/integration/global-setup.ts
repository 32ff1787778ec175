import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { type Docker, startDocker } from '../support/docker.ts'

declare global {
  // How jest hands something from its global set-up to the teardown.
  var integrationDocker: Docker | undefined
}

/** Before all integration tests: one Docker daemon for them, in the environment that their processes inherit. */
export default async function setUp(): Promise<void> {
  requireParts()
  const docker = await startDocker()
  globalThis.integrationDocker = docker
  Object.assign(process.env, docker.env)
}

/** A test that is skipped for want of a tool would look like one that passes. */
function requireParts(): void {
  const script = fileURLToPath(new URL('../../scripts/setup.mjs', import.meta.url))
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, '--check'], { encoding: 'utf8' })
  if (status === 0) return
  throw new Error(`Integration tests need more than there is; \`npm test\` installs it.\n${stdout}${stderr}`)
}
