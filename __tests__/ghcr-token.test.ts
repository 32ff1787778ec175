import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, jest, test } from '@jest/globals'
import { readInputs } from '../src/inputs/inputs.ts'
import { readTokenLogin } from '../src/inputs/token.ts'
import { run } from '../src/run.ts'
import { type GitHubRegistry, startGitHubRegistry } from './support/ghcr.ts'
import { afterwards, openRegistry, push, records } from './support/merging.ts'
import type { BearerAuth } from './support/registry/authorization.ts'
import type { FaultOf, SeenRequest } from './support/registry.ts'
import { type ActionCall, type PreparedRunner, prepareRunner } from './support/runner.ts'

// Workflows for GitHub's registry need no login step. These tests run the whole action with a stand-in for ghcr.io behind
// a proxy, so that its name, HTTPS and its token service are the real ones.

const TOKEN = 'ghs_TheTokenOfThisJob'
const IMAGE = 'ghcr.io/owner/app'

/** A build that reads no earlier images. */
const BUILD = { mode: 'build', image: IMAGE, system: 'x86_64-linux', 'reuse-from': '' }

const environment = { ...process.env }
const runners: PreparedRunner[] = []

afterEach(async () => {
  jest.restoreAllMocks()
  process.env = { ...environment }
  for (const runner of runners.splice(0)) await runner.close()
})

interface Setting {
  readonly auth?: Partial<BearerAuth>
  readonly fault?: FaultOf
}

/** Opens a stand-in for ghcr.io that accepts the job's token. */
async function openGitHub({ auth, fault }: Setting = {}): Promise<GitHubRegistry> {
  const registry = await startGitHubRegistry({ user: 'octocat', password: TOKEN, ...auth }, fault && { fault })
  afterwards(registry.close)
  return registry
}

interface Finished {
  readonly exitCode: number
  /** Everything that the step wrote. */
  readonly said: string
  readonly outputs: Readonly<Record<string, string>>
}

/** Runs the action in this process, with the token of the job. */
async function runStep(registry: GitHubRegistry, { env, ...call }: ActionCall): Promise<Finished> {
  const runner = await prepareRunner({ token: TOKEN, ...call, env: { ...registry.env, ...env } })
  runners.push(runner)
  process.env = { ...runner.env }
  let said = ''
  jest.spyOn(process.stdout, 'write').mockImplementation((text) => {
    said += String(text)
    return true
  })
  const exitCode = await run(process.env)
  jest.restoreAllMocks()
  return { exitCode, said, outputs: await runner.readOutputs() }
}

/** Publishes an image of one system as `v1`. */
async function merge(
  registry: GitHubRegistry,
  { inputs, ...call }: Partial<ActionCall> = {},
): Promise<Finished & { readonly tag: string | undefined }> {
  const pushed = await push(registry, 'owner/app', ['x86_64-linux'], { record: { image: IMAGE } })
  const own = { mode: 'merge', image: IMAGE, digests: records(pushed), tags: 'v1' }
  const finished = await runStep(registry, { ...call, inputs: { ...own, ...inputs } })
  return { ...finished, tag: registry.tags('owner/app').get('v1') }
}

function basic(password: string): string {
  return Buffer.from(`octocat:${password}`).toString('base64')
}

/** The requests that contain a password. */
function requestsWith(requests: readonly SeenRequest[], password = TOKEN): readonly SeenRequest[] {
  const forms = [password, basic(password)]
  return requests.filter(({ headers, path }) => forms.some((form) => JSON.stringify([headers, path]).includes(form)))
}

/** Creates Docker's configuration, and a credential helper `test` that runs a script. */
async function configure(config: unknown, helper = 'exit 1'): Promise<{ DOCKER_CONFIG: string; PATH: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'docker-config-'))
  afterwards(() => rm(folder, { recursive: true }))
  await writeFile(join(folder, 'config.json'), JSON.stringify(config))
  const programs = join(folder, 'programs')
  await mkdir(programs)
  await writeFile(join(programs, 'docker-credential-test'), `#!/bin/sh\n${helper}\n`, { mode: 0o755 })
  return { DOCKER_CONFIG: folder, PATH: `${programs}:${environment['PATH']}` }
}

const HELPER_HAS_NONE = "echo 'credentials not found in native keychain'; exit 1"

/** Refuses uploads as GHCR does for a token that may only read packages. */
const readOnly: FaultOf = ({ method, route }) =>
  method === 'POST' && route === 'uploads'
    ? {
        kind: 'status',
        status: 403,
        body: '{"errors":[{"code":"DENIED","message":"installation not allowed to Write organization package"}]}',
        headers: { 'content-type': 'application/json' },
      }
    : undefined

describe('without a login, the token of the job', () => {
  test('publishes to ghcr.io', async () => {
    const registry = await openGitHub()
    const { exitCode, tag, outputs } = await merge(registry)
    expect(exitCode).toBe(0)
    expect(tag).toBe(outputs['digest'])
    expect(new Set(requestsWith(registry.requests).map(({ route }) => route))).toEqual(new Set(['token']))
  })

  test('is masked before anything else is written, and in its encoded form', async () => {
    // Another one, because a process masks each secret once.
    const token = 'ghs_TheTokenOfAnotherJob'
    const { said } = await merge(await openGitHub({ auth: { password: token } }), { token })
    expect(said.startsWith(`::add-mask::${token}\n`)).toBe(true)
    expect(said).toContain(`::add-mask::${basic(token)}`)
    expect(said.replaceAll(/^::add-mask::.*$/gm, '')).not.toContain(token)
  })

  test('is not sent to another registry', async () => {
    const registry = await openGitHub()
    const other = await openRegistry({ auth: { kind: 'basic', user: 'octocat', password: TOKEN } })
    const { exitCode, said } = await merge(registry, { inputs: { image: `${IMAGE}\n${other.host}/app` } })
    expect(exitCode).toBe(1)
    expect(said).toContain(`authentication required, but no credentials were found for ${other.host}`)
    expect(other.requests.length).toBeGreaterThan(0)
    expect(requestsWith(other.requests)).toEqual([])
  })

  test.each(['ghcr.io.', 'xghcr.io', 'docker.ghcr.io', 'ghcr.io:443'])('is not sent to %s', async (host) => {
    const registry = await openGitHub()
    const { exitCode } = await merge(registry, { inputs: { image: `${host}/owner/app` } })
    expect(exitCode).toBe(1)
    expect(requestsWith(registry.requests)).toEqual([])
  })

  test('is not sent to a token service on another host', async () => {
    const challenge = 'Bearer realm="https://token.example/token",service="ghcr.io"'
    const fault: FaultOf = ({ route }) =>
      route === 'base' ? { kind: 'status', status: 401, headers: { 'www-authenticate': challenge } } : undefined
    const registry = await openGitHub({ fault })
    const { exitCode, said } = await merge(registry)
    expect(exitCode).toBe(1)
    expect(said).toContain('https://token.example/token, the realm that ghcr.io specifies')
    expect(said).toContain('no login for ghcr.io is configured, and `token` is sent only to ghcr.io itself')
    expect(new Set(registry.targets)).toEqual(new Set(['ghcr.io:443']))
  })

  test.each([
    ['GitHub Enterprise Server', { GITHUB_SERVER_URL: 'https://github.example.com' }],
    ['a host of ghe.com', { GITHUB_SERVER_URL: 'https://octocorp.ghe.com' }],
    ['Gitea', { GITHUB_SERVER_URL: 'https://gitea.example.com', GITEA_ACTIONS: 'true' }],
    ['Gitea with the URL of GitHub', { GITEA_ACTIONS: 'true' }],
    ['Forgejo with the URL of GitHub', { FORGEJO_ACTIONS: 'true' }],
    ['a runner that names no server', { GITHUB_SERVER_URL: undefined }],
  ])('is not sent from %s, because it is for another server', async (_, env) => {
    const registry = await openGitHub()
    const { exitCode, said } = await merge(registry, { env })
    expect(exitCode).toBe(1)
    expect(said).toContain('authentication required, but no credentials were found for ghcr.io')
    expect(requestsWith(registry.requests)).toEqual([])
  })

  test('is not used with `token: ""`', async () => {
    const registry = await openGitHub()
    const { exitCode, said, tag } = await merge(registry, { inputs: { token: '' } })
    expect(exitCode).toBe(1)
    expect(said).toContain('authentication required, but no credentials were found for ghcr.io')
    expect(said).toMatch(/Log in before this step:%0A.*docker\/login-action/)
    expect(requestsWith(registry.requests)).toEqual([])
    expect(tag).toBeUndefined()
  })

  test.each([
    ['is used by a build', {}, 'ghcr.io'],
    ['is not used with `push-with: docker`, because Docker does not have it', { 'push-with': 'docker' }, undefined],
  ])('%s', async (_, inputs, host) => {
    const { env, close } = await prepareRunner({ token: TOKEN, inputs: { ...BUILD, ...inputs } })
    afterwards(close)
    expect(readTokenLogin(env, readInputs(env))?.host).toBe(host)
  })
})

describe('reading', () => {
  const check = { inputs: { push: 'false' } }

  test('a public image requires no token', async () => {
    const registry = await openGitHub({ auth: { anonymousPull: true } })
    expect(await merge(registry, check)).toMatchObject({ exitCode: 0 })
    expect(requestsWith(registry.requests)).toEqual([])
  })

  test('a private image uses the token', async () => {
    const registry = await openGitHub()
    expect(await merge(registry, check)).toMatchObject({ exitCode: 0 })
    expect(requestsWith(registry.requests).length).toBeGreaterThan(0)
  })

  test('a private image with a token that may not read packages says which permission is missing', async () => {
    const registry = await openGitHub({ auth: { password: 'another token' } })
    const inputs = { mode: 'verify', image: `${IMAGE}:v1`, system: 'x86_64-linux' }
    const { exitCode, said } = await runStep(registry, { inputs })
    expect(exitCode).toBe(1)
    expect(said).toMatch(/ghcr\.io refused `token`, which is used because no login for ghcr\.io is configured/)
    expect(said).toContain('packages: read')
  })
})

describe('a token that may not write packages', () => {
  test('such as that of a pull request from a fork, fails the merge with what to change', async () => {
    const registry = await openGitHub({ fault: readOnly })
    const { exitCode, said, tag } = await merge(registry, { eventName: 'pull_request' })
    expect(exitCode).toBe(1)
    expect(said).toMatch(/ghcr\.io answered with status 403: access denied.*not allowed to Write organization package/)
    expect(said).toMatch(
      /packages: write.*pull requests from forks.*push: \${{ github\.event_name != 'pull_request' }}/,
    )
    expect(tag).toBeUndefined()
  })

  test('fails a build before it starts', async () => {
    const registry = await openGitHub({ fault: readOnly })
    const { exitCode, said } = await runStep(registry, { inputs: BUILD })
    expect(exitCode).toBe(1)
    expect(said).toMatch(/status 403: access denied.*packages: write/)
    expect(said).not.toContain('::group::')
  })

  test('because it is invalid is reported as the token, not as a login', async () => {
    const registry = await openGitHub()
    const { exitCode, said } = await merge(registry, { inputs: { token: 'ghs_expired' } })
    expect(exitCode).toBe(1)
    expect(said).toMatch(/ghcr\.io refused `token`.*packages: write.*check that it is valid.*docker\/login-action/)
  })
})

describe('a configured login takes precedence', () => {
  const configured = { auth: { password: 'of the login step' } }

  test.each<readonly [string, unknown, string | undefined]>([
    ['from the file', { auths: { 'ghcr.io': { auth: basic('of the login step') } } }, undefined],
    [
      'from a credential helper',
      { credsStore: 'test' },
      `echo '{"ServerURL":"ghcr.io","Username":"octocat","Secret":"of the login step"}'`,
    ],
  ])('%s', async (_, config, helper) => {
    const registry = await openGitHub(configured)
    const { exitCode, tag, outputs } = await merge(registry, { env: await configure(config, helper) })
    expect(exitCode).toBe(0)
    expect(tag).toBe(outputs['digest'])
    expect(requestsWith(registry.requests)).toEqual([])
  })

  test.each<readonly [string, unknown, string | undefined]>([
    ['from the file', { auths: { 'ghcr.io': { auth: basic('wrong') } } }, undefined],
    [
      'from a credential helper',
      { credHelpers: { 'ghcr.io': 'test' } },
      `echo '{"ServerURL":"ghcr.io","Username":"octocat","Secret":"wrong"}'`,
    ],
  ])('even if it is wrong, which the error says: %s', async (_, config, helper) => {
    const registry = await openGitHub()
    const { exitCode, said, tag } = await merge(registry, { env: await configure(config, helper) })
    expect(exitCode).toBe(1)
    expect(said).toContain('ghcr.io did not accept the credentials of the user "octocat"')
    expect(said).toMatch(/Check the user name and the password or token in the login step.*Or remove the login step/)
    expect(requestsWith(registry.requests)).toEqual([])
    expect(tag).toBeUndefined()
  })

  test('even if its credential helper fails', async () => {
    const registry = await openGitHub()
    const env = await configure({ credsStore: 'test' }, "echo 'the keychain is locked' >&2; exit 1")
    const { exitCode, said } = await merge(registry, { env })
    expect(exitCode).toBe(1)
    expect(said).toContain('the keychain is locked')
    expect(requestsWith(registry.requests)).toEqual([])
  })

  test('but one for another host is not one for ghcr.io, and a helper without one does not see the token', async () => {
    const registry = await openGitHub()
    const config = { credsStore: 'test', auths: { 'quay.io': { auth: basic('of another registry') } } }
    const env = await configure(config, `env > "$DOCKER_CONFIG/seen"\n${HELPER_HAS_NONE}`)
    expect(await merge(registry, { env })).toMatchObject({ exitCode: 0 })
    const seen = await readFile(join(env.DOCKER_CONFIG, 'seen'), 'utf8')
    expect(seen).toContain('GITHUB_ACTOR=octocat')
    expect(seen).not.toContain(TOKEN)
  })
})
