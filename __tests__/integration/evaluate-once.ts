import { evaluateStorePath } from '../../src/nix/evaluate.ts'

// A program of its own: Nix takes its folders from the environment of the process, and Jest's is not that of a test.

const [system = '', runnerSystem = '', nixArgs = '[]', ...given] = process.argv.slice(2)
const text = given.at(-1) ?? ''
const installable = { options: given.slice(0, -1), text, name: text }
const path = await evaluateStorePath({ installable, system, runnerSystem, nixArgs: JSON.parse(nixArgs) })
console.log(JSON.stringify({ path }))
