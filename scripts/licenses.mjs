// Writes the licenses of all packages that dist/ may contain to dist/licenses.txt, in the order of the lock file's paths.
// ncc can do this too, but its output varies if two versions of a package have different license files.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const checkout = fileURLToPath(new URL('..', import.meta.url))
const { packages } = JSON.parse(readFileSync(join(checkout, 'package-lock.json'), 'utf8'))

const texts = Object.entries(packages)
  .filter(([path, { dev, optional, devOptional }]) => path !== '' && !dev && !optional && !devOptional)
  .sort(([one], [other]) => (one < other ? -1 : 1))
  .map(([path, { version, license }]) => {
    const name = path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length)
    return `${name} ${version}\n${license ?? ''}\n${licenseText(join(checkout, path))}\n`
  })
writeFileSync(join(checkout, 'dist/licenses.txt'), texts.join('\n'))

/** @param {string} folder - of a package */
function licenseText(folder) {
  const file = readdirSync(folder)
    .sort()
    .find((name) => /^licen[cs]e/i.test(name))
  return file === undefined ? '' : readFileSync(join(folder, file), 'utf8').replaceAll('\r\n', '\n')
}
