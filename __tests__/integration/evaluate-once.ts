import { NixError } from '../../src/errors.ts'
import { evaluateImage, storePathBeforeBuild } from '../../src/nix/evaluate.ts'

// A separate program, because Nix reads its folders from the process environment, which tests in Jest can't set.

const [system = '', runnerSystem = '', nixArgs = '[]', ...given] = process.argv.slice(2)
const text = given.at(-1) ?? ''
const installable = { options: given.slice(0, -1), text, name: text }
const ignore = () => undefined
const log = { info: ignore, warning: ignore, debug: ignore }
const call = { installable, system, runnerSystem, nixArgs: JSON.parse(nixArgs), folders: [] }
const evaluation = await evaluateImage(call, log).catch((error: unknown) => {
  if (error instanceof NixError) return undefined
  throw error
})
console.log(JSON.stringify({ path: storePathBeforeBuild(installable, evaluation) }))
