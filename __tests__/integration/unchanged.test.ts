import { access, mkdir, mkdtemp, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from '@jest/globals'
import { copyExample, type Lab, startLab } from '../support/lab.ts'
import { startRegistry } from '../support/registry.ts'
import { type ActionCall, type ActionRun, passed } from '../support/runner.ts'

// Commits that do not change the image: real Nix, whose builder leaves a mark when it runs, and a real registry.

const { DOCKER_HOST, DOCKER_CONFIG } = process.env
const SYSTEMS = ['x86_64-linux', 'aarch64-linux']

let lab: Lab
/** The file that the image's builder appends to. */
let mark: string
let flake: string

beforeEach(async () => {
  lab = await startLab()
  mark = join(lab.folder, 'mark')
  flake = join(lab.folder, 'flake')
  await writeFlake('first')
})
afterEach(() => lab.close())

/** The example's images, packed by a builder that leaves the mark. A different `content` changes their store paths. */
async function writeFlake(content: string): Promise<void> {
  await mkdir(flake, { recursive: true })
  const text = `{
  inputs.hello.url = "path:${lab.hello}";
  outputs = { self, hello }: {
    packages = builtins.mapAttrs (system: images: {
      containerImage = derivation {
        name = "image.tar.gz"; inherit system; builder = "/bin/sh"; PATH = "/usr/bin:/bin"; content = "${content}";
        args = [ "-euc" "echo \${system} >> ${mark}; cp \${images.containerImage} $out" ];
      };
    }) hello.packages;
  };
}
`
  await writeFile(join(flake, 'flake.nix'), text)
}

/** The same in a file without flakes, for the system that Nix builds for. */
async function writeImages(content: string): Promise<void> {
  await writeExpression('images.nix', 'image.tar.gz', `cp \${images.tarGz} $out # ${content}`)
}

/** An OCI layout with one layer, compressed with zstd. */
async function writeLayout(): Promise<void> {
  const pack = '--dest-compress --dest-compress-format zstd docker-archive:${images.tar} oci:$out:image'
  await writeExpression('layout.nix', 'layout', `mkdir $out; skopeo --insecure-policy --tmpdir . copy --quiet ${pack}`)
}

/** A file whose `image` is one of the example's `images`, made by a builder that leaves the mark. */
async function writeExpression(file: string, name: string, script: string): Promise<void> {
  const text = `{ system ? builtins.currentSystem }:
let
  architecture = { x86_64-linux = "amd64"; aarch64-linux = "arm64"; }.\${system};
  images = import ${lab.hello}/image.nix { inherit system architecture; };
in {
  image = derivation {
    name = "${name}"; inherit system; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
    args = [ "-euc" "echo \${system} >> ${mark}; ${script}" ];
  };
}
`
  await writeFile(join(flake, file), text)
}

/** The systems for which the builder has run since the last call. */
async function builtFor(): Promise<readonly string[]> {
  const text = await readFile(mark, 'utf8').catch(() => '')
  await writeFile(mark, '')
  return text.split('\n').filter((line) => line !== '')
}

const WITHOUT_ARTIFACTS = { ACTIONS_RUNTIME_TOKEN: '', ACTIONS_RESULTS_URL: '' }

async function build(system: string, call: Partial<ActionCall> = {}): Promise<ActionRun> {
  // Each build is of another run, and the artifacts here are those of one: records are handed over as text.
  const step = await lab.build(system, { cwd: flake, ...call, env: { ...WITHOUT_ARTIFACTS, ...call.env } })
  if (step.exitCode !== 0) throw new Error(`The step failed:\n${step.log}`)
  return step
}

/** Merges what these steps have handed over. */
function merge(steps: readonly ActionRun[], call: Partial<ActionCall> = {}): Promise<ActionRun> {
  const digests = steps.map(({ outputs }) => outputs.record).join('\n')
  return lab.merge({ ...call, inputs: { digests, ...call.inputs } })
}

/** Builds and merges like a workflow run. */
async function publish(call: Partial<ActionCall> = {}): Promise<readonly ActionRun[]> {
  const steps = []
  for (const system of SYSTEMS) steps.push(await build(system, call))
  const image = call.inputs?.image
  const merged = await merge(steps, { ...(call.sha && { sha: call.sha }), ...(image && { inputs: { image } }) })
  if (merged.exitCode !== 0) throw new Error(`The merge failed:\n${merged.log}`)
  return [...steps, merged]
}

/** Makes Nix forget all builds. Store paths depend on the location of the store, which stays the same. */
async function forgetting(): Promise<Readonly<Record<string, string>>> {
  return { NIX_STATE_DIR: await mkdtemp(join(lab.folder, 'state-')) }
}

test('a commit that changes nothing builds nothing, on a machine that has built nothing before', async () => {
  const [amd64, arm64, merged] = await publish({ sha: '1'.repeat(40) })
  expect(await builtFor()).toEqual(SYSTEMS)
  const env = await forgetting()
  const [amd64Again, arm64Again, mergedAgain] = await publish({ sha: '2'.repeat(40), env })

  expect(await builtFor()).toEqual([])
  for (const [first, again] of [
    [amd64, amd64Again],
    [arm64, arm64Again],
  ]) {
    expect(again?.outputs).toMatchObject({
      unchanged: 'true',
      'pushed-bytes': '0',
      digest: first?.outputs.digest,
      'store-path': first?.outputs['store-path'],
    })
    expect(first?.outputs.unchanged).toBe('false')
    expect(again?.log).toMatch(/^Skipping the build: \S+@sha256:\S+ was built from \S+-image\.tar\.gz$/m)
    expect(again?.summary).toContain('already published, so nothing was built')
    expect(again && passed(again)).toBe(again)
  }
  expect(mergedAgain?.outputs).toMatchObject({ digest: merged?.outputs.digest, changed: 'false' })
  const tag = `http://${lab.registry.host}/v2/owner/hello/manifests/2222222-aarch64-linux`
  const { headers } = await fetch(tag, { headers: { accept: 'application/vnd.oci.image.manifest.v1+json' } })
  expect(headers.get('docker-content-digest')).toBe(arm64?.outputs.digest)
})

test('with `push: false`, published images are built again, and nothing is published', async () => {
  await publish()
  await builtFor()
  const tags = `http://${lab.registry.host}/v2/owner/hello/tags/list`
  const published = async () => ({
    tags: await (await fetch(tags)).json(),
    artifacts: await lab.artifacts.artifacts(),
  })
  const before = await published()
  const inputs = { push: 'false', labels: 'a=1' }
  const { outputs, log } = await build('x86_64-linux', { inputs, sha: '3'.repeat(40), env: await forgetting() })
  expect(Object.keys(outputs)).toEqual(['store-path'])
  expect(log).toContain('Not pushing the image: `push` is `false`')
  expect(await builtFor()).toEqual(['x86_64-linux'])
  expect(await published()).toEqual(before)
}, 60_000)

test('a changed image is built, and `rebuild` builds every image', async () => {
  await publish()
  await builtFor()
  await writeFlake('second')
  expect((await build('x86_64-linux')).outputs.unchanged).toBe('false')
  expect(await builtFor()).toEqual(['x86_64-linux'])

  await writeFlake('first')
  expect((await build('x86_64-linux', { inputs: { rebuild: 'true' } })).outputs.unchanged).toBe('false')
  expect((await build('x86_64-linux')).outputs.unchanged).toBe('true')
})

test('labels with new values are updated without a build, with the same result as a build', async () => {
  const labelled = (revision: string) => `org.opencontainers.image.revision=${revision}\nfixed=1`
  await publish()
  for (const revision of ['one', 'two']) {
    await builtFor()
    const call = { inputs: { labels: labelled(revision) }, env: await forgetting() }
    const steps = await publish(call)
    expect(await builtFor()).toEqual([])
    for (const [at, system] of SYSTEMS.entries()) {
      const step = steps[at]
      expect(step?.outputs).toMatchObject({ unchanged: 'false', 'pushed-bytes': '0', 'reused-layers': '1' })
      expect(step?.log).toMatch(
        /^Skipping the build: .*\nWith the labels of this run, its digest is sha256:\S+; its layers are unchanged/m,
      )
      expect(step?.summary).toContain('nothing was built, its labels were updated')
      const inputs = { ...call.inputs, rebuild: 'true', tag: '' }
      expect((await build(system, { inputs })).outputs.digest).toBe(step?.outputs.digest)
    }
    const again = await build('x86_64-linux', call)
    expect(again.outputs).toMatchObject({ unchanged: 'true', digest: steps[0]?.outputs.digest })
  }
  await builtFor()
  const { outputs, log } = await build('x86_64-linux', { inputs: { labels: 'fixed=1' } })
  expect(outputs.unchanged).toBe('false')
  expect(log).toContain('its label org.opencontainers.image.revision is no longer in `labels`')
  expect(log).toMatch(/^Nix built /m)
}, 120_000)

test('an image that was published with different settings is built', async () => {
  await publish()
  expect((await build('x86_64-linux', { inputs: { compression: 'zstd' } })).outputs.unchanged).toBe('false')
})

test('an image that Docker has pushed is always built, because its manifest does not contain the store path', async () => {
  await copyExample(lab.hello, 'hello:unchanged')
  const docker = { env: { DOCKER_HOST, DOCKER_CONFIG }, inputs: { 'push-with': 'docker' } }
  await publish(docker)
  expect((await build('x86_64-linux', docker)).outputs.unchanged).toBe('false')
  expect((await build('aarch64-linux')).outputs.unchanged).toBe('false')

  // An image pushed without Docker is not rebuilt. Docker has no compression setting, so any compression matches.
  const [amd64, arm64] = await publish({ inputs: { compression: 'zstd', rebuild: 'true' } })
  const again = await build('x86_64-linux', docker)
  expect(again.outputs).toMatchObject({ unchanged: 'true', digest: amd64?.outputs.digest })
  expect(again.log).not.toContain('Docker loads')
  expect((await merge([again, ...(arm64 ? [arm64] : [])])).errors).toEqual([])
  await writeFlake('second')
  expect((await build('aarch64-linux', docker)).outputs.unchanged).toBe('false')
}, 120_000)

test('an image without the annotations, as from earlier versions, is built once', async () => {
  const registry = await startRegistry()
  try {
    const inputs = { image: `${registry.host}/owner/hello` }
    await publish({ inputs })
    // As it was: the index alone says it.
    const index = JSON.parse(String(registry.manifest('owner/hello', 'latest')?.bytes))
    for (const entry of index.manifests) {
      const { annotations: _, ...own } = JSON.parse(String(registry.manifest('owner/hello', entry.digest)?.bytes))
      const bytes = Buffer.from(JSON.stringify(own))
      entry.size = bytes.length
      entry.digest = registry.seedManifest('owner/hello', bytes, entry.mediaType)
    }
    registry.seedManifest('owner/hello', Buffer.from(JSON.stringify(index)), index.mediaType, 'latest')

    const first = await build('x86_64-linux', { inputs })
    expect(first.outputs.unchanged).toBe('false')
    expect(first.log).toContain('the manifest of the image does not name a store path')
    const second = await build('aarch64-linux', { inputs })
    expect((await merge([first, second], { inputs })).errors).toEqual([])
    for (const system of SYSTEMS) expect((await build(system, { inputs })).outputs.unchanged).toBe('true')
  } finally {
    await registry.close()
  }
})

test('layers that were already compressed differently do not cause a build', async () => {
  await writeLayout()
  const inputs = { file: 'layout.nix', attribute: 'image' }
  const [first] = await publish({ inputs })
  expect(await builtFor()).toEqual(SYSTEMS)
  const [again] = await publish({ inputs, env: await forgetting() })
  expect(await builtFor()).toEqual([])
  expect(again?.outputs).toMatchObject({ unchanged: 'true', digest: first?.outputs.digest })
  // The same applies to the image that was handed over without a build.
  expect((await build('aarch64-linux', { inputs, env: await forgetting() })).outputs.unchanged).toBe('true')
  expect(await builtFor()).toEqual([])
}, 60_000)

test('an image of a file is not built again, until the file changes', async () => {
  const inputs = { file: 'images.nix', attribute: 'image' }
  await writeImages('first')
  const [amd64] = await publish({ inputs })
  expect(await builtFor()).toEqual(SYSTEMS)
  const { outputs } = await build('x86_64-linux', { inputs })
  expect(outputs).toMatchObject({ unchanged: 'true', digest: amd64?.outputs.digest })
  expect((await build('aarch64-linux', { inputs })).outputs.unchanged).toBe('true')
  expect(await builtFor()).toEqual([])

  await writeImages('second')
  expect((await build('aarch64-linux', { inputs })).outputs.unchanged).toBe('false')
  expect(await builtFor()).toEqual(['aarch64-linux'])
})

test('a job without write access fails before the evaluation', async () => {
  const registry = await startRegistry()
  try {
    const inputs = { image: `${registry.host}/owner/hello` }
    await publish({ inputs })
    const seen = registry.requests.length
    // Answers only after the earlier images have been read.
    registry.setFault(({ method, route }) => {
      if (method !== 'POST' || route !== 'uploads') return undefined
      const { length } = registry.requests.slice(seen).filter((request) => request.route === 'uploads')
      if (length === 1) return { kind: 'status', status: 429, headers: { 'retry-after': '1' } }
      return { kind: 'status', status: 403 }
    })
    const step = await lab.build('x86_64-linux', { cwd: flake, inputs, env: WITHOUT_ARTIFACTS })
    expect(step.errors).toEqual([expect.stringContaining(`push to ${inputs.image}`)])
    expect(step.log).not.toContain('Evaluating')
    expect(registry.requests.slice(seen)).toContainEqual(
      expect.objectContaining({ route: 'manifest', reference: 'latest', status: 200 }),
    )

    registry.setFault(undefined)
    expect((await build('x86_64-linux', { inputs })).log).toContain('Evaluating')
  } finally {
    await registry.close()
  }
})

test('an unchanged image is handed over for every `image`', async () => {
  await publish()
  const mirror = `${lab.registry.host}/owner/mirror`
  const inputs = {
    image: `${lab.registry.host}/owner/hello\n${mirror}`,
    'reuse-from': `${lab.registry.host}/owner/hello:latest`,
  }
  const { outputs } = await build('aarch64-linux', { inputs })
  expect(outputs.unchanged).toBe('true')
  expect(outputs.record?.split('\n').map((line) => JSON.parse(line).image)).toEqual([
    `${lab.registry.host}/owner/hello`,
    mirror,
  ])
  const kept = `http://${lab.registry.host}/v2/owner/mirror/manifests/${outputs.digest}`
  expect((await fetch(kept, { headers: { accept: 'application/vnd.oci.image.manifest.v1+json' } })).status).toBe(200)
})

test('a flake that fails to evaluate causes the same error as a build', async () => {
  await publish()
  await writeFile(join(flake, 'flake.nix'), '{ outputs = _: throw "not today"; }')
  const step = await lab.build('x86_64-linux', { cwd: flake })
  expect(step.exitCode).toBe(1)
  expect(step.errors.join()).toContain('not today')
  await expect(access(mark)).resolves.toBeUndefined()
})
