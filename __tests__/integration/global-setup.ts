import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { type Docker, startDocker } from '../support/docker.ts'

declare global {
  // Jest passes values from global setup to teardown on globalThis.
  var integrationDocker: Docker | undefined
}

/** Starts one Docker daemon for all integration tests, in the environment that their processes inherit. */
export default async function setUp(): Promise<void> {
  requireParts()
  const docker = await startDocker()
  globalThis.integrationDocker = docker
  Object.assign(process.env, docker.env)
}

/** Fails if a tool is missing, because a skipped test would look like a passing one. */
function requireParts(): void {
  const script = fileURLToPath(new URL('../../scripts/setup.mjs', import.meta.url))
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, '--check'], { encoding: 'utf8' })
  if (status === 0) return
  throw new Error(`Integration tests need more than there is; \`npm test\` installs it.\n${stdout}${stderr}`)
}
