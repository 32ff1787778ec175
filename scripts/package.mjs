// Creates the npm package of the command line in a folder, for `npm publish`: the files that package.json lists, and a
// package.json without dependencies, because dist/ contains them.
//
//   node scripts/package.mjs <folder>
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const [folder] = process.argv.slice(2)
if (folder === undefined) {
  console.error('Name the folder for the package: node scripts/package.mjs <folder>')
  process.exit(2)
}

const checkout = fileURLToPath(new URL('..', import.meta.url))
const manifest = JSON.parse(readFileSync(join(checkout, 'package.json'), 'utf8'))
// `private` protects the checkout from being published. The others are for its development.
for (const name of [
  'private',
  'scripts',
  'devEngines',
  'dependencies',
  'devDependencies',
  'optionalDependencies',
  'overrides',
]) {
  delete manifest[name]
}

mkdirSync(folder, { recursive: true })
for (const name of [...manifest.files, 'README.md', 'LICENSE']) {
  cpSync(join(checkout, name), join(folder, name), { recursive: true })
}
writeFileSync(join(folder, 'package.json'), `${JSON.stringify(manifest, undefined, 2)}\n`)
