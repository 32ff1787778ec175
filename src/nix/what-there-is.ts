import * as v from 'valibot'
import { sanitizeLine } from '../errors.ts'
import { readJson } from '../json.ts'
import { formatNearest } from './nearest.ts'
import { type NixCall, runNix } from './nix.ts'
import { NixError } from './nix-error.ts'
import { formatPackages, readPackages } from './packages.ts'

/** What a flake has in place of the attribute that it lacks. */
export async function whatFlakeHas({ installable, system, nixArgs, runnerSystem }: NixCall): Promise<string> {
  const [flake = '.', fragment = ''] = installable.text.replace(/\^[^#]*$/, '').split('#')
  // As Nix completes it: https://nix.dev/manual/nix/2.34/command-ref/new-cli/nix#flake-output-attribute
  const missing = /^(?:legacyP|p)ackages\./.test(fragment) ? fragment : `packages.${system}.${fragment || 'default'}`
  try {
    const packages = await readPackages({ flake, attribute: '', nixArgs, runnerSystem, missing })
    return [
      'The flake has these packages:',
      ...packages.map((one) => `  ${formatPackages(one, missing.replace(/^\w+\.[^.]+\./, ''))}`),
      'Name one of them in the inputs `attribute` and `system`, or add the one that is missing to the flake.',
    ].join('\n')
  } catch (error) {
    if (!(error instanceof NixError)) throw error
    return [`${error.parts.message}.`, error.parts.detail && sanitizeLine(error.parts.detail), error.parts.hint]
      .filter(Boolean)
      .join(' ')
  }
}

/** What a file of Nix expressions has in place of the attribute that it lacks. */
export async function whatFileHas({ installable, system, nixArgs }: NixCall): Promise<string> {
  // On the way to an attribute Nix calls the function that a file may be; of the whole file, it calls none.
  const type = await runNix(['eval', '--raw', ...nixArgs, ...installable.options, 'type'], false)
  if (type.exitCode === 0 && type.stdout.trim() === 'derivation')
    return `The value of the file is a derivation itself, and has no such attribute. If it is the image, set
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
  const file = readJson(FILE, stdout)
  const rule =
    'The input `attribute`, which is containerImage unless it is given, names an attribute of the set that the file has, or that its function makes.'
  if (!file.ok || file.value.is !== 'set') return rule
  return `The file has these attributes: ${formatNearest(file.value.names, installable.text) || 'none'}. ${rule}`
}

const FILE = v.object({ is: v.string(), names: v.array(v.string()) })
