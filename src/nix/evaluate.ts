import { attributeOf } from './installable.ts'
import { foreignOptions, type NixCall, runNix } from './nix.ts'
import { isStorePath } from './store-path.ts'

/**
 * Returns the store path of a build result, without building it. Content-addressed and impure derivations only have a
 * placeholder before they are built. If the evaluation fails, the build will report the error.
 * @returns undefined if the path is not known before the build
 * @throws NixError if Nix is not installed
 */
export async function evaluateStorePath(call: NixCall): Promise<string | undefined> {
  const { text } = call.installable
  // Depending on its version, Nix takes a derivation in the store for its outputs or for the derivation itself.
  if (isStorePath(text)) return text.endsWith('.drv') ? undefined : text
  // `nix eval` does not support the selection of outputs (`^out`).
  if (text.includes('^')) return undefined
  // Nix calls a file that is a function only if an attribute of it is named. Other installables may have no attribute.
  const isFile = call.installable.options.length > 0
  return evaluatePath(call, isFile ? 'outPath' : 'image: image.outPath')
}

/**
 * Returns the path of the derivation (`.drv`). Nix caches the evaluation of a flake's attribute, so that the build does
 * not evaluate it again.
 * @returns undefined if Nix can't evaluate it
 * @throws NixError if Nix is not installed
 */
export async function evaluateDerivation(call: NixCall): Promise<string | undefined> {
  const { options, text } = call.installable
  if (isStorePath(text) && text.endsWith('.drv')) return text
  const isNamed = options.length > 0 || /#./.test(text)
  return evaluatePath(call, isNamed ? 'drvPath' : 'image: image.drvPath')
}

/** @param expression an attribute of the derivation, or a function that is applied to it */
async function evaluatePath(call: NixCall, expression: string): Promise<string | undefined> {
  const { installable, nixArgs } = call
  const apply = expression.includes(':') ? ['--apply', expression] : []
  const { options, text } = apply.length > 0 ? installable : attributeOf(installable, expression)
  const args = ['eval', '--raw', ...foreignOptions(call), ...nixArgs, ...options, text, ...apply]
  const { exitCode, stdout } = await runNix(args, false)
  const path = stdout.trim()
  return exitCode === 0 && isStorePath(path) ? path : undefined
}
