import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { type Lab, startLab } from '../support/lab.ts'
import { type ActionCall, type ActionRun, passed } from '../support/runner.ts'

// Runs dist/index.js like the runner does, in the job before the builds, with real Nix and a real registry.

let lab: Lab
beforeEach(async () => {
  lab = await startLab()
})
afterEach(() => lab.close())

/** A derivation that Nix could build. */
const IMAGE = '(derivation { name = "image"; system = "x86_64-linux"; builder = "/bin/sh"; })'

const HELLO = [
  { system: 'aarch64-linux', runner: 'ubuntu-24.04-arm' },
  { system: 'armv7l-linux', runner: 'ubuntu-24.04' },
  { system: 'x86_64-linux', runner: 'ubuntu-24.04' },
]
const HELLO_UNCHANGED = HELLO.map((one) => ({ ...one, unchanged: true }))

function run({ inputs, ...call }: Partial<ActionCall> = {}): Promise<ActionRun> {
  return lab.build('', { job: 'plan', jobTotal: 1, ...call, inputs: { mode: 'plan', ...inputs } })
}

async function planned(call: Partial<ActionCall> = {}): Promise<unknown> {
  return matrixOf(passed(await run(call)))
}

function matrixOf({ outputs }: ActionRun): unknown {
  expect(Object.keys(outputs)).toEqual(['matrix'])
  return JSON.parse(outputs.matrix ?? '').include
}

/** Runs the steps of one workflow run. */
async function publish(inputs: Readonly<Record<string, string>> = {}): Promise<void> {
  for (const { system } of HELLO) passed(await lab.build(system, { inputs, jobTotal: HELLO.length }))
  passed(await lab.merge())
}

/** Returns the folder of a new flake. */
async function flake(text: string): Promise<string> {
  const folder = await mkdtemp(join(lab.folder, 'flake-'))
  await writeFile(join(folder, 'flake.nix'), text)
  return folder
}

describe('the matrix', () => {
  test('contains the systems that the flake has the image for, with their runners', async () => {
    const step = passed(await run())
    expect(matrixOf(step)).toEqual(HELLO)
    expect(step.notices).toEqual([
      expect.stringMatching(/^GitHub has no runners for armv7l-linux, so .*QEMU[\s\S]*armv7l-linux=label$/),
    ])
    expect(step.warnings).toEqual([])
    expect(step.summary).toContain('| aarch64-linux | `ubuntu-24.04-arm` | to be built |\n')
  })

  test('uses the given runners', async () => {
    const runners = 'aarch64-linux=self-hosted-arm\narmv7l-linux = my own'
    const step = passed(await run({ inputs: { runners } }))
    expect(matrixOf(step)).toEqual([
      { system: 'aarch64-linux', runner: 'self-hosted-arm' },
      { system: 'armv7l-linux', runner: 'my own' },
      { system: 'x86_64-linux', runner: 'ubuntu-24.04' },
    ])
    expect(step.notices).toEqual([])
    const more = passed(await run({ inputs: { runners: `${runners}\nriscv64-linux=board` } }))
    expect(matrixOf(more)).toEqual(matrixOf(step))
    expect(more.notices).toEqual([
      'Ignoring the runner for riscv64-linux in `runners`: the flake has no containerImage for it',
    ])
  })

  test('omits macOS systems, systems without the image, and systems that fail, which are logged', async () => {
    const cwd = await flake(
      `{
      outputs = _: {
        packages = {
          x86_64-linux.images.app = IMAGE;
          x86_64-linux.other = throw "is not looked at";
          i686-linux."images.app" = IMAGE;
          riscv64-linux.images = { };
          aarch64-linux = (set: set.nonesuch) { };
          armv7l-linux = throw "not for this one\\n::error::x";
          aarch64-darwin = throw "nor this";
        };
      };
    }`.replaceAll('IMAGE', IMAGE),
    )
    const step = passed(await run({ cwd, inputs: { attribute: 'images.app' } }))
    expect(matrixOf(step)).toEqual([{ system: 'x86_64-linux', runner: 'ubuntu-24.04' }])
    expect(step.warnings).toEqual([
      expect.stringMatching(
        /^Skipping aarch64-linux: packages\.aarch64-linux can't be evaluated.*: error: attribute 'nonesuch' missing$/,
      ),
      expect.stringMatching(
        /^Skipping armv7l-linux: packages\.armv7l-linux can't be evaluated.*: error: not for this one/,
      ),
    ])
    expect(step.errors).toEqual([])
    const quoted = passed(await run({ cwd, inputs: { attribute: '"images.app"' } }))
    expect(matrixOf(quoted)).toEqual([{ system: 'i686-linux', runner: 'ubuntu-24.04' }])
  })

  test('omits systems whose image can’t be built, which is logged', async () => {
    const cwd = await flake(`{
      outputs = _: {
        packages = {
          x86_64-linux.containerImage = ${IMAGE};
          i686-linux.containerImage = "/nix/store/${'0'.repeat(32)}-image";
          aarch64-linux.containerImage = throw "Package 'foo' is not available\\n::error::on aarch64-linux";
          armv6l-linux.containerImage = throw "of its own accord";
          powerpc64le-linux.containerImage = { };
          riscv64-linux.containerImage = null;
          s390x-linux.containerImage = system: system;
        };
      };
    }`)
    const step = passed(await run({ cwd }))
    expect(matrixOf(step)).toEqual([
      { system: 'i686-linux', runner: 'ubuntu-24.04' },
      { system: 'x86_64-linux', runner: 'ubuntu-24.04' },
    ])
    const left = (system: string, why: string) => `Skipping ${system}: packages.${system}.containerImage ${why}`
    expect(step.warnings).toEqual([
      expect.stringContaining(left('aarch64-linux', "can't be evaluated: error: Package 'foo' is not available")),
      left('armv6l-linux', "can't be evaluated: error: of its own accord"),
      left('powerpc64le-linux', 'is a set, not a derivation'),
      left('riscv64-linux', 'is null'),
      left('s390x-linux', 'is a function, not a derivation'),
    ])
    expect(step.errors).toEqual([])
  })

  test('contains systems whose image only their own machines can evaluate: plan builds nothing', async () => {
    const cwd = await flake(`{
      outputs = _: {
        packages = {
          x86_64-linux.containerImage = ${IMAGE};
          riscv64-linux.containerImage = import (derivation {
            name = "made.nix"; system = "riscv64-linux"; builder = "/bin/sh"; args = [ "-c" "echo 1 > $out" ];
          });
          i686-linux.containerImage = import (derivation {
            name = "made.nix"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo x > ${join(lab.folder, 'built')}; echo 1 > $out" ];
          });
          aarch64-linux = import (derivation {
            name = "names.nix"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo '{ containerImage = 1; }' > $out" ];
          });
        };
      };
    }`)
    const step = passed(await run({ cwd, inputs: { push: 'false' } }))
    expect((matrixOf(step) as readonly { system: string }[]).map(({ system }) => system)).toEqual([
      'aarch64-linux',
      'i686-linux',
      'riscv64-linux',
      'x86_64-linux',
    ])
    expect(step.warnings).toEqual([])
    expect(await readdir(lab.folder)).not.toContain('built')
  })

  test('evaluates the flake with `nix-args`', async () => {
    const packages = 'builtins.seq builtins.currentSystem { x86_64-linux.containerImage = "image"; }'
    const cwd = await flake(`{ outputs = _: { packages = ${packages}; }; }`)
    const [error, ...more] = (await run({ cwd })).errors
    expect(more).toEqual([])
    expect(error).toContain("attribute 'currentSystem' missing")
    const matrix = await planned({ cwd, inputs: { 'nix-args': '--impure' } })
    expect(matrix).toEqual([{ system: 'x86_64-linux', runner: 'ubuntu-24.04' }])
  })
})

describe('an image that fails to evaluate', () => {
  const failing = (image: string, more = '') =>
    flake(`{ outputs = _: { packages = rec {
      x86_64-linux = { containerImage = ${image}; other = 1; };
      aarch64-linux = x86_64-linux;
      ${more}
    }; }; }`)

  test.each([
    [
      'a misspelt attribute',
      '({ tools }: tools.buildImge { }) { tools = { }; }',
      "error: attribute 'buildImge' missing",
    ],
    ['abort', 'abort "not yet written"', "evaluation aborted with the following error message: 'not yet written'"],
    [
      'the system of the runner',
      '{ inherit (builtins) currentSystem; }.currentSystem',
      "error: attribute 'currentSystem' missing",
    ],
    ['throw', 'throw "not yet written"', 'error: not yet written'],
  ])('for every system is an error with the reason and the packages of the flake: %s', async (_, image, reason) => {
    const cwd = await failing(image)
    const step = await run({ cwd })
    expect({ exitCode: step.exitCode, outputs: step.outputs, warnings: step.warnings }).toEqual({
      exitCode: 1,
      outputs: {},
      warnings: [],
    })
    const [error = '', ...more] = step.errors
    expect(more).toEqual([])
    expect(error).toMatch(/^Nix can't evaluate packages\.<system>\.containerImage of the flake \. for any system\n/)
    expect(error.split(reason)).toHaveLength(2)
    expect(error).toContain(
      '  The flake has these packages:\n  aarch64-linux: containerImage, other\n  x86_64-linux: con',
    )
    expect(error).not.toContain('nix-image-action: {')
  })

  test('for every system, for different reasons, is an error with each reason', async () => {
    const cwd = await failing('throw "the first"', 'riscv64-linux.containerImage = throw "the second";')
    const [error] = (await run({ cwd })).errors
    for (const line of ['x86_64-linux: error: the first', 'riscv64-linux: error: the second'])
      expect(error).toContain(`\n  ${line}\n`)
  })

  test('for one system is skipped with a warning', async () => {
    const cwd = await failing(IMAGE, 'riscv64-linux.containerImage = { }.image;')
    const step = passed(await run({ cwd }))
    expect(matrixOf(step)).toEqual([
      { system: 'aarch64-linux', runner: 'ubuntu-24.04-arm' },
      { system: 'x86_64-linux', runner: 'ubuntu-24.04' },
    ])
    expect(step.warnings).toEqual([
      "Skipping riscv64-linux: packages.riscv64-linux.containerImage can't be evaluated: error: attribute 'image' missing",
    ])
  })

  test('on this runner only stays in the matrix, even if it is the only one', async () => {
    const imported = '(import (derivation { name = "a.nix"; system = "riscv64-linux"; builder = "/bin/sh"; }))'
    const cwd = await flake(`{ outputs = _: { packages.riscv64-linux.containerImage = ${imported}; }; }`)
    const step = passed(await run({ cwd }))
    expect(matrixOf(step)).toEqual([{ system: 'riscv64-linux', runner: 'ubuntu-24.04' }])
    expect(step.warnings).toEqual([])
    expect(step.log).toContain(
      "packages.riscv64-linux.containerImage is in the matrix although this step can't evaluate it: its evaluation imports from a derivation",
    )
  })
})

describe('Nix is started once to list the systems, and once for each system', () => {
  /** Runs a step with a program before Nix on the PATH that records the arguments of each start. */
  async function starts(call: Partial<ActionCall> = {}): Promise<ActionRun & { readonly starts: readonly string[] }> {
    const bin = await mkdtemp(join(lab.folder, 'bin-'))
    const records = join(bin, 'starts')
    await mkdir(records)
    const { stdout } = await promisify(execFile)('which', ['nix'])
    // One file for each start, because several write at the same time.
    const script = `#!/bin/sh\necho "$@" > ${records}/$$\nexec ${stdout.trim()} "$@"\n`
    await writeFile(join(bin, 'nix'), script, { mode: 0o755 })
    const step = await run({ ...call, env: { ...call.env, PATH: `${bin}${delimiter}${process.env.PATH}` } })
    const files = await readdir(records)
    return { ...step, starts: await Promise.all(files.map((file) => readFile(join(records, file), 'utf8'))) }
  }
  const evaluated = (lines: readonly string[]) => lines.map((line) => /#packages(\S*)/.exec(line)?.[1]).toSorted()

  test('says which system it evaluates', async () => {
    const step = await starts()
    expect(matrixOf(passed(step))).toEqual(HELLO)
    expect(evaluated(step.starts)).toEqual(['', '.aarch64-linux', '.armv7l-linux', '.x86_64-linux'])
    expect(step.log).toMatch(/^Using (Nix|Lix|Determinate Nix) \d/m)
    for (const { system } of HELLO) expect(step.log).toContain(`Evaluating containerImage for ${system}\n`)
    expect(step.log).not.toContain('eval-cache')
    expect(step.log).toMatch(/\nEvaluated 3 of 3 systems: \S+ took [\d.]+ s\n/)
  })

  test('if the images are published', async () => {
    await publish()
    const step = await starts()
    expect(matrixOf(passed(step))).toEqual(HELLO_UNCHANGED)
    expect(evaluated(step.starts)).toEqual(['', '.aarch64-linux', '.armv7l-linux', '.x86_64-linux'])
  }, 120_000)

  test('if evaluations fail, in whatever way', async () => {
    const cwd = await flake(`{ outputs = _: { packages = {
      x86_64-linux.containerImage = throw "not yet";
      aarch64-linux.containerImage = abort "not yet";
      i686-linux = (set: set.nonesuch) { };
      riscv64-linux.containerImage = ${IMAGE};
      aarch64-darwin = abort "never";
    }; }; }`)
    const step = await starts({ cwd })
    expect(matrixOf(passed(step))).toEqual([{ system: 'riscv64-linux', runner: 'ubuntu-24.04' }])
    expect(step.warnings).toHaveLength(3)
    expect(evaluated(step.starts)).toEqual(['', '.aarch64-linux', '.i686-linux', '.riscv64-linux', '.x86_64-linux'])
  })
})

describe('an unchanged published image', () => {
  test('is marked until the flake changes', async () => {
    expect(await planned()).toEqual(HELLO)
    await publish()
    const step = passed(await run())
    expect(matrixOf(step)).toEqual(HELLO_UNCHANGED)
    expect(step.summary).toContain('| aarch64-linux | `ubuntu-24.04-arm` | unchanged |\n')

    // Only the image of x86_64-linux.
    const file = join(lab.hello, 'flake.nix')
    const text = await readFile(file, 'utf8')
    await writeFile(file, text.replace('x86_64-linux = "amd64"', 'x86_64-linux = "386"'))
    const [arm64, arm] = HELLO_UNCHANGED
    expect(await planned()).toEqual([arm64, arm, HELLO[2]])
  }, 120_000)

  test('is not marked with `rebuild`, another compression, or `push: false`', async () => {
    await publish()
    expect(await planned({ inputs: { push: 'false' } })).toEqual(HELLO)
    expect(await planned({ inputs: { rebuild: 'true' } })).toEqual(HELLO)
    expect(await planned({ inputs: { compression: 'zstd' } })).toEqual(HELLO)
    expect(await planned({ inputs: { 'push-with': 'docker' } })).toEqual(HELLO_UNCHANGED)
  }, 120_000)

  test('that no longer evaluates stays in the matrix, with a warning', async () => {
    await publish()
    const file = join(lab.hello, 'image.nix')
    const text = await readFile(file, 'utf8')
    const broken = '${if system == "armv7l-linux" then throw "no sources" else system}'
    await writeFile(file, text.replace('${system}', broken))
    const step = passed(await run())
    const [arm64, , amd64] = HELLO_UNCHANGED
    expect(matrixOf(step)).toEqual([arm64, HELLO[1], amd64])
    expect(step.warnings).toEqual([
      "packages.armv7l-linux.containerImage is in the matrix although it can't be evaluated: error: no sources",
    ])
  }, 120_000)

  test('may have different label values, but no labels that are not set now', async () => {
    await publish({ labels: 'org.example.commit=1' })
    expect(await planned({ inputs: { labels: 'org.example.commit=2\norg.example.more=1' } })).toEqual(HELLO_UNCHANGED)
    expect(await planned()).toEqual(HELLO)
  }, 120_000)

  test('is found through `reuse-from`, but only in the repositories of `image`', async () => {
    await publish()
    expect(await planned({ inputs: { 'reuse-from': '0123456' } })).toEqual(HELLO_UNCHANGED)
    expect(await planned({ inputs: { 'reuse-from': 'none' } })).toEqual(HELLO)
    const host = lab.registry.host
    const inputs = { image: `${host}/owner/other`, 'reuse-from': `${host}/owner/hello:latest` }
    expect(await planned({ inputs })).toEqual(HELLO)
  }, 120_000)

  test('is unknown if the registry does not answer: everything is built', async () => {
    const step = passed(await run({ inputs: { image: '127.0.0.1:1/app' } }))
    expect(matrixOf(step)).toEqual(HELLO)
    expect(step.log).toContain('Not reusing layers of 127.0.0.1:1/app:latest: ')
    expect(step.warnings).toEqual([])
  })

  test('is unknown if the registry requires authentication: everything is built', async () => {
    const auth = { kind: 'basic', user: 'someone', password: 'p4ssw0rd-of-someone' } as const
    const closed = await startLab({ registry: { auth } })
    try {
      const inputs = { mode: 'plan' }
      const step = passed(await closed.build('', { inputs }))
      expect(matrixOf(step)).toEqual(HELLO)
      expect(step.log).toContain('no credentials were found')
    } finally {
      await closed.close()
    }
  })
})

describe('a failure explains its cause', () => {
  test.each<[string, Partial<ActionCall> & { readonly text?: string }, readonly (string | RegExp)[]]>([
    [
      'an image that the flake lacks for every system',
      { inputs: { attribute: 'image' } },
      [
        'The flake . has no packages.<system>.image for any supported system',
        'aarch64-linux: containerImage, layeredImage, ociArchive, ociLayout, plainImage, streamedImage',
        'Set `attribute` to a package of the flake',
      ],
    ],
    [
      'a flake that supports only macOS, or fails',
      { text: '{ outputs = _: { packages = { aarch64-darwin.image = 1; i686-linux = throw "not this one"; }; }; }' },
      ["aarch64-darwin: container images can't be built for it", "i686-linux: can't be evaluated: error: not this one"],
    ],
    [
      'a flake without packages',
      { text: '{ outputs = _: { }; }', inputs: { attribute: 'image' } },
      ['The flake . has no output "packages"\nAdd packages.x86_64-linux.image to the outputs of the flake.'],
    ],
    [
      'a flake without packages, on macOS',
      { text: '{ outputs = _: { }; }', env: { RUNNER_OS: 'macOS', RUNNER_ARCH: 'ARM64' } },
      ['Add packages.aarch64-linux.containerImage to the outputs of the flake.'],
    ],
    [
      'a flake with many packages',
      {
        text: `{ outputs = _: { packages.x86_64-linux = builtins.listToAttrs (map (name: { inherit name; value = 1; })
          ([ "container-image" ] ++ builtins.genList (at: "a-package-with-number-\${toString at}") 20000)); }; }`,
      },
      [/\n {2}x86_64-linux: container-image(?:, a-package-with-number-\d+){19} and 19981 more\nSet `attribute`/],
    ],
    ['a flake that is none', { text: '{' }, ['Nix could not evaluate .#packages', 'syntax error']],
    ['an installable', { inputs: { installable: '.#x' } }, ['`installable` does not apply to `mode: plan`']],
    ['Nix that is not there', { env: { PATH: '/nowhere' } }, ['Nix is not installed on this runner']],
  ])('%s', async (_, { text, ...call }, messages) => {
    const step = await run({ ...call, ...(text !== undefined && { cwd: await flake(text) }) })
    expect({ exitCode: step.exitCode, errors: step.errors }).toEqual({ exitCode: 1, errors: [expect.any(String)] })
    for (const message of messages)
      expect(step.errors[0]).toEqual(
        typeof message === 'string' ? expect.stringContaining(message) : expect.stringMatching(message),
      )
    expect(step.outputs).toEqual({})
  })

  test('a folder without a flake', async () => {
    const cwd = await flake('')
    await rm(join(cwd, 'flake.nix'))
    expect((await run({ cwd })).errors).toEqual([expect.stringContaining('make actions/checkout the first step')])
  })
})
