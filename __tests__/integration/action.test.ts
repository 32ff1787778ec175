import { execFile } from 'node:child_process'
import { cp, mkdir, mkdtemp, readdir, readFile, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals'
import { type Lab, startLab } from '../support/lab.ts'
import { type ActionCall, type ActionRun, passed } from '../support/runner.ts'
import { SBOM_ENTRY } from '../support/sbom.ts'

// Runs dist/index.js like the runner does, with real Nix, a real Docker daemon and a real registry.

const SYSTEMS = ['x86_64-linux', 'aarch64-linux'] as const
/** The values of `push-with`. */
const WAYS = ['docker', 'registry'] as const
const { DOCKER_HOST, DOCKER_CONFIG } = process.env
const docker = { DOCKER_HOST, DOCKER_CONFIG }
const run = promisify(execFile)

describe('building and merging two systems', () => {
  let lab: Lab
  beforeEach(async () => {
    lab = await startLab({ docker })
  })
  afterEach(() => lab.close())

  test.each(WAYS)('publishes one image that skopeo and Docker can read, pushed by %s', async (by) => {
    const inputs = { 'push-with': by }
    const built = [
      passed(await lab.build('x86_64-linux', { inputs })),
      passed(await lab.build('aarch64-linux', { inputs })),
    ]
    const merged = passed(await lab.merge())

    expect(await tagsOf(lab)).toEqual(['0123456', '0123456-aarch64-linux', '0123456-x86_64-linux', 'latest'])
    const index = await skopeo(lab, 'latest')
    expect(index).toMatchObject({
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.index.v1+json',
      manifests: [
        { platform: { os: 'linux', architecture: 'amd64' }, digest: built[0]?.outputs.digest },
        { platform: { os: 'linux', architecture: 'arm64' }, digest: built[1]?.outputs.digest },
        ...(by === 'registry' ? [SBOM_ENTRY, SBOM_ENTRY] : []),
      ],
    })
    expect(merged.outputs.tags).toBe(`${imageOf(lab)}:latest\n${imageOf(lab)}:0123456`)
    expect(merged.outputs.image).toBe(`${imageOf(lab)}@${merged.outputs.digest}`)
    expect(merged.summary).toMatch(/^### Published\n/)

    const pulled = await run('docker', ['pull', merged.outputs.image ?? ''])
    expect(pulled.stdout).toContain(`Digest: ${merged.outputs.digest}`)
    for (const architecture of ['amd64', 'arm64']) {
      const { stdout } = await run('docker', ['pull', '--platform', `linux/${architecture}`, `${imageOf(lab)}:latest`])
      expect(stdout).toContain(`Digest: ${merged.outputs.digest}`)
    }
  })

  test.each([
    ['docker', 'application/vnd.docker.distribution.manifest.v2+json'],
    ['registry', 'application/vnd.oci.image.manifest.v1+json'],
  ])('hands over each record in one artifact, with a summary for users, by %s', async (by, mediaType) => {
    const inputs = { 'push-with': by }
    const step = await lab.build('aarch64-linux', { inputs, runAttempt: 2, job: 'images' })
    const { outputs, summary } = passed(step)
    const [artifact, ...more] = await lab.artifacts.artifacts()
    expect(more).toEqual([])
    expect(artifact?.name).toMatch(/^image-digest-127\.0\.0\.1-\d+-owner-hello-[0-9a-f]{8}-aarch64-linux$/)
    expect(artifact?.retentionDays).toBe(1)
    const [content] = artifact?.files.values() ?? []
    expect(`${outputs.record}\n`).toBe(content?.toString())
    expect(JSON.parse(outputs.record ?? '')).toEqual({
      schema: 1,
      image: imageOf(lab),
      system: 'aarch64-linux',
      platform: { os: 'linux', architecture: 'arm64' },
      digest: outputs.digest,
      mediaType,
      size: expect.any(Number),
      storePath: outputs['store-path'],
      // Docker writes the manifest, without the annotations, and there is no SBOM.
      ...(by === 'registry' && { labels: [], sbom: expect.stringMatching(/^sha256:/) }),
      revision: '0123456789abcdef0123456789abcdef01234567',
      source: 'https://github.com/Owner/App',
      derivation: expect.stringMatching(/\/nix\/store\/.*\.drv$/),
      job: { id: 'images', total: 2, inputs: expect.stringMatching(/^[0-9a-f]{16}$/) },
      run: { id: '1234567890', attempt: 2 },
    })
    expect(outputs.image).toBe(`${imageOf(lab)}@${outputs.digest}`)
    expect(summary).toContain(`### Built: \`${imageOf(lab)}\` for linux/arm64\n`)
    expect(summary).toContain(outputs.digest)
  })

  test('publishes the same index when the run is repeated, with one artifact per system', async () => {
    const digests: (string | undefined)[] = []
    for (const runAttempt of [1, 2]) {
      for (const system of SYSTEMS) passed(await lab.build(system, { runAttempt }))
      digests.push(passed(await lab.merge({ runAttempt })).outputs.digest)
    }
    expect(digests[1]).toBe(digests[0])
    const names = (await lab.artifacts.artifacts()).map(({ name }) => name.replace(/.*-(?=[^-]+-linux$)/, ''))
    expect(names.sort()).toEqual([...SYSTEMS].sort())
  })

  test.each(
    WAYS.flatMap((by) => ['plainImage', 'layeredImage', 'streamedImage'].map((attribute) => [attribute, by] as const)),
  )('supports a %s as well, pushed by %s', async (attribute, by) => {
    for (const system of SYSTEMS) passed(await lab.build(system, { inputs: { attribute, 'push-with': by } }))
    const { outputs } = passed(await lab.merge())
    await run('docker', ['pull', outputs.image ?? ''])
    const { stdout } = await run('docker', ['image', 'inspect', '--format', '{{.Config.Cmd}}', outputs.image ?? ''])
    expect(stdout.trim()).toBe('[/bin/hello]')
  })

  test('publishes nothing with push: false, and needs no Docker', async () => {
    const { outputs, log } = passed(
      await lab.build('aarch64-linux', { inputs: { push: 'false' }, env: { DOCKER_HOST: 'unix:///nowhere' } }),
    )
    expect(Object.keys(outputs)).toEqual(['store-path'])
    expect(log).toMatch(/^Using (Nix|Lix|Determinate Nix) \d/m)
    expect(log).toContain('Not pushing the image')
    expect(await tagsOf(lab)).toEqual([])
    expect(await lab.artifacts.artifacts()).toEqual([])
    expect(passed(await lab.merge({ inputs: { push: 'false' } })).notices).toEqual([
      expect.stringContaining('Nothing to check'),
    ])
  })

  test('uses the commit that is checked out, whichever commit the run is for', async () => {
    const git = (...args: readonly string[]) =>
      run('git', ['-C', lab.hello, '-c', 'user.email=a@example.com', '-c', 'user.name=a', ...args])
    await git('init', '-q')
    await git('add', '-A')
    await git('commit', '-q', '-m', 'first')
    const commit = (await git('rev-parse', 'HEAD')).stdout.trim()
    const { notices } = passed(await lab.build('x86_64-linux', { jobTotal: 1 }))
    expect(notices).toEqual([expect.stringContaining(`Building commit ${commit},`)])
    expect(await tagsOf(lab)).toEqual([`${commit.slice(0, 7)}-x86_64-linux`])
    passed(await lab.merge({ inputs: { tags: 'v1-{sha}' } }))
    expect(await skopeo(lab, `v1-${commit.slice(0, 7)}`)).toMatchObject({
      annotations: { 'org.opencontainers.image.revision': commit },
    })
  })

  test('pushes without a tag if all jobs of the matrix would write the same one, and warns with the fix', async () => {
    for (const system of SYSTEMS) {
      const { warnings } = passed(await lab.build(system, { inputs: { tag: 'latest' } }))
      expect(warnings).toContainEqual(
        expect.stringMatching(/The tag "latest" does not name the system[\s\S]*tag: latest-\{system\}/),
      )
    }
    expect(await tagsOf(lab)).toEqual([])
    passed(await lab.merge({ inputs: { tags: 'latest' } }))
    const { manifests } = await skopeo(lab, 'latest')
    expect(manifests).toHaveLength(4)
    // A build of one system does not replace an index with its image either.
    const alone = await lab.build('x86_64-linux', { jobTotal: 1, inputs: { tag: 'latest' }, runId: '2' })
    expect(alone.errors).toEqual([
      expect.stringMatching(/can't write the tag \S+:latest: it points to an index of linux\/amd64, linux\/arm64\n/),
    ])
    expect((await skopeo(lab, 'latest')).manifests).toEqual(manifests)
  })

  test('passes records as text if there are no artifacts', async () => {
    const env = { ACTIONS_RUNTIME_TOKEN: '', ACTIONS_RESULTS_URL: '' }
    const records: string[] = []
    for (const system of SYSTEMS) {
      const { outputs, log } = passed(await lab.build(system, { env }))
      expect(log).toMatch(/This runner has no artifact service[\s\S]*`record` outputs/)
      records.push(outputs.record ?? '')
    }
    expect(await lab.artifacts.artifacts()).toEqual([])
    const digests = records.join('\n')
    const { outputs } = passed(await lab.merge({ inputs: { digests, systems: SYSTEMS.join() }, env }))
    expect((await skopeo(lab, 'latest')).manifests).toHaveLength(4)
    expect(outputs.digest).toMatch(/^sha256:/)
  })

  test('lets Docker push only once, because the tag may be immutable', async () => {
    const inputs = { 'push-with': 'docker' }
    const first = passed(await lab.build('x86_64-linux', { inputs }))
    const second = passed(await lab.build('x86_64-linux', { inputs, runAttempt: 2 }))
    const reference = `${imageOf(lab)}:0123456-x86_64-linux`
    expect(first.log).toContain(`##[group]Push ${reference}\n`)
    expect(second.log).not.toContain('##[group]Push ')
    expect(second.log).toContain(`${reference} is this image already: ${first.outputs.digest}`)
    expect(second.outputs.digest).toBe(first.outputs.digest)
  })

  test.each(WAYS)('publishes to several images, with tags and records for each, pushed by %s', async (by) => {
    const images = [imageOf(lab), `${lab.registry.host}/owner/other`]
    const inputs = { image: images.join('\n') }
    const built: ActionRun[] = []
    for (const system of SYSTEMS)
      built.push(passed(await lab.build(system, { inputs: { ...inputs, 'push-with': by } })))
    const merged = passed(await lab.merge({ inputs }))

    for (const { outputs } of built) {
      const records = (outputs.record ?? '').split('\n').map((line) => JSON.parse(line))
      expect(records.map(({ image }) => image)).toEqual(images)
      expect(records.map(({ digest }) => digest)).toEqual([outputs.digest, outputs.digest])
    }
    expect(await lab.artifacts.artifacts()).toHaveLength(4)
    for (const path of ['owner/hello', 'owner/other']) {
      const tags = ['0123456', '0123456-aarch64-linux', '0123456-x86_64-linux', 'latest']
      expect(await tagsOf(lab, path)).toEqual(tags)
    }
    expect(merged.outputs.tags?.split('\n').sort()).toEqual(
      images.flatMap((image) => [`${image}:0123456`, `${image}:latest`]).sort(),
    )
  })

  test('keeps the output of the flake from running workflow commands', async () => {
    const step = passed(await lab.build('x86_64-linux', { cwd: lab.broken, inputs: { attribute: 'shouting' } }))
    expect(step.log).toContain('\n: :error::from the flake\n: :set-output name=digest::x')
    expect(step.errors).toEqual([])
    expect(step.outputs.digest).toMatch(/^sha256:[0-9a-f]{64}$/)
    expect(step.outputs.image).toBe(`${imageOf(lab)}@${step.outputs.digest}`)
    expect(await tagsOf(lab)).toEqual(['0123456-x86_64-linux'])
  })

  test.each(WAYS)('accepts archives without an image name, pushed by %s', async (by) => {
    const inputs = { attribute: 'zeroNames', 'push-with': by }
    const { outputs } = passed(await lab.build('x86_64-linux', { cwd: lab.broken, inputs }))
    const { stdout } = await run('docker', ['pull', outputs.image ?? ''])
    expect(stdout).toContain(`Digest: ${outputs.digest}`)
  })

  test('builds any installable, and lower-cases the repository name', async () => {
    const inputs = {
      installable: `path:${lab.hello}#packages.{system}.plainImage`,
      image: imageOf(lab).replace('owner/hello', 'Owner/Hello'),
      'nix-args': '--option\nwarn-dirty\nfalse',
      tag: 'v1-{system}',
    }
    const { outputs, notices, log } = passed(await lab.build('x86_64-linux', { inputs }))
    expect(log).toMatch(/image names are lowercase/)
    expect(notices).toEqual([])
    expect(outputs['store-path']).toMatch(/docker-image-hello\.tar$/)
    expect(await tagsOf(lab)).toEqual(['v1-x86_64-linux'])
  })
})

describe('a failure explains its cause, and publishes nothing', () => {
  let lab: Lab
  beforeAll(async () => {
    lab = await startLab({ docker })
  })
  afterAll(() => lab.close())

  const broken = (attribute: string): Failing => ({ cwd: 'broken', inputs: { attribute } })
  test.each<[string, Failing, readonly (string | RegExp)[]]>([
    [
      'a build that fails',
      broken('failing'),
      [
        'Nix could not build .#packages.x86_64-linux.failing',
        'hello.c:1: no such thing',
        /error: .*failing\.drv'.*(?:failed|\n *Reason: builder failed) with exit code 1/,
      ],
    ],
    [
      'an attribute that the flake lacks',
      broken('nonesuch'),
      [
        'There is no .#packages.x86_64-linux.nonesuch',
        /does not provide attribute .*'packages.x86_64-linux.nonesuch'/,
        /x86_64-linux: failing, folder, imageInFolder, notAnImage, onlyHere, shouting, twoImages, wrongArchitecture, xzImage, zeroNames/,
        /aarch64-linux: failing/,
      ],
    ],
    [
      'a system that the flake lacks',
      { cwd: 'broken', inputs: { attribute: 'failing', system: 'riscv64-linux' } },
      ['There is no .#packages.riscv64-linux.failing', /x86_64-linux: failing, folder/],
    ],
    [
      'a folder without a flake',
      { cwd: 'folder' },
      [
        'Nix could not build .#packages.x86_64-linux.containerImage',
        /Commit the file, and make actions\/checkout the first step/,
      ],
    ],
    [
      'a text file instead of an image',
      broken('notAnImage'),
      [/notes\.txt is not an image/, 'the file is text', 'dockerTools.buildImage'],
    ],
    [
      'an OCI layout with `push-with: docker`',
      { inputs: { attribute: 'ociLayout', 'push-with': 'docker' } },
      [/Docker can't load \S+, which is an OCI layout\n.*To push without Docker, remove `push-with: docker`/],
    ],
    [
      'an OCI layout in a tar with `push-with: docker`',
      { inputs: { attribute: 'ociArchive', 'push-with': 'docker' } },
      [
        'Docker could not load the image that Nix built\n',
        'no such file or directory',
        /It is an OCI layout, which this version of Docker can't load\. To push without Docker, remove `push-with: docker`/,
      ],
    ],
    [
      'a folder instead of an image',
      broken('folder'),
      [/-folder is a folder that contains no image/, 'it contains notes.txt'],
    ],
    [
      'an image of another architecture',
      broken('wrongArchitecture'),
      [
        'The image is for linux/arm64, but x86_64-linux is linux/amd64',
        'says "architecture": "arm64"',
        'No image was pushed',
      ],
    ],
    [
      'two images in one',
      broken('twoImages'),
      [/two-images\.tar has 2 images, and only one can be pushed/, 'other:nix', 'its own attribute'],
    ],
    [
      'a registry that does not answer',
      { inputs: { image: '127.0.0.1:1/app' } },
      [
        "Can't connect to the registry 127.0.0.1:1: 127.0.0.1:1 can't be reached",
        'ECONNREFUSED',
        'Check that "127.0.0.1:1" is the address of the registry',
      ],
    ],
    [
      'Docker that is not running',
      { inputs: { 'push-with': 'docker' }, env: { DOCKER_HOST: 'unix:///nowhere/docker.sock' } },
      [
        'Docker is not running on this runner',
        'Cannot connect to the Docker daemon at unix:///nowhere/docker.sock',
        'ubuntu-24.04',
      ],
    ],
    [
      'Docker that is not installed',
      { inputs: { 'push-with': 'docker' }, env: { PATH: '/nowhere' } },
      ['Docker is not installed on this runner', 'hosted Linux runners'],
    ],
    [
      'Nix that is not installed',
      { inputs: { push: 'false' }, env: { PATH: '/nowhere' } },
      ['Nix is not installed on this runner', 'cachix/install-nix-action'],
    ],
    [
      'an invalid mode',
      { inputs: { mode: 'publish' } },
      ['The input `mode` is "publish"; it must be `build`, `merge`, `plan` or `verify`', '`mode: merge`'],
    ],
    [
      'an image with a tag',
      { inputs: { image: 'ghcr.io/owner/app:v1' } },
      ['The input `image` is "ghcr.io/owner/app:v1", which has a tag', '`image: ghcr.io/owner/app`'],
    ],
    [
      'a macOS system',
      { inputs: { system: 'aarch64-darwin' } },
      [/"aarch64-darwin" is macOS/, 'runs-on: ubuntu-24.04-arm'],
    ],
    [
      'an invalid tag',
      { inputs: { tag: 'feature/{system}' } },
      ['The input `tag` is not valid: "feature/x86_64-linux" is not a tag'],
    ],
  ])('%s', async (_name, { cwd = 'hello', ...call }, messages) => {
    const folder = join(lab.folder, cwd)
    await mkdir(folder, { recursive: true })
    const step = await lab.build('x86_64-linux', { ...call, cwd: folder })
    expectFailure(step, messages)
    expect(await tagsOf(lab)).toEqual([])
    expect(await lab.artifacts.artifacts()).toEqual([])
  })

  test('a flake that Git does not track', async () => {
    const folder = await mkdtemp(join(lab.folder, 'untracked-'))
    await run('git', ['init', '--quiet', folder])
    await cp(lab.hello, folder, { recursive: true })
    const step = await lab.build('x86_64-linux', { cwd: folder })
    expectFailure(step, [/Commit the file/])
  })

  test('a file of a flake that Git does not track', async () => {
    const folder = await mkdtemp(join(lab.folder, 'untracked-'))
    await run('git', ['init', '--quiet', folder])
    await cp(lab.hello, folder, { recursive: true })
    await run('git', ['-C', folder, 'add', 'flake.nix'])
    const step = await lab.build('x86_64-linux', { cwd: folder })
    expectFailure(step, ['Nix does not see image.nix', 'git add -N image.nix'])
    await run('git', ['-C', folder, 'add', '-N', '.'])
    passed(await lab.build('x86_64-linux', { cwd: folder, inputs: { push: 'false' } }))
  })

  test('merge without records', async () => {
    expectFailure(await lab.merge(), [
      `No build of this run has handed over a digest for ${imageOf(lab)}`,
      'needs: build',
    ])
  })
})

describe('a registry that requires authentication', () => {
  let lab: Lab
  const auth = { kind: 'basic', user: 'someone', password: 'p4ssw0rd-of-someone' } as const
  beforeEach(async () => {
    lab = await startLab({ docker, registry: { auth } })
  })
  afterEach(() => lab.close())

  test.each(WAYS)('receives the login of docker/login-action, which no log shows, pushed by %s', async (by) => {
    const env = { DOCKER_CONFIG: await login(`${auth.user}:${auth.password}`) }
    const step = passed(
      await lab.build('x86_64-linux', { jobTotal: 1, env, inputs: { tag: 'with-login', 'push-with': by } }),
    )
    const merged = passed(await lab.merge({ env }))
    for (const { log, masks } of [step, merged]) {
      expect(log).not.toContain(auth.password)
      expect(log).not.toContain(Buffer.from(`${auth.user}:${auth.password}`).toString('base64'))
      expect(masks).toContain(auth.password)
    }
  })

  test('issues tokens, which no log shows, even while Nix prints', async () => {
    const tokens = await startLab({ docker, registry: { auth: { ...auth, kind: 'token' } } })
    try {
      const env = { DOCKER_CONFIG: await login(`${auth.user}:${auth.password}`, tokens) }
      for (const step of [
        passed(await tokens.build('x86_64-linux', { jobTotal: 1, env })),
        passed(await tokens.merge({ env })),
      ]) {
        // Masking commands are printed instead of executed while workflow commands are stopped.
        expect(step.log).not.toContain('::add-mask::')
        expect(step.masks).toContain(auth.password)
      }
    } finally {
      await tokens.close()
    }
  })

  test('receives no image without a login, and the error names the step to add', async () => {
    const step = await lab.build('x86_64-linux', { cwd: lab.broken, inputs: { attribute: 'failing' } })
    expectFailure(step, [
      `Can't push to ${imageOf(lab)}: ${lab.registry.host} answered with status 401`,
      'authentication required, but no credentials were found for',
      'UNAUTHORIZED: authentication required',
      `docker/login-action@v4\n    with:\n      registry: ${lab.registry.host}`,
    ])
    // The build itself would fail. The login is checked first.
    expect(step.log).not.toContain('nix build')
  })

  test('receives no image with a wrong login', async () => {
    const env = { DOCKER_CONFIG: await login(`${auth.user}:wrong`) }
    expectFailure(await lab.build('x86_64-linux', { jobTotal: 1, env }), [
      'invalid credentials',
      'UNAUTHORIZED: authentication required',
      'Check the user name and the password',
    ])
    expectFailure(await lab.merge({ env, inputs: { digests: `sha256:${'0'.repeat(64)}` } }), ['invalid credentials'])
  })

  async function login(credentials: string, { folder: parent, registry } = lab): Promise<string> {
    const folder = await mkdtemp(join(parent, 'login-'))
    const auths = { [registry.host]: { auth: Buffer.from(credentials).toString('base64') } }
    await writeFile(join(folder, 'config.json'), JSON.stringify({ auths }))
    // Docker looks for its plugins in the same folder.
    const plugins = join(DOCKER_CONFIG ?? '', 'cli-plugins')
    await symlink(plugins, join(folder, 'cli-plugins'))
    return folder
  }
})

test('the bundle keeps the artifact client in a separate file, which is loaded on demand', async () => {
  const folder = new URL('../../dist/', import.meta.url)
  const files = (await readdir(folder)).filter((name) => name.endsWith('.js'))
  const withClient: string[] = []
  for (const name of files) {
    if ((await readFile(new URL(name, folder), 'utf8')).includes('class DefaultArtifactClient')) withClient.push(name)
  }
  expect(withClient).toEqual([expect.not.stringMatching(/^index\.js$/)])
})

interface Failing extends Partial<Omit<ActionCall, 'cwd'>> {
  /** A folder of the lab. */
  readonly cwd?: string
}

/** Expects a single error that contains these texts and is short enough to read. */
function expectFailure(step: ActionRun, messages: readonly (string | RegExp)[]): void {
  expect({ exitCode: step.exitCode, errors: step.errors }).toEqual({ exitCode: 1, errors: [expect.any(String)] })
  for (const message of messages) {
    if (typeof message === 'string') expect(step.errors[0]).toContain(message)
    else expect(step.errors[0]).toMatch(message)
  }
  expect(step.log).not.toMatch(/^\s+at .*\.js:\d+/m)
  expect(step.outputs).toEqual({})
  expect(step.tempLeft).toEqual([])
}

function imageOf({ registry }: Lab): string {
  return `${registry.host}/owner/hello`
}

async function tagsOf({ registry }: Lab, path = 'owner/hello'): Promise<readonly string[]> {
  const response = await fetch(`http://${registry.host}/v2/${path}/tags/list`)
  const { tags } = (await response.json()) as { readonly tags?: readonly string[] }
  return [...(tags ?? [])].sort()
}

/** The output of another tool. */
async function skopeo(lab: Lab, tag: string): Promise<{ readonly manifests: readonly unknown[] }> {
  const { stdout } = await run('skopeo', ['inspect', '--raw', '--tls-verify=false', `docker://${imageOf(lab)}:${tag}`])
  return JSON.parse(stdout)
}
