import { once } from 'node:events'
import { mkdir, writeFile } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import { makeArchive, writeTar } from '../support/image.ts'
import { noise } from '../support/layer-content.ts'

// Stand-ins for Nix and Docker, first on the PATH. They are shell scripts, which start within milliseconds.

export const SYSTEMS = ['x86_64-linux', 'aarch64-linux'] as const
export type System = (typeof SYSTEMS)[number]
export type Version = 'old' | 'new'

const HASHES = { old: '0', new: '1' } as const

/**
 * Writes a stand-in for Nix to a folder. It builds an image of two layers, whose version is `NIX_VERSION` (default:
 * `new`).
 */
export async function installNix(folder: string): Promise<void> {
  const store = join(folder, 'store')
  await mkdir(store, { recursive: true })
  for (const version of ['old', 'new'] as const)
    for (const system of SYSTEMS) await writeFile(storePath(store, version, system), archiveOf(version, system))
  await writeFile(
    join(folder, 'nix'),
    `#!/bin/sh
version=\${NIX_VERSION:-new}
hash=1; [ "$version" = old ] && hash=0
system=x86_64-linux
case "$*" in *aarch64-linux*) system=aarch64-linux;; esac
path=${store}/${'$hash'.repeat(32)}-$system.tar
case "$*" in
  *'--apply builtins.attrNames') echo '${JSON.stringify(SYSTEMS)}';;
  *'eval --json'*'image.drvPath'*) printf '{"derivation":"%s.drv","place":"%s","output":"out","stream":null,"conf":null,"nixVersion":"2.34.1"}' "$path" "$path";;
  *'eval --json'*) printf '{"names":["containerImage"],"type":"derivation","storePath":"%s"}' "$path";;
  *' build '*) printf '[{"drvPath":"x","outputs":{"out":"%s"}}]' "$path";;
  *) exit 1;;
esac
`,
    { mode: 0o755 },
  )
}

function storePath(store: string, version: Version, system: System): string {
  return join(store, `${HASHES[version].repeat(32)}-${system}.tar`)
}

export function archiveOf(version: Version, system: System): Buffer {
  const architecture = system === 'x86_64-linux' ? 'amd64' : 'arm64'
  const base = writeTar([{ name: 'noise', content: noise(40_000) }])
  return makeArchive({ architecture, layers: [base, `the app, ${version}, for ${system}`] }).bytes
}

/** The error message of a Docker command. Undefined: the command does not end. */
export const DOCKER_FAULTS = {
  'docker: 503': 'received unexpected HTTP status: 503 Service Unavailable',
  'docker: 429': 'toomanyrequests: retry-after: 1s, allowed: 44000/minute',
  'docker: reset': 'failed to do request: Put "https://registry.example/v2/": read: connection reset by peer',
  'docker: unexpected EOF': 'unexpected EOF',
  'docker: TLS timeout': 'Get "https://registry.example/v2/": net/http: TLS handshake timeout',
  'docker: daemon gone':
    'Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?',
  'docker: frozen': undefined,
} as const

export type DockerFaultName = keyof typeof DOCKER_FAULTS

export const DOCKER_FAULT_NAMES = Object.keys(DOCKER_FAULTS) as readonly DockerFaultName[]

export interface DockerTarget {
  readonly kind: string
  readonly nth: number
  readonly fault: DockerFaultName
  readonly lasting: boolean
}

/** The stand-in for Docker's daemon. */
export interface DockerDaemon {
  readonly counts: Map<string, number>
  hits: number
  target: DockerTarget | undefined
  /** Pushes the image under the reference, and returns its digest. */
  push: (reference: string) => Promise<string>
  readonly close: () => Promise<void>
}

/** Writes a stand-in for Docker to a folder, and starts its daemon. */
export async function installDocker(folder: string, onFrozen: (count: number) => void): Promise<DockerDaemon> {
  const sockets = new Set<Socket>()
  const server: Server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => undefined).on('close', () => sockets.delete(socket))
    socket.once('data', (data) => {
      answer(daemon, data.toString().trim().split(' '), onFrozen, socket).catch(() => socket.destroy())
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  await writeFile(
    join(folder, 'docker'),
    `#!/bin/bash
[ "$1" = load ] && cat > /dev/null
exec 3<> /dev/tcp/127.0.0.1/${port}
echo "$1 $2" >&3
read -r code <&3
if [ "$code" = 0 ]; then cat <&3; else cat <&3 >&2; fi
exit "\${code:-1}"
`,
    { mode: 0o755 },
  )
  const daemon: DockerDaemon = {
    counts: new Map(),
    hits: 0,
    target: undefined,
    push: async () => '',
    close: async () => {
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  }
  return daemon
}

async function answer(
  daemon: DockerDaemon,
  [command = '', argument = '']: readonly string[],
  onFrozen: (count: number) => void,
  socket: Socket,
): Promise<void> {
  const kind = command
  const count = (daemon.counts.get(kind) ?? 0) + 1
  daemon.counts.set(kind, count)
  const { target } = daemon
  if (
    target !== undefined &&
    target.kind === kind &&
    (count === target.nth || (target.lasting && count > target.nth))
  ) {
    daemon.hits++
    const detail = DOCKER_FAULTS[target.fault]
    if (detail !== undefined) return void socket.end(`1\n${detail}\n`)
    onFrozen(1)
    socket.on('close', () => onFrozen(-1))
    return
  }
  const said = command === 'push' ? `nix: digest: ${await daemon.push(argument)} size: 1` : ''
  socket.end(`0\n${said}\n`)
}
