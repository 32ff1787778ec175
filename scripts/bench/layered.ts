import { chmod, cp, mkdir, mkdtemp, realpath, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { which } from '@actions/io'
import { nixEnvironment, removeNixFolder } from '../../__tests__/support/nix.ts'
import type { SourceFile } from './images.ts'
import { measure } from './measure.ts'

/** A layered image like those of dockerTools, in a Nix store. */
export interface LayeredFlake {
  readonly folder: string
  /** The environment of the action. Its `nix` answers from a record, so that the time of Nix is not measured. */
  readonly env: Readonly<Record<string, string>>
  /**
   * Builds an attribute with real Nix.
   * @param remove whether to delete the output first
   * @returns the store path
   */
  build(attribute: string, remove?: boolean): Promise<string>
  close(): Promise<void>
}

/** How many images that differ in one layer there are. Each run needs its own: a registry has the last one's layer. */
export const VARIANTS = 12

export const LAYERS = 60

/**
 * Creates a flake with these attributes, each of 60 store paths with the files, and one of some bytes:
 * - `image`: like `buildLayeredImage`
 * - `changed-N` and `small-N`: the same with one changed layer, of average and of small size
 * - `stream-image`: like `streamLayeredImage`
 * - `complete-…`: the same images without the attributes that lead to their description
 * @param copies how many times each store path has its files
 */
export async function createLayeredFlake(files: readonly SourceFile[], copies: number): Promise<LayeredFlake> {
  const folder = await mkdtemp(join(await realpath(tmpdir()), 'nix-image-bench-layered-'))
  const nix = await nixEnvironment(join(folder, 'nix'))
  const data = join(folder, 'data')
  for (const [at, { name, content }] of files.entries()) {
    const path = join(data, `layer-${at % LAYERS}`, name)
    await mkdir(dirname(path), { recursive: true })
    await writeFile(path, content)
  }
  const flake = join(folder, 'flake')
  await cp(fileURLToPath(new URL('../../examples/layered', import.meta.url)), flake, { recursive: true })
  await writeFile(join(flake, 'flake.nix'), flakeOf(data, copies))
  const env = { ...nix, PATH: `${join(folder, 'bin')}:${process.env['PATH']}` }
  await mkdir(join(folder, 'bin'))
  await writeFile(join(folder, 'bin/nix'), recorder(await which('nix', true), join(folder, 'record')))
  await chmod(join(folder, 'bin/nix'), 0o755)
  await mkdir(join(folder, 'record'))

  const run = (args: readonly string[]) =>
    measure('nix', ['--extra-experimental-features', 'nix-command flakes', ...args], { ...process.env, ...nix })
  return {
    folder: flake,
    env,
    async build(attribute, remove = false) {
      const installable = `path:${flake}#packages.x86_64-linux.${attribute}`
      if (remove) {
        const { output } = await run(['eval', '--raw', `${installable}.outPath`])
        await run(['store', 'delete', output.trim()]).catch(() => undefined)
      }
      const { output } = await run(['build', '--json', '--no-link', installable])
      return JSON.parse(output)[0].outputs.out
    },
    async close() {
      await removeNixFolder(join(folder, 'nix'))
      await rm(folder, { recursive: true, force: true })
    },
  }
}

function flakeOf(data: string, copies: number): string {
  const numbers = Array.from({ length: copies }, (_, at) => at).join(' ')
  return `{
  outputs = _: {
    packages.x86_64-linux =
      let
        names = builtins.genList (at: "layer-\${toString at}") ${LAYERS};
        variants = builtins.genList toString ${VARIANTS};
        all = f: builtins.listToAttrs (map (name: { inherit name; value = f name; }) names);
        image = changes: import ./image.nix {
          system = "x86_64-linux";
          architecture = "amd64";
          contents = all (name: name) // { small = "small"; } // changes;
          commands = all (name: "for copy in ${numbers}; do cp -r ${data}/\${name} $copy; echo $copy > $copy/number; done");
        };
        complete = image: builtins.removeAttrs image [ "stream" "conf" ];
        of = prefix: changes: builtins.listToAttrs (map (variant: { name = "\${prefix}-\${variant}"; value = changes variant; }) variants);
      in
      {
        image = image { };
        stream-image = (image { }).stream;
        conf = (image { }).stream.conf;
        complete-image = complete (image { });
      }
      // of "changed" (variant: image { layer-30 = variant; })
      // of "complete-changed" (variant: complete (image { layer-30 = variant; }))
      // of "small" (variant: image { small = variant; });
  };
}
`
}

/** Returns a script that runs Nix once for each command, and repeats the output afterwards. */
function recorder(nix: string, record: string): string {
  return `#!/bin/sh
file="${record}/$(printf '%s\\n' "$@" | sha256sum | cut -c1-64)"
[ -e "$file" ] || { "${nix}" "$@" > "$file.new" || exit; mv "$file.new" "$file"; }
exec cat "$file"
`
}
