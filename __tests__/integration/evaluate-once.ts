import { evaluateStorePath } from '../../src/nix/evaluate.ts'

// A separate program, because Nix reads its folders from the process environment, which tests in Jest can't set.

const [system = '', runnerSystem = '', nixArgs = '[]', ...given] = process.argv.slice(2)
const text = given.at(-1) ?? ''
const installable = { options: given.slice(0, -1), text, name: text }
const path = await evaluateStorePath({ installable, system, runnerSystem, nixArgs: JSON.parse(nixArgs) })
console.log(JSON.stringify({ path }))
