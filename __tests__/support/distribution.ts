import { type ChildProcess, type ChildProcessByStdio, spawn } from 'node:child_process'
import { once } from 'node:events'
import { accessSync, constants, existsSync, readdirSync, statSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, delimiter, join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { hash } from 'bcryptjs'
import { startTokenServer, type TokenServer } from './token-server.ts'

export interface DistributionOptions {
  /** `token` also starts a token server in this process. */
  readonly auth?: { readonly kind: 'basic' | 'token'; readonly user: string; readonly password: string }
}

export interface Distribution {
  /** Host and port, as in an image's name: `127.0.0.1:43215`. */
  readonly host: string
  /** Its log so far: lines of JSON, or of its access log. */
  readonly logLines: readonly string[]
  /** Ends the process and deletes its files. */
  readonly close: () => Promise<void>
}

/**
 * Starts Docker Distribution on a free port of 127.0.0.1, with its files in a new temporary folder. It also ends, and
 * its files are removed, when this process is killed.
 */
export async function startDistribution({ auth }: DistributionOptions = {}): Promise<Distribution> {
  const program = distributionProgram()
  const folder = await mkdtemp(join(tmpdir(), 'distribution-'))
  const tokens = auth?.kind === 'token' ? await startTokenServer(auth) : undefined
  const configFile = join(folder, 'config.json')
  await writeFile(configFile, JSON.stringify(await configOf(folder, auth, tokens)))
  const child = spawn(program, ['serve', configFile], { stdio: ['ignore', 'pipe', 'pipe'] })
  const watch = watchOver(child, folder)
  const close = async (): Promise<void> => {
    watch.kill('SIGKILL')
    await end(child)
    await tokens?.close()
    await rm(folder, { recursive: true, force: true })
  }
  const logLines: string[] = []
  try {
    return { host: await listening(child, logLines), logLines, close }
  } catch (error) {
    await close()
    throw error
  }
}

/** The path of the registry's program, on the PATH or installed by `scripts/setup.mjs` in this checkout. */
export function distributionProgram(): string {
  const names = ['docker-registry', 'registry']
  const onPath = (process.env['PATH'] ?? '')
    .split(delimiter)
    .flatMap((folder) => names.map((name) => join(folder, name)))
  const found = [...onPath, ...installed(names)].find(isProgram)
  if (found !== undefined) return found
  throw new Error(
    'Docker Distribution is not there: neither docker-registry nor registry is on PATH or in .cache/tools. ' +
      'Run "npm test" or "node scripts/setup.mjs", which install it.',
  )
}

function installed(names: readonly string[]): readonly string[] {
  const tools = fileURLToPath(new URL('../../.cache/tools', import.meta.url))
  if (!existsSync(tools)) return []
  const files = readdirSync(tools, { recursive: true, encoding: 'utf8' })
  // Debian's package has a service script with the same name as the program.
  const programs = files.filter((file) => names.includes(basename(file)) && !file.includes(join('etc', 'init.d')))
  return programs.map((file) => join(tools, file))
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return statSync(path).isFile()
  } catch {
    // The file is missing or belongs to another user. Either way, it can't be run.
    return false
  }
}

async function configOf(
  folder: string,
  auth: DistributionOptions['auth'],
  tokens: TokenServer | undefined,
): Promise<unknown> {
  return {
    version: '0.1',
    log: { level: 'info', formatter: 'json' },
    storage: { filesystem: { rootdirectory: join(folder, 'storage') }, delete: { enabled: true } },
    http: { addr: '127.0.0.1:0', secret: 'between the parts of one upload' },
    ...(auth?.kind === 'basic' && { auth: await passwordFile(folder, auth) }),
    ...(tokens !== undefined && { auth: await tokenTrust(folder, tokens) }),
  }
}

async function passwordFile(folder: string, account: { readonly user: string; readonly password: string }) {
  const path = join(folder, 'htpasswd')
  // The lowest cost of bcrypt, because the registry verifies the password for every request.
  await writeFile(path, `${account.user}:${await hash(account.password, 4)}\n`)
  return { htpasswd: { realm: 'test registry', path } }
}

async function tokenTrust(folder: string, { certificate, issuer, realm, service }: TokenServer) {
  const rootcertbundle = join(folder, 'token.pem')
  await writeFile(rootcertbundle, certificate)
  return { token: { realm, service, issuer, rootcertbundle } }
}

/** Reads the host that the registry listens on from its log. Throws with the log if it ends before that. */
async function listening(
  { stdout, stderr }: ChildProcessByStdio<null, Readable, Readable>,
  logLines: string[],
): Promise<string> {
  const found = Promise.withResolvers<string>()
  const read = async (input: Readable): Promise<void> => {
    for await (const line of createInterface({ input })) {
      logLines.push(line)
      const host = line.match(/listening on (127\.0\.0\.1:\d+)/)?.[1]
      if (host !== undefined) found.resolve(host)
    }
  }
  Promise.all([read(stdout), read(stderr)]).then(
    () => found.reject(new Error(`Docker Distribution did not start:\n${logLines.join('\n')}`)),
    found.reject,
  )
  return await found.promise
}

/** A shell that waits for this process to end for any reason, which closes the shell's input. */
export function watchOver({ pid }: ChildProcess, folder: string): ChildProcess {
  const script = 'trap "" HUP INT; read -r _; kill "$0"; rm -rf "$1"'
  return spawn('/bin/sh', ['-c', script, String(pid), folder], { stdio: ['pipe', 'ignore', 'ignore'] })
}

export async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exit = once(child, 'exit')
  child.kill('SIGTERM')
  await exit
}
