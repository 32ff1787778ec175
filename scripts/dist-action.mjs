// Writes dist/action.yml, with which a workflow of this repository can use the action of its own commit: `uses: $/dist`.
// The runner refuses `$/` alone, which would be the action.yml in the root.
import { readFileSync, writeFileSync } from 'node:fs'

const main = '  main: dist/index.js\n'
const metadata = readFileSync('action.yml', 'utf8')
if (!metadata.includes(main)) throw new Error(`action.yml does not contain "${main.trim()}"`)
const heading = '# Generated from action.yml by `npm run build`.\n'
writeFileSync('dist/action.yml', heading + metadata.replace(main, '  main: index.js\n'))
