import { execFile } from 'node:child_process'
import { cp, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterEach, beforeEach, expect, test } from '@jest/globals'
import * as v from 'valibot'
import { type Lab, startLab } from '../support/lab.ts'
import { passed } from '../support/runner.ts'
import { SBOM_ENTRY } from '../support/sbom.ts'
import { type AttestedImage, uploadAttestedImage } from '../support/upload.ts'
import { type ActionStep, runWorkflow, type StepResult, type WorkflowRun } from '../support/workflow.ts'

// Runs the workflows of examples/workflows unchanged, except for the registry's name: this action's steps with real
// Nix and a real registry, `run:` steps with bash, and stand-ins for the other actions.

let lab: Lab
beforeEach(async () => {
  lab = await startLab({ path: 'owner/app' })
})
afterEach(() => lab.close())

test('simple.yml publishes `latest` and the commit', async () => {
  await run('simple.yml', {})
  for (const tag of ['latest', '0123456']) expect(await read(tag)).toMatchObject(TWO)
})

test('verify.yml verifies the image that simple.yml has published', async () => {
  await run('simple.yml', {})
  const verified: unknown[] = []
  const tagged = (text: string) => text.replace('${{ github.ref_name }}', 'latest')
  await run('verify.yml', {}, { change: tagged, onLog: (log) => verified.push(/^Verified: .*/m.exec(log)?.[0]) })
  const name = `Verified: ${lab.registry.host}/owner/app:latest`
  expect(verified).toEqual(
    ['amd64', 'arm64'].map((one) => `${name} for linux/${one} is the image that this source builds`),
  )
}, 120_000)

test('test.yml publishes only images that have passed their test', async () => {
  const script = 'docker run --rm "$IMAGE" --version'
  const testing = (command: string) => ({ change: (text: string) => text.replace(script, command) })
  await expect(run('test.yml', {}, testing('exit 3'))).rejects.toThrow('The test of')
  await expect(read('latest')).rejects.toThrow('unknown')
  await run('test.yml', {}, testing('echo "$IMAGE" >> tested'))
  const { manifests } = await read('latest')
  expect({ manifests }).toMatchObject(TWO)
  const tested = await readFile(join(lab.hello, 'tested'), 'utf8')
  const images = v.parse(v.array(v.object({ digest: v.string() })), manifests.slice(0, 2))
  for (const { digest } of images) expect(tested).toContain(`/owner/app@${digest}\n`)
})

test('qemu.yml publishes images that one kind of runner has built for all systems', async () => {
  await run('qemu.yml', { 'docker/setup-qemu-action': nothing })
  expect(await read('latest')).toMatchObject(TWO)
})

test('cross.yml publishes images for all systems, each built on the runner’s system', async () => {
  const logs: string[] = []
  await run('cross.yml', {}, { onLog: (log) => logs.push(log) })
  expect(await read('latest')).toMatchObject(TWO)
  const [intel, arm] = logs
  for (const log of [intel, arm]) expect(log).not.toMatch(/emulat|QEMU/)
  expect(arm).toContain('Build .#legacyPackages.x86_64-linux.aarch64-linux.containerImage for aarch64-linux')
})

test('one-system.yml publishes the image of its job as `latest` and as the version', async () => {
  await run('one-system.yml', {})
  for (const tag of ['latest', 'v1.2.3'])
    expect(await read(tag)).toMatchObject({ manifests: [{ platform: AMD64 }, SBOM_ENTRY] })
})

test('one-system.yml needs no artifact service: the merge finds the record of its own job', async () => {
  await run('one-system.yml', {}, { env: { ACTIONS_RUNTIME_TOKEN: '', ACTIONS_RESULTS_URL: '' } })
  expect(await lab.artifacts.artifacts()).toEqual([])
  expect(await read('latest')).toMatchObject({ manifests: [{ platform: AMD64 }, SBOM_ENTRY] })
})

test('pull-request.yml builds the images of all systems, and publishes nothing', async () => {
  const logs: string[] = []
  await run('pull-request.yml', {}, { eventName: 'pull_request', onLog: (log) => logs.push(log) })
  expect(logs).toHaveLength(2)
  const catalog = await fetch(`http://${lab.registry.host}/v2/_catalog`)
  expect(await catalog.json()).toEqual({ repositories: [] })
  expect(await lab.artifacts.artifacts()).toEqual([])
})

test.each([
  ['publishes pull requests of the same repository as `pr-7`, without other tags', 'Owner/App', ['pr-7']],
  ['publishes nothing for pull requests of forks', 'Other/App', undefined],
])('preview.yml %s', async (_what, fork, tags) => {
  const event = { 'event.number': '7', 'event.pull_request.head.repo.full_name': fork }
  await run('preview.yml', {}, { eventName: 'pull_request', github: event })
  const list = await fetch(`http://${lab.registry.host}/v2/owner/app/tags/list`)
  const { tags: published } = v.parse(v.object({ tags: v.optional(v.array(v.string())) }), await list.json())
  expect(published).toEqual(tags)
  if (tags !== undefined) expect(await read('pr-7')).toMatchObject(TWO)
})

test('several-images.yml publishes an index for each app', async () => {
  await run('several-images.yml', {}, { change: (text) => text.replace('${{ matrix.app }}Image', 'containerImage') })
  for (const app of ['api', 'web']) expect(await read('latest', `owner/app-${app}`)).toMatchObject(TWO)
})

test('registries.yml publishes to several registries', async () => {
  const logins: unknown[] = []
  const logIn = async ({ with: { registry = 'docker.io' } }: ActionStep) => {
    logins.push(registry)
    return {}
  }
  const names = ['one/app', 'two/app']
  await run(
    'registries.yml',
    {
      'docker/login-action': logIn,
      'aws-actions/configure-aws-credentials': nothing,
      'aws-actions/amazon-ecr-login': nothing,
      'google-github-actions/auth': async () => ({ outputs: { access_token: 'token of Google' } }),
    },
    {
      change: (text) =>
        text.replace(
          /(IMAGES: \|\n)( {4}.*\n)+/,
          (_, head) => `${head}${names.map((name) => `    ghcr.io/${name}\n`).join('')}`,
        ),
    },
  )
  expect(logins).toEqual(['docker.io', 'REGION-docker.pkg.dev', 'quay.io', 'harbor.example.com', 'forgejo.example.com'])
  for (const name of names)
    expect(await read('latest', name)).toMatchObject({ manifests: [{ platform: AMD64 }, SBOM_ENTRY] })
})

test('without-flakes.yml publishes the image of default.nix', async () => {
  await writeFile(
    join(lab.hello, 'default.nix'),
    '{ system }: { image = (import ./image.nix { inherit system; architecture = { x86_64-linux = "amd64"; aarch64-linux = "arm64"; }.${system}; }).tarGz; }',
  )
  await run('without-flakes.yml', {})
  expect(await read('latest')).toMatchObject(TWO)
})

test.each(['x86_64-linux', 'aarch64-linux'])('the minimal flake has an image for %s', async (system) => {
  const [flake, nixpkgs] = [join(lab.folder, 'minimal'), join(lab.folder, 'nixpkgs')]
  await cp(new URL('../../examples/minimal', import.meta.url), flake, { recursive: true })
  await cp(lab.hello, nixpkgs, { recursive: true })
  await writeFile(join(nixpkgs, 'flake.nix'), NIXPKGS)
  const inputs = { 'nix-args': ['--override-input', 'nixpkgs', nixpkgs].join('\n'), tag: system }
  passed(await lab.build(system, { cwd: flake, inputs }))
  expect(await read(system)).toMatchObject({ layers: expect.any(Array) })
})

test.each(['cross/flake.nix', 'nix2container/flake.nix', 'without-flakes/default.nix'])(
  'Nix can parse %s',
  async (path) => {
    const file = fileURLToPath(new URL(`../../examples/${path}`, import.meta.url))
    const { stdout } = await promisify(execFile)('nix-instantiate', ['--parse', file], {
      env: { ...process.env, ...lab.nix },
    })
    expect(stdout).toMatch(/build(Layered)?Image/)
  },
)

/** The parts of nixpkgs that the minimal flake uses, without network access. */
const NIXPKGS = `{
  outputs = { self }: {
    lib.genAttrs = names: value: builtins.listToAttrs (map (name: { inherit name; value = value name; }) names);
    legacyPackages = builtins.mapAttrs (system: architecture: {
      hello = "/hello";
      dockerTools.buildLayeredImage = { name, config }:
        assert config.Entrypoint == [ "/hello/bin/hello" ];
        (import ./image.nix { inherit system architecture; layered = true; }).tarGz;
    }) { x86_64-linux = "amd64"; aarch64-linux = "arm64"; };
  };
}
`

test('image.yml publishes the tags and annotations of docker/metadata-action', async () => {
  await run('image.yml', {
    'docker/metadata-action': async ({ with: { images } }) => {
      const tags = ['latest', 'main', 'sha-0123456'].map((tag) => `${images}:${tag}`)
      const annotations = ['manifest:org.opencontainers.image.title=App']
      return { env: { DOCKER_METADATA_OUTPUT_JSON: JSON.stringify({ tags, annotations }) } }
    },
  })
  for (const tag of ['latest', 'main', 'sha-0123456']) {
    expect(await read(tag)).toMatchObject({
      annotations: { 'org.opencontainers.image.title': 'App' },
      ...TWO,
    })
  }
})

test('plan.yml builds for every system in the flake, and detects unchanged images', async () => {
  const [first, second] = [await run('plan.yml', {}), await run('plan.yml', {})]
  const systems = [
    { system: 'aarch64-linux', runner: 'ubuntu-24.04-arm' },
    { system: 'armv7l-linux', runner: 'ubuntu-24.04' },
    { system: 'x86_64-linux', runner: 'ubuntu-24.04' },
  ]
  expect(matrixOf(first)).toEqual(systems)
  expect(await read('latest')).toMatchObject({
    manifests: [
      { platform: AMD64 },
      { platform: { os: 'linux', architecture: 'arm' } },
      { platform: ARM64 },
      ...Array<typeof SBOM_ENTRY>(3).fill(SBOM_ENTRY),
    ],
  })
  expect(matrixOf(second)).toEqual(systems.map((one) => ({ ...one, unchanged: true })))
}, 120_000)

function matrixOf(jobs: Awaited<ReturnType<typeof run>>): unknown {
  return JSON.parse(jobs.get('plan')?.matrix ?? '').include
}

test.each([
  ['one image', ['owner/app']],
  ['several images', ['owner/app', 'owner/other']],
])('without-artifacts.yml passes the records of %s as outputs, without artifacts', async (_count, paths) => {
  const names = paths.map((path) => `${lab.registry.host}/${path}`)
  const jobs = await run(
    'without-artifacts.yml',
    {},
    {
      env: { ACTIONS_RUNTIME_TOKEN: '', ACTIONS_RESULTS_URL: '' },
      change: (text) => text.replaceAll(/image: ghcr\.io.*/g, `image: ${JSON.stringify(names.join('\n'))}`),
    },
  )
  expect(await lab.artifacts.artifacts()).toEqual([])
  const { 'x86_64-linux': intel = '', 'aarch64-linux': arm = '', ...more } = jobs.get('build') ?? {}
  expect(more).toEqual({})
  const digestsOf = (records: string) => records.split('\n').map((record) => JSON.parse(record).digest)
  for (const [at, path] of paths.entries()) {
    for (const tag of ['latest', '0123456']) {
      expect(await read(tag, path)).toMatchObject({
        manifests: [
          { platform: AMD64, digest: digestsOf(intel)[at] },
          { platform: ARM64, digest: digestsOf(arm)[at] },
          SBOM_ENTRY,
          SBOM_ENTRY,
        ],
      })
    }
  }
})

test('mixed.yml publishes images from a Dockerfile and from Nix, with BuildKit’s attestations', async () => {
  const built = Promise.withResolvers<AttestedImage>()
  await run('mixed.yml', {
    'docker/setup-buildx-action': nothing,
    'docker/build-push-action': async ({ with: { platforms, tags = '', outputs } }) => {
      expect(platforms).toBe('linux/arm64')
      expect(outputs?.split(',')).toEqual(expect.arrayContaining(['type=image', 'push-by-digest=true', 'push=true']))
      const image = await uploadAttestedImage(tags, { architecture: 'arm64' })
      built.resolve(image)
      return { outputs: { digest: image.digest } }
    },
    'actions/upload-artifact': uploadArtifact,
  })
  const { digest, image, attestation } = await built.promise
  const artifact = (await lab.artifacts.artifacts()).find(({ name }) => name === 'digests-linux-arm64')
  expect([...(artifact?.files ?? [])]).toEqual([[digest.replace('sha256:', ''), Buffer.alloc(0)]])
  const { manifests } = await read('latest')
  expect(manifests).toHaveLength(4)
  expect(manifests.slice(0, 2)).toMatchObject([{ platform: AMD64 }, { platform: ARM64, digest: image.digest }])
  // Nix's SBOM and BuildKit's attestation.
  expect(manifests.slice(2)).toMatchObject([SBOM_ENTRY, SBOM_ENTRY])
  expect(manifests.slice(2)).toContainEqual(
    expect.objectContaining({
      platform: { os: 'unknown', architecture: 'unknown' },
      digest: attestation.digest,
      annotations: {
        'vnd.docker.reference.digest': image.digest,
        'vnd.docker.reference.type': 'attestation-manifest',
      },
    }),
  )
})

const AMD64 = { os: 'linux', architecture: 'amd64' }
const ARM64 = { os: 'linux', architecture: 'arm64' }
const TWO = { manifests: [{ platform: AMD64 }, { platform: ARM64 }, SBOM_ENTRY, SBOM_ENTRY] }

const SECRETS = ['DOCKERHUB_TOKEN', 'QUAY_TOKEN', 'HARBOR_TOKEN', 'FORGEJO_TOKEN']
const VARS = [
  'DOCKERHUB_USERNAME',
  'GOOGLE_IDENTITY_PROVIDER',
  'GOOGLE_SERVICE_ACCOUNT',
  'QUAY_ROBOT',
  'HARBOR_ROBOT',
  'FORGEJO_USER',
]

/** Gives each name a value. */
function named(names: readonly string[]): Readonly<Record<string, string>> {
  return Object.fromEntries(names.map((name) => [name, `value of ${name}`]))
}

/** An action without outputs or side effects. */
async function nothing(): Promise<StepResult> {
  return {}
}

interface Circumstances {
  /** The results of this action's steps. */
  readonly env?: Readonly<Record<string, string>>
  /** The event that triggered the run. */
  readonly eventName?: string
  /** More values of `github.…`. */
  readonly github?: Readonly<Record<string, string>>
  /** Receives the log of each of this action's steps. */
  readonly onLog?: (log: string) => void
  /** Changes the workflow before the run. */
  readonly change?: (text: string) => string
}

async function run(
  name: string,
  actions: WorkflowRun['actions'],
  { env = {}, eventName = 'push', github = {}, onLog = () => undefined, change = (text) => text }: Circumstances = {},
): ReturnType<typeof runWorkflow> {
  const text = change(await readFile(new URL(`../../examples/workflows/${name}`, import.meta.url), 'utf8'))
  expect(text).toContain('ghcr.io')
  return runWorkflow(text.replaceAll('ghcr.io', lab.registry.host), {
    github: {
      repository: 'Owner/App',
      actor: 'octocat',
      token: 'token-of-the-job',
      ref_name: 'v1.2.3',
      event_name: eventName,
      ...github,
    },
    secrets: named(SECRETS),
    vars: named(VARS),
    actions: {
      'actions/checkout': nothing,
      'docker/login-action': nothing,
      'cachix/install-nix-action': nothing,
      'nix-image-action/nix-image-action': (step) => runThisAction(step, eventName, env, onLog),
      ...actions,
    },
  })
}

async function runThisAction(
  step: ActionStep,
  eventName: string,
  env: Readonly<Record<string, string>>,
  onLog: (log: string) => void,
): Promise<StepResult> {
  const { with: inputs, job, matrix, jobTotal, jobIndex, temp } = step
  const from = { job, matrix, jobTotal, jobIndex, eventName, token: 'token-of-the-job' }
  const call = { ...from, inputs, env: { RUNNER_TEMP: temp, ...step.env, ...env } }
  const { outputs, masks, log } = passed(await (inputs.mode === 'merge' ? lab.merge(call) : lab.build('', call)))
  onLog(log)
  return { outputs, masks }
}

/** Returns the files of one folder, like the pattern `<folder>/*`. */
async function uploadArtifact({ with: { name = '', path = '' } }: ActionStep): Promise<StepResult> {
  const { stdout } = await promisify(execFile)('bash', ['-ec', 'cd "$1" && ls', 'bash', path.replace(/\/\*$/, '')])
  await lab.artifacts.put(
    name,
    Object.fromEntries(
      stdout
        .trim()
        .split('\n')
        .map((file) => [file, '']),
    ),
  )
  return {}
}

/** The output of another tool. */
async function read(tag: string, path = 'owner/app'): Promise<{ readonly manifests: readonly unknown[] }> {
  const reference = `docker://${lab.registry.host}/${path}:${tag}`
  const { stdout } = await promisify(execFile)('skopeo', ['inspect', '--raw', '--tls-verify=false', reference])
  return JSON.parse(stdout)
}
