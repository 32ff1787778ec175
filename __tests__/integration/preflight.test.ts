import { execFile } from 'node:child_process'
import { mkdtemp, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from '@jest/globals'
import type { PreflightReport } from '../../src/nix/preflight.ts'
import { type Lab, startLab } from '../support/lab.ts'
import { withFiles } from '../support/preload.ts'

// The information that real Nix gives about a derivation before building it, on a machine without /dev/kvm.

const run = promisify(execFile)
const [preflight, evaluate, setup] = ['preflight', 'evaluate', 'setup'].map(
  (module) => new URL(`../../src/nix/${module}.ts`, import.meta.url).href,
)

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
    };
  };
}
`

/** Runs in a separate process, because Nix uses the environment of the process. */
async function reported(
  attribute: string,
  features: string,
  nixArgs: readonly string[] = [],
): Promise<readonly string[]> {
  const call = {
    installable: { options: [], text: `path:${flake}#packages.x86_64-linux.${attribute}`, name: attribute },
    system: 'x86_64-linux',
    runnerSystem: 'x86_64-linux',
    nixArgs,
    folders: [],
  }
  const script = `import { checkPrerequisites } from ${JSON.stringify(preflight)}
    import { evaluateImage } from ${JSON.stringify(evaluate)}
    import { readNixSetup } from ${JSON.stringify(setup)}
    const given = ${JSON.stringify(call)}
    const call = { ...given, setup: await readNixSetup(given, given.nixArgs) }
    const evaluation = await evaluateImage(call, { info: () => undefined })
    console.log(JSON.stringify(await checkPrerequisites(call, evaluation, ${JSON.stringify(machine)})))`
  const { stdout } = await run(process.execPath, ['--input-type=module', '--eval', script], {
    env: { ...process.env, ...lab.nix, NIX_CONFIG: `system-features = ${features}` },
  })
  const { warnings, notes } = JSON.parse(stdout) as PreflightReport
  expect(notes).toEqual([])
  return warnings
}

test.each([
  ['the image itself', 'structured', /-structured\.drv needs a virtual machine/],
  ['one of its dependencies', 'asRoot', /-layer\.drv needs a virtual machine/],
])('there is a warning if %s needs a virtual machine, with the fix', async (_, attribute, need) => {
  const [warning, ...more] = await reported(attribute, 'benchmark')
  expect(more).toEqual([])
  expect(warning).toMatch(need)
  expect(warning).toContain('This runner has no /dev/kvm')
  expect(warning).toContain('extra_nix_config: extra-system-features = kvm')
})

test.each([
  ['no virtual machine is needed', 'plain', 'benchmark', []],
  ['Nix is configured to support them', 'asRoot', 'benchmark kvm', []],
  ['only `nix build` accepts the arguments, so that the derivation is unknown', 'asRoot', 'benchmark', ['--rebuild']],
])('there is no warning if %s', async (_, attribute, features, nixArgs) => {
  expect(await reported(attribute, features, nixArgs)).toEqual([])
})

test('the job gets a warning before the build, and its error says what to add', async () => {
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
