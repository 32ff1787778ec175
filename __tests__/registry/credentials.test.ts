import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, test } from '@jest/globals'
import { type Credential, credentialsFrom } from '../../src/registry/credentials.ts'
import { afterwards, failureOf } from './connect.ts'

const run = promisify(execFile)
const octocat: Credential = { kind: 'password', username: 'octocat', password: 'secret' }
const hub = 'https://index.docker.io/v1/'

function auth(text: string): { readonly auth: string } {
  return { auth: Buffer.from(text).toString('base64') }
}

/** Each file is written as it stands, or as JSON. */
interface Setting {
  readonly docker?: unknown
  readonly podman?: readonly unknown[]
}

interface Found {
  readonly credential?: Credential
  /** The secrets, in the order in which they were told. */
  readonly told: readonly string[]
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

async function find(setting: Setting, host = 'ghcr.io'): Promise<Found> {
  const told: string[] = []
  const { files } = await write(setting)
  const credential = await credentialsFrom(files, (secret) => told.push(secret))(host)
  return { told, ...(credential && { credential }) }
}

async function findWith(helpers: Readonly<Record<string, string>>, setting: Setting, host = 'ghcr.io'): Promise<Found> {
  const [found] = await findOften(['at once'], helpers, setting, host)
  if (found === undefined) throw new Error('Nothing was printed')
  return found
}

/** When a program looks: five minutes after the last time, or because what it found was refused. */
type Look = 'at once' | 'later' | 'refused'

/** With these shell scripts, and nothing else, on the PATH; each gets the host as `$key`. */
async function findOften(
  looks: readonly Look[],
  helpers: Readonly<Record<string, string>>,
  setting: Setting,
  host = 'ghcr.io',
): Promise<readonly Found[]> {
  const { folder, files } = await write(setting)
  const programs = join(folder, 'programs')
  await mkdir(programs)
  for (const [name, script] of Object.entries(helpers))
    await writeFile(join(programs, `docker-credential-${name}`), `#!/bin/sh\nread -r key\n${script}\n`, { mode: 0o755 })
  const program = fileURLToPath(new URL('look-up.ts', import.meta.url))
  const { stdout } = await run(process.execPath, [program, looks.join(), host, files.docker, ...files.podman], {
    env: { PATH: programs },
  })
  return stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line))
}

function answer(username: string, secret: string): string {
  return `echo '${JSON.stringify({ ServerURL: 'x', Username: username, Secret: secret })}'`
}

const knowsNone = "echo 'credentials not found in native keychain'; exit 1"

describe('credentials are found in a file', () => {
  test.each<readonly [string, Setting, string]>([
    ['as docker login writes it', { docker: { auths: { 'ghcr.io': auth('octocat:secret') } } }, 'ghcr.io'],
    ['with its port', { docker: { auths: { 'localhost:5000': auth('octocat:secret') } } }, 'localhost:5000'],
    ['in plain', { docker: { auths: { 'ghcr.io': { username: 'octocat', password: 'secret' } } } }, 'ghcr.io'],
    ['padded with NULs, as Docker does', { docker: { auths: { 'ghcr.io': auth('octocat:secret\0\0') } } }, 'ghcr.io'],
    ['under the key of Docker Hub', { docker: { auths: { [hub]: auth('octocat:secret') } } }, 'docker.io'],
    ['under the name of Docker Hub', { podman: [{ auths: { 'docker.io': auth('octocat:secret') } }] }, 'docker.io'],
    ['with a scheme, as of old', { docker: { auths: { 'https://ghcr.io': auth('octocat:secret') } } }, 'ghcr.io'],
    ['with a scheme and path', { docker: { auths: { 'https://ghcr.io/v2/': auth('octocat:secret') } } }, 'ghcr.io'],
    ['of Podman, where Docker has none', { podman: [{ auths: { 'ghcr.io': auth('octocat:secret') } }] }, 'ghcr.io'],
    [
      'of Podman, where Docker’s does not know the host',
      {
        docker: { auths: { 'quay.io': auth('a:b'), 'ghcr.io': {} } },
        podman: [{}, { auths: { 'ghcr.io': auth('octocat:secret') } }],
      },
      'ghcr.io',
    ],
    [
      'of Docker, rather than Podman’s',
      { docker: { auths: { 'ghcr.io': auth('octocat:secret') } }, podman: [{ auths: { 'ghcr.io': auth('a:b') } }] },
      'ghcr.io',
    ],
    [
      'that comes first of Podman’s',
      { podman: [{ auths: { 'ghcr.io': auth('octocat:secret') } }, { auths: { 'ghcr.io': auth('a:b') } }] },
      'ghcr.io',
    ],
    [
      'under today’s key rather than the old one',
      { docker: { auths: { 'https://ghcr.io/v1/': auth('a:b'), 'ghcr.io': auth('octocat:secret') } } },
      'ghcr.io',
    ],
  ])('%s', async (_, setting, host) => {
    const { credential, told } = await find(setting, host)
    expect(credential).toEqual(octocat)
    expect(told).toContain('secret')
  })

  test('with a colon in the password', async () => {
    const { credential } = await find({ docker: { auths: { 'ghcr.io': auth('octocat:a:b') } } })
    expect(credential).toEqual({ ...octocat, password: 'a:b' })
  })

  test('as an identity token, and every secret beside it is told', async () => {
    const entry = { ...auth('00000000-0000-0000-0000-000000000000:'), identitytoken: 'identity' }
    const { credential, told } = await find({ docker: { auths: { 'ghcr.io': entry } } })
    expect(credential).toEqual({ kind: 'identity-token', token: 'identity' })
    expect(told).toContain('identity')
  })

  test('and told as they stand there as well, so that they can be masked', async () => {
    const entry = auth('octocat:secret')
    expect((await find({ docker: { auths: { 'ghcr.io': entry } } })).told).toEqual([entry.auth, 'secret'])
  })

  test.each<readonly [string, Setting, string]>([
    ['no file', {}, 'ghcr.io'],
    ['an empty object', { docker: {} }, 'ghcr.io'],
    ['an empty file, as Docker takes it', { docker: '' }, 'ghcr.io'],
    ['an entry of null', { docker: { auths: { 'ghcr.io': null }, credHelpers: null, credsStore: null } }, 'ghcr.io'],
    ['another host', { docker: { auths: { 'ghcr.io.example': auth('a:b'), 'xghcr.io': auth('a:b') } } }, 'ghcr.io'],
    ['another port', { docker: { auths: { 'localhost:5000': auth('a:b') } } }, 'localhost:5001'],
    ['no port', { docker: { auths: { localhost: auth('a:b') } } }, 'localhost:5000'],
    ['a longer path', { docker: { auths: { 'ghcr.io/owner': auth('a:b') } } }, 'ghcr.io'],
  ])('and none with %s', async (_, setting, host) => {
    expect(await find(setting, host)).toEqual({ told: [] })
  })
})

describe('a file that can’t be read is named, with what to do', () => {
  test.each<readonly [string, unknown, string]>([
    ['no JSON', '{"auths":', ''],
    ['auths of another form', { auths: ['ghcr.io'] }, 'auths'],
    ['a helper that is a number', { credHelpers: { 'ghcr.io': 1 } }, 'credHelpers.ghcr.io'],
  ])('%s', async (_, docker, where) => {
    const error = await failureOf(find({ docker }))
    expect(error).toMatchObject({ host: 'ghcr.io', problem: 'other' })
    expect(error.message).toContain("The credentials for ghcr.io can't be read from ")
    expect(error.message).toContain('config.json')
    expect(error.message).toContain(where)
    expect(error.message).toContain('log in to ghcr.io again')
  })

  test.each<readonly [string, unknown]>([
    ['a secret without quotes', '{"auths":{"ghcr.io":{"auth": b2N0b2NhdDpzZWNyZXQ=}}}'],
    ['a password of digits', { auths: { 'ghcr.io': { username: 'octocat', password: 20260203 } } }],
    ['a text in place of an entry', { auths: { 'ghcr.io': 'b2N0b2NhdDpzZWNyZXQ=' } }],
  ])('without its secrets, which nothing masks yet: %s', async (_, docker) => {
    const { message } = await failureOf(find({ docker }))
    expect(message).not.toContain('b2N0')
    expect(message).not.toContain('20260203')
  })
})

describe('credentials are asked of a helper program', () => {
  const other = auth('other:one')

  test.each<readonly [string, Readonly<Record<string, string>>, unknown]>([
    [
      'of the host’s, before the store and the file',
      { one: answer('octocat', 'secret'), two: 'exit 2' },
      { credHelpers: { 'ghcr.io': 'one' }, credsStore: 'two', auths: { 'ghcr.io': other } },
    ],
    [
      'of the store, before the file',
      { two: answer('octocat', 'secret') },
      { credHelpers: { 'quay.io': 'one' }, credsStore: 'two', auths: { 'ghcr.io': other } },
    ],
    [
      'of the store, where the host’s knows none',
      { one: knowsNone, two: answer('octocat', 'secret') },
      { credHelpers: { 'ghcr.io': 'one' }, credsStore: 'two' },
    ],
    [
      'and then of the file, where none of them knows any',
      { one: knowsNone, two: knowsNone },
      { credHelpers: { 'ghcr.io': 'one' }, credsStore: 'two', auths: { 'ghcr.io': auth('octocat:secret') } },
    ],
    [
      'by the host alone',
      { one: `[ "$*:$key" = get:ghcr.io ] || exit 3\n${answer('octocat', 'secret')}` },
      { credsStore: 'one' },
    ],
    ['that reads nothing', { one: `exec 0<&-\n${answer('octocat', 'secret')}` }, { credsStore: 'one' }],
  ])('%s', async (_, helpers, docker) => {
    const { credential, told } = await findWith(helpers, { docker })
    expect(credential).toEqual(octocat)
    expect(told).toContain('secret')
    expect(told).not.toContain('one')
  })

  test('by the key that Docker Hub has', async () => {
    const script = `[ "$key" = ${hub} ] || exit 3\n${answer('octocat', 'secret')}`
    const { credential } = await findWith({ one: script }, { docker: { credHelpers: { [hub]: 'one' } } }, 'docker.io')
    expect(credential).toEqual(octocat)
  })

  test('that answers with an identity token', async () => {
    const { credential, told } = await findWith(
      { one: answer('<token>', 'identity') },
      { docker: { credsStore: 'one' } },
    )
    expect(credential).toEqual({ kind: 'identity-token', token: 'identity' })
    expect(told).toEqual(['identity'])
  })

  test('and there are none where it knows none, or says so with an empty secret', async () => {
    expect(await findWith({ one: knowsNone }, { docker: { credsStore: 'one' } })).toEqual({ told: [] })
    expect(await findWith({ one: answer('', '') }, { docker: { credsStore: 'one' } })).toEqual({ told: [] })
  })

  test.each<readonly [string, string, Readonly<Record<string, string>>, string]>([
    ['is not there', 'one', {}, 'there is no such program on the PATH'],
    ['fails', 'one', { one: "echo 'the keychain is locked' >&2; exit 1" }, 'the keychain is locked'],
    ['fails without a word', 'one', { one: 'exit 3' }, 'it ended with status 3'],
    [
      'fails with half an answer',
      'one',
      { one: `echo '{"Username":"octocat","Secret":"secret"'; echo 'no answer' >&2; exit 1` },
      'no answer',
    ],
    [
      'fails, and says why on its standard output alone',
      'one',
      { one: 'echo secret; exit 1' },
      'it ended with status 1',
    ],
    ['answers something else', 'one', { one: 'echo secret' }, 'its answer is not the JSON of a credential helper'],
    ['lies elsewhere', '../one', { one: answer('octocat', 'secret') }, 'this is not the name of a program'],
  ])('one that %s is named, with the reason', async (_, name, helpers, reason) => {
    const { problem, message, detail } = await findWith(helpers, { docker: { credHelpers: { 'ghcr.io': name } } })
    expect(problem).toBe('other')
    expect(message).toContain(`The credential helper docker-credential-${name}, which `)
    expect(message).toContain('config.json names for ghcr.io, failed')
    expect(detail).toContain(reason)
    expect(message).not.toContain('secret')
  })
})

describe('what a helper answers is kept', () => {
  const docker = { credHelpers: { 'ghcr.io': 'one' } }
  /** Answers `secret 1`, then `secret 2`, and so on: which time it is stands in a file beside it. */
  const counting = [
    'count=1',
    '[ -f "$0.count" ] && read -r count <"$0.count"',
    'echo $((count + 1)) >"$0.count"',
    `echo '{"Username":"octocat","Secret":"secret '$count'"}'`,
  ].join('\n')

  async function secretsOf(looks: readonly Look[], one: string): Promise<readonly (string | undefined)[]> {
    const found = await findOften(looks, { one }, { docker })
    return found.map(({ credential, detail }) => (credential?.kind === 'password' ? credential.password : detail))
  }

  test('for the requests of one moment', async () => {
    expect(await secretsOf(['at once', 'at once'], counting)).toEqual(['secret 1', 'secret 1'])
  })

  test('for minutes and no longer, as it may be a token of which a long build sees the end', async () => {
    expect(await secretsOf(['at once', 'later', 'at once'], counting)).toEqual(['secret 1', 'secret 2', 'secret 2'])
  })

  test('until a registry refuses it', async () => {
    expect(await secretsOf(['at once', 'refused', 'at once'], counting)).toEqual(['secret 1', 'secret 2', 'secret 2'])
  })

  test('not where it failed', async () => {
    const once = `${counting}\n[ $count -gt 1 ] || { echo 'the network is down' >&2; exit 1; }`
    const [first, ...others] = await secretsOf(['at once', 'at once', 'at once'], once)
    expect(first).toContain('the network is down')
    expect(others).toEqual(['secret 2', 'secret 2'])
  })
})
