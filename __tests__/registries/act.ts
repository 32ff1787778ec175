import { execFile } from 'node:child_process'
import { cp, mkdir, mkdtemp, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { nixEnvironment, removeNixFolder } from '../support/nix.ts'
import { builtProgram } from './programs.ts'
import { findPlace } from './server.ts'

// Runs workflows on this machine with act, which knows GitHub's syntax for jobs, matrices and reusable workflows.

const run = promisify(execFile)
const checkout = fileURLToPath(new URL('../..', import.meta.url))

export interface WorkflowCall {
  /** The caller's workflow. */
  readonly workflow: string
  readonly event?: 'push' | 'pull_request'
  /** Values of `secrets.…`. `GITHUB_TOKEN` is also `github.token`. */
  readonly secrets: Readonly<Record<string, string>>
  /** The environment of all steps. */
  readonly env?: Readonly<Record<string, string>>
  /** A certificate authority to trust, in PEM format. */
  readonly certificate?: string
}

export interface WorkflowEnd {
  readonly succeeded: boolean
  readonly log: string
}

/** Runs a workflow that calls the reusable workflow of this checkout, in the repository octocat/app with the example. */
export async function runCaller({
  workflow,
  event = 'push',
  secrets,
  env,
  certificate,
}: WorkflowCall): Promise<WorkflowEnd> {
  const { folder, port } = await findPlace()
  try {
    const app = await createApp(folder, workflow)
    const authority = join(folder, 'authority.pem')
    await writeFile(authority, certificate ?? '')
    const variables = {
      ...(await nixEnvironment(join(folder, 'nix'))),
      ...(certificate !== undefined && { NODE_EXTRA_CA_CERTS: authority }),
      DOCKER_CONFIG: join(folder, 'docker'),
      ...env,
    }
    // act's server can't list the artifacts of a run (here, run 1) before the first upload.
    await mkdir(join(folder, 'artifacts/1'), { recursive: true })
    const options = [
      ...['--actor', 'octocat', '--no-cache-server', '--container-daemon-socket', '-'],
      ...['--artifact-server-addr', '127.0.0.1', '--artifact-server-port', String(port)],
      ...['--artifact-server-path', join(folder, 'artifacts')],
      ...['--use-new-action-cache', '--action-cache-path', join(folder, 'cache')],
      ...['--platform', 'ubuntu-24.04=-self-hosted', '--platform', 'ubuntu-24.04-arm=-self-hosted'],
      ...(await actions(folder)).flatMap((local) => ['--local-repository', local]),
      ...Object.entries(variables).flatMap(([name, value]) => ['--env', `${name}=${value}`]),
      ...Object.entries(secrets).flatMap(([name, value]) => ['--secret', `${name}=${value}`]),
    ]
    const ended = run(builtProgram('act').path, [event, ...options], {
      cwd: app,
      env: { PATH: process.env['PATH'], HOME: folder },
      maxBuffer: 64 * 1024 * 1024,
      timeout: 150_000,
    })
    return await ended.then(
      ({ stdout, stderr }) => ({ succeeded: true, log: stdout + stderr }),
      ({ stdout, stderr }: { readonly stdout: string; readonly stderr: string }) => ({
        succeeded: false,
        log: stdout + stderr,
      }),
    )
  } finally {
    await removeNixFolder(folder)
  }
}

async function createApp(parent: string, workflow: string): Promise<string> {
  const folder = join(parent, 'app')
  await cp(join(checkout, 'examples/hello'), folder, { recursive: true })
  await mkdir(join(folder, '.github/workflows'), { recursive: true })
  await writeFile(join(folder, '.github/workflows/image.yml'), workflow)
  const git = (...args: readonly string[]) => run('git', [...AUTHOR, ...args], { cwd: folder })
  await git('init', '--quiet', '--initial-branch=main')
  await git('remote', 'add', 'origin', 'https://github.com/octocat/app')
  await git('add', '--all')
  await git('commit', '--quiet', '--message=Add the image')
  return folder
}

const AUTHOR = ['-c', 'user.name=octocat', '-c', 'user.email=octocat@example.org', '-c', 'commit.gpgSign=false']

/** Returns the folders of all actions that the reusable workflow uses, and of the workflow itself, as act takes them. */
async function actions(parent: string): Promise<readonly string[]> {
  const own = join(parent, 'action')
  await cp(join(checkout, 'dist'), join(own, 'dist'), { recursive: true })
  const text = await readFile(join(checkout, '.github/workflows/publish.yml'), 'utf8')
  await mkdir(join(own, '.github/workflows'), { recursive: true })
  await writeFile(join(own, '.github/workflows/publish.yml'), forAct(text))
  const used = new Set(text.match(/(?<=uses: )[\w-]+\/[\w-]+@\S+/g))
  const standIns = [...used].map(async (name) => {
    const folder = await mkdtemp(join(parent, 'action-'))
    await writeFile(join(folder, 'action.yml'), STAND_INS[name.replace(/@.*/, '')] ?? '')
    return `${name}=${folder}`
  })
  return [`nix-image-action/nix-image-action@v1=${own}`, ...(await Promise.all(standIns))]
}

/** Replaces the syntax of GitHub that act 0.2.89 does not know. */
function forAct(workflow: string): string {
  const changes = [
    ['uses: $/dist', 'uses: nix-image-action/nix-image-action/dist@v1'],
    ['      queue: max\n', ''],
  ] as const
  return changes.reduce((text, [from, to]) => {
    if (!text.includes(from)) throw new Error(`the workflow does not contain "${from}"`)
    return text.replaceAll(from, to)
  }, workflow)
}

/** Actions that can't run without network. */
const STAND_INS: Readonly<Record<string, string>> = {
  // act itself copies the repository.
  'actions/checkout': 'runs: { using: composite, steps: [] }',
  'cachix/install-nix-action': `inputs: { extra_nix_config: {} }
runs:
  using: composite
  steps:
    - shell: bash
      env: { ADDED: "\${{ inputs.extra_nix_config }}" }
      run: echo "$(nix --version), with $(echo "$ADDED" | xargs)"
`,
  'docker/setup-qemu-action': 'runs: { using: composite, steps: [{ shell: bash, run: echo Emulating }] }',
  'docker/login-action': `inputs: { registry: {}, username: {}, password: {} }
runs:
  using: composite
  steps:
    - shell: bash
      env: { REGISTRY: "\${{ inputs.registry }}", LOGIN: "\${{ inputs.username }}:\${{ inputs.password }}" }
      run: |
        mkdir -p "$DOCKER_CONFIG"
        printf '{"auths":{"%s":{"auth":"%s"}}}' "$REGISTRY" "$(printf %s "$LOGIN" | base64 -w0)" > "$DOCKER_CONFIG/config.json"
`,
}
