import { attributeOf } from './installable.ts'
import { foreignOptions, type NixCall, runNix } from './nix.ts'
import { isStorePath } from './store-path.ts'

/**
 * The store path that a build would have, without building it. A derivation that is content-addressed or impure has
 * none before it is built, Nix gives a placeholder for it; and where the evaluation fails, the build will say why.
 * @returns nothing where it can't be known before the build
 * @throws NixError where Nix is not installed
 */
export async function evaluateStorePath(call: NixCall): Promise<string | undefined> {
  const { text } = call.installable
  // A derivation in the store stands for its outputs or for itself, which depends on the version of Nix.
  if (isStorePath(text)) return text.endsWith('.drv') ? undefined : text
  // `^out` chooses outputs, and `nix eval` knows none.
  if (text.includes('^')) return undefined
  // A file may be a function, which Nix calls on the way to an attribute. Other installables need not end in one.
  const isFile = call.installable.options.length > 0
  return evaluate(call, isFile ? 'outPath' : 'image: image.outPath')
}

/**
 * Returns the path of the derivation's file. Nix keeps what it has evaluated of a flake's attribute, so that a build after
 * it need not evaluate it again.
 * @returns nothing where Nix can't evaluate it
 * @throws NixError where Nix is not installed
 */
export async function evaluateDerivation(call: NixCall): Promise<string | undefined> {
  const { options, text } = call.installable
  if (isStorePath(text) && text.endsWith('.drv')) return text
  const isNamed = options.length > 0 || /#./.test(text)
  return evaluate(call, isNamed ? 'drvPath' : 'image: image.drvPath')
}

/** @param what an attribute of the derivation, or a function of it */
async function evaluate(call: NixCall, message: string): Promise<string | undefined> {
  const { installable, nixArgs } = call
  const apply = message.includes(':') ? ['--apply', message] : []
  const { options, text } = apply.length > 0 ? installable : attributeOf(installable, message)
  const args = ['eval', '--raw', ...foreignOptions(call), ...nixArgs, ...options, text, ...apply]
  const { exitCode, stdout } = await runNix(args, false)
  const path = stdout.trim()
  return exitCode === 0 && isStorePath(path) ? path : undefined
}
