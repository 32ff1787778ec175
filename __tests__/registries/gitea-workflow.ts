import { execFile } from 'node:child_process'
import { cp, mkdir, mkdtemp, readFile, realpath, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { request } from 'undici'
import { nixEnvironment, removeNixFolder } from '../support/nix.ts'
import type { Gitea } from './gitea.ts'
import { builtProgram } from './programs.ts'
import { startProgram } from './server.ts'

const run = promisify(execFile)
const checkout = fileURLToPath(new URL('../..', import.meta.url))

/** A repository of `writer` on a Gitea with a runner, which runs the workflow of examples/workflows/gitea.yml. */
export interface WorkflowRepository {
  /** Changes files, and pushes the commit; returns its full SHA. */
  readonly push: (files: Readonly<Record<string, string>>) => Promise<string>
  /** Waits for the run of a commit to end. */
  readonly finished: (commit: string) => Promise<WorkflowRun>
  readonly close: () => Promise<void>
}

export interface WorkflowRun {
  /** By the job's name. */
  readonly conclusions: Readonly<Record<string, string>>
  /** The logs of all jobs, one after another. */
  readonly log: string
}

export async function openWorkflowRepository(gitea: Gitea): Promise<WorkflowRepository> {
  const folder = await mkdtemp(join(await realpath(tmpdir()), 'gitea-workflow-'))
  try {
    const { password: token } = await gitea.login('all')
    const server: Server = { host: gitea.host, token, folder }
    await publishActions(server)
    const app = await createApp(server, (await gitea.login('write:package')).password)
    const runner = await startRunner(gitea, folder)
    return {
      push: (files) => pushFiles(server, app, files),
      finished: (commit) => Promise.race([finishedRun(server, commit), runner.ended]),
      close: async () => {
        await runner.close()
        await removeNixFolder(folder)
      },
    }
  } catch (error) {
    await removeNixFolder(folder)
    throw error
  }
}

interface Server {
  readonly host: string
  /** An access token with all permissions. */
  readonly token: string
  readonly folder: string
}

// The repositories

/**
 * Puts this checkout's action on the Gitea, and stand-ins for other actions, which can't be fetched without network.
 */
async function publishActions(server: Server): Promise<void> {
  const action = join(server.folder, 'action')
  await mkdir(action)
  for (const part of ['action.yml', 'dist']) await cp(join(checkout, part), join(action, part), { recursive: true })
  await publishAction(server, 'nix-image-action/nix-image-action', 'v1', action)
  for (const [name, tag, metadata] of STAND_INS) {
    const folder = await mkdtemp(join(server.folder, 'action-'))
    await writeFile(join(folder, 'action.yml'), metadata)
    await publishAction(server, name, tag, folder)
  }
}

const STAND_INS = [
  [
    'actions/checkout',
    'v7',
    `inputs: { persist-credentials: { default: "true" }, token: { default: "\${{ github.token }}" } }
runs:
  using: composite
  steps:
    - shell: bash
      env: { TOKEN: "\${{ inputs.token }}" }
      run: |
        git init -q .
        git -c http.extraHeader="Authorization: token $TOKEN" fetch -q "$GITHUB_SERVER_URL/$GITHUB_REPOSITORY" "$GITHUB_SHA"
        git checkout -q FETCH_HEAD
`,
  ],
  [
    'docker/login-action',
    'v4',
    `inputs: { registry: {}, username: {}, password: {} }
runs:
  using: composite
  steps:
    - shell: bash
      env: { REGISTRY: "\${{ inputs.registry }}", LOGIN: "\${{ inputs.username }}:\${{ inputs.password }}" }
      run: |
        mkdir -p ~/.docker
        printf '{"auths":{"%s":{"auth":"%s"}}}' "$REGISTRY" "$(printf %s "$LOGIN" | base64 -w0)" > ~/.docker/config.json
`,
  ],
  [
    'cachix/install-nix-action',
    'v31',
    `runs:
  using: composite
  steps: [{ shell: bash, run: nix --version }]
`,
  ],
] as const

async function publishAction(server: Server, name: string, tag: string, folder: string): Promise<void> {
  const [owner = '', repository = ''] = name.split('/')
  await call(server, 'POST', '/orgs', { username: owner })
  await call(server, 'POST', `/orgs/${owner}/repos`, { name: repository })
  await git(folder, 'init', '--quiet', '--initial-branch=main')
  await git(folder, 'add', '--force', '--all')
  await git(folder, 'commit', '--quiet', '--message=Add the action')
  await git(folder, 'tag', tag)
  await git(folder, 'push', '--quiet', remote(server, name), 'main', tag)
}

/** Creates the repository `writer/app` with the example flake and a login to the registry. Returns its work tree. */
async function createApp(server: Server, registryToken: string): Promise<string> {
  const folder = join(server.folder, 'app')
  await cp(join(checkout, 'examples/hello'), folder, { recursive: true })
  const workflow = await readFile(join(checkout, 'examples/workflows/gitea.yml'), 'utf8')
  await mkdir(join(folder, '.gitea/workflows'), { recursive: true })
  await writeFile(join(folder, '.gitea/workflows/image.yml'), workflow.replaceAll('gitea.example.com', server.host))
  await call(server, 'POST', '/user/repos', { name: 'app' })
  await call(server, 'POST', '/repos/writer/app/actions/variables/REGISTRY_USER', { value: 'writer' })
  await call(server, 'PUT', '/repos/writer/app/actions/secrets/REGISTRY_TOKEN', { data: registryToken })
  await git(folder, 'init', '--quiet', '--initial-branch=main')
  return folder
}

async function pushFiles(server: Server, folder: string, files: Readonly<Record<string, string>>): Promise<string> {
  for (const [name, content] of Object.entries(files)) await writeFile(join(folder, name), content)
  await git(folder, 'add', '--all')
  await git(folder, 'commit', '--quiet', '--message=Change files')
  await git(folder, 'push', '--quiet', remote(server, 'writer/app'), 'main')
  return (await git(folder, 'rev-parse', 'HEAD')).trim()
}

function remote({ host, token }: Server, name: string): string {
  return `http://writer:${token}@${host}/${name}`
}

async function git(folder: string, ...args: readonly string[]): Promise<string> {
  const author = ['-c', 'user.name=writer', '-c', 'user.email=writer@example.org', '-c', 'commit.gpgSign=false']
  const { stdout } = await run('git', [...author, ...args], { cwd: folder })
  return stdout
}

// The runner

/** Starts Gitea's runner, which runs jobs on this machine. */
async function startRunner(gitea: Gitea, parent: string): Promise<ReturnType<typeof startProgram>> {
  const folder = join(parent, 'runner')
  await mkdir(folder)
  const config = join(folder, 'config.json')
  const settings = {
    runner: {
      file: join(folder, 'registration'),
      capacity: 2,
      fetch_interval: '1s',
      envs: await nixEnvironment(folder),
    },
    cache: { enabled: false },
    host: { workdir_parent: join(folder, 'work') },
  }
  // JSON is valid YAML.
  await writeFile(config, JSON.stringify(settings))
  const token = await gitea.command('actions', 'generate-runner-token')
  const labels = ['--labels', 'ubuntu-24.04:host,ubuntu-24.04-arm:host']
  const registration = ['--no-interactive', '--instance', `http://${gitea.host}`, '--token', token, ...labels]
  await run(builtProgram('gitea-runner').path, ['--config', config, 'register', ...registration], { cwd: folder })
  return startProgram({ place: { folder }, program: 'gitea-runner', args: ['--config', config, 'daemon'] })
}

// The runs

interface RunOnServer {
  readonly id: number
  readonly head_sha: string
  readonly status: string
}

interface JobOnServer {
  readonly id: number
  readonly name: string
  readonly status: string
  readonly conclusion: string
}

async function finishedRun(server: Server, commit: string): Promise<WorkflowRun> {
  const actions = '/repos/writer/app/actions'
  while (true) {
    const { workflow_runs: runs } = JSON.parse(await call(server, 'GET', `${actions}/runs`)) as {
      readonly workflow_runs: readonly RunOnServer[]
    }
    const found = runs.find(({ head_sha, status }) => head_sha === commit && status === 'completed')
    if (found !== undefined) {
      const { jobs } = JSON.parse(await call(server, 'GET', `${actions}/runs/${found.id}/jobs`)) as {
        readonly jobs: readonly JobOnServer[]
      }
      const ran = jobs.filter(({ conclusion }) => conclusion !== 'skipped')
      const logs = await Promise.all(ran.map(({ id }) => call(server, 'GET', `${actions}/jobs/${id}/logs`)))
      return {
        conclusions: Object.fromEntries(jobs.map(({ name, conclusion }) => [name, conclusion])),
        log: logs.join('\n'),
      }
    }
    await delay(500)
  }
}

async function call(
  { host, token }: Server,
  method: 'GET' | 'POST' | 'PUT',
  path: string,
  value?: unknown,
): Promise<string> {
  const headers = { authorization: `token ${token}`, 'content-type': 'application/json' }
  const options = { method, headers, ...(value !== undefined && { body: JSON.stringify(value) }) }
  const { statusCode, body } = await request(`http://${host}/api/v1${path}`, options)
  const text = await body.text()
  if (statusCode >= 300) throw new Error(`${method} ${path}: status ${statusCode}: ${text}`)
  return text
}
