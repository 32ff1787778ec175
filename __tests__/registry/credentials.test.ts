import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, test } from '@jest/globals'
import { parseReference } from '../../src/oci/reference.ts'
import { type Credential, credentialsFrom } from '../../src/registry/credentials.ts'
import { afterwards, failureOf } from './connect.ts'

const run = promisify(execFile)
const octocat: Credential = { kind: 'password', username: 'octocat', password: 'secret' }
const hub = 'https://index.docker.io/v1/'

function auth(text: string): { readonly auth: string } {
  return { auth: Buffer.from(text).toString('base64') }
}

/** Each file is written unchanged if it is a text, otherwise as JSON. */
interface Setting {
  readonly docker?: unknown
  readonly podman?: readonly unknown[]
}

interface Found {
  readonly credential?: Credential
  /** The secrets, in the order in which they were secrets. */
  readonly secrets: readonly string[]
  readonly problem?: string
  readonly message?: string
  readonly detail?: string
}

async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'credentials-'))
  afterwards(() => rm(folder, { recursive: true }))
  return folder
}

async function write({ docker, podman = [] }: Setting) {
  const folder = await temporaryFolder()
  const files = { docker: join(folder, 'config.json'), podman: podman.map((_, at) => join(folder, `auth${at}.json`)) }
  const contents = new Map([[files.docker, docker], ...podman.map((one, at) => [files.podman[at] ?? '', one] as const)])
  for (const [file, content] of contents)
    if (content !== undefined) await writeFile(file, typeof content === 'string' ? content : JSON.stringify(content))
  return { folder, files }
}

async function find(setting: Setting, name = 'ghcr.io/owner/app'): Promise<Found> {
  const secrets: string[] = []
  const { files } = await write(setting)
  const credential = await credentialsFrom(files, (secret) => secrets.push(secret))(parseReference(name).repository)
  return { secrets, ...(credential && { credential }) }
}

/** Looks for credentials with these shell scripts, and nothing else, on the PATH. Each gets the key as `$key`. */
async function findWith(helpers: Readonly<Record<string, string>>, setting: Setting, name = 'ghcr.io/owner/app') {
  const { folder, files } = await write(setting)
  const programs = join(folder, 'programs')
  await mkdir(programs)
  for (const [helper, script] of Object.entries(helpers))
    await writeFile(join(programs, `docker-credential-${helper}`), `#!/bin/sh\nread -r key\n${script}\n`, {
      mode: 0o755,
    })
  const program = fileURLToPath(new URL('look-up.ts', import.meta.url))
  const { stdout } = await run(process.execPath, [program, name, files.docker, ...files.podman], {
    env: { PATH: programs },
  })
  const found: Found = JSON.parse(stdout)
  return found
}

function answer(username: string, secret: string): string {
  return `echo '${JSON.stringify({ ServerURL: 'x', Username: username, Secret: secret })}'`
}

const knowsNone = "echo 'credentials not found in native keychain'; exit 1"

describe('credentials are found in a file', () => {
  test.each<readonly [string, Setting, string]>([
    ['as docker login writes it', { docker: { auths: { 'ghcr.io': auth('octocat:secret') } } }, 'ghcr.io/owner/app'],
    ['with its port', { docker: { auths: { 'localhost:5000': auth('octocat:secret') } } }, 'localhost:5000/owner/app'],
    [
      'as plain text',
      { docker: { auths: { 'ghcr.io': { username: 'octocat', password: 'secret' } } } },
      'ghcr.io/owner/app',
    ],
    [
      'padded with NULs, as Docker does',
      { docker: { auths: { 'ghcr.io': auth('octocat:secret\0\0') } } },
      'ghcr.io/owner/app',
    ],
    ['under the key of Docker Hub', { docker: { auths: { [hub]: auth('octocat:secret') } } }, 'docker.io/owner/app'],
    [
      'under the name of Docker Hub',
      { podman: [{ auths: { 'docker.io': auth('octocat:secret') } }] },
      'docker.io/owner/app',
    ],
    ['under a namespace', { podman: [{ auths: { 'quay.io/org': auth('octocat:secret') } }] }, 'quay.io/org/app'],
    [
      'under the most specific of several namespaces',
      {
        podman: [
          {
            auths: {
              'quay.io': auth('a:b'),
              'quay.io/org': auth('a:b'),
              'quay.io/org/team': auth('octocat:secret'),
              'quay.io/org/team/other': auth('a:b'),
            },
          },
        ],
      },
      'quay.io/org/team/app',
    ],
    ['under the repository', { podman: [{ auths: { 'quay.io/org/app': auth('octocat:secret') } }] }, 'quay.io/org/app'],
    [
      'under the host, for a repository outside of the namespaces',
      { podman: [{ auths: { 'quay.io/org': auth('a:b'), 'quay.io': auth('octocat:secret') } }] },
      'quay.io/organisation/app',
    ],
    ['under index.docker.io', { docker: { auths: { 'index.docker.io': auth('octocat:secret') } } }, 'app'],
    ['under registry-1.docker.io', { docker: { auths: { 'registry-1.docker.io': auth('octocat:secret') } } }, 'app'],
    [
      'under a URL of Docker Hub',
      { docker: { auths: { 'https://registry-1.docker.io/v2/': auth('octocat:secret') } } },
      'app',
    ],
    [
      'with a scheme, as old versions of Docker write it',
      { docker: { auths: { 'https://ghcr.io': auth('octocat:secret') } } },
      'ghcr.io/owner/app',
    ],
    [
      'with a scheme and path',
      { docker: { auths: { 'https://ghcr.io/v2/': auth('octocat:secret') } } },
      'ghcr.io/owner/app',
    ],
    [
      'of Podman, if Docker has none',
      { podman: [{ auths: { 'ghcr.io': auth('octocat:secret') } }] },
      'ghcr.io/owner/app',
    ],
    [
      'of Podman, if Docker’s has no entry for the host',
      {
        docker: { auths: { 'quay.io': auth('a:b'), 'ghcr.io': {} } },
        podman: [{}, { auths: { 'ghcr.io': auth('octocat:secret') } }],
      },
      'ghcr.io/owner/app',
    ],
    [
      'of Docker, rather than Podman’s',
      { docker: { auths: { 'ghcr.io': auth('octocat:secret') } }, podman: [{ auths: { 'ghcr.io': auth('a:b') } }] },
      'ghcr.io/owner/app',
    ],
    [
      'that is the first of Podman’s',
      { podman: [{ auths: { 'ghcr.io': auth('octocat:secret') } }, { auths: { 'ghcr.io': auth('a:b') } }] },
      'ghcr.io/owner/app',
    ],
    [
      'under the current key rather than the old one',
      { docker: { auths: { 'https://ghcr.io/v1/': auth('a:b'), 'ghcr.io': auth('octocat:secret') } } },
      'ghcr.io/owner/app',
    ],
  ])('%s', async (_, setting, host) => {
    const { credential, secrets } = await find(setting, host)
    expect(credential).toEqual(octocat)
    expect(secrets).toContain('secret')
  })

  test('with a colon in the password', async () => {
    const { credential } = await find({ docker: { auths: { 'ghcr.io': auth('octocat:a:b') } } })
    expect(credential).toEqual({ ...octocat, password: 'a:b' })
  })

  test('as an identity token, which is reported as a secret', async () => {
    const entry = { ...auth('00000000-0000-0000-0000-000000000000:'), identitytoken: 'identity' }
    const { credential, secrets } = await find({ docker: { auths: { 'ghcr.io': entry } } })
    expect(credential).toEqual({ kind: 'identity-token', token: 'identity' })
    expect(secrets).toContain('identity')
  })

  test('and reported in their encoded form as well, so that it can be masked', async () => {
    const entry = auth('octocat:secret')
    expect((await find({ docker: { auths: { 'ghcr.io': entry } } })).secrets).toEqual([entry.auth, 'secret'])
  })

  test.each<readonly [string, Setting, string]>([
    ['no file', {}, 'ghcr.io/owner/app'],
    ['an empty object', { docker: {} }, 'ghcr.io/owner/app'],
    ['an empty file, as Docker takes it', { docker: '' }, 'ghcr.io/owner/app'],
    [
      'an entry of null',
      { docker: { auths: { 'ghcr.io': null }, credHelpers: null, credsStore: null } },
      'ghcr.io/owner/app',
    ],
    [
      'another host',
      { docker: { auths: { 'ghcr.io.example': auth('a:b'), 'xghcr.io': auth('a:b') } } },
      'ghcr.io/owner/app',
    ],
    ['another port', { docker: { auths: { 'localhost:5000': auth('a:b') } } }, 'localhost:5001/owner/app'],
    ['no port', { docker: { auths: { localhost: auth('a:b') } } }, 'localhost:5000/owner/app'],
    ['another namespace', { docker: { auths: { 'ghcr.io/other': auth('a:b') } } }, 'ghcr.io/owner/app'],
    ['a part of the namespace', { docker: { auths: { 'ghcr.io/own': auth('a:b') } } }, 'ghcr.io/owner/app'],
    ['a longer path', { docker: { auths: { 'ghcr.io/owner/app/dev': auth('a:b') } } }, 'ghcr.io/owner/app'],
    ['the namespace at another host', { docker: { auths: { 'ghcr.io/owner': auth('a:b') } } }, 'quay.io/owner/app'],
    [
      'a namespace that is named like another host',
      { docker: { auths: { 'quay.io': auth('a:b'), 'ghcr.io/quay.io': auth('a:b') } } },
      'ghcr.io/owner/quay.io',
    ],
    [
      'Docker Hub’s keys',
      { docker: { auths: { [hub]: auth('a:b'), 'index.docker.io': auth('a:b') } } },
      'ghcr.io/o/app',
    ],
  ])('but not with %s', async (_, setting, host) => {
    expect(await find(setting, host)).toEqual({ secrets: [] })
  })
})

describe('a file that can’t be read is named, with a hint', () => {
  test.each<readonly [string, unknown, string]>([
    ['no JSON', '{"auths":', ''],
    ['auths of another form', { auths: ['ghcr.io'] }, 'auths'],
    ['a helper that is a number', { credHelpers: { 'ghcr.io': 1 } }, 'credHelpers.ghcr.io'],
  ])('%s', async (_, docker, where) => {
    const error = await failureOf(find({ docker }))
    expect(error).toMatchObject({ host: 'ghcr.io', problem: 'other' })
    expect(error.message).toContain("Can't read the credentials for ghcr.io from ")
    expect(error.message).toContain('config.json')
    expect(error.message).toContain(where)
    expect(error.message).toContain('log in to ghcr.io again')
  })

  test.each<readonly [string, unknown]>([
    ['a secret without quotes', '{"auths":{"ghcr.io":{"auth": b2N0b2NhdDpzZWNyZXQ=}}}'],
    ['a password of digits', { auths: { 'ghcr.io': { username: 'octocat', password: 20260203 } } }],
    ['a text in place of an entry', { auths: { 'ghcr.io': 'b2N0b2NhdDpzZWNyZXQ=' } }],
  ])('without its secrets, which are not masked yet: %s', async (_, docker) => {
    const { message } = await failureOf(find({ docker }))
    expect(message).not.toContain('b2N0')
    expect(message).not.toContain('20260203')
  })
})

describe('credentials are requested from a helper', () => {
  const other = auth('other:one')

  test.each<readonly [string, Readonly<Record<string, string>>, unknown]>([
    [
      'of the host, before the store and the file',
      { one: answer('octocat', 'secret'), two: 'exit 2' },
      { credHelpers: { 'ghcr.io': 'one' }, credsStore: 'two', auths: { 'ghcr.io': other } },
    ],
    [
      'of the store, before the file',
      { two: answer('octocat', 'secret') },
      { credHelpers: { 'quay.io': 'one' }, credsStore: 'two', auths: { 'ghcr.io': other } },
    ],
    [
      'of the store, if the helper of the host has none',
      { one: knowsNone, two: answer('octocat', 'secret') },
      { credHelpers: { 'ghcr.io': 'one' }, credsStore: 'two' },
    ],
    [
      'of the file, if neither helper has a login',
      { one: knowsNone, two: knowsNone },
      { credHelpers: { 'ghcr.io': 'one' }, credsStore: 'two', auths: { 'ghcr.io': auth('octocat:secret') } },
    ],
    [
      'with the host as the key',
      { one: `[ "$*:$key" = get:ghcr.io ] || exit 3\n${answer('octocat', 'secret')}` },
      { credsStore: 'one' },
    ],
    ['that reads nothing', { one: `exec 0<&-\n${answer('octocat', 'secret')}` }, { credsStore: 'one' }],
  ])('%s', async (_, helpers, docker) => {
    const { credential, secrets } = await findWith(helpers, { docker })
    expect(credential).toEqual(octocat)
    expect(secrets).toContain('secret')
    expect(secrets).not.toContain('one')
  })

  test('with Docker’s key for Docker Hub', async () => {
    const script = `[ "$key" = ${hub} ] || exit 3\n${answer('octocat', 'secret')}`
    const { credential } = await findWith(
      { one: script },
      { docker: { credHelpers: { [hub]: 'one' } } },
      'docker.io/owner/app',
    )
    expect(credential).toEqual(octocat)
  })

  test.each([
    ['docker.io', hub],
    ['index.docker.io', hub],
  ])('that is set for Docker Hub as %s', async (key, input) => {
    const script = `[ "$key" = ${input} ] || exit 3\n${answer('octocat', 'secret')}`
    const { credential } = await findWith({ one: script }, { docker: { credHelpers: { [key]: 'one' } } }, 'app')
    expect(credential).toEqual(octocat)
  })

  test('that answers with an identity token', async () => {
    const { credential, secrets } = await findWith(
      { one: answer('<token>', 'identity') },
      { docker: { credsStore: 'one' } },
    )
    expect(credential).toEqual({ kind: 'identity-token', token: 'identity' })
    expect(secrets).toEqual(['identity'])
  })

  test('that has none, or answers with an empty secret', async () => {
    expect(await findWith({ one: knowsNone }, { docker: { credsStore: 'one' } })).toEqual({ secrets: [] })
    expect(await findWith({ one: answer('', '') }, { docker: { credsStore: 'one' } })).toEqual({ secrets: [] })
  })

  test.each<readonly [string, string, Readonly<Record<string, string>>, string]>([
    ['does not exist', 'one', {}, 'the program is not on the PATH'],
    ['fails', 'one', { one: "echo 'the keychain is locked' >&2; exit 1" }, 'the keychain is locked'],
    ['fails without output', 'one', { one: 'exit 3' }, 'it exited with status 3'],
    [
      'fails with half an answer',
      'one',
      { one: `echo '{"Username":"octocat","Secret":"secret"'; echo 'no answer' >&2; exit 1` },
      'no answer',
    ],
    [
      'fails, with the reason only on standard output',
      'one',
      { one: 'echo secret; exit 1' },
      'it exited with status 1',
    ],
    ['answers something else', 'one', { one: 'echo secret' }, 'its output is not the JSON of a credential helper'],
    ['has a path', '../one', { one: answer('octocat', 'secret') }, 'this is not a program name'],
  ])('one that %s is named, with the reason', async (_, name, helpers, reason) => {
    const { problem, message, detail } = await findWith(helpers, { docker: { credHelpers: { 'ghcr.io': name } } })
    expect(problem).toBe('other')
    expect(message).toContain(`The credential helper docker-credential-${name}, which is set in `)
    expect(message).toContain('config.json for ghcr.io, failed')
    expect(detail).toContain(reason)
    expect(message).not.toContain('secret')
  })
})
