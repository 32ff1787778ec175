import * as v from 'valibot'
import { NixError } from '../errors.ts'
import { readJson } from '../json.ts'
import { sanitizeLine } from '../text.ts'
import { type NixCall, runNix } from './nix.ts'
import { formatNearest, formatPackages, readPackages } from './packages.ts'

/** Returns the hint for a flake without the requested attribute: the packages that it has. */
export async function suggestPackages({ installable, system, nixArgs, runnerSystem }: NixCall): Promise<string> {
  const [flake = '.', fragment = ''] = installable.text.replace(/\^[^#]*$/, '').split('#')
  // As Nix completes it: https://nix.dev/manual/nix/2.34/command-ref/new-cli/nix#flake-output-attribute
  const missing = /^(?:legacyP|p)ackages\./.test(fragment) ? fragment : `packages.${system}.${fragment || 'default'}`
  try {
    const packages = await readPackages({ flake, attribute: '', nixArgs, runnerSystem, missing })
    return [
      'The flake has these packages:',
      ...packages.map((one) => `  ${formatPackages(one, missing.replace(/^\w+\.[^.]+\./, ''))}`),
      'Set `attribute` and `system` to one of them, or add the missing package to the flake.',
    ].join('\n')
  } catch (error) {
    if (!(error instanceof NixError)) throw error
    return [`${error.parts.message}.`, error.parts.detail && sanitizeLine(error.parts.detail), error.parts.hint]
      .filter(Boolean)
      .join(' ')
  }
}

/** Returns the hint for a file without the requested attribute: the attributes that it has. */
export async function suggestFileAttributes({ installable, system, nixArgs }: NixCall): Promise<string> {
  // Nix calls a file that is a function only if an attribute of it is named.
  const type = await runNix(['eval', '--raw', ...nixArgs, ...installable.options, 'type'], false)
  if (type.exitCode === 0 && type.stdout.trim() === 'derivation')
    return `The file evaluates to a derivation, which has no such attribute. If the derivation is the image, set:
  attribute: ""`
  const describe = `file:
    let
      arguments = builtins.intersectAttrs (builtins.functionArgs file) { system = "${system}"; };
      value = if builtins.isFunction file then file arguments else file;
    in
    {
      is = builtins.typeOf value;
      names = if builtins.isAttrs value then builtins.attrNames value else [ ];
    }`
  const { stdout } = await runNix(
    ['eval', '--json', ...nixArgs, ...installable.options, '', '--apply', describe],
    false,
  )
  const file = readJson(FILE_VALUE, stdout)
  const rule =
    'Set `attribute` (default: containerImage) to an attribute of the set that the file contains or its function returns.'
  if (!file.ok || file.value.is !== 'set') return rule
  return `The file has these attributes: ${formatNearest(file.value.names, installable.text) || 'none'}. ${rule}`
}

const FILE_VALUE = v.object({ is: v.string(), names: v.array(v.string()) })
