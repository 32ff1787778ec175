import { execFile } from 'node:child_process'
import { mkdtemp, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from '@jest/globals'
import type { PreflightReport } from '../../src/nix/preflight.ts'
import { type Lab, startLab } from '../support/lab.ts'
import { withFiles } from '../support/preload.ts'

// What real Nix says of a derivation before it is built, on a machine without /dev/kvm.

const run = promisify(execFile)
const preflight = new URL('../../src/nix/preflight.ts', import.meta.url).href

let lab: Lab
let flake: string
let machine: string

beforeAll(async () => {
  lab = await startLab()
  flake = await mkdtemp(join(lab.folder, 'flake-'))
  machine = await mkdtemp(join(lab.folder, 'machine-'))
  await writeFile(join(flake, 'flake.nix'), FLAKE)
})
afterAll(() => lab.close())

const FLAKE = `{
  outputs = _: let
    made = name: attributes: derivation ({
      inherit name;
      system = "x86_64-linux";
      builder = "/bin/sh";
      args = [ "-c" "echo > $out" ];
    } // attributes);
    layer = made "layer" { requiredSystemFeatures = [ "kvm" ]; };
  in {
    packages.x86_64-linux = {
      plain = made "plain" { };
      asRoot = made "as-root" { inherit layer; };
      structured = made "structured" { requiredSystemFeatures = [ "kvm" ]; __structuredAttrs = true; };
      wrong = made "wrong" { inherit (throw "nothing") layer; };
    };
  };
}
`

/** In a process of its own, for Nix is given the environment of the process. */
async function reported(attribute: string, features: string): Promise<readonly string[]> {
  const call = {
    installable: { options: [], text: `path:${flake}#packages.x86_64-linux.${attribute}`, name: attribute },
    system: 'x86_64-linux',
    runnerSystem: 'x86_64-linux',
    nixArgs: [],
    folders: [],
  }
  const script = `import { foresee } from ${JSON.stringify(preflight)}
    console.log(JSON.stringify(await foresee(${JSON.stringify(call)}, ${JSON.stringify(machine)})))`
  const { stdout } = await run(process.execPath, ['--input-type=module', '--eval', script], {
    env: { ...process.env, ...lab.nix, NIX_CONFIG: `system-features = ${features}` },
  })
  const { warnings, notes } = JSON.parse(stdout) as PreflightReport
  expect(notes).toEqual([])
  return warnings
}

test.each([
  ['the image itself', 'structured', /-structured\.drv needs a virtual machine/],
  ['what it is made from', 'asRoot', /-layer\.drv needs a virtual machine/],
])('a virtual machine that %s needs is warned of, with what to add', async (_, attribute, need) => {
  const [warning, ...more] = await reported(attribute, 'benchmark')
  expect(more).toEqual([])
  expect(warning).toMatch(need)
  expect(warning).toContain('This runner has no /dev/kvm')
  expect(warning).toContain('extra_nix_config: extra-system-features = kvm')
})

test.each([
  ['none is needed', 'plain', 'benchmark'],
  ['Nix has been told that it can', 'asRoot', 'benchmark kvm'],
  ['the evaluation fails, which the build tells', 'wrong', 'benchmark'],
  ['there is no such image, which the build tells', 'nonesuch', 'benchmark'],
])('nothing is said where %s', async (_, attribute, features) => {
  expect(await reported(attribute, features)).toEqual([])
})

test('the job is warned before the build, and its error says what to add', async () => {
  const noKvm = withFiles({ access: "(path) => real.access(path === '/dev/kvm' ? '/nowhere' : path)" })
  const env = { ...noKvm, NIX_CONFIG: 'system-features =' }
  const step = await lab.build('x86_64-linux', { cwd: flake, env, inputs: { attribute: 'asRoot', push: 'false' } })
  expect(step.warnings).toEqual([
    expect.stringMatching(/^This runner has no \/dev\/kvm, and \S+-layer\.drv needs a virtual machine /),
  ])
  expect(step.log.indexOf('This runner has no /dev/kvm')).toBeLessThan(step.log.indexOf('##[group]Build '))
  expect(step.errors).toEqual([
    expect.stringMatching(
      /The build needs a virtual machine .*\n(?:.*\n)+ +extra_nix_config: extra-system-features = kvm$/,
    ),
  ])
})
