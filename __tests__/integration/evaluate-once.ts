import { NixError } from '../../src/errors.ts'
import { evaluateImage, storePathBeforeBuild } from '../../src/nix/evaluate.ts'
import { readNixSetup } from '../../src/nix/setup.ts'

// A separate program, because Nix reads its folders from the process environment, which tests in Jest can't set.

const [system = '', runnerSystem = '', nixArgs = '[]', ...given] = process.argv.slice(2)
const text = given.at(-1) ?? ''
const installable = { options: given.slice(0, -1), text, name: text }
const ignore = () => undefined
const log = { info: ignore, warning: ignore, debug: ignore }
const args = JSON.parse(nixArgs)
const setup = await readNixSetup({ system, runnerSystem }, args)
const call = { installable, system, runnerSystem, setup, nixArgs: args, folders: [] }
const evaluation = await evaluateImage(call, log).catch((error: unknown) => {
  if (error instanceof NixError) return undefined
  throw error
})
console.log(JSON.stringify({ path: storePathBeforeBuild(installable, evaluation) }))
