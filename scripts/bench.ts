// Measures how long it takes to push and merge images: dist/index.js compared with the other tools that are installed,
// with Docker Distribution on this machine, in interleaved runs.
//
//   npm run bench                        images of 600 MB, 5 runs
//   npm run bench -- --size 100 --runs 3 smaller images, fewer runs
//   npm run bench -- --only zstd         only cases with this in their names
//   npm run bench -- --only merge        only merges, which need no large images
//   npm run bench -- --only layered      only images that are made from a description, of 600 MB and of 5 GB
//   npm run bench -- --json              prints only the figures, as JSON
import { execFile } from 'node:child_process'
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { availableParallelism, cpus, tmpdir, totalmem } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs, promisify } from 'node:util'
import { findBuildx } from '../__tests__/support/buildx.ts'
import { startDistribution } from '../__tests__/support/distribution.ts'
import { type Docker, startDocker } from '../__tests__/support/docker.ts'
import { prepareRunner } from '../__tests__/support/runner.ts'
import { compare, compareTime, figures, type Row, type Run, table } from './bench/figures.ts'
import { changeOneLayer, collectFiles, writeImage } from './bench/images.ts'
import { createLayeredFlake, LAYERS, type LayeredFlake, VARIANTS } from './bench/layered.ts'
import { type Measured, measure, median } from './bench/measure.ts'
import { type Attesting, type MergeSize, mergeWithAction, mergeWithBuildx, startAttesting } from './bench/merge.ts'
import { startProxy } from './bench/proxy.ts'
import { publishExample } from './bench/unchanged.ts'

const FEW: MergeSize = { platforms: 2, tags: 3, layers: 3 }
const LAYERED: MergeSize = { ...FEW, layers: LAYERS }
const MANY: MergeSize = { ...FEW, platforms: 8, tags: 10 }
const { values } = parseArgs({
  options: {
    size: { type: 'string', default: '600' },
    runs: { type: 'string', default: '5' },
    only: { type: 'string', default: '' },
    json: { type: 'boolean', default: false },
  },
})
const size = Number(values.size) * 1_000_000
const runs = Number(values.runs)
const run = promisify(execFile)

interface Images {
  readonly layered: string
  readonly changed: string
  readonly single: string
  readonly compressed: string
  readonly script: string
}

const folder = await mkdtemp(join(tmpdir(), 'nix-image-bench-'))
try {
  await bench()
} finally {
  await rm(folder, { recursive: true, force: true })
}

async function bench(): Promise<void> {
  const wanted = (name: string) => name.includes(values.only) || values.only.startsWith(name)
  const rows = [
    ...(wanted('unchanged') ? [await measureUnchanged()] : []),
    ...(await measureMerges()),
    ...(/^(merge|unchanged|layered)/.test(values.only) ? [] : await measurePushes()),
    ...(wanted('layered') ? await measureLayered() : []),
  ]
  const machine = `${cpus()[0]?.model ?? 'unknown'}, ${availableParallelism()} cores, ${Math.round(totalmem() / 1e9)} GB; Node ${process.version}; ${await skopeoVersion()}`
  if (values.json)
    process.stdout.write(`${JSON.stringify({ machine, sizeMB: size / 1e6, runs, rows }, undefined, 2)}\n`)
  else process.stdout.write(`\n${machine}; ${size / 1e6} MB, medians of ${runs} runs\n\n${table(rows)}\n`)
}

/** Measures a commit that does not change the image: one evaluation, and at most a second for everything else. */
async function measureUnchanged(): Promise<Row> {
  progress('unchanged commit')
  const { build, evaluate, close } = await publishExample()
  try {
    return compareTime('unchanged commit, more time', 1, 'nix eval', await interleave(build, evaluate))
  } finally {
    await close()
  }
}

/** Measures merges. Requests that don't depend on each other must run in parallel, so that their number hardly matters. */
async function measureMerges(): Promise<readonly Row[]> {
  const rows: Row[] = []
  const buildx = await findBuildx()
  const registry = await startDistribution()
  const attesting = await startAttesting()
  const own = (merged: MergeSize, services?: Attesting) => () => mergeWithAction(registry, merged, services)
  const compareWith = comparison(rows)
  try {
    if (buildx === undefined) progress('buildx is not installed: skipping the comparison of merges')
    else {
      const other = (merged: MergeSize) => () => mergeWithBuildx(buildx, registry, merged)
      await compareWith('merge, 2 platforms to 3 tags', 1, 'buildx imagetools', own(FEW), other(FEW))
      await compareWith('merge, the same with 60 layers each', 1, 'buildx imagetools', own(LAYERED), other(LAYERED))
    }
    await compareWith('merge, 8 platforms to 10 tags', 1.5, '2 platforms to 3 tags', own(MANY), own(FEW))
    const more = 'merge with attest, 2 platforms to 3 tags, more time'
    if (more.includes(values.only)) {
      progress(more)
      add(rows, compareTime(more, 1, 'without attest', await interleave(own(FEW, attesting), own(FEW))))
    }
    const many = 'merge with attest, 8 platforms to 10 tags'
    await compareWith(many, 1.5, '2 platforms to 3 tags', own(MANY, attesting), own(FEW, attesting))
  } finally {
    await attesting.close()
    await registry.close()
  }
  return rows
}

async function measurePushes(): Promise<readonly Row[]> {
  progress(`Creating images of ${size / 1e6} MB`)
  const images = await makeImages()
  const docker = await startDocker().catch(() => undefined)
  try {
    return await measureAll(images, docker)
  } finally {
    await docker?.close()
  }
}

async function makeImages(): Promise<Images> {
  const files = await collectFiles(fileURLToPath(new URL('../node_modules', import.meta.url)), size)
  // The action accepts only store paths from Nix.
  await mkdir(join(folder, 'store'))
  const at = (name: string) => join(folder, 'store', `${'0'.repeat(32)}-${name}`)
  const [layered, changed, single] = await Promise.all([
    writeImage(at('layered.tar'), files, LAYERS),
    changeOneLayer(at('changed.tar'), files, LAYERS),
    writeImage(at('single.tar'), files, 1),
  ])
  await run('sh', ['-c', 'gzip -1 -c "$1" > "$2"', 'sh', layered.path, at('layered.tar.gz')])
  await writeFile(at('stream'), `#!/bin/sh\nexec cat '${layered.path}'\n`)
  await chmod(at('stream'), 0o755)
  // Stands in for Nix, whose time is not measured.
  await mkdir(join(folder, 'bin'))
  await writeFile(join(folder, 'bin/nix'), `#!/bin/sh\nprintf '[{"drvPath":"","outputs":{"out":"%s"}}]' "$IMAGE"\n`)
  await chmod(join(folder, 'bin/nix'), 0o755)
  return {
    layered: layered.path,
    changed: changed.path,
    single: single.path,
    compressed: at('layered.tar.gz'),
    script: at('stream'),
  }
}

/** Measures layered images like those of dockerTools, compared with building and pushing them in full. */
async function measureLayered(): Promise<readonly Row[]> {
  const rows: Row[] = []
  const nodeModules = fileURLToPath(new URL('../node_modules', import.meta.url))
  progress(`Creating a Nix store of ${size / 1e6} MB`)
  const flake = await createLayeredFlake(await collectFiles(nodeModules, size), 1)
  const registry = await startDistribution()
  try {
    const script = await flake.build('stream-image')
    await flake.build('conf')
    const attribute = (name: string, host: string, more = {}) => pushLayered(flake, host, { attribute: name, ...more })
    const fresh = (push: (host: string) => Promise<Run>) => () => withRegistry(push)

    // The first runs, which are not measured, let Nix answer from the record.
    await withRegistry((host) => attribute('stream-image', host))
    const streamed = await interleave(
      fresh((host) => attribute('stream-image', host)),
      fresh((host) => streamToSkopeo(host, script)),
    )
    add(rows, compare('layered, streamed, cold', 0.6, 'script into skopeo', streamed))
    const described = await interleave(
      fresh((host) => attribute('stream-image', host)),
      fresh((host) => attribute('stream-image', host, { sbom: 'false' })),
    )
    add(rows, compare('layered, SBOM, cold', 1.05, 'the same without an SBOM', described))

    await withRegistry((host) => attribute('image', host))
    const full = async (name: string, host: string, more = {}) => {
      const started = performance.now()
      const installable = await flake.build(name, true)
      const building = (performance.now() - started) / 1000
      const pushed = await pushLayered(flake, host, { installable, ...more })
      return { ...pushed, seconds: pushed.seconds + building }
    }
    const cold = await interleave(
      fresh((host) => attribute('image', host)),
      fresh((host) => full('complete-image', host)),
    )
    add(rows, compare('layered, buildLayeredImage, cold', 0.3, 'build .tar.gz and push', cold))

    const { host } = registry
    const reused = { 'reuse-from': `${host}/bench/own:latest`, tag: '' }
    await publishLayered(flake, host, {})
    for (let at = 0; at < runs; at++) await recordNix(flake, `changed-${at}`)
    const changed = await interleave(
      numbered((at) => attribute(`changed-${at}`, host, reused)),
      numbered((at) => full(`complete-changed-${VARIANTS - 1 - at}`, host, reused)),
    )
    add(rows, compare('layered, one of 60 changed', 0.1, 'build .tar.gz and push', changed))
    const own = figures(changed[0])
    const one = figures(cold[0]).seconds / LAYERS
    add(rows, {
      name: 'layered, one of 60 changed, beyond that layer',
      own,
      ratio: own.seconds - one,
      bound: 0.5,
      unit: 's',
    })

    progress('Creating a Nix store of 5 GB')
    const large = await createLayeredFlake(
      await collectFiles(nodeModules, size),
      Math.max(1, Math.round(5_000_000_000 / size)),
    )
    try {
      const image = `${host}/bench/large`
      await large.build('conf')
      await publishLayered(large, host, { image })
      for (let at = 0; at < runs; at++) {
        await recordNix(large, `small-${at}`)
        await recordNix(flake, `small-${at}`)
      }
      const small = await interleave(
        numbered((at) =>
          pushLayered(large, host, { attribute: `small-${at}`, image, 'reuse-from': `${image}:latest` }),
        ),
        numbered((at) => attribute(`small-${at}`, host, reused)),
      )
      add(rows, compare('layered, one small layer changed, 5 GB', 1.2, `the same with ${size / 1e6} MB`, small))
    } finally {
      await large.close()
    }
    return rows
  } finally {
    await registry.close()
    await flake.close()
  }
}

/** Returns an attempt that receives how many there were before. */
function numbered(attempt: (at: number) => Promise<Run>): Attempt {
  let count = 0
  return () => attempt(count++)
}

async function withRegistry(push: (host: string) => Promise<Run>): Promise<Run> {
  const registry = await startDistribution()
  try {
    return await push(registry.host)
  } finally {
    await registry.close()
  }
}

/** Lets Nix evaluate and build an image once, so that it answers from the record afterwards. */
async function recordNix(flake: LayeredFlake, attribute: string): Promise<void> {
  await withRegistry((host) => pushLayered(flake, host, { attribute, 'reuse-from': '' }, 'false'))
}

/** Builds and merges an image. Only an index lists SBOMs. */
async function publishLayered(
  flake: LayeredFlake,
  host: string,
  inputs: Readonly<Record<string, string>>,
): Promise<void> {
  const { record } = await pushLayered(flake, host, { attribute: 'image', ...inputs })
  await pushLayered(flake, host, { mode: 'merge', tags: 'latest', digests: record, ...inputs })
}

async function pushLayered(
  flake: LayeredFlake,
  host: string,
  inputs: Readonly<Record<string, string>>,
  pushed = 'true',
): Promise<Run & { readonly record: string }> {
  const runner = await prepareRunner({
    cwd: flake.folder,
    inputs: {
      mode: 'build',
      image: `${host}/bench/own`,
      flake: `path:${flake.folder}`,
      tag: '',
      push: pushed,
      system: 'x86_64-linux',
      ...inputs,
    },
    env: { ...flake.env, ACTIONS_RUNTIME_TOKEN: '', ACTIONS_RESULTS_URL: '' },
  })
  try {
    const inFolder = [`--chdir=${runner.cwd}`, process.execPath, runner.main]
    const measured = await measure('env', inFolder, runner.env)
    const { 'pushed-bytes': bytes = '0', record = '' } = await runner.readOutputs()
    return { ...measured, bytes: Number(bytes), record }
  } finally {
    await runner.close()
  }
}

/** Pushes the output of a script with skopeo, by way of a file: version 1.9 can't read an archive from a pipe. */
async function streamToSkopeo(host: string, script: string): Promise<Run> {
  const archive = join(folder, 'streamed.tar')
  const streamed = await measure('sh', ['-c', '"$1" > "$2"', 'sh', script, archive])
  const copied = await skopeo(host, archive, 'gzip')
  await rm(archive)
  return { ...copied, seconds: streamed.seconds + copied.seconds, bytes: await layerBytes(host, 'bench/skopeo') }
}

/** Returns a function that compares two ways to do something, if the case is wanted, and adds a row. */
function comparison(
  rows: Row[],
): (name: string, bound: number, tool: string, own: Attempt, other: Attempt) => Promise<void> {
  return async (name, bound, tool, own, other) => {
    if (!name.includes(values.only)) return
    progress(name)
    add(rows, compare(name, bound, tool, await interleave(own, other)))
  }
}

function add(rows: Row[], row: Row): void {
  rows.push(row)
  progress(
    `  ${row.ratio.toFixed(2)} ${row.unit} (${row.own.seconds.toFixed(2)} s${row.other ? ` compared with ${row.other.seconds.toFixed(2)} s` : ''})`,
  )
}

async function measureAll(images: Images, docker: Docker | undefined): Promise<readonly Row[]> {
  const rows: Row[] = []
  const compareWith = comparison(rows)
  await compareWith('cold, 60 layers', 1, 'skopeo', cold(images.layered), coldSkopeo(images.layered))
  await compareWith('cold, one layer', 1, 'skopeo', cold(images.single), coldSkopeo(images.single))
  await compareWith('cold, zstd', 0.9, 'skopeo zstd', cold(images.layered, 'zstd'), coldSkopeo(images.layered, 'zstd'))
  if (docker)
    await compareWith(
      'cold, against Docker',
      0.3,
      'load, tag, push',
      cold(images.layered),
      coldDocker(images.layered, docker),
    )
  await compareWith('one layer of 60 changed', 0.25, 'skopeo', warm(images, images.changed), warmSkopeo(images))
  await compareWith('.tar.gz, cold', 1.1, 'skopeo', cold(images.compressed), coldSkopeo(images.compressed))

  if ('streamed script'.includes(values.only)) add(rows, await measureStreamed(images))
  if ('nothing changed'.includes(values.only)) {
    progress('nothing changed')
    const own = figures(await series(warm(images, images.layered)))
    add(rows, { name: 'nothing changed', own, ratio: own.seconds, bound: 0.6, unit: 's' })
  }
  if ('20 ms for each request'.includes(values.only)) add(rows, await measureDelay(images))
  return rows
}

/** Measures a streaming script. It may take as long as running the script alone and pushing its image from a file. */
async function measureStreamed(images: Images): Promise<Row> {
  progress('streamed script')
  const script = median(await times(() => measure('sh', ['-c', '"$1" > /dev/null', 'sh', images.script])))
  const [streamed, plain] = await interleave(cold(images.script), cold(images.layered))
  const allowed = figures(plain).seconds + script
  return {
    name: 'streamed script',
    own: figures(streamed),
    other: { tool: 'plain file + script', ...figures(plain), seconds: allowed },
    ratio: figures(streamed).seconds / allowed,
    bound: 1.1,
    unit: '×',
  }
}

async function measureDelay(images: Images): Promise<Row> {
  progress('20 ms for each request')
  const [late, prompt] = await interleave(cold(images.layered, 'gzip', 20), cold(images.layered, 'gzip', 0))
  return {
    name: '20 ms for each request',
    own: figures(late),
    other: { tool: '0 ms', ...figures(prompt) },
    ratio: figures(late).seconds - figures(prompt).seconds,
    bound: 2,
    unit: 's',
  }
}

type Attempt = () => Promise<Run>

/** Pushes an image to an empty registry. */
function cold(image: string, compression = 'gzip', delay?: number): Attempt {
  return async () => {
    const registry = await startDistribution()
    const proxy = delay === undefined ? undefined : await startProxy(registry.host, delay)
    const measured = await push(proxy?.host ?? registry.host, image, compression)
    await proxy?.close()
    await registry.close()
    return measured
  }
}

/** Pushes an image to a registry that already has another one. */
function warm(images: Images, image: string): Attempt {
  return async () => {
    const registry = await startDistribution()
    await push(registry.host, images.layered, 'gzip')
    // Counts only the requests of the second push. The registry identifies images by their paths, not by its host name.
    const proxy = await startProxy(registry.host, 0)
    const measured = await push(proxy.host, image, 'gzip')
    const requests = proxy.count()
    await proxy.close()
    await registry.close()
    return { ...measured, requests }
  }
}

async function push(host: string, image: string, compression: string): Promise<Run> {
  const runner = await prepareRunner({
    inputs: { mode: 'build', image: `${host}/bench/own`, tag: 'latest', 'push-with': 'registry', compression },
    env: {
      IMAGE: image,
      NIX_STORE_DIR: join(folder, 'store'),
      PATH: `${join(folder, 'bin')}:${process.env['PATH']}`,
      ACTIONS_RUNTIME_TOKEN: '',
      ACTIONS_RESULTS_URL: '',
    },
  })
  try {
    const measured = await measure(process.execPath, [runner.main], runner.env)
    return { ...measured, bytes: Number((await runner.readOutputs())['pushed-bytes']) }
  } finally {
    await runner.close()
  }
}

function coldSkopeo(image: string, format = 'gzip'): Attempt {
  return async () => {
    const registry = await startDistribution()
    const measured = await skopeo(registry.host, image, format)
    const bytes = await layerBytes(registry.host, 'bench/skopeo')
    await registry.close()
    return { ...measured, bytes }
  }
}

function warmSkopeo(images: Images): Attempt {
  return async () => {
    const registry = await startDistribution()
    await skopeo(registry.host, images.layered, 'gzip')
    // skopeo's cache of blobs is in the home folder, which differs for each run.
    const measured = await skopeo(registry.host, images.changed, 'gzip')
    await registry.close()
    return measured
  }
}

async function skopeo(host: string, image: string, format: string): Promise<Run> {
  const home = await mkdtemp(join(folder, 'home-'))
  const env = {
    ...process.env,
    HOME: home,
    XDG_DATA_HOME: home,
    XDG_RUNTIME_DIR: home,
    TMPDIR: folder,
    BLOB_INFO_CACHE_DIR: home,
  }
  // Some versions of skopeo, such as 1.9, can't read a compressed docker archive. Decompress it to a file first, as other
  // versions do.
  const unpack = image.endsWith('.gz') ? 'gzip -dc "$1" > "$3" && ' : ''
  const source = image.endsWith('.gz') ? join(home, 'unpacked.tar') : image
  // Hides the cache of blobs that skopeo keeps for root.
  const fresh = process.getuid?.() === 0 ? 'mount -t tmpfs none /var/lib && ' : ''
  const copy = `${fresh}${unpack}exec skopeo copy --quiet --dest-tls-verify=false --dest-compress-format "$2" "docker-archive:$3" "$4"`
  const args = ['sh', '-c', copy, 'sh', image, format, source, `docker://${host}/bench/skopeo:latest`]
  const measured = await (fresh === ''
    ? measure('sh', args.slice(1), env)
    : measure('unshare', ['--mount', ...args], env))
  await rm(home, { recursive: true })
  return measured
}

function coldDocker(image: string, docker: Docker): Attempt {
  return async () => {
    const registry = await startDistribution()
    const reference = `${registry.host}/bench/docker:latest`
    const script = 'docker load -q -i "$1" && docker tag bench:nix "$2" && docker push -q "$2"'
    const env = { ...process.env, ...docker.env }
    const measured = await measure('sh', ['-c', script, 'sh', image, reference], env)
    await run('docker', ['image', 'rm', '--force', reference, 'bench:nix'], { env })
    await registry.close()
    // The work is done by the daemon, whose CPU time is unknown.
    return { seconds: measured.seconds, cpuSeconds: undefined, memory: undefined, output: measured.output }
  }
}

async function layerBytes(host: string, repository: string): Promise<number> {
  const accept = 'application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json'
  const response = await fetch(`http://${host}/v2/${repository}/manifests/latest`, { headers: { accept } })
  const { layers } = (await response.json()) as { readonly layers: readonly { readonly size: number }[] }
  return layers.reduce((sum, layer) => sum + layer.size, 0)
}

async function skopeoVersion(): Promise<string> {
  return (await run('skopeo', ['--version'])).stdout.trim()
}

/** Interleaves the runs, so that other load on the machine affects both. */
async function interleave(own: Attempt, other: Attempt): Promise<readonly [readonly Run[], readonly Run[]]> {
  const [ownRuns, otherRuns]: [Run[], Run[]] = [[], []]
  for (let count = 0; count < runs; count++) {
    ownRuns.push(await own())
    otherRuns.push(await other())
  }
  return [ownRuns, otherRuns]
}

async function series(attempt: Attempt): Promise<readonly Run[]> {
  const all: Run[] = []
  for (let count = 0; count < runs; count++) all.push(await attempt())
  return all
}

async function times(attempt: () => Promise<Measured>): Promise<readonly number[]> {
  return (await series(attempt)).map(({ seconds }) => seconds)
}

function progress(text: string): void {
  if (!values.json) process.stdout.write(`${text} …\n`)
}
