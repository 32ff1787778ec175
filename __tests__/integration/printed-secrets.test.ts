import { execFile } from 'node:child_process'
import { chmod, mkdir, mkdtemp, readFile, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { type Lab, startLab } from '../support/lab.ts'
import { type RegistryOptions, type SeenRequest, startRegistry, type TestRegistry } from '../support/registry.ts'
import { type ActionCall, type ActionRun, passed } from '../support/runner.ts'

// Runs every mode with debug logging, against each way that registries authenticate, and searches everything that
// remains, including the arguments of programs, for secrets.

const USER = 'octocat'
/** Each encoded form of it is a different text. */
const PASSWORD = 'pa&ss/w?rd+>~ of "octocat"'
const IDENTITY_TOKEN = 'identity/token+of&octocat=='
const STEP = {
  INPUT_TOKEN: 'token-of-the-input~?>',
  ACTIONS_ID_TOKEN_REQUEST_TOKEN: 'token-of-oidc~?>',
  GITHUB_TOKEN: 'token-of-the-job~?>',
}

const login = { user: USER, password: PASSWORD }
const bearer = { kind: 'bearer', ...login } as const

interface Setting {
  readonly options: RegistryOptions
  /** Passes the credentials to the action. */
  readonly from: 'file' | 'helper' | 'identity-token' | 'helper with an identity token'
  /** Whether to test pushing with Docker too. */
  readonly docker: boolean
}

const SETTINGS: readonly (readonly [string, Setting])[] = [
  ['Basic authentication', { options: { auth: { kind: 'basic', ...login } }, from: 'file', docker: true }],
  ['Bearer tokens', { options: { auth: bearer }, from: 'helper', docker: true }],
  [
    'an identity token',
    { options: { auth: { ...bearer, identityToken: IDENTITY_TOKEN } }, from: 'identity-token', docker: false },
  ],
  [
    'signed URLs of an object store',
    {
      options: { auth: { ...bearer, identityToken: IDENTITY_TOKEN }, objectStore: true },
      from: 'helper with an identity token',
      docker: false,
    },
  ],
]

let lab: Lab
/** The state of each test; the lab's own artifacts stay unused. */
const registries: TestRegistry[] = []
beforeAll(async () => {
  lab = await startLab()
})
afterAll(async () => {
  await Promise.all(registries.map((registry) => registry.close()))
  await lab.close()
})

async function openRegistry(options: RegistryOptions): Promise<TestRegistry> {
  const registry = await startRegistry(options)
  registries.push(registry)
  return registry
}

describe.each(SETTINGS)('with %s', (_, setting) => {
  test('steps that succeed neither print a secret, write it to a file, nor pass it as an argument', async () => {
    const registry = await openRegistry(setting.options)
    const watched = await watch([registry], setting.from)
    const image = `${registry.host}/owner/app`
    const build = (system: string, inputs: Readonly<Record<string, string>>, runAttempt = 1) =>
      watched.run('build', {
        matrix: { system },
        runAttempt,
        inputs: { image, labels: 'org.example.commit=1', ...inputs },
      })

    passed(await watched.run('plan', { inputs: { image } }))
    passed(await build('x86_64-linux', {}))
    passed(await build('aarch64-linux', setting.docker ? { 'push-with': 'docker', labels: '' } : {}))
    passed(await watched.run('merge', { inputs: { image } }))
    const unchanged = passed(await build('x86_64-linux', {}))
    expect(unchanged.outputs.unchanged).toBe('true')
    const relabelled = passed(await build('x86_64-linux', { labels: 'org.example.commit=2' }, 2))
    expect(relabelled.log).not.toContain('nix build')
    await watched.expectNoSecrets()
  }, 120_000)

  test('nor do steps that fail, even if the registry repeats the request', async () => {
    const registry = await openRegistry(setting.options)
    const watched = await watch([registry], setting.from)
    const image = `${registry.host}/owner/app`
    const build = (inputs: Readonly<Record<string, string>> = {}) =>
      watched.run('build', { matrix: { system: 'x86_64-linux' }, jobTotal: 1, inputs: { image, ...inputs } })
    const merge = (digests: string) => watched.run('merge', { inputs: { image, digests } })
    const failing = async (step: Promise<ActionRun>, detail = /echo of/) => {
      const { exitCode, errors, tempLeft } = await step
      expect({ exitCode, tempLeft }).toEqual({ exitCode: 1, tempLeft: [] })
      expect(errors.join('\n')).toMatch(detail)
    }

    const credential = isIdentity(setting.from) ? IDENTITY_TOKEN : PASSWORD
    const repeat = (status: number, request: SeenRequest) => echo(status, request, credential)

    // Uploads that fail at their end, at an object store if the registry has one.
    registry.setFault((request) =>
      request.method === 'PUT' && request.route === 'upload' ? repeat(400, request) : undefined,
    )
    await failing(build())
    // Blobs that can't be read.
    registry.setFault(undefined)
    passed(await build())
    registry.setFault((request) =>
      request.method === 'GET' && request.route === 'blob' ? repeat(403, request) : undefined,
    )
    await failing(watched.run('merge', { inputs: { image } }))
    // Bytes that change in transit.
    registry.setFault((request) => (request.route === 'blob' ? { kind: 'corrupt' } : undefined))
    await failing(watched.run('merge', { inputs: { image } }), /digest|damaged|bytes/i)
    // A missing manifest.
    registry.setFault((request) => (request.route === 'manifest' ? repeat(404, request) : undefined))
    await failing(merge(`sha256:${'0'.repeat(64)}`), /is not in the registry/)
    // A temporary failure, so that the retry is logged.
    registry.setFault((request) =>
      request.method === 'POST' && request.count % 2 === 1 ? repeat(503, request) : undefined,
    )
    await build({ rebuild: 'true' })
    // A login that the registry and its token realm refuse.
    registry.setFault((request) => (request.route === 'token' ? repeat(403, request) : undefined))
    if (setting.options.auth?.kind === 'bearer') await failing(build())
    registry.setFault((request) => (request.authorization === undefined ? undefined : repeat(403, request)))
    await failing(build())
    await failing(merge(`sha256:${'0'.repeat(64)}`))
    if (setting.docker) await failing(build({ 'push-with': 'docker' }))
    registry.setFault(undefined)
    await watched.expectNoSecrets()
  }, 120_000)
})

test('a wrong password is not printed', async () => {
  for (const auth of [{ kind: 'basic', ...login } as const, bearer]) {
    const registry = await openRegistry({ auth })
    const wrong = 'wrong&pass/w?rd+>~'
    const watched = await watch([registry], 'file', wrong)
    const image = `${registry.host}/owner/app`
    for (const step of [
      await watched.run('build', { matrix: { system: 'x86_64-linux' }, jobTotal: 1, inputs: { image } }),
      await watched.run('merge', { inputs: { image, digests: `sha256:${'0'.repeat(64)}` } }),
    ])
      expect(step.errors.join()).toMatch(/invalid credentials|did not accept the credentials/)
    await watched.expectNoSecrets([wrong])
  }
})

test('a credential helper that fails with a secret on its output prints none', async () => {
  const registry = await openRegistry({ auth: bearer })
  const watched = await watch([registry], 'helper')
  await writeFile(join(watched.programs, 'docker-credential-lab'), `#!/bin/sh\necho '${PASSWORD}'\nexit 1\n`)
  const { errors } = await watched.run('merge', {
    inputs: { image: `${registry.host}/owner/app`, digests: `sha256:${'0'.repeat(64)}` },
  })
  expect(errors.join()).toContain('docker-credential-lab')
  await watched.expectNoSecrets([])
})

test('copying images between registries prints no secret', async () => {
  const [basic, tokens] = [
    await openRegistry({ auth: { kind: 'basic', ...login } }),
    await openRegistry({ auth: bearer, objectStore: true }),
  ]
  const watched = await watch([basic, tokens], 'file')
  const images = [basic, tokens].map(({ host }) => `${host}/owner/app`)
  const built = passed(
    await watched.run('build', {
      matrix: { system: 'x86_64-linux' },
      jobTotal: 1,
      inputs: { image: images[0] ?? '' },
    }),
  )
  const inputs = { image: images.join('\n'), digests: built.outputs.record ?? '' }
  const merged = passed(await watched.run('merge', { inputs }))
  for (const registry of [basic, tokens]) expect(registry.tags('owner/app').get('latest')).toBe(merged.outputs.digest)
  await watched.expectNoSecrets()
})

/** Answers with the content of the request and the credentials of its sender, in several forms. */
function echo(status: number, { path, headers, authorization = '' }: SeenRequest, credential: string) {
  const [scheme, ...rest] = authorization.split(' ')
  const decoded = scheme === 'Basic' ? Buffer.from(rest.join(' '), 'base64').toString() : ''
  const form = new URLSearchParams({ credential })
  const url = `http://${headers.host}${path}`
  const forms = [authorization, decoded, credential, encodeURIComponent(credential), form, path, url]
  const message = `echo of ${forms.join(' | ')}`
  return { kind: 'status', status, body: JSON.stringify({ errors: [{ code: 'UNKNOWN', message }] }) } as const
}

function isIdentity(from: Setting['from']): boolean {
  return from === 'identity-token' || from === 'helper with an identity token'
}

interface Watched {
  /** The folder of the programs that record their arguments. */
  readonly programs: string
  run(mode: string, call: Partial<ActionCall>): Promise<ActionRun>
  /** Searches everything that the steps have left behind. `more` are additional secrets. */
  expectNoSecrets(more?: readonly string[]): Promise<void>
}

/** Runs steps with programs on the PATH that record their arguments, and the files in RUNNER_TEMP. */
async function watch(
  registries: readonly TestRegistry[],
  from: Setting['from'],
  password = PASSWORD,
): Promise<Watched> {
  const folder = await mkdtemp(join(lab.folder, 'watched-'))
  const programs = join(folder, 'programs')
  const notes = join(folder, 'notes')
  const config = join(folder, 'docker')
  await Promise.all([mkdir(programs), mkdir(config), writeFile(notes, '')])
  for (const name of ['nix', 'docker', 'skopeo', 'xz']) {
    const { stdout } = await promisify(execFile)('sh', ['-c', `command -v ${name}`])
    await writeProgram(programs, name, notes, `exec ${stdout.trim()} "$@"`)
  }
  const identity = isIdentity(from)
  const answer = identity ? { Username: '<token>', Secret: IDENTITY_TOKEN } : { Username: USER, Secret: password }
  await writeFile(join(folder, 'answer'), JSON.stringify(answer))
  await writeProgram(programs, 'docker-credential-lab', notes, `cat ${join(folder, 'answer')}`)
  const auth = identity
    ? { identitytoken: IDENTITY_TOKEN }
    : { auth: Buffer.from(`${USER}:${password}`).toString('base64') }
  const hosts = registries.map(({ host }) => host)
  const helped = from === 'helper' || from === 'helper with an identity token'
  const logins = helped
    ? { credHelpers: Object.fromEntries(hosts.map((host) => [host, 'lab'])) }
    : { auths: Object.fromEntries(hosts.map((host) => [host, auth])) }
  await writeFile(join(config, 'config.json'), JSON.stringify(logins))
  await symlink(join(process.env.DOCKER_CONFIG ?? '', 'cli-plugins'), join(config, 'cli-plugins'))

  const steps: ActionRun[] = []
  const given = { DOCKER_HOST: process.env.DOCKER_HOST, DOCKER_CONFIG: config, PATH: `${programs}:${process.env.PATH}` }
  return {
    programs,
    async run(mode, call) {
      const env = { ...given, ...STEP, RUNNER_DEBUG: '1', ...call.env }
      const inputs = { mode, ...call.inputs }
      // The tests share one run, of which this is the last attempt.
      const step = await lab.build('', { runAttempt: 2, ...call, token: STEP.INPUT_TOKEN, env, inputs })
      steps.push(step)
      return step
    },
    async expectNoSecrets(more = []) {
      const secrets = [
        PASSWORD,
        IDENTITY_TOKEN,
        ...Object.values(STEP),
        lab.artifacts.env.ACTIONS_RUNTIME_TOKEN,
        ...registries.flatMap(({ requests }) => requests.flatMap(secretsOf)),
        ...more,
      ]
      // The artifact client prints its responses for debugging, and relies on the runner to mask them.
      const { signatures } = lab.artifacts
      const places = [
        findSecrets([await readFile(notes, 'utf8')], [...secrets, ...signatures]),
        ...steps.map(({ raw, masks: _, log, outputs, ...step }) => [
          findSecrets([withoutMasking(raw)], secrets),
          findSecrets([log, JSON.stringify(outputs), ...Object.values(step).map(String)], [...secrets, ...signatures]),
        ]),
      ].flat(2)
      expect(places).toEqual([])
    },
  }
}

async function writeProgram(folder: string, name: string, notes: string, script: string): Promise<void> {
  const path = join(folder, name)
  const take = `{ echo "$0 $*"; [ -z "$RUNNER_TEMP" ] || find "$RUNNER_TEMP" -type f -size -64k -exec cat {} +; } >> ${notes} 2>&1`
  await writeFile(path, `#!/bin/sh\n${take}\n${script}\n`)
  await chmod(path, 0o755)
}

/** The credentials of a request: the header's value, and the signature of a signed URL. */
function secretsOf({ authorization, path }: SeenRequest): readonly string[] {
  const signature = new URL(path, 'http://localhost').searchParams.get('signature')
  return [authorization?.replace(/^\S+ /, ''), signature ?? undefined].flatMap((secret) => secret ?? [])
}

/** Describes each place that contains a secret in any form. */
function findSecrets(texts: readonly string[], secrets: readonly string[]): readonly string[] {
  const forms = [...new Set(secrets)].flatMap(formsOf)
  return texts.flatMap((text) =>
    forms.filter((form) => text.includes(form)).map((form) => `${form} in: ${lineWith(text, form)}`),
  )
}

/** The output as the runner shows it, after processing the masking commands. */
function withoutMasking(raw: string): string {
  return raw.replace(/^::add-mask::.*\n/gm, '')
}

/** The forms in which this action or another program may write a secret. */
function formsOf(secret: string): readonly string[] {
  const bytes = Buffer.from(secret)
  const forms = [
    secret,
    encodeURIComponent(secret),
    new URLSearchParams([['', secret]]).toString().slice(1),
    JSON.stringify(secret).slice(1, -1),
    bytes.toString('base64').replace(/=+$/, ''),
    bytes.toString('base64url'),
  ]
  return [...new Set(forms)]
}

function lineWith(text: string, part: string): string {
  return text.split('\n').find((line) => line.includes(part)) ?? text
}
