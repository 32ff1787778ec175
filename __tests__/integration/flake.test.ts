import { execFile } from 'node:child_process'
import { cp, mkdir, mkdtemp, readFile, realpath, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterEach, beforeEach, expect, test } from '@jest/globals'
import { nixEnvironment, removeNixFolder } from '../support/nix.ts'

// The flake of this repository, with real Nix and a stand-in for nixpkgs.

let folder: string
let env: Record<string, string | undefined>
beforeEach(async () => {
  folder = await mkdtemp(join(await realpath(tmpdir()), 'flake-'))
  env = { ...process.env, ...(await nixEnvironment(join(folder, 'nix'))) }
  const checkout = fileURLToPath(new URL('../..', import.meta.url))
  await mkdir(join(folder, 'checkout'))
  for (const name of ['flake.nix', 'package.json', 'bin', 'dist'])
    await cp(join(checkout, name), join(folder, 'checkout', name), { recursive: true })
  await mkdir(join(folder, 'nixpkgs'))
  await writeFile(join(folder, 'nixpkgs/flake.nix'), NIXPKGS)
})
afterEach(() => removeNixFolder(folder))

/** The parts of nixpkgs that the flake uses, without network access. Node is the one that runs the tests. */
const NIXPKGS = `{
  outputs = { self }: {
    lib.genAttrs = names: value: builtins.listToAttrs (map (name: { inherit name; value = value name; }) names);
    legacyPackages = builtins.mapAttrs (system: _: rec {
      nodejs_24 = "${join(process.execPath, '../..')}";
      makeWrapper = "makeWrapper";
      runCommand = name: attributes: script: derivation {
        inherit name system;
        builder = "/bin/sh";
        PATH = "/usr/bin:/bin";
        args = [
          "-euc"
          ''
            makeWrapper() { mkdir -p "$(dirname "$2")"; printf '#!/bin/sh\\nexec %s %s "$@"\\n' "$1" "$4" > "$2"; chmod +x "$2"; }
            \${script}
          ''
        ];
      } // { inherit (attributes) meta; };
      lib.optional = condition: value: if condition then [ value ] else [ ];
      stdenv.hostPlatform.isLinux = builtins.match ".*-linux" system != null;
      mkShell = { packages }: builtins.concatStringsSep " " packages;
    } // builtins.listToAttrs (map (name: { inherit name; value = name; }) [
      "nix" "git" "docker-client" "distribution" "skopeo" "xz" "zstd" "gnutar" "python3" "podman"
    ])) { x86_64-linux = 1; aarch64-linux = 1; aarch64-darwin = 1; };
  };
}
`

async function nix(command: string, ...args: readonly string[]): Promise<string> {
  const options = ['--override-input', 'nixpkgs', join(folder, 'nixpkgs'), '--no-write-lock-file']
  const [subcommand = '', ...more] = command.split(' ')
  const cwd = join(folder, 'checkout')
  const { stdout } = await promisify(execFile)('nix', [subcommand, ...more, ...options, ...args], { cwd, env })
  return stdout
}

test('the flake has the command line as a package, which needs no build', async () => {
  const { version } = JSON.parse(await readFile(new URL('../../package.json', import.meta.url), 'utf8'))
  expect(await nix('run .', '--', '--version')).toBe(`${version}\n`)
  expect(await nix('run .', '--', 'merge', '--help')).toContain('Usage: nix-image-action merge --image')
}, 60_000)

test.each(['x86_64-linux', 'aarch64-linux', 'aarch64-darwin'])(
  'the flake has a shell for development on %s',
  async (system) => {
    const shell = await nix(`eval --raw .#devShells.${system}.default`)
    expect(shell.split(' ').slice(0, 3)).toEqual([expect.stringContaining('/'), 'nix', 'git'])
    expect(shell.includes('podman')).toBe(system.endsWith('-linux'))
  },
  60_000,
)
