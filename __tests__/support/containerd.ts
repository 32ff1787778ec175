import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

export interface Containerd {
  /**
   * Pulls an image over plain HTTP, and extracts its layers as for a container.
   * @param to the tar to write, with the files that the container would see
   */
  readonly unpack: (reference: string, platform: string, to: string) => Promise<void>
  /** Ends the process and deletes its files. */
  readonly close: () => Promise<void>
}

/**
 * Starts a separate containerd for its tool `ctr`, in a separate folder, isolated from any containerd of the machine.
 * It also ends, and its files are removed, when this process is killed.
 *
 * Throws an error with its last log lines if it does not start.
 */
export async function startContainerd(): Promise<Containerd> {
  // A socket's path has at most 107 characters.
  const folder = await mkdtemp(join(tmpdir().length < 50 ? tmpdir() : '/tmp', 'containerd-'))
  const root = process.getuid?.() === 0 ? [] : ['sudo', '-n']
  const asRoot = async (command: readonly string[]): Promise<void> => {
    const [program = '', ...args] = [...root, ...command]
    await run(program, args)
  }
  const socket = join(folder, 'socket')
  await writeFile(join(folder, 'config.toml'), configOf(folder, socket))
  const [program = '', ...args] = [...root, 'unshare', '--mount', 'sh', '-c', WATCHED, folder]
  const child = spawn(program, args, { stdio: ['pipe', 'ignore', 'ignore'] })
  const ended = once(child, 'exit')
  const ctr = ['ctr', '--address', socket, '--connect-timeout', '30s']
  const close = async () => {
    child.stdin.end()
    await ended
    // The folder still exists if nothing ran that could have removed it.
    await rm(folder, { recursive: true, force: true })
  }
  try {
    // `ctr` waits for the socket.
    await Promise.race([asRoot([...ctr, 'version']), ended.then(() => Promise.reject(new Error('the process ended')))])
  } catch (error) {
    const log = await readFile(join(folder, 'log'), 'utf8').catch(() => '')
    await close().catch(() => undefined)
    const last = log.trimEnd().split('\n').slice(-10).join('\n')
    throw new Error(`containerd, which comes with Docker, did not start: ${String(error)}\n${last}`, { cause: error })
  }
  return {
    unpack: async (reference, platform, to) => {
      await asRoot([...ctr, 'content', 'fetch', '--plain-http', '--platform', platform, reference])
      const mount = [...ctr, 'images', 'mount', '--snapshotter', 'native', '--platform', platform, reference]
      const view = await mkdtemp(join(tmpdir(), 'containerd-view-'))
      try {
        await asRoot(['unshare', '--mount', 'sh', '-c', PACKED, view, to, ...mount])
      } finally {
        await rm(view, { recursive: true })
      }
    },
    close,
  }
}

// Otherwise, `opt` would be a folder of the machine.
function configOf(folder: string, socket: string): string {
  return `\
version = 2
root = "${folder}/root"
state = "${folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "${socket}"
[ttrpc]
address = "${folder}/ttrpc"
[plugins."io.containerd.internal.v1.opt"]
path = "${folder}/opt"
`
}

/** Runs it until this shell's input ends, which happens when the process that started it ends for any reason. */
const WATCHED = `
command -v containerd > "$0/log" || exit
containerd --config "$0/config.toml" > "$0/log" 2>&1 < /dev/null &
trap "" HUP INT
read -r _
kill $!
wait
rm -rf "$0"`

/** In a separate mount namespace, so that its mounts disappear when it ends for any reason. */
const PACKED = `
set -e
to=$1
shift
"$@" "$0" > /dev/null
tar -C "$0" --numeric-owner -cf "$to" .`
