// Changes the repository's name on GitHub (owner/name), for a fork or a move: in package.json and everywhere else.
//
//   npm run rename -- owner/name
//
// __tests__/repository-name.test.ts finds names that differ from the one in package.json.
import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const checkout = fileURLToPath(new URL('..', import.meta.url))
const [name = '', ...more] = process.argv.slice(2)

if (!/^[A-Za-z0-9][A-Za-z0-9-]*\/[A-Za-z0-9._-]+$/.test(name) || more.length > 0) {
  fail('Give the new name of the repository: npm run rename -- owner/name')
}
const former = readName()
const changed = trackedFiles().filter(rewrite)
console.log(`Renamed ${former} to ${name} in ${changed.length} files:\n${changed.join('\n')}`)
if (changed.some((path) => path.startsWith('src/'))) console.log('Run "npm run build", because src/ has changed.')

/** Reads the repository's name from package.json. */
function readName() {
  const { repository } = JSON.parse(readFileSync(join(checkout, 'package.json'), 'utf8'))
  const [, current] = /github\.com\/([^/]+\/[^/]+)\.git$/.exec(repository.url) ?? []
  return current ?? fail('The repository in package.json is not a Git URL on github.com.')
}

/** Lists all files that Git tracks, except those that are built. */
function trackedFiles() {
  const { status, stdout } = spawnSync('git', ['ls-files', '-z'], { cwd: checkout, encoding: 'utf8' })
  if (status !== 0) fail('git ls-files failed. Run this in a Git checkout.')
  return stdout.split('\0').filter((path) => path !== '' && !path.startsWith('dist/'))
}

/**
 * @param {string} path
 * @returns {boolean} whether the file has changed
 */
function rewrite(path) {
  const bytes = readFileSync(join(checkout, path))
  if (!bytes.includes(former)) return false
  // As bytes, because some files of tests are not text. Not a part of a longer name.
  const escaped = former.replaceAll(/[.]/g, '\\.')
  const text = bytes.toString('latin1')
  const renamed = text.replace(
    new RegExp(`(?<![A-Za-z0-9_.-])${escaped}(?=\\.git|[^A-Za-z0-9_.-]|\\.(?![A-Za-z0-9])|$)`, 'g'),
    name,
  )
  if (renamed === text) return false
  writeFileSync(join(checkout, path), renamed, 'latin1')
  return true
}

/**
 * @param {string} message
 * @returns {never}
 */
function fail(message) {
  console.error(message)
  process.exit(1)
}
