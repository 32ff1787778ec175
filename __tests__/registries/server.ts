import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, realpath, writeFile } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setTimeout as delay } from 'node:timers/promises'
import { hash } from 'bcryptjs'
import { Agent, request } from 'undici'
import { end, watchOver } from '../support/distribution.ts'
import { removeNixFolder } from '../support/nix.ts'
import { builtProgram, type ProgramName } from './programs.ts'

export interface Login {
  readonly user: string
  readonly password: string
}

/** A login that may read a repository but not write to it. */
export interface Reader {
  /** Completes the sentence "a build is denied with …". */
  readonly name: string
  readonly login: Login
  readonly repository: string
}

/** A running registry. */
export interface RealRegistry {
  /** Host and port, as in an image's name: `127.0.0.1:43215`. */
  readonly host: string
  /** The prefix of the repositories that the login may write to. */
  readonly owner: string
  /** Absent for a registry without authentication. */
  readonly login?: Login
  readonly readers: readonly Reader[]
  /** The certificate authority of an HTTPS registry. */
  readonly authority?: { readonly file: string; readonly certificate: string }
  readonly close: () => Promise<void>
}

/** A folder for the files of one registry, and a free port of 127.0.0.1. */
export interface Place {
  readonly folder: string
  readonly port: number
  readonly host: string
  /** Writes a file in the folder and returns its path. */
  readonly write: (name: string, content: string) => Promise<string>
}

export async function findPlace(): Promise<Place> {
  const folder = await mkdtemp(join(await realpath(tmpdir()), 'registry-'))
  const port = await freePort()
  return {
    folder,
    port,
    host: `127.0.0.1:${port}`,
    write: async (name, content) => {
      const path = join(folder, name)
      await writeFile(path, content)
      return path
    },
  }
}

export interface ProgramCall {
  readonly place: Pick<Place, 'folder'>
  readonly program: ProgramName
  readonly args: readonly string[]
  readonly env?: Readonly<Record<string, string>>
}

export interface RunningProgram {
  /** Rejects with the program's output if it ends before it is closed. Never resolves. */
  readonly ended: Promise<never>
  /** Ends the program and deletes the folder. */
  readonly close: () => Promise<void>
}

/** Starts a program, which also ends when this process is killed. */
export function startProgram({ place, program, args, env }: ProgramCall): RunningProgram {
  const { path } = builtProgram(program)
  const child = spawn(path, args, {
    cwd: place.folder,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const watch = watchOver(child, place.folder)
  const log = Promise.all([text(child.stdout), text(child.stderr)])
  const ended = once(child, 'exit').then(async ([code]) => {
    throw new Error(`${program} ended with ${code}:\n${(await log).join('')}`)
  })
  // Closing it ends it as well.
  ended.catch(() => {})
  const close = async (): Promise<void> => {
    watch.kill('SIGKILL')
    await end(child)
    await removeNixFolder(place.folder)
  }
  return { ended, close }
}

export interface ServerCall extends ProgramCall {
  readonly place: Place
  /** In PEM format. If set, the server uses HTTPS. */
  readonly certificate?: string
}

/**
 * Starts a program and waits until it answers at `/v2/`.
 * @returns a function that ends the program and deletes the folder
 */
export async function startServer({ certificate, ...call }: ServerCall): Promise<() => Promise<void>> {
  const { ended, close } = startProgram(call)
  const waiting = new AbortController()
  try {
    await Promise.race([answers(call.place.host, certificate, waiting.signal), ended])
    return close
  } catch (error) {
    waiting.abort()
    await close()
    throw error
  }
}

/**
 * The lines of a password file, with bcrypt's lowest cost, because registries verify the password for every request.
 */
export async function passwordFile(logins: readonly Login[]): Promise<string> {
  const lines = logins.map(async ({ user, password }) => `${user}:${await hash(password, 4)}\n`)
  return (await Promise.all(lines)).join('')
}

/** Resolves when a registry gives any answer. */
async function answers(host: string, certificate: string | undefined, signal: AbortSignal): Promise<void> {
  const url = `${certificate === undefined ? 'http' : 'https'}://${host}/v2/`
  const agent = new Agent({ connect: { ca: certificate } })
  try {
    while (!signal.aborted) {
      try {
        await (await request(url, { dispatcher: agent, signal })).body.dump()
        return
      } catch {
        // It refuses connections until it is ready.
        await delay(100, undefined, { signal })
      }
    }
  } finally {
    await agent.close()
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}
