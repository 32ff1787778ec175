import { execFile } from 'node:child_process'
import { chmod, mkdtemp, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { gunzipSync } from 'node:zlib'
import { afterAll, beforeAll, expect, test } from '@jest/globals'
import { auditableSection, elfFile } from '../sbom/elf-file.ts'
import { findBuildx } from '../support/buildx.ts'
import { digestOf } from '../support/digest.ts'
import { type Lab, startLab } from '../support/lab.ts'
import { layeredFlake, storePathNamed } from '../support/layered.ts'
import { startRegistry, type TestRegistry } from '../support/registry.ts'
import { type ActionCall, type ActionRun, passed } from '../support/runner.ts'

// SBOMs of images that real Nix builds. They are read from registries without this action's code.

const run = promisify(execFile)
const SYSTEMS = ['x86_64-linux', 'aarch64-linux']
const WITHOUT_ARTIFACTS = { ACTIONS_RUNTIME_TOKEN: '', ACTIONS_RESULTS_URL: '' }

let lab: Lab
let names = 0
beforeAll(async () => {
  lab = await startLab()
})
afterAll(() => lab.close())

/** A separate repository for each test. */
function newImage({ host } = lab.registry): string {
  return `${host}/owner/sbom-${names++}`
}

/** Each step is of another run, so records are handed over as text. */
async function build(
  inputs: ActionCall['inputs'],
  { system = 'x86_64-linux', ...call }: Partial<ActionCall> & { readonly system?: string } = {},
): Promise<ActionRun> {
  return passed(await lab.build(system, { ...call, inputs, env: { ...WITHOUT_ARTIFACTS, ...call.env } }))
}

function mergeRecords(image: string, records: readonly (string | undefined)[]): Promise<ActionRun> {
  return lab.merge({ inputs: { image, digests: records.join('\n') }, env: WITHOUT_ARTIFACTS })
}

/** Builds and merges like a workflow run. */
async function publish(image: string, inputs: ActionCall['inputs'] = {}) {
  const builds: ActionRun[] = []
  for (const system of SYSTEMS) builds.push(await build({ image, attribute: 'layeredImage', ...inputs }, { system }))
  const merged = passed(
    await mergeRecords(
      image,
      builds.map(({ outputs }) => outputs.record),
    ),
  )
  return { builds, merged, sboms: builds.map((step) => sbomsIn(step)[0]) }
}

/** Returns the digest of the SBOM in each record of a step. */
function sbomsIn({ outputs }: ActionRun): readonly (string | undefined)[] {
  return (outputs.record ?? '').split('\n').map((record) => JSON.parse(record).sbom)
}

// The registry's content

interface Descriptor {
  readonly mediaType: string
  readonly digest: string
  readonly size: number
  readonly platform?: { readonly os: string; readonly architecture: string }
  readonly annotations?: Readonly<Record<string, string>>
}

interface Document {
  readonly spdxVersion: string
  readonly packages: readonly { readonly name: string; readonly versionInfo?: string; readonly comment?: string }[]
}

async function read(image: string, kind: 'manifests' | 'blobs', digest: string): Promise<Buffer> {
  const accept = 'application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json'
  const answer = await fetch(`http://${image.replace('/', '/v2/')}/${kind}/${digest}`, { headers: { accept } })
  const bytes = Buffer.from(await answer.arrayBuffer())
  expect({ status: answer.status, digest: digestOf(bytes) }).toEqual({ status: 200, digest })
  return bytes
}

/** Reads an SBOM like Docker's tools: by the manifest's type and the annotation of its layer. */
async function readSbom(
  image: string,
  digest = '',
): Promise<{ readonly subject: string; readonly document: Document }> {
  const manifest = JSON.parse((await read(image, 'manifests', digest)).toString())
  expect(manifest.artifactType).toBe('application/vnd.docker.attestation.manifest.v1+json')
  const [layer, ...more] = manifest.layers
  expect(more).toEqual([])
  expect(layer).toMatchObject({
    mediaType: 'application/vnd.in-toto+json',
    annotations: { 'in-toto.io/predicate-type': 'https://spdx.dev/Document' },
  })
  const bytes = await read(image, 'blobs', layer.digest)
  expect(bytes.length).toBe(layer.size)
  await read(image, 'blobs', manifest.config.digest)
  const { subject, predicate, predicateType } = JSON.parse(bytes.toString())
  expect(predicateType).toBe('https://spdx.dev/Document')
  const name = image.replace(/^[^/]*\//, '')
  expect(subject).toEqual([
    { name: expect.stringContaining(name), digest: { sha256: manifest.subject.digest.slice(7) } },
  ])
  return { subject: manifest.subject.digest, document: predicate }
}

/** The first line of the comment of a store path is the path. */
function storePathsIn({ packages }: Document): readonly string[] {
  return packages.flatMap(({ comment }) => /^\/.*$/m.exec(comment ?? '')?.[0] ?? []).sort()
}

/** Returns the store paths that the layers of an image have files of, as tar lists them. */
async function storePathsInLayers(image: string, digest = ''): Promise<readonly string[]> {
  const store = lab.nix.NIX_STORE_DIR ?? ''
  const found = new Set<string>()
  const { layers } = JSON.parse((await read(image, 'manifests', digest)).toString())
  for (const layer of layers) {
    const file = join(await mkdtemp(join(lab.folder, 'tar-')), 'layer.tar')
    await writeFile(file, gunzipSync(await read(image, 'blobs', layer.digest)))
    const { stdout } = await run('tar', ['--list', '--file', file])
    for (const name of stdout.split('\n')) {
      const absolute = `/${name.replace(/^\.?\//, '')}`
      const [entry] = absolute.slice(store.length + 1).split('/')
      if (absolute.startsWith(`${store}/`) && entry) found.add(`${store}/${entry}`)
    }
  }
  return [...found].sort()
}

// Content

const CONTENTS = `{
  app = "app"; library = "library";
  ${'"a-name-that-does-not-fit-into-the-header-of-a-tar-with-the-hash-and-the-folder-of-the-store-1.0"'} = "long";
}`
const LAYERED = `rec {
  built = image { contents = ${CONTENTS}; layers = [ [ "app" ] (builtins.filter (name: name != "app") (builtins.attrNames ${CONTENTS})) ]; };
  inFull = complete built;
  streamed = removeAttrs built.stream [ "conf" ];
  # Like dockerTools.buildImage: one layer, whose history names no store paths.
  single = run "single.tar.gz" ''
    mkdir image; cd image
    tar --create --file=layer.tar --absolute-names --transform='s,^/,./,' \${built.stream.conf} \${hello}
    id=$(sha256sum layer.tar | cut -d' ' -f1)
    printf '{"architecture":"amd64","os":"linux","created":"2024-02-29T12:30:00Z","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' $id > config.json
    echo '[{"Config":"config.json","RepoTags":["single:nix"],"Layers":["layer.tar"]}]' > manifest.json
    tar --create manifest.json config.json layer.tar | gzip -n > $out
  '';
  hello = run "hello" "mkdir -p $out/bin; echo hello > $out/bin/hello";
}`

test.each([
  ['pushed from its description', 'built', 3],
  ['with a script that streams it', 'streamed', 3],
  ['pushed in full', 'inFull', 3],
  ['with a single layer', 'single', 2],
])(
  'the SBOM of an image %s lists exactly its store paths',
  async (_, attribute, count) => {
    const image = newImage()
    const step = await build({ image, attribute }, { cwd: await layeredFlake(lab, LAYERED) })
    const [sbom] = sbomsIn(step)
    const { subject, document } = await readSbom(image, sbom)
    expect(subject).toBe(step.outputs.digest)
    expect(document.spdxVersion).toBe('SPDX-2.3')
    const expected = await storePathsInLayers(image, step.outputs.digest)
    expect(expected).toHaveLength(count)
    expect(storePathsIn(document)).toEqual(expected)
    // Nix knows all of them.
    const ofPaths = document.packages.filter(({ comment }) => comment?.startsWith('/'))
    expect(ofPaths.map(({ comment }) => comment)).toEqual(
      ofPaths.map(() => expect.stringContaining('narHash: sha256-')),
    )
  },
  120_000,
)

test('an image without store paths has no SBOM, and is not built again', async () => {
  const image = newImage()
  const cwd = await layeredFlake(lab, '{ empty = image { contents = { }; }; }')
  const step = await build({ image, attribute: 'empty' }, { cwd, jobTotal: 1 })
  expect(sbomsIn(step)).toEqual([undefined])
  expect(Object.keys(step.outputs)).not.toContain('sbom')
  expect(step.log.match(/^.*SBOM.*$/gm)).toEqual(['No SBOM: the image contains no store paths'])
  passed(await mergeRecords(image, [step.outputs.record]))
  expect((await build({ image, attribute: 'empty' }, { cwd, jobTotal: 1 })).outputs.unchanged).toBe('true')
}, 60_000)

test.each([
  ['compressed', 'compressed'],
  // Its layers are not read if they are published: the SBOM of the published image has their store paths.
  ['uncompressed', 'run "base.tar" "gzip -dc ${compressed} > $out"'],
])(
  'an image on top of a base that no history describes is not built again: %s',
  async (_, base) => {
    const image = newImage()
    const cwd = await layeredFlake(
      lab,
      `let compressed = image { contents.base = "base"; }; base = ${base}; in {
      based = image { contents.top = "top"; description.from_image = "\${base}"; };
      next = image { contents.top = "next"; description.from_image = "\${base}"; };
    }`,
    )
    for (const attribute of ['based', 'next']) {
      const first = await build({ image, attribute }, { cwd, jobTotal: 1 })
      const paths = storePathsIn((await readSbom(image, sbomsIn(first)[0])).document)
      expect(paths.map((path) => path.slice(-4))).toEqual(expect.arrayContaining(['base', '-top']))
      expect(paths).toEqual(await storePathsInLayers(image, first.outputs.digest))
      passed(await mergeRecords(image, [first.outputs.record]))
      expect((await build({ image, attribute }, { cwd, jobTotal: 1 })).outputs.unchanged).toBe('true')
    }
  },
  120_000,
)

test('the index lists the SBOM of each platform, as Docker reads it, and the file is the same', async () => {
  const image = newImage()
  const { builds, merged, sboms } = await publish(image)
  const index = JSON.parse((await read(image, 'manifests', merged.outputs.digest ?? '')).toString())
  const manifests: readonly Descriptor[] = index.manifests
  expect(manifests.slice(0, 2).map(({ platform }) => platform?.architecture)).toEqual(['amd64', 'arm64'])
  const attestations = await Promise.all(
    builds.map(async ({ outputs }, at) => ({
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      digest: sboms[at],
      size: (await read(image, 'manifests', sboms[at] ?? '')).length,
      platform: { os: 'unknown', architecture: 'unknown' },
      annotations: {
        'vnd.docker.reference.type': 'attestation-manifest',
        'vnd.docker.reference.digest': outputs.digest,
      },
    })),
  )
  const byDigest = (one: { readonly digest?: string | undefined }, other: { readonly digest?: string | undefined }) =>
    String(one.digest) < String(other.digest) ? -1 : 1
  expect(manifests.slice(2).toSorted(byDigest)).toEqual(attestations.toSorted(byDigest))
  for (const [at, { outputs, filesLeft }] of builds.entries()) {
    const { subject, document } = await readSbom(image, sboms[at])
    expect(subject).toBe(outputs.digest)
    expect(filesLeft).toContain(JSON.stringify(document))
    expect(outputs.sbom).toMatch(new RegExp(`/sbom-${outputs.digest?.slice(7, 19)}\\.spdx\\.json$`))
  }

  const buildx = await findBuildx()
  if (buildx === undefined) return
  const [program, ...args] = buildx
  const name = `${image}:latest`
  const { stdout } = await run(program, [...args, 'imagetools', 'inspect', name, '--format', '{{json .SBOM}}'])
  const listed = JSON.parse(stdout)
  expect(Object.keys(listed).sort()).toEqual(['linux/amd64', 'linux/arm64'])
  expect(listed['linux/amd64'].SPDX).toEqual((await readSbom(image, sboms[0])).document)
}, 60_000)

// Commits that change nothing

async function withRegistry(work: (registry: TestRegistry) => Promise<void>): Promise<void> {
  const registry = await startRegistry()
  try {
    await work(registry)
  } finally {
    await registry.close()
  }
}

/** Returns the manifests that were written by digest, and the blobs. */
function written(registry: TestRegistry, since: number): readonly string[] {
  return registry.requests
    .slice(since)
    .filter(({ method, route, reference }) => method === 'PUT' && (route === 'upload' || reference?.includes(':')))
    .map(({ path }) => path)
}

test(
  'an unchanged commit publishes nothing new, and its SBOM is the same',
  () =>
    withRegistry(async (registry) => {
      const image = newImage(registry)
      const first = await publish(image)
      const seen = registry.requests.length
      const again = await publish(image)
      expect(written(registry, seen)).toEqual([])
      expect(again.merged.outputs).toMatchObject({ digest: first.merged.outputs.digest, changed: 'false' })
      expect(again.builds.map(({ outputs }) => outputs.unchanged)).toEqual(['true', 'true'])
      expect(again.sboms).toEqual(first.sboms)
      expect(again.builds.map(({ outputs }) => outputs.sbom?.split('/').at(-1))).toEqual(
        first.builds.map(({ outputs }) => outputs.sbom?.split('/').at(-1)),
      )
    }),
  60_000,
)

test('an image with new labels keeps its SBOM, under its new digest', async () => {
  const image = newImage()
  const first = await publish(image)
  const next = await publish(image, { labels: 'revision=two' })
  for (const [at, { outputs, log }] of next.builds.entries()) {
    expect(log).toMatch(/^Skipping the build: /m)
    expect(outputs.digest).not.toBe(first.builds[at]?.outputs.digest)
    const { subject, document } = await readSbom(image, next.sboms[at])
    expect(subject).toBe(outputs.digest)
    const before = (await readSbom(image, first.sboms[at])).document
    const renamed = JSON.stringify(before).replaceAll(
      first.builds[at]?.outputs.digest?.slice(7) ?? '',
      outputs.digest?.slice(7) ?? '',
    )
    expect(document).toEqual(JSON.parse(renamed))
  }
}, 60_000)

test('an index that was published with `sbom: false` counts as changed once', async () => {
  const image = newImage()
  const without = await publish(image, { sbom: 'false' })
  expect(without.sboms).toEqual([undefined, undefined])
  expect(without.builds[0]?.log).not.toContain('SBOM')
  const stillWithout = await publish(image, { sbom: 'false' })
  expect(stillWithout.merged.outputs.changed).toBe('false')

  const plan = async () =>
    passed(
      await lab.build('', { job: 'plan', jobTotal: 1, inputs: { mode: 'plan', image, attribute: 'layeredImage' } }),
    ).outputs.matrix
  expect(await plan()).not.toContain('unchanged')
  const added = await publish(image)
  expect(added.builds[0]?.log).toContain('names its store path: it has no SBOM yet')
  // The images are the same.
  expect(added.builds.map(({ outputs }) => outputs.digest)).toEqual(without.builds.map(({ outputs }) => outputs.digest))
  expect(added.merged.outputs).toMatchObject({ changed: 'true' })
  expect(added.merged.outputs.digest).not.toBe(without.merged.outputs.digest)
  expect(await plan()).toContain('"unchanged":true')
  expect((await publish(image)).merged.outputs).toMatchObject({
    changed: 'false',
    digest: added.merged.outputs.digest,
  })
}, 120_000)

test('every repository has the SBOMs', async () => {
  const images = [newImage(), newImage()]
  const { merged, sboms } = await publish(images.join('\n'))
  for (const image of images) {
    const index = JSON.parse((await read(image, 'manifests', merged.outputs.digest ?? '')).toString())
    expect(index.manifests).toHaveLength(4)
    for (const sbom of sboms) await readSbom(images[0] ?? '', sbom)
    for (const sbom of sboms) await read(image, 'manifests', sbom ?? '')
  }
  // A later repository gets them from the first.
  const third = newImage()
  const all = [...images, third].join('\n')
  const next = await publish(all)
  for (const sbom of next.sboms) await read(third, 'manifests', sbom ?? '')
}, 60_000)

test('the modules of unchanged programs come from the published SBOM, which spares the search', async () => {
  const image = newImage()
  const program = elfFile([
    { name: '.dep-v0', content: auditableSection([{ name: 'itoa', version: '1.0.9', source: 'local' }]) },
  ])
  const writeProgram = `echo ${program.toString('base64')} | base64 -d > program; chmod +x program`
  const cwd = await layeredFlake(
    lab,
    `let of = other: image { contents = { program = "program"; inherit other; }; commands.program = "${writeProgram}"; };
    in { first = of "one"; next = of "two"; again = of "three"; }`,
  )
  const first = await build({ image, attribute: 'first' }, { cwd, jobTotal: 1 })
  passed(await mergeRecords(image, [first.outputs.record]))
  const modulesOf = async (step: ActionRun) => {
    const { packages } = (await readSbom(image, sbomsIn(step)[0])).document
    return packages.flatMap(({ name, versionInfo }) => (name === 'itoa' ? [`${name} ${versionInfo}`] : []))
  }
  expect(await modulesOf(first)).toEqual(['itoa 1.0.9'])

  // A search would find nothing now. Nix still has the hash of the original.
  const path = join(await storePathNamed(lab, 'program'), 'share/program')
  await chmod(path, 0o755)
  await writeFile(path, '')
  const next = await build({ image, attribute: 'next' }, { cwd, jobTotal: 1 })
  expect(next.outputs.unchanged).toBe('false')
  expect(await modulesOf(next)).toEqual(['itoa 1.0.9'])
  const all = await build({ image, attribute: 'again', 'reuse-from': '' }, { cwd, jobTotal: 1 })
  expect(await modulesOf(all)).toEqual([])
}, 60_000)

// Wrong and missing SBOMs

test('a record that names the SBOM of another image is refused, and nothing is published', async () => {
  const image = newImage()
  const [amd64, arm64] = await Promise.all(
    SYSTEMS.map((system) => build({ image, attribute: 'layeredImage' }, { system })),
  )
  if (amd64 === undefined || arm64 === undefined) throw new Error('there are two builds')
  const record = JSON.stringify({ ...JSON.parse(amd64.outputs.record ?? ''), sbom: sbomsIn(arm64)[0] })
  const step = await mergeRecords(image, [record, arm64.outputs.record])
  expect(step.exitCode).toBe(1)
  expect(step.errors).toEqual([expect.stringContaining(`${amd64.outputs.digest} does not match its record`)])
  expect(step.errors[0]).toContain('Run the build of this system again.')
  const { status } = await fetch(`http://${image.replace('/', '/v2/')}/manifests/latest`)
  expect(status).toBe(404)
}, 60_000)

test(
  'an SBOM that was deleted before the merge fails it with the reason',
  () =>
    withRegistry(async (registry) => {
      const image = newImage(registry)
      const step = await build({ image, attribute: 'layeredImage' }, { jobTotal: 1 })
      const [sbom] = sbomsIn(step)
      registry.setFault(({ reference }) => (reference === sbom ? { kind: 'status', status: 404 } : undefined))
      const merged = await mergeRecords(image, [step.outputs.record])
      expect(merged.exitCode).toBe(1)
      expect(merged.errors).toEqual([
        expect.stringContaining(`The SBOM of ${image}@${step.outputs.digest} is not in the registry`),
      ])
      expect([...registry.tags(image.replace(/^[^/]*\//, '')).keys()]).not.toContain('latest')
    }),
  120_000,
)

test(
  'a published image whose SBOM was deleted is built again',
  () =>
    withRegistry(async (registry) => {
      const image = newImage(registry)
      const { builds, sboms } = await publish(image)
      let deleted = true
      registry.setFault(({ method, reference }) => {
        if (method === 'PUT' && reference === sboms[0]) deleted = false
        return deleted && reference === sboms[0] ? { kind: 'status', status: 404 } : undefined
      })
      const step = await build({ image, attribute: 'layeredImage' })
      expect(step.log).toContain('although')
      expect(step.outputs).toMatchObject({ unchanged: 'false', digest: builds[0]?.outputs.digest })
      expect(sbomsIn(step)).toEqual([sboms[0]])
      expect(deleted).toBe(false)
    }),
  60_000,
)
