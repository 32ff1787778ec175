import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createConnection } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

export interface NixDaemon {
  /** The environment that makes Nix use it. */
  readonly env: { readonly NIX_REMOTE: string }
  close(): Promise<void>
}

/**
 * Starts a separate Nix daemon for one test.
 * @param env its complete environment, with the folders of `nixEnvironment`
 */
export async function startNixDaemon(env: Readonly<Record<string, string>>): Promise<NixDaemon> {
  // The path of a socket has at most 107 characters.
  const folder = await mkdtemp(join(tmpdir().length < 50 ? tmpdir() : '/tmp', 'nix-daemon-'))
  const socket = join(folder, 'socket')
  const child = spawn('nix-daemon', [], {
    // The daemon opens the store directly.
    env: { ...env, NIX_REMOTE: 'local', NIX_DAEMON_SOCKET_PATH: socket },
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let log = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    log += text
  })
  const exited = once(child, 'exit')
  while (!(await answers(socket))) {
    if (child.exitCode !== null) throw new Error(`nix-daemon ended:\n${log}`)
    await sleep(50)
  }
  return {
    env: { NIX_REMOTE: `unix://${socket}` },
    close: async () => {
      child.kill()
      await exited
      await rm(folder, { recursive: true })
    },
  }
}

async function answers(path: string): Promise<boolean> {
  const socket = createConnection({ path })
  try {
    await once(socket, 'connect')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}
