// Runs Jest, for `npm test`: the unit tests and, if everything that they need is installed, the integration tests.
//
//   npm test -- --selectProjects integration --ci push    some of the tests: see CONTRIBUTING.md
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { run } from 'jest'

const args = process.argv.slice(2)
// In CI, and for those who ask for integration tests, a missing requirement is an error.
const isStrict = Boolean(process.env['CI']) || args.some((arg) => /^--selectProjects(=|$)/.test(arg))
const missing = isStrict ? '' : listMissing()

await run(missing === '' ? args : ['--selectProjects', 'unit', '--ci', ...args])
if (missing !== '') {
  console.log(
    `\nOnly the unit tests ran, without the slow ones (npm run test:unit), because the integration tests need more. ${missing}`,
  )
  console.log('To install them: node scripts/setup.mjs')
}

/** Returns the list of missing requirements, or an empty text. */
function listMissing() {
  const script = fileURLToPath(new URL('setup.mjs', import.meta.url))
  const { status, stdout } = spawnSync(process.execPath, [script, '--check'], { encoding: 'utf8' })
  return status === 0 ? '' : stdout.trimEnd()
}
