import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, expect, test } from '@jest/globals'
import { type CliRun, runCommandLine } from '../support/cli.ts'
import { type Lab, startLab } from '../support/lab.ts'
import { SBOM_ENTRY } from '../support/sbom.ts'

// The command line on a machine of a developer or in another CI: real Nix, a real registry, and no job.

let lab: Lab
let image: string
beforeEach(async () => {
  lab = await startLab({ path: 'owner/app' })
  image = `${lab.registry.host}/owner/app`
})
afterEach(() => lab.close())

const cli = (...args: readonly string[]): Promise<CliRun> => runCommandLine(args, { cwd: lab.hello, env: lab.nix })

/** Returns the standard output, which scripts read, of a command that must succeed. */
function succeeded({ exitCode, stdout, stderr }: CliRun): string {
  if (exitCode !== 0) throw new Error(`The command ended with ${exitCode}:\n${stdout}${stderr}`)
  return stdout
}

async function git(...args: readonly string[]): Promise<string> {
  const options = ['-c', 'user.name=A', '-c', 'user.email=a@example.com', '-c', 'init.defaultBranch=main']
  const { stdout } = await promisify(execFile)('git', [...options, ...args], { cwd: lab.hello })
  return stdout.trim()
}

/** Commits the example, with the remote that CI systems configure: its URL contains a token. */
async function commitExample(): Promise<string> {
  await git('init', '--quiet')
  await git('add', '.')
  await git('commit', '--quiet', '--message', 'Example')
  await git('remote', 'add', 'origin', 'https://ci:a-secret-token@git.example.org/owner/app.git')
  return git('rev-parse', 'HEAD')
}

async function readIndex(tag: string): Promise<{ readonly body: string; readonly digest: string }> {
  const accept = 'application/vnd.oci.image.index.v1+json'
  const response = await fetch(`http://${lab.registry.host}/v2/owner/app/manifests/${tag}`, { headers: { accept } })
  const body = await response.text()
  return { body, digest: `sha256:${createHash('sha256').update(body).digest('hex')}` }
}

test('two builds and a merge publish a multi-platform image of the commit that is checked out', async () => {
  const commit = await commitExample()
  const intel = await cli('build', '--image', image, '--system', 'x86_64-linux')
  expect(succeeded(intel)).toMatch(
    new RegExp(`^digest +sha256:\\S+\nimage +${image}@sha256:\\S+\nstore-path +/\\S+\n(?:.+\n)+$`),
  )
  // The log is on the standard error, without the commands of GitHub Actions.
  expect(intel.stderr).toContain('\nBuild .#packages.x86_64-linux.containerImage for x86_64-linux\n')
  expect(intel.stderr).toMatch(/^\$ \S+\/nix .*build /m)
  expect(intel.stderr).toMatch(/^Wrote the digest record to nix-image-records\/image-digest-\S+-x86_64-linux\.json$/m)
  for (const command of ['::', '##[', '[command]', '\u001b']) expect(intel.stdout + intel.stderr).not.toContain(command)
  succeeded(await cli('build', '--image', image, '--system', 'aarch64-linux'))
  expect(await readdir(join(lab.hello, 'nix-image-records'))).toHaveLength(2)

  const merged = succeeded(await cli('merge', '--image', image, '--tags', 'latest,v1', '--tags={sha}', '--json'))
  const { body, digest } = await readIndex('latest')
  const { manifests, annotations } = JSON.parse(body)
  expect(manifests).toMatchObject([
    { platform: { architecture: 'amd64' }, digest: /sha256:\S+/.exec(intel.stdout)?.[0] },
    { platform: { architecture: 'arm64' } },
    SBOM_ENTRY,
    SBOM_ENTRY,
  ])
  expect(annotations).toMatchObject({
    'org.opencontainers.image.revision': commit,
    'org.opencontainers.image.source': 'https://git.example.org/owner/app',
  })
  expect(JSON.parse(merged)).toMatchObject({
    digest,
    tags: ['latest', 'v1', commit.slice(0, 7)].map((tag) => `${image}:${tag}`),
    changed: true,
    platforms: [
      { system: 'x86_64-linux', platform: 'linux/amd64' },
      { system: 'aarch64-linux', platform: 'linux/arm64' },
    ],
  })
  for (const tag of ['v1', commit.slice(0, 7)]) expect((await readIndex(tag)).digest).toBe(digest)
}, 120_000)

test('a merge does not move a tag back to an earlier commit of the checkout', async () => {
  const first = await commitExample()
  const publish = async (): Promise<CliRun> => {
    succeeded(await cli('build', '--image', image, '--records', 'records', '--system', 'x86_64-linux'))
    return cli('merge', '--image', image, '--records=records', '--tags', 'latest')
  }
  const earlier = await publish()
  expect(succeeded(earlier)).toContain(`tags       ${image}:latest\n`)
  await git('commit', '--quiet', '--allow-empty', '--message', 'Later')
  const later = succeeded(
    await cli('build', '--image', image, '--records', 'records', '--system', 'x86_64-linux', '--labels', 'later=yes'),
  )
  expect(later).toContain('digest')
  const moved = await cli('merge', '--image', image, '--records=records', '--tags', 'latest')
  succeeded(moved)
  expect(moved.stderr).not.toContain('without knowing which one is newer')
  const { digest } = await readIndex('latest')
  await git('checkout', '--quiet', first)
  const again = await publish()
  expect(again.stderr).toMatch(/^warning: Not moving \S+:latest: .* Set `--allow-older` to move it anyway\.$/m)
  expect((await readIndex('latest')).digest).toBe(digest)
}, 120_000)

test('a failure prints the error and what to do in terms of the command line, and ends with 1', async () => {
  const nothing = await cli('merge', '--image', image, '--records', 'elsewhere')
  expect([nothing.exitCode, nothing.stdout]).toEqual([1, ''])
  expect(nothing.stderr).toBe(
    'error: There are no digest records in elsewhere\nBuild the images first, with the same folder of records. Builds with `--no-push` write no records.\n',
  )
  const missing = await cli('build', '--image', image, '--attribute', 'missing', '--tag', 'a')
  expect([missing.exitCode, missing.stdout]).toEqual([1, ''])
  expect(missing.stderr).toMatch(/^error: .*missing/m)
}, 60_000)

test('with --no-push, an image is built and nothing is published', async () => {
  const built = succeeded(await cli('build', '--image', image, '--no-push', '--system', 'x86_64-linux', '--json'))
  expect(Object.keys(JSON.parse(built))).toEqual(['store-path'])
  expect(await (await fetch(`http://${lab.registry.host}/v2/_catalog`)).json()).toEqual({ repositories: [] })
  const planned = succeeded(await cli('plan', '--image', image, '--no-push'))
  expect(planned).toBe(
    [
      'matrix  aarch64-linux  ubuntu-24.04-arm',
      '        armv7l-linux   ubuntu-24.04',
      '        x86_64-linux   ubuntu-24.04',
      '',
    ].join('\n'),
  )
  expect(await readdir(lab.hello)).not.toContain('nix-image-records')
}, 60_000)

test('the version is the one of the package', async () => {
  const { version } = JSON.parse(await readFile(new URL('../../package.json', import.meta.url), 'utf8'))
  expect(succeeded(await cli('--version'))).toBe(`${version}\n`)
  expect(succeeded(await cli())).toContain('Usage: nix-image-action <mode> [options]\n')
})
