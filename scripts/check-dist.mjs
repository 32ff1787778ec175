// Fails unless dist/, which users run, and the embedded compressor match what the sources build.
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const cwd = fileURLToPath(new URL('..', import.meta.url))

const build = spawnSync('npm', ['run', '--silent', 'build'], { cwd, stdio: 'inherit' })
if (build.status !== 0) fail('npm run build failed; see its output above.')

// Unlike `git diff`, this also shows new files.
const status = spawnSync('git', ['status', '--porcelain', '--', 'dist', 'src/compress/deflate-module.ts'], {
  cwd,
  encoding: 'utf8',
})
if (status.status !== 0) fail(`git status failed: ${status.error?.message ?? status.stderr}`)
if (status.stdout !== '') {
  fail(`These files are not what the sources build:\n\n${status.stdout}\nRun "npm run build" and commit them.`)
}

/**
 * @param {string} message
 * @returns {never}
 */
function fail(message) {
  console.error(message)
  process.exit(1)
}
