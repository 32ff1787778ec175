import { execFile } from 'node:child_process'
import { cp, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { type Lab, startLab } from '../support/lab.ts'
import { layeredFlake, readPushed } from '../support/layered.ts'
import { type ActionCall, type ActionRun, passed } from '../support/runner.ts'

// Verifies published images against their source, with real Nix and a real registry.

const run = promisify(execFile)
const COMMIT = '0123456789abcdef0123456789abcdef01234567'

let lab: Lab
beforeEach(async () => {
  lab = await startLab()
})
afterEach(() => lab.close())

/** Writes the flake of a layered image with these packages for both systems. */
async function writePackages(...names: readonly string[]): Promise<void> {
  await cp(fileURLToPath(new URL('../../examples/layered', import.meta.url)), lab.hello, { recursive: true })
  const contents = names.map((name) => `"${name}" = "${name}";`).join(' ')
  const imageOf = (architecture: string) =>
    `import ./image.nix { system = "x86_64-linux"; architecture = "${architecture}"; contents = { ${contents} }; }`
  const packages = `x86_64-linux.containerImage = ${imageOf('amd64')}; aarch64-linux.containerImage = ${imageOf('arm64')};`
  await writeFile(join(lab.hello, 'flake.nix'), `{ outputs = _: { packages = { ${packages} }; }; }\n`)
}

/** Builds and merges the image of these systems. */
async function publish(
  systems: readonly string[] = ['x86_64-linux'],
  inputs: ActionCall['inputs'] = {},
): Promise<Readonly<Record<string, string>>> {
  for (const [jobIndex, system] of systems.entries())
    passed(await lab.build(system, { jobTotal: systems.length, jobIndex, inputs }))
  return passed(await lab.merge()).outputs
}

function verify(reference: string, call: Partial<ActionCall> = {}, system = 'x86_64-linux'): Promise<ActionRun> {
  const image = `${lab.registry.host}/owner/hello${reference}`
  return lab.build(system, { jobTotal: 1, ...call, inputs: { mode: 'verify', image, ...call.inputs } })
}

function differencesIn({ outputs }: ActionRun): readonly Readonly<Record<string, unknown>>[] {
  return JSON.parse(outputs.differences ?? '')
}

/** Expects a step that failed with one error, and returns the error. */
function errorOf({ exitCode, errors, tempLeft, log }: ActionRun): string {
  if (exitCode !== 1 || errors.length !== 1) throw new Error(`The step ended with ${exitCode}:\n${log}`)
  expect(tempLeft).toEqual([])
  return errors[0] ?? ''
}

/** The references and digests of everything in the repository. */
async function repositoryState(): Promise<string> {
  const answer = await fetch(`http://${lab.registry.host}/v2/owner/hello/tags/list`)
  return answer.text()
}

describe('the same source', () => {
  test('verifies each platform of an index, by its tag or digest, and pushes nothing', async () => {
    await writePackages('glibc-2.40-36', 'bash-5.2')
    const { digest } = await publish(['x86_64-linux', 'aarch64-linux'])
    const before = await repositoryState()
    for (const reference of [':latest', `@${digest}`])
      for (const system of ['x86_64-linux', 'aarch64-linux']) {
        const step = passed(await verify(reference, {}, system))
        expect(step.outputs).toEqual({ verified: 'true', differences: '[]' })
        expect(step.summary).toContain('### Verified: ')
        expect(step.summary).toContain(`from commit \`${COMMIT}\``)
        expect(step.notices).toEqual([])
      }
    expect(await repositoryState()).toBe(before)
  }, 120_000)

  test('verifies an image by the digest of its own manifest', async () => {
    const { image = '' } = passed(await lab.build('x86_64-linux', { jobTotal: 1 })).outputs
    const step = passed(await verify(image.slice(image.indexOf('@'))))
    expect(step.outputs).toEqual({ verified: 'true', differences: '[]' })
  }, 120_000)

  test('verifies an image whose labels were added at publication, but not another value of its own label', async () => {
    await publish(['x86_64-linux'], { labels: 'version=1.2.3\na=b\norg.opencontainers.image.title=replaced' })
    const step = passed(await verify(':latest'))
    expect(step.outputs).toEqual({ verified: 'true', differences: '[]' })
    expect(step.summary).toContain('not compared: `org.opencontainers.image.title`, `version`, `a`')

    const script = join(lab.hello, 'make-image.sh')
    await run('sed', ['-i', 's|"Labels":{|"Labels":{"vendor":"me",|', script])
    const changed = await verify(':latest')
    expect(errorOf(changed)).toContain('config: config.Labels.vendor differs; everything else is equal')
    expect(differencesIn(changed)).toEqual([{ part: 'config', field: 'config.Labels.vendor' }])
  }, 120_000)

  test.each(['plainImage', 'streamedImage', 'ociLayout', 'ociArchive'])(
    'verifies %s',
    async (attribute) => {
      await publish(['x86_64-linux'], { attribute, compression: 'zstd' })
      expect(passed(await verify(':latest', { inputs: { attribute } })).outputs.verified).toBe('true')
      const archive = await verify(':latest', { inputs: { attribute: 'layeredImage' } })
      expect([archive.outputs.verified, archive.exitCode]).toEqual(
        attribute === 'plainImage' ? ['false', 1] : ['true', 0],
      )
    },
    120_000,
  )

  test('verifies a layered image from its description, from its archive, and if the description is not enough', async () => {
    const twice = `import json; m = json.load(open("manifest.json")); json.dump(m + m, open("manifest.json", "w"))`
    const flake = await layeredFlake(
      lab,
      `let
        base = image { contents.base = "base"; };
        repacked = run "base.tar" ''
          gzip -d < \${base} | tar -x; python3 -c '${twice}'; tar --create --file=$out *
        '';
      in rec {
        described = image { };
        full = complete described;
        unsupported = image { contents.top = "top"; description.from_image = "\${repacked}"; };
      }`,
    )
    const verifyWith = async (built: string, published: string): Promise<string> => {
      const inputs = { attribute: published, tag: published, image: `${lab.registry.host}/owner/${published}` }
      passed(await lab.build('x86_64-linux', { cwd: flake, jobTotal: 1, inputs }))
      const image = `${inputs.image}:${published}`
      const step = passed(await verify('', { cwd: flake, inputs: { attribute: built, image } }))
      expect(step.outputs.verified).toBe('true')
      return step.log
    }
    const fallback = 'instead of its description'
    expect(await verifyWith('full', 'described')).not.toContain(fallback)
    expect(await verifyWith('described', 'full')).not.toContain(fallback)
    expect(await verifyWith('unsupported', 'unsupported')).toContain(fallback)
  }, 120_000)
})

describe('another source', () => {
  test('fails with the layers, the store paths and the commit to check out', async () => {
    await writePackages('glibc-2.40-36', 'bash-5.2')
    await publish()
    await writePackages('glibc-2.40-66', 'bash-5.2')
    const git = (...args: readonly string[]) =>
      run('git', ['-C', lab.hello, '-c', 'user.email=a@example.com', '-c', 'user.name=a', ...args])
    await git('init', '-q')
    await git('add', '-A')
    await git('commit', '-q', '-m', 'next')
    const commit = (await git('rev-parse', 'HEAD')).stdout.trim()

    const step = await verify(':latest')
    const error = errorOf(step)
    expect(step.outputs).toEqual({ verified: 'false', differences: expect.any(String) })
    const side = (name: RegExp) => ({
      number: 2,
      diffId: expect.stringMatching(/^sha256:/),
      storePaths: [expect.stringMatching(name)],
    })
    expect(differencesIn(step)).toEqual([
      { part: 'layer', published: side(/-glibc-2\.40-36$/), built: side(/-glibc-2\.40-66$/) },
    ])
    expect(error).toContain(
      `${lab.registry.host}/owner/hello:latest for linux/amd64 is not the image that this source builds for x86_64-linux`,
    )
    expect(error).toContain('layers: 1 of 3 differ')
    expect(error).toMatch(/store paths only in the published image:\n.*-glibc-2\.40-36\n/)
    expect(error).toMatch(/store paths only in the build:\n.*-glibc-2\.40-66\n/)
    expect(error).toContain(`Commit ${commit} was built, but the index names commit ${COMMIT}. Check out that commit`)
    expect(error).toContain(`with:\n      ref: ${COMMIT}`)
    expect(step.summary).toContain('### Not verified: ')
    expect(step.summary).toMatch(
      /\| 2 \| published \| `sha256:.*bc-2\.40-36.* \|\n\| 2 \| built \| `sha256:.*bc-2\.40-66.* \|\n/,
    )
  }, 120_000)

  test('says that only `created` differs', async () => {
    const flake = await layeredFlake(lab, '{ containerImage = image { }; }')
    const image = `${lab.registry.host}/owner/hello`
    passed(await lab.build('x86_64-linux', { cwd: flake, jobTotal: 1, inputs: { image, tag: 'first' } }))
    await run('sed', [
      '-i',
      's|created = "1970-01-01T00:00:01|created = "2026-01-01T00:00:00|',
      join(flake, 'image.nix'),
    ])
    const step = await verify(':first', { cwd: flake })
    const error = errorOf(step)
    expect(error).toContain('layers: all 3 are equal\n  config: created differs; everything else is equal\n')
    expect(error).toContain('The index does not name its commit')
    expect(differencesIn(step)).toEqual([{ part: 'config', field: 'created' }])
  }, 120_000)

  test('fails if a derivation builds other content each time', async () => {
    const random = (seed: string) =>
      `{ containerImage = image { commands.greeting = "cat /proc/sys/kernel/random/uuid > ${seed}"; }; }`
    const flake = await layeredFlake(lab, random('uuid'))
    const { image = '' } = passed(await lab.build('x86_64-linux', { cwd: flake, jobTotal: 1 })).outputs
    const { config } = await readPushed(image)
    const [path = ''] = /[^']*-greeting(?=')/.exec(config) ?? []
    // As on another machine: Nix builds the store path again.
    await run('nix-store', ['--gc'], { env: { ...process.env, ...lab.nix } })
    const step = await verify(image.slice(image.indexOf('@')), { cwd: flake })
    const error = errorOf(step)
    expect(error).toContain(`store paths of layers with other content:\n    ${path}\n`)
    expect(error).toContain(`nix build --rebuild ${path}`)
  }, 120_000)
})

describe('images that can’t be compared', () => {
  test('of a platform that the index lacks fail before the build', async () => {
    await publish()
    const step = await verify(':latest', {}, 'aarch64-linux')
    expect(errorOf(step)).toContain('owner/hello:latest has no image for linux/arm64\n  It has linux/amd64.\n')
    expect(step.outputs).toEqual({})
    expect(step.log).not.toContain('Disk space')
  }, 120_000)

  test('of another platform by their own digest fail', async () => {
    const { image = '' } = passed(await lab.build('x86_64-linux', { jobTotal: 1 })).outputs
    const step = await verify(image.slice(image.indexOf('@')), {}, 'aarch64-linux')
    expect(errorOf(step)).toContain('has no image for linux/arm64\n  It has linux/amd64.\n')
  }, 120_000)

  test('that do not exist fail', async () => {
    await publish()
    expect(errorOf(await verify(':none'))).toContain(
      'owner/hello:none does not exist\nIn `image`, name a published image',
    )
  }, 120_000)

  test('in a registry that can’t be reached fail, without the output', async () => {
    const server = createServer().listen(0, '127.0.0.1')
    await new Promise((resolve) => server.once('listening', resolve))
    const address = server.address()
    const port = typeof address === 'object' ? address?.port : undefined
    await new Promise((resolve) => server.close(resolve))
    const image = `127.0.0.1:${port}/owner/hello:latest`
    const step = await verify('', { inputs: { image } })
    expect(errorOf(step)).toContain(`127.0.0.1:${port}`)
    expect(step.outputs).toEqual({})
    expect(step.log).not.toContain('Disk space')
  }, 300_000)
})
