import { cp, mkdir, mkdtemp, realpath, symlink, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { openImage } from '../../src/image/open-image.ts'
import { readLayerFiles } from '../support/image.ts'
import { type Lab, startLab } from '../support/lab.ts'
import { filesOf, type PulledImage, pullWithSkopeo } from '../support/pulled.ts'
import { type ActionCall, type ActionRun, passed } from '../support/runner.ts'

// Everything that can be built besides a flake's packages, with real Nix and a real registry.

let lab: Lab
let names = 0

beforeAll(async () => {
  lab = await startLab()
})
afterAll(() => lab.close())

async function build(system: string, { inputs, ...call }: Partial<ActionCall>): Promise<ActionRun> {
  const image = `${lab.registry.host}/owner/installable-${names++}`
  return lab.build(system, { ...call, inputs: { image, ...inputs } })
}

function pulled({ outputs }: ActionRun): Promise<PulledImage> {
  return pullWithSkopeo(outputs.image ?? '', lab.folder)
}

async function folder(): Promise<string> {
  const path = await mkdtemp(join(lab.folder, 'project-'))
  await cp(lab.hello, path, { recursive: true })
  return path
}

test.each([
  ['x86_64-linux', 'amd64'],
  ['aarch64-linux', 'arm64'],
])('a file without flakes is built for %s', async (system, architecture) => {
  const cwd = await folder()
  const expression = `{ system ? builtins.currentSystem }:
let architecture = { x86_64-linux = "amd64"; aarch64-linux = "arm64"; }.\${builtins.currentSystem};
in { image = (import ./image.nix { inherit system architecture; }).tarGz; }
`
  await writeFile(join(cwd, 'default.nix'), expression)
  const step = passed(await build(system, { cwd, inputs: { file: 'default.nix', attribute: 'image' } }))
  expect((await pulled(step)).architecture).toBe(architecture)
  expect(step.log).toContain(`Build image of default.nix for ${system}`)
})

test.each([
  [
    'is mistyped',
    { file: 'default.nix', attribute: 'imgae' },
    /^There is no imgae of default\.nix\n {2}error: attribute 'imgae' .*not found\n(?: {2}.*\n)*The file has these attributes: image, other\. /,
  ],
  [
    'is not set, and the file is the image itself',
    { file: 'image-itself.nix' },
    /^There is no containerImage of image-itself\.nix\n.*\nThe file evaluates to a derivation, which has no such attribute\. If the derivation is the image, set:\n {2}attribute: ""$/,
  ],
  [
    'is not set, and the file is not an attribute set',
    { file: 'text.nix' },
    /^There is no containerImage of text\.nix\n.* should be a set but is a string\nSet `attribute` \(default: containerImage\) to/,
  ],
])('the error describes the content of a file if the attribute %s', async (_, inputs, message) => {
  const cwd = await folder()
  const image = '(import ./image.nix { inherit system; architecture = "amd64"; }).tar'
  await writeFile(join(cwd, 'default.nix'), `{ system, ... }: { image = ${image}; other = 1; }`)
  await writeFile(join(cwd, 'image-itself.nix'), `{ system ? builtins.currentSystem }: ${image}`)
  await writeFile(join(cwd, 'text.nix'), '"an image"')
  expect((await build('x86_64-linux', { cwd, inputs })).errors).toEqual([expect.stringMatching(message)])
})

describe('a file that is the image itself', () => {
  const given = ['--argstr', 'name', 'app', '--argstr', 'tag', 'v1']
  const crossBuilt = [...given, '--argstr', 'system', 'x86_64-linux', '--argstr', 'hostSystem', 'aarch64-linux']
  let cwd: string

  beforeAll(async () => {
    cwd = await folder()
    await writeFile(
      join(cwd, 'docker.nix'),
      `{ name, tag, system ? builtins.currentSystem, hostSystem ? system }:
assert name == "app" && tag == "v1";
let architecture = { x86_64-linux = "amd64"; aarch64-linux = "arm64"; }.\${hostSystem};
in (import ./image.nix { inherit system architecture; }).tarGz
`,
    )
  })
  const buildFile = (system: string, nixArgs: readonly string[], inputs: Readonly<Record<string, string>> = {}) =>
    build(system, {
      cwd,
      jobTotal: 1,
      inputs: { file: 'docker.nix', attribute: '', 'nix-args': nixArgs.join('\n'), ...inputs },
    })

  test.each([
    ['x86_64-linux', 'amd64'],
    ['aarch64-linux', 'arm64'],
  ])('is built for %s with an empty attribute', async (system, architecture) => {
    const step = passed(await buildFile(system, given))
    expect((await pulled(step)).architecture).toBe(architecture)
    expect(step.log).toContain(`Build docker.nix for ${system}`)
  })

  test('is cross-built with the builder’s `system` as its argument, and is unchanged the next time', async () => {
    const image = `${lab.registry.host}/owner/cross-built`
    const first = passed(await buildFile('aarch64-linux', crossBuilt, { image, tag: 'first' }))
    expect((await pulled(first)).architecture).toBe('arm64')
    passed(await lab.merge({ inputs: { image, tags: 'latest' } }))
    const second = passed(await buildFile('aarch64-linux', crossBuilt, { image }))
    expect(second.outputs).toMatchObject({ unchanged: 'true', 'store-path': first.outputs['store-path'] })
  })

  test('is suggested in the error if the attribute is not set', async () => {
    const { errors } = await buildFile('x86_64-linux', given, { attribute: 'containerImage' })
    expect(errors).toEqual([
      expect.stringMatching(/^There is no containerImage of docker\.nix\n[\s\S]* attribute: ""$/),
    ])
  })

  test('of nix2container is written by its `copyTo`', async () => {
    await writeFile(join(cwd, 'flake.nix'), nix2container('x86_64-linux', 'amd64'))
    const expression = '{ system }: ((import ./flake.nix).outputs { self = null; }).packages."${system}".containerImage'
    await writeFile(join(cwd, 'nix2container.nix'), expression)
    const step = passed(await buildFile('x86_64-linux', [], { file: 'nix2container.nix' }))
    expect((await pulled(step)).architecture).toBe('amd64')
    expect(step.log).toContain('Write the layers of nix2container.nix')
  })

  test('with several images is an error that asks for an attribute', async () => {
    const image = (architecture: string) =>
      `(import ./image.nix { system = "x86_64-linux"; architecture = "${architecture}"; }).tar`
    await writeFile(join(cwd, 'two.nix'), `{ one = ${image('amd64')}; two = ${image('arm64')}; }`)
    const { errors } = await buildFile('x86_64-linux', [], { file: 'two.nix' })
    expect(errors).toEqual([
      expect.stringMatching(
        /^two\.nix evaluates to 2 derivations instead of one image\n[\s\S]*\nSet `attribute` to the derivation that is the image\.$/,
      ),
    ])
  })
})

test('`nix-args` may contain options that only `nix build` supports', async () => {
  const cwd = await folder()
  const profile = join(cwd, 'profile')
  const step = passed(await build('x86_64-linux', { cwd, inputs: { 'nix-args': `--profile\n${profile}` } }))
  expect(await realpath(profile)).toBe(step.outputs['store-path'])
  expect(step.log).toContain('`nix eval` does not support all of `nix-args`')
})

test('legacyPackages can be built', async () => {
  const cwd = await folder()
  const outputs =
    '{ outputs = _: { legacyPackages.aarch64-linux.deep.image = (import ./image.nix { system = "aarch64-linux"; architecture = "arm64"; }).tar; }; }'
  await writeFile(join(cwd, 'flake.nix'), outputs)
  const installable = `path:${cwd}#legacyPackages.{system}.deep.image`
  const step = passed(await build('aarch64-linux', { cwd, inputs: { installable } }))
  expect((await pulled(step)).architecture).toBe('arm64')
})

test.each([
  ['an attribute', { attribute: 'image' }, 'packages.aarch64-linux.image'],
  ['an installable', { installable: '.#image' }, 'packages.aarch64-linux.image'],
  ['the default of the flake', { installable: './' }, 'packages.aarch64-linux.default'],
  ['legacyPackages', { installable: '.#legacyPackages.{system}.image' }, 'legacyPackages.aarch64-linux.image'],
])('the error for a flake without packages names the missing attribute: %s', async (_, inputs, missing) => {
  const cwd = await folder()
  await writeFile(join(cwd, 'flake.nix'), '{ outputs = _: { }; }')
  const { errors } = await build('aarch64-linux', { cwd, inputs })
  expect(errors).toEqual([
    expect.stringContaining(`has no output "packages". Add ${missing} to the outputs of the flake.`),
  ])
})

describe('a derivation with several outputs', () => {
  let cwd: string

  beforeAll(async () => {
    cwd = await folder()
    const outputs = ['image', 'debug'].map(
      (name) =>
        `cp \${(import ./image.nix { system = "x86_64-linux"; architecture = "amd64"; layered = ${name === 'debug'}; }).tar} $${name}`,
    )
    await writeFile(
      join(cwd, 'flake.nix'),
      `{ outputs = _: { packages.x86_64-linux.two = (derivation {
        name = "two"; system = "x86_64-linux"; outputs = [ "image" "debug" ];
        builder = "/bin/sh"; PATH = "/usr/bin:/bin"; args = [ "-euc" "${outputs.join('; ')}" ];
      }) // { meta.outputsToInstall = [ "image" "debug" ]; }; }; }`,
    )
  })

  test('has its main output published, whichever outputs Nix builds', async () => {
    const { outputs } = passed(await build('x86_64-linux', { cwd, inputs: { attribute: 'two' } }))
    expect(outputs['store-path']).toMatch(/-two-image$/)
  })

  test('is an error if several are selected, or if any is selected with a Nix that does not support it', async () => {
    const step = await build('x86_64-linux', { cwd, inputs: { installable: '.#two^*' } })
    expect(step.outputs).toEqual({})
    expect(step.errors).toEqual([
      expect.stringMatching(/Nix built 2 outputs of \.#two\^\* instead of one image\n|does not support `\^`/),
    ])
  })
})

test('an existing store path can be published, by its path or by a link to it', async () => {
  const first = passed(await build('x86_64-linux', {}))
  const storePath = first.outputs['store-path'] ?? ''
  const cwd = await folder()
  await symlink(storePath, join(cwd, 'result'))
  for (const installable of [storePath, './result']) {
    const { outputs } = passed(await build('x86_64-linux', { cwd, inputs: { installable } }))
    expect(outputs).toMatchObject({ digest: first.outputs.digest, 'store-path': storePath })
  }
})

describe('an image in the workspace is pushed as it is', () => {
  let cwd: string
  let built: ActionRun
  beforeAll(async () => {
    cwd = await folder()
    built = passed(await build('aarch64-linux', {}))
    await mkdir(join(cwd, 'images'))
    await cp(built.outputs['store-path'] ?? '', join(cwd, 'images/aarch64-linux.tar.gz'))
    await symlink('aarch64-linux.tar.gz', join(cwd, 'images/linked.tar.gz'))
  })

  test.each([
    ['./images/{system}.tar.gz'],
    ['images/aarch64-linux.tar.gz'],
    ['images/linked.tar.gz'],
    ['$cwd/images/aarch64-linux.tar.gz'],
  ])('from %s', async (installable) => {
    const step = passed(
      await build('aarch64-linux', { cwd, inputs: { installable: installable.replace('$cwd', cwd) } }),
    )
    expect(await pulled(step)).toMatchObject({ architecture: 'arm64', diffIds: (await pulled(built)).diffIds })
    expect(step.outputs['store-path']).toMatch(/\/store\/[0-9a-z]{32}-aarch64-linux\.tar\.gz$/)
    expect(step.log).not.toContain('##[group]Build')
  })

  test('and is unchanged until the file changes', async () => {
    const image = `${lab.registry.host}/owner/archive`
    const call = { cwd, jobTotal: 1, inputs: { image, installable: 'images/aarch64-linux.tar.gz' } }
    passed(await build('aarch64-linux', call))
    passed(await lab.merge({ inputs: { image, tags: 'latest' } }))
    expect(passed(await build('aarch64-linux', call)).outputs.unchanged).toBe('true')
    const other = passed(await build('aarch64-linux', { inputs: { attribute: 'plainImage' } }))
    await cp(other.outputs['store-path'] ?? '', join(cwd, 'images/other.tar'))
    const changed = { ...call, env: { ACTIONS_RUNTIME_TOKEN: '' }, inputs: { image, installable: 'images/other.tar' } }
    expect(passed(await build('aarch64-linux', changed)).outputs.unchanged).toBe('false')
  })

  test('from a folder that is an OCI layout, even if the parent folder has a flake', async () => {
    const { outputs } = passed(await build('aarch64-linux', { inputs: { attribute: 'ociLayout' } }))
    await cp(outputs['store-path'] ?? '', join(cwd, 'layout'), { recursive: true })
    for (const installable of ['./layout', 'layout/']) {
      const step = passed(await build('aarch64-linux', { cwd, inputs: { installable } }))
      expect(step.outputs['store-path']).toMatch(/-layout$/)
      expect((await pulled(step)).architecture).toBe('arm64')
    }
  })

  test('by Docker as well, and is checked with `push: false`', async () => {
    const inputs = { installable: './images/aarch64-linux.tar.gz' }
    const checked = passed(await build('aarch64-linux', { cwd, inputs: { ...inputs, push: 'false' } }))
    expect(Object.keys(checked.outputs)).toEqual(['store-path'])
    const { DOCKER_HOST, DOCKER_CONFIG } = process.env
    const env = { DOCKER_HOST, DOCKER_CONFIG }
    const step = passed(await build('aarch64-linux', { cwd, env, inputs: { ...inputs, 'push-with': 'docker' } }))
    expect((await pulled(step)).architecture).toBe('arm64')
  })

  test('unless it is for another system', async () => {
    const inputs = { installable: './images/aarch64-linux.tar.gz' }
    const { errors } = await build('x86_64-linux', { cwd, inputs })
    expect(errors).toEqual([expect.stringContaining('The image is for linux/arm64, but x86_64-linux is linux/amd64')])
  })

  test('while a folder with a flake is built', async () => {
    await mkdir(join(cwd, 'apps'))
    await cp(lab.hello, join(cwd, 'apps/a'), { recursive: true })
    await writeFile(join(cwd, 'apps/a/oci-layout'), '{}')
    const flake =
      '{ outputs = _: { packages.x86_64-linux.default = (import ./image.nix { system = "x86_64-linux"; architecture = "amd64"; }).tar; }; }'
    await writeFile(join(cwd, 'apps/a/flake.nix'), flake)
    const step = passed(await build('x86_64-linux', { cwd, inputs: { installable: './apps/a' } }))
    expect(step.outputs['store-path']).toMatch(/-docker-image-hello\.tar$/)
  })
})

test('an image of nix2container is written by its `copyTo`, and pushed unchanged', async () => {
  const cwd = await folder()
  await writeFile(join(cwd, 'flake.nix'), nix2container('x86_64-linux', 'amd64'))
  const step = passed(await build('x86_64-linux', { cwd }))
  const source = passed(
    await build('x86_64-linux', { cwd, inputs: { attribute: 'containerImage.image', tag: 'source' } }),
  ).outputs['store-path']
  const opened = openImage({ path: source ?? '', root: dirname(source ?? ''), format: 'tar' })
  const layers = (await readLayerFiles(opened)).map(([, content]) => content)
  const { config } = await opened.image()
  const image = await pulled(step)
  expect(image.diffIds).toEqual(config.diffIds)
  expect(image.unpacked).toEqual(config.diffIds)
  expect(image.files).toEqual(await filesOf(layers, lab.folder))
  expect(image.files).toContainEqual(expect.stringMatching(/^bin\/hello → .*-hello\/bin\/hello$/))
  expect(step.outputs['store-path']).toMatch(/-image-app\.json$/)
  const verified = await build('x86_64-linux', { cwd, inputs: { mode: 'verify', image: step.outputs.image ?? '' } })
  expect(passed(verified).outputs).toEqual({ verified: 'true', differences: '[]' })
  expect(verified.log).toContain('Write the layers of .#packages.x86_64-linux.containerImage')

  const docker = await build('x86_64-linux', { cwd, env: await withDocker(), inputs: { 'push-with': 'docker' } })
  expect(docker.errors.join()).toMatch(
    /Docker can't load \S+-image-app\.json, which is a nix2container image\n.*remove `push-with: docker`/,
  )
})

test.each([
  ['for another system', 'riscv64-linux', 'riscv64', '', 'null'],
  ['that needs `nix-args`', 'x86_64-linux', 'amd64', '--impure', 'builtins.currentSystem'],
])(
  'an image of nix2container %s is written with the settings of its build',
  async (_, system, architecture, nixArgs, needed) => {
    const cwd = await folder()
    await writeFile(join(cwd, 'flake.nix'), nix2container(system, architecture, needed))
    const step = passed(await build(system, { cwd, inputs: { 'nix-args': nixArgs } }))
    expect((await pulled(step)).architecture).toBe(architecture)
  },
)

test('the error names the `copyTo` of a nix2container image that is missing or writes nothing', async () => {
  const cwd = await folder()
  const packages = `
    bare = builtins.removeAttrs (let it = image "amd64" true; in described it it) [ "copyTo" ];
    idle = bare // { copyTo = shell "copy-to" "mkdir -p $out/bin; printf '#!/bin/sh\\ncat\\n' > $out/bin/copy-to; chmod 755 $out/bin/copy-to"; };`
  await writeFile(join(cwd, 'flake.nix'), nix2containerFlake('x86_64-linux', packages))
  for (const [attribute, detail] of [
    [
      'bare',
      /^\S+#packages\.x86_64-linux\.bare\.copyTo could not write [\s\S]*\nThe result of nix2container's buildImage has an attribute `copyTo`\./,
    ],
    [
      'idle',
      /^The copyTo of \S+idle succeeded, but did not write a complete OCI layout\n {2}the layout is not a complete image/,
    ],
  ] as const) {
    const step = await build('x86_64-linux', { cwd, inputs: { attribute } })
    expect({ exitCode: step.exitCode, outputs: step.outputs, left: step.tempLeft }).toEqual({
      exitCode: 1,
      outputs: {},
      left: [],
    })
    expect(step.errors).toEqual([expect.stringMatching(detail)])
  }
})

describe('an image of nix2container is not mistaken for another one', () => {
  test('if it is named by its store path or a link to it, from which its `copyTo` can’t be found', async () => {
    const cwd = await folder()
    const packages = ['server', 'default'].map(
      (name) => `${name} = let it = image "amd64" ${name === 'server'}; in described it it;`,
    )
    await writeFile(join(cwd, 'flake.nix'), nix2containerFlake('x86_64-linux', packages.join('\n')))
    const server = passed(await build('x86_64-linux', { cwd, inputs: { attribute: 'server' } }))
    const storePath = server.outputs['store-path'] ?? ''
    await symlink(storePath, join(cwd, 'result'))
    for (const installable of ['./result', `${cwd}/result`, storePath]) {
      const step = await build('x86_64-linux', { cwd, inputs: { installable } })
      expect({ exitCode: step.exitCode, outputs: step.outputs }).toEqual({ exitCode: 1, outputs: {} })
      expect(step.errors).toEqual([
        `${installable} is a nix2container image, which can't be pushed by its path: the program that writes its layers is an attribute of the image
Set \`installable\` or \`attribute\` to the attribute of the image, for example:
  attribute: server`,
      ])
    }
  })

  test('if its `copyTo` writes a different image than it describes', async () => {
    const cwd = await folder()
    const packages = `
      fewer = described (image "amd64" true) (image "amd64" false);
      other = described (image "amd64" true) (import ./image.nix { system = "i686-linux"; architecture = "amd64"; layered = true; }).tar;`
    await writeFile(join(cwd, 'flake.nix'), nix2containerFlake('x86_64-linux', packages))
    for (const [attribute, detail] of [
      ['fewer', 'it has 1 layers, and the description lists 2'],
      ['other', 'its layer 1 is sha256:\\w{64}, and the description lists sha256:\\w{64} there'],
    ]) {
      const step = await build('x86_64-linux', { cwd, inputs: { attribute: attribute ?? '' } })
      expect({ exitCode: step.exitCode, outputs: step.outputs }).toEqual({ exitCode: 1, outputs: {} })
      expect(step.errors).toEqual([
        expect.stringMatching(
          new RegExp(
            `The copyTo of \\S+ did not write the image that Nix built, .*-image-app\\.json\n {2}${detail}\nNothing`,
          ),
        ),
      ])
    }
  })
})

test('if nix2container’s `copyTo` runs out of disk space, the error says how much is left, and where', async () => {
  const cwd = await folder()
  const full = `echo 'FATA[0000] writing blob: write /t/oci-put-blob1: no space left on device' >&2; exit 1`
  const flake = nix2container('x86_64-linux', 'amd64').replace('exec skopeo', () => `${full.replaceAll("'", '')} #`)
  await writeFile(join(cwd, 'flake.nix'), flake)
  const { errors, tempLeft } = await build('x86_64-linux', { cwd })
  expect(errors).toEqual([
    expect.stringMatching(
      /could not write the image as an OCI layout\n(?: {2}.*\n)* {2}.*no space left on device\nThe disk is full \(now [\d.]+ .?B are free for .*\/store/,
    ),
  ])
  expect(tempLeft).toEqual([])
})

test('a file within a store path is refused, also through a link: Nix builds only complete store paths', async () => {
  const cwd = await folder()
  await writeFile(
    join(cwd, 'flake.nix'),
    `{ outputs = _: {
      packages.x86_64-linux.default = (import ./image.nix { system = "x86_64-linux"; architecture = "amd64"; }).tar;
      packages.x86_64-linux.images = derivation {
        name = "images"; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
        image = (import ./image.nix { system = "x86_64-linux"; architecture = "amd64"; layered = true; }).tar;
        args = [ "-c" "mkdir $out; cp $image $out/image.tar; echo > $out/notes" ];
      };
    }; }`,
  )
  const { outputs } = passed(await build('x86_64-linux', { cwd, inputs: { attribute: 'images' } }))
  await symlink(outputs['store-path'] ?? '', join(cwd, 'result'))
  await symlink('result/image.tar', join(cwd, 'image.tar'))
  for (const installable of [`${outputs['store-path']}/image.tar`, './result/image.tar', './image.tar']) {
    const step = await build('x86_64-linux', { cwd, inputs: { installable } })
    expect({ exitCode: step.exitCode, outputs: step.outputs }).toEqual({ exitCode: 1, outputs: {} })
    expect(step.errors).toEqual([
      `The input \`installable\` is "${installable}", which is inside of ${outputs['store-path']}: Nix can't build a part of a store path
Set \`installable\` to the attribute of the image, or to the store path itself if it contains only one image.`,
    ])
  }
  const whole = passed(await build('x86_64-linux', { cwd, inputs: { installable: './result' } }))
  expect(whole.outputs.digest).toBe(outputs.digest)
})

test.each([
  ['with other content', 'echo {} > $out', ': \\S'],
  ['that is too large for a description', 'echo { > $out; truncate -s 70000000 $out', ': it has 70\\.0 MB$'],
])('a JSON file %s is an error that says so', async (_, command, why) => {
  const cwd = await folder()
  const built = `derivation {
    name = "app.json"; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/usr/bin:/bin"; args = [ "-c" "${command}" ];
  }`
  await writeFile(join(cwd, 'flake.nix'), `{ outputs = _: { packages.x86_64-linux.containerImage = ${built}; }; }`)
  const message =
    "-app\\.json is not an image\n {2}it begins like JSON, but nix2container's buildImage did not write it"
  for (const pushWith of ['registry', 'docker']) {
    const step = await build('x86_64-linux', { cwd, env: await withDocker(), inputs: { 'push-with': pushWith } })
    expect(step.exitCode).toBe(1)
    expect(step.errors.join()).toMatch(new RegExp(`${message}${why}`, 'm'))
    expect(step.tempLeft).toEqual([])
  }
})

/** A Docker whose daemon is running and that does nothing else. */
async function withDocker(): Promise<Readonly<Record<string, string>>> {
  const bin = await mkdtemp(join(lab.folder, 'bin-'))
  await mkdir(bin, { recursive: true })
  await writeFile(join(bin, 'docker'), '#!/bin/sh\necho 28.0.4\n', { mode: 0o755 })
  return { PATH: `${bin}:${process.env.PATH}` }
}

/**
 * A flake with an image in nix2container's format.
 * @param needed an expression that must have a value
 */
function nix2container(system: string, architecture: string, needed = 'null'): string {
  return nix2containerFlake(
    system,
    `containerImage = builtins.seq ${needed} (described (image "${architecture}" true) (image "${architecture}" true));`,
  )
}

/**
 * A stand-in for nix2container: `described`, the description of an image, and a program that writes the layout that
 * nix2container would write, of the same image or another one.
 */
function nix2containerFlake(system: string, packages: string): string {
  return `{
  outputs = { self }:
    let
      system = "${system}";
      image = architecture: layered: (import ./image.nix { inherit system architecture layered; }).tar;
      shell = name: text: derivation {
        inherit name system; builder = "/bin/sh"; PATH = "/usr/bin:/bin"; args = [ "-euc" text ];
      };
      described = image: written: (shell "image-app.json" ''
        layers=$(tar -xOf \${image} manifest.json | grep -o '[0-9a-f]*/layer.tar' |
          sed 's|\\(.*\\)/layer.tar|{"digest":"","size":1,"diff_ids":"sha256:\\1"}|' | paste -sd,)
        echo '{"version":1,"image-config":{},"layers":['"$layers"']}' > $out
      '') // {
        copyTo = shell "copy-to" ''
          mkdir -p $out/bin
          printf '#!/bin/sh\\n[ "$1" = --dest-oci-accept-uncompressed-layers ] || exit 1\\nshift\\nexec skopeo --insecure-policy copy docker-archive:%s "$@"\\n' \${written} > $out/bin/copy-to
          chmod 755 $out/bin/copy-to
        '';
        inherit image;
      };
    in
    {
      packages.\${system} = rec { ${packages} };
    };
}
`
}
