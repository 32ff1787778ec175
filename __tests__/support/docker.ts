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
  /** What a process needs to reach the daemon: `DOCKER_HOST`, and `DOCKER_CONFIG`, an empty folder of its own. */
  readonly env: Readonly<Record<string, string>>
  /** Whether the daemon was started here, or is the machine's. */
  readonly own: boolean
  /** Ends what was started and removes every file of it. Never touches the machine's own daemon. */
  readonly close: () => Promise<void>
}

/**
 * Docker: the daemon that the caller's environment reaches, or else one of its own, in a folder of its own and without
 * any network set-up. Such a daemon ends with this process, if it was not closed before.
 *
 * Throws an error with the daemon's last log lines where it does not start.
 */
export async function startDocker(): Promise<Docker> {
  // A socket's path has at most 107 characters, and that of containerd's is 51 longer than the temp folder's.
  const folder = await mkdtemp(join(tmpdir().length < 50 ? tmpdir() : '/tmp', 'docker-'))
  try {
    const config = join(folder, 'config')
    await mkdir(config)
    const host = await reachableDaemon()
    if (host === undefined) return await startDaemon(folder, config)
    const env = { DOCKER_HOST: host, DOCKER_CONFIG: config }
    const close = async () => {
      // They would stay with the machine's daemon when all else is gone.
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
 * Removes images from a daemon, whatever names they have.
 * @param filter as `docker image ls --filter` takes it
 */
async function removeImages(env: Readonly<Record<string, string | undefined>>, filter: string): Promise<void> {
  const options = { env: { ...process.env, ...env } }
  const { stdout } = await run('docker', ['image', 'ls', '--all', '--quiet', '--no-trunc', '--filter', filter], options)
  const ids = [...new Set(stdout.split('\n').filter((id) => id !== ''))]
  if (ids.length > 0) await run('docker', ['image', 'rm', '--force', ...ids], options)
}

/** The address of the daemon that the caller uses: an own `DOCKER_CONFIG` would hide one that comes from a context. */
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
  /** The beginning of a command line that runs as root. */
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

// What the daemon makes outside its folder, empty, whatever its options say.
const strays = ['/run/docker', '/opt/containerd']

function spawnDaemon(folder: string, socket: string): Daemon {
  const root = process.getuid?.() === 0 ? [] : ['sudo', '-n']
  const [program = '', ...args] = [
    // In a mount namespace of its own: what it mounts is gone when it has ended, in whatever way.
    ...[...root, 'unshare', '--mount', dockerd()],
    ...['--config-file', join(folder, 'daemon.json'), '--pidfile', join(folder, 'pid')],
    ...['--host', `unix://${socket}`, '--group', String(process.getgid?.() ?? 0)],
    ...['--data-root', join(folder, 'data'), '--exec-root', join(folder, 'run')],
    ...['--iptables=false', '--ip6tables=false', '--ip-forward=false', '--bridge=none'],
  ]
  const newStrays = strays.filter((stray) => !existsSync(stray))
  const log = openSync(join(folder, 'log'), 'w')
  const child = spawn(program, args, { stdio: ['ignore', log, log] })
  // Such as a missing sudo: untilReady reports what the log says.
  child.on('error', (error) => appendFileSync(join(folder, 'log'), `${error.message}\n`))
  closeSync(log)
  return { folder, child, root, newStrays }
}

/** An ordinary user's PATH has no sbin, which is where packages put it. */
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

/** Ends the daemon and removes its folder, at once: a process that is exiting can't wait for anything. */
function stop(daemon: Daemon): void {
  const pid = pidOf(daemon)
  if (pid !== undefined) {
    signal(daemon, pid, 'TERM')
    if (!endsWithin(pid, 20_000)) signal(daemon, pid, 'KILL')
    endsWithin(pid, 5_000)
  }
  asRoot(daemon, ['rm', '-rf', daemon.folder])
  // Not more than empty folders: another daemon may have come up meanwhile, and live there.
  if (daemon.newStrays.length > 0) asRoot(daemon, ['find', ...daemon.newStrays, '-type', 'd', '-empty', '-delete'])
}

/** The daemon's own process id, which is not that of the `sudo` around it. */
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

/** A process that has ended stays listed until its parent looks, which this one does only after `stop`. */
function alive(pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false
  }
}

/** Calls `end` when this process ends in any way but SIGKILL. Returns what takes that back. */
function atEndOfProcess(end: () => void): () => void {
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
  const onSignal = (name: NodeJS.Signals) => {
    forget()
    end()
    // Nobody else handles it: then it ends the process, as it would have without this.
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
