import { foreignOptions, type NixCall, runNix } from './nix.ts'
import { isStorePath } from './store-path.ts'

/**
 * The store path that a build would have, without building it. A derivation that is content-addressed or impure has
 * none before it is built, Nix gives a placeholder for it; and where the evaluation fails, the build will say why.
 * @returns nothing where it can't be known before the build
 * @throws NixError where Nix is not installed
 */
export async function evaluateStorePath(call: NixCall): Promise<string | undefined> {
  const { installable, nixArgs } = call
  const { options, text } = installable
  // A derivation in the store stands for its outputs or for itself, which depends on the version of Nix.
  if (isStorePath(text)) return text.endsWith('.drv') ? undefined : text
  // `^out` chooses outputs, and `nix eval` knows none.
  if (text.includes('^')) return undefined
  // --apply rather than `.outPath` behind the installable, which need not end in an attribute.
  const apply = ['--apply', 'image: image.outPath']
  const args = ['eval', '--raw', ...foreignOptions(call), ...nixArgs, ...options, text, ...apply]
  const { exitCode, stdout } = await runNix(args, false)
  const path = stdout.trim()
  return exitCode === 0 && isStorePath(path) ? path : undefined
}
