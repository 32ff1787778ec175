import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { afterEach } from '@jest/globals'
import { createHttp, type Http, type HttpSettings } from '../../src/http/client.ts'
import type { Repository } from '../../src/oci/reference.ts'
import { createRegistry } from '../../src/registry/client.ts'
import type { Credential, CredentialSource } from '../../src/registry/credentials.ts'
import type { Registry } from '../../src/registry/registry.ts'
import { RegistryError } from '../../src/registry/registry-error.ts'
import { type RegistryOptions, startRegistry, type TestRegistry } from '../support/registry.ts'

export const account = { user: 'octocat', password: 'correct horse: battery' }
export const password: Credential = { kind: 'password', username: account.user, password: account.password }

/** The client under test, with its log lines, waits and secrets. */
export interface Client extends Registry {
  /** `app` in the registry that it was opened for. */
  readonly repository: Repository
  /** In milliseconds. Tests do not actually wait. */
  readonly waits: readonly number[]
  readonly lines: readonly string[]
  readonly secrets: readonly string[]
  readonly http: Http
}

const cleanups: (() => Promise<unknown>)[] = []

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

/** Runs after the test, the last one given first. */
export function afterwards(cleanup: () => Promise<unknown>): void {
  cleanups.push(cleanup)
}

export async function start(options?: RegistryOptions): Promise<TestRegistry> {
  const server = await startRegistry(options)
  afterwards(server.close)
  return server
}

export function open(
  host: string,
  credentials: Credential | CredentialSource | undefined = undefined,
  settings: Partial<HttpSettings> = {},
): Client {
  const waits: number[] = []
  const lines: string[] = []
  const secrets: string[] = []
  const write = (line: string): void => void lines.push(line)
  const http = createHttp({
    log: { info: write, warning: write, debug: write },
    userAgent: 'a test',
    env: {},
    wait: async (milliseconds) => waits.push(milliseconds),
    ...settings,
  })
  const registry = createRegistry({
    http,
    credentials: typeof credentials === 'function' ? credentials : async () => credentials,
    onSecret: (secret) => secrets.push(secret),
  })
  return { ...registry, http, repository: { host, path: 'app' }, waits, lines, secrets }
}

/**
 * A client for a server that speaks plain http, and of that what the test writes.
 * @param answer gets each request in full, and how many came before it on its connection
 */
export async function openRaw(
  answer: (socket: Socket, request: string, before: number) => void,
  settings: Partial<HttpSettings> = {},
) {
  const connections: string[] = []
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    let before = 0
    sockets.add(socket)
    socket.on('error', () => undefined)
    socket.on('data', (data) => {
      // RFC 8446, section 5.1: a handshake's record begins with 22.
      const secure = data[0] === 22
      if (before === 0) connections.push(secure ? 'https' : 'http')
      if (secure) socket.destroy()
      else answer(socket, data.toString('latin1'), before++)
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  afterwards(async () => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return { connections, client: open(`127.0.0.1:${(server.address() as AddressInfo).port}`, undefined, settings) }
}

/** Waits for what happens in the background. */
export async function until(done: () => boolean): Promise<void> {
  while (!done()) await new Promise(setImmediate)
}

/** A registry and a client for it. */
export async function connect(
  options?: RegistryOptions,
  credentials?: Credential | CredentialSource,
): Promise<{ readonly server: TestRegistry; readonly client: Client }> {
  const server = await start(options)
  return { server, client: open(server.host, credentials) }
}

/** Returns the RegistryError that work fails with. Any other error is a defect. */
export async function failureOf(work: Promise<unknown>): Promise<RegistryError> {
  const error = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  if (error instanceof RegistryError) return error
  throw new Error('No RegistryError was thrown', { cause: error })
}
