import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync, closeSync, existsSync, openSync, readFileSync, rmSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'

const run = promisify(execFile)

export type Docker = {
  /** The environment to reach the daemon: `DOCKER_HOST`, and `DOCKER_CONFIG`, an empty folder. */
  readonly env: Readonly<Record<string, string>>
  /** Whether the daemon was started here, rather than being the machine's. */
  readonly own: boolean
  /** Stops the daemon that was started, and removes its files. Never touches the machine's daemon. */
  readonly close: () => Promise<void>
}

/**
 * Returns the daemon that the caller's environment reaches, or starts one in a separate folder without any network
 * setup. A daemon that was started ends with this process, unless it was closed before.
 *
 * Throws an error with the daemon's last log lines if it does not start.
 */
export async function startDocker(): Promise<Docker> {
  // A socket's path has at most 107 characters, and the path of containerd's is 51 longer than the temporary folder's.
  const folder = await mkdtemp(join(tmpdir().length < 50 ? tmpdir() : '/tmp', 'docker-'))
  try {
    const config = join(folder, 'config')
    await mkdir(config)
    const host = await reachableDaemon()
    if (host === undefined) return await startDaemon(folder, config)
    const env = { DOCKER_HOST: host, DOCKER_CONFIG: config }
    const close = async () => {
      // They would otherwise stay with the machine's daemon.
      await removeImages(env, 'label=org.opencontainers.image.title=nix-image-action-example')
      rmSync(folder, { recursive: true, force: true })
    }
    return { env, own: false, close }
  } catch (error) {
    rmSync(folder, { recursive: true, force: true })
    throw error
  }
}

/**
 * Removes images from a daemon, under all their names.
 * @param filter for `docker image ls --filter`
 */
async function removeImages(env: Readonly<Record<string, string | undefined>>, filter: string): Promise<void> {
  const options = { env: { ...process.env, ...env } }
  const { stdout } = await run('docker', ['image', 'ls', '--all', '--quiet', '--no-trunc', '--filter', filter], options)
  const ids = [...new Set(stdout.split('\n').filter((id) => id !== ''))]
  if (ids.length > 0) await run('docker', ['image', 'rm', '--force', ...ids], options)
}

/** The address of the caller's daemon. A different `DOCKER_CONFIG` would hide an address from a Docker context. */
async function reachableDaemon(): Promise<string | undefined> {
  if (!(await answers(process.env))) return undefined
  const { stdout } = await run('docker', ['context', 'inspect', '--format', '{{.Endpoints.docker.Host}}'])
  return stdout.trim()
}

async function answers(env: NodeJS.ProcessEnv): Promise<boolean> {
  return run('docker', ['version'], { env }).then(
    () => true,
    () => false,
  )
}

type Daemon = {
  readonly folder: string
  readonly child: ChildProcess
  /** The command prefix that runs a command as root. */
  readonly root: readonly string[]
  readonly newStrays: readonly string[]
}

async function startDaemon(folder: string, config: string): Promise<Docker> {
  const socket = join(folder, 'socket')
  const env = { DOCKER_HOST: `unix://${socket}`, DOCKER_CONFIG: config }
  await writeFile(join(folder, 'daemon.json'), JSON.stringify({ 'deprecated-key-path': join(folder, 'key.json') }))
  const daemon = spawnDaemon(folder, socket)
  const forget = atEndOfProcess(() => stop(daemon))
  const close = async () => {
    forget()
    stop(daemon)
    const { pid, exitCode, signalCode } = daemon.child
    if (pid !== undefined && exitCode === null && signalCode === null) await once(daemon.child, 'exit')
  }
  try {
    await untilReady(daemon, env)
  } catch (error) {
    await close()
    throw error
  }
  return { env, own: true, close }
}

// Folders that the daemon creates outside its own, regardless of its options. They stay empty.
const strays = ['/run/docker', '/opt/containerd']

function spawnDaemon(folder: string, socket: string): Daemon {
  const root = process.getuid?.() === 0 ? [] : ['sudo', '-n']
  const [program = '', ...args] = [
    // In a separate mount namespace, so that its mounts disappear when it ends for any reason.
    ...[...root, 'unshare', '--mount', dockerd()],
    ...['--config-file', join(folder, 'daemon.json'), '--pidfile', join(folder, 'pid')],
    ...['--host', `unix://${socket}`, '--group', String(process.getgid?.() ?? 0)],
    ...['--data-root', join(folder, 'data'), '--exec-root', join(folder, 'run')],
    ...['--iptables=false', '--ip6tables=false', '--ip-forward=false', '--bridge=none'],
  ]
  const newStrays = strays.filter((stray) => !existsSync(stray))
  const log = openSync(join(folder, 'log'), 'w')
  const child = spawn(program, args, { stdio: ['ignore', log, log] })
  // For example, sudo is missing. untilReady reports the log.
  child.on('error', (error) => appendFileSync(join(folder, 'log'), `${error.message}\n`))
  closeSync(log)
  return { folder, child, root, newStrays }
}

/** Packages install dockerd in sbin, which is not on the PATH of ordinary users. */
function dockerd(): string {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/local/sbin', '/usr/sbin', '/sbin']
  const found = folders.map((folder) => join(folder, 'dockerd')).find((file) => existsSync(file))
  if (found !== undefined) return found
  throw new Error(
    'No Docker daemon answers, and there is no dockerd to start one. Run `node scripts/setup.mjs docker`.',
  )
}

async function untilReady({ folder, child }: Daemon, env: NodeJS.ProcessEnv): Promise<void> {
  for (let attempt = 0; attempt < 300; attempt++) {
    if (await answers({ ...process.env, ...env })) return
    if (child.exitCode !== null || child.pid === undefined) break
    await sleep(100)
  }
  const log = (await readFile(join(folder, 'log'), 'utf8')).trimEnd().split('\n')
  throw new Error(`dockerd did not start. Its last lines:\n${log.slice(-10).join('\n')}`)
}

/** Stops the daemon and removes its folder synchronously, because an exiting process can't wait. */
function stop(daemon: Daemon): void {
  const pid = pidOf(daemon)
  if (pid !== undefined) {
    signal(daemon, pid, 'TERM')
    if (!endsWithin(pid, 20_000)) signal(daemon, pid, 'KILL')
    endsWithin(pid, 5_000)
  }
  asRoot(daemon, ['rm', '-rf', daemon.folder])
  // Remove only empty folders: another daemon may have started in the meantime and use them.
  if (daemon.newStrays.length > 0) asRoot(daemon, ['find', ...daemon.newStrays, '-type', 'd', '-empty', '-delete'])
}

/** The daemon's process ID, rather than that of the `sudo` that started it. */
function pidOf({ folder, child }: Daemon): number | undefined {
  const file = join(folder, 'pid')
  return existsSync(file) ? Number(readFileSync(file, 'utf8')) : child.pid
}

function signal(daemon: Daemon, pid: number, name: 'TERM' | 'KILL'): void {
  asRoot(daemon, ['kill', `-${name}`, String(pid)])
}

function asRoot({ root }: Daemon, command: readonly string[]): void {
  const [program = '', ...args] = [...root, ...command]
  spawnSync(program, args, { stdio: 'ignore' })
}

function endsWithin(pid: number, milliseconds: number): boolean {
  const end = Date.now() + milliseconds
  while (alive(pid)) {
    if (Date.now() > end) return false
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50)
  }
  return true
}

/** A process that has ended stays listed until its parent collects it, which this process does only after `stop`. */
function alive(pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false
  }
}

/** Calls `end` when this process ends for any reason except SIGKILL. Returns a function that cancels this. */
function atEndOfProcess(end: () => void): () => void {
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
  const onSignal = (name: NodeJS.Signals) => {
    forget()
    end()
    // There is no other handler: end the process, as the signal would have done.
    if (process.listenerCount(name) === 0) process.kill(process.pid, name)
  }
  const forget = () => {
    process.off('exit', end)
    for (const name of signals) process.off(name, onSignal)
  }
  process.once('exit', end)
  for (const name of signals) process.on(name, onSignal)
  return forget
}
