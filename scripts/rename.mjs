// Changes the repository's place on GitHub, for a fork or a move: package.json has it, and this rewrites it everywhere.
//
//   npm run rename -- owner/name
//
// __tests__/place.test.ts finds places that differ from package.json.
import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const checkout = fileURLToPath(new URL('..', import.meta.url))
const [place = '', ...more] = process.argv.slice(2)

if (!/^[A-Za-z0-9][A-Za-z0-9-]*\/[A-Za-z0-9._-]+$/.test(place) || more.length > 0) {
  fail('Name the new place of the repository: npm run rename -- owner/name')
}
const former = readPlace()
const changed = trackedFiles().filter(rewrite)
console.log(`Renamed ${former} to ${place} in ${changed.length} files:\n${changed.join('\n')}`)
if (changed.some((path) => path.startsWith('src/'))) console.log('Run "npm run build", because src/ has changed.')

/** Reads the place from package.json. */
function readPlace() {
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
  const name = former.replaceAll(/[.]/g, '\\.')
  const text = bytes.toString('latin1')
  const renamed = text.replace(
    new RegExp(`(?<![A-Za-z0-9_.-])${name}(?=\\.git|[^A-Za-z0-9_.-]|\\.(?![A-Za-z0-9])|$)`, 'g'),
    place,
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
