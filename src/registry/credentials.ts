import { readFile } from 'node:fs/promises'
import { isDeepStrictEqual } from 'node:util'
import * as v from 'valibot'
import { readJson } from '../json.ts'
import { runCommand } from '../process/command.ts'
import { sanitize } from '../text.ts'
import { RegistryError } from './registry-error.ts'

/** What a registry is told to know who is asking. An identity token is exchanged for tokens, never sent as a password. */
export type Credential =
  | { readonly kind: 'password'; readonly username: string; readonly password: string }
  | { readonly kind: 'identity-token'; readonly token: string }

/**
 * The credential for a registry's host as users write it (`docker.io`), or none.
 * @param refused one that was not accepted, which is not given again without looking anew
 */
export type CredentialSource = (host: string, refused?: Credential) => Promise<Credential | undefined>

/** Which of Docker's and Podman's files to read, the first that knows the host first. */
export interface CredentialFiles {
  /** Docker's `config.json`. */
  readonly docker: string
  /** Podman's `auth.json` files. */
  readonly podman: readonly string[]
}

/** A helper's tokens may live for minutes, and a build between two looks for hours. In milliseconds. */
const KEPT_FOR = 5 * 60_000

/**
 * Looks for credentials where docker/login-action and `podman login` put them: for each file `credHelpers`, then
 * `credsStore`, then `auths`. A file that is not there holds none. What is found is kept for some minutes.
 * Source: https://github.com/docker/docker-credential-helpers#development
 * @param onSecret is told each secret before it is used, so that it can be masked
 */
export function credentialsFrom(files: CredentialFiles, onSecret: (secret: string) => void): CredentialSource {
  const found = new Map<string, Found>()
  return (host, refused) => {
    const known = found.get(host)
    const stands = refused === undefined || !isDeepStrictEqual(known?.credential, refused)
    if (known !== undefined && known.expires > Date.now() && stands) return known.answer
    const fresh = keep(lookUp([files.docker, ...files.podman], host, onSecret))
    found.set(host, fresh)
    // A helper may fail in passing: who asks next has it asked again.
    fresh.answer.catch(() => found.get(host) === fresh && found.delete(host))
    return fresh.answer
  }
}

interface Found {
  readonly answer: Promise<Credential | undefined>
  /** Once it is there. */
  credential?: Credential | undefined
  /** Milliseconds since 1970. */
  readonly expires: number
}

function keep(asked: Promise<Credential | undefined>): Found {
  const found: Found = {
    expires: Date.now() + KEPT_FOR,
    answer: asked.then((credential) => {
      found.credential = credential
      return credential
    }),
  }
  return found
}

async function lookUp(
  files: readonly string[],
  host: string,
  onSecret: (secret: string) => void,
): Promise<Credential | undefined> {
  for (const file of files) {
    const config = await readConfig(file, host)
    const credential =
      (await fromHelper(config.credHelpers?.[keyOf(host)] ?? config.credHelpers?.[host], file, host)) ??
      (await fromHelper(config.credsStore, file, host)) ??
      fromAuths(config.auths ?? {}, host, onSecret)
    if (credential === undefined) continue
    onSecret(credential.kind === 'password' ? credential.password : credential.token)
    return credential
  }
  return undefined
}

const AUTH = v.object({
  auth: v.nullish(v.string()),
  identitytoken: v.nullish(v.string()),
  username: v.nullish(v.string()),
  password: v.nullish(v.string()),
})
const CONFIG = v.object({
  auths: v.nullish(v.record(v.string(), v.nullish(AUTH))),
  credHelpers: v.nullish(v.record(v.string(), v.string())),
  credsStore: v.nullish(v.string()),
})
const HELPER_ANSWER = v.object({ Username: v.string(), Secret: v.string() })

/** Docker Hub has a key of its own, from the days of its first protocol; every other registry's is its host. */
function keyOf(host: string): string {
  return host === 'docker.io' ? 'https://index.docker.io/v1/' : host
}

async function readConfig(file: string, host: string): Promise<v.InferOutput<typeof CONFIG>> {
  const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return '{}'
    throw unreadable(file, host, error.message)
  })
  const result = readJson(CONFIG, text.trim() === '' ? '{}' : text)
  if (result.ok) return result.value
  const { place } = result
  throw unreadable(
    file,
    host,
    place === undefined ? 'it is not a JSON object' : `"${place}" is not of the form that Docker writes`,
  )
}

function unreadable(file: string, host: string, why: string): RegistryError {
  return new RegistryError({
    host,
    problem: 'other',
    message: `The credentials for ${host} can't be read from ${file}`,
    detail: why,
    hint: `Fix or remove the file, then log in to ${host} again.`,
  })
}

function fromAuths(
  auths: NonNullable<v.InferOutput<typeof CONFIG>['auths']>,
  host: string,
  onSecret: (secret: string) => void,
): Credential | undefined {
  const entry = auths[keyOf(host)] ?? Object.entries(auths).find(([key]) => hostOfKey(key) === host)?.[1]
  if (!entry) return undefined
  if (entry.identitytoken) return { kind: 'identity-token', token: entry.identitytoken }
  if (entry.username && entry.password) {
    return { kind: 'password', username: entry.username, password: entry.password }
  }
  if (!entry.auth) return undefined
  onSecret(entry.auth)
  // Docker pads what it encodes with NULs.
  const decoded = Buffer.from(entry.auth, 'base64').toString('utf8').replace(/\0+$/, '')
  const colon = decoded.indexOf(':')
  if (colon < 1) return undefined
  return { kind: 'password', username: decoded.slice(0, colon), password: decoded.slice(colon + 1) }
}

/** Old versions of Docker wrote `https://ghcr.io/v2/` where today's write `ghcr.io`. */
function hostOfKey(key: string): string {
  return key.replace(/^https?:\/\//, '').replace(/\/(v[12]\/?)?$/, '')
}

async function fromHelper(
  name: string | null | undefined,
  file: string,
  host: string,
): Promise<Credential | undefined> {
  if (!name) return undefined
  const program = `docker-credential-${name}`
  // The name comes from a file; nothing but a program on the PATH may come of it.
  if (!/^[A-Za-z0-9._-]{1,100}$/.test(name))
    throw helperFailed(program, file, host, 'this is not the name of a program')
  const result = await runCommand(program, ['get'], { trust: 'everything', input: keyOf(host), timeoutMs: 60_000 })
  if (result === undefined) throw helperFailed(program, file, host, 'there is no such program on the PATH')
  const { exitCode, stdout, log } = result
  if (exitCode === 0) return readHelperAnswer(stdout, program, file, host)
  // Helpers say so on their standard output, which is not printed: it may hold a secret, or a part of one.
  if (/credentials not found/i.test(`${stdout}${log}`)) return undefined
  throw helperFailed(program, file, host, sanitize(log.trim()) || `it ended with status ${exitCode}`)
}

function readHelperAnswer(stdout: string, program: string, file: string, host: string): Credential | undefined {
  const answer = readJson(HELPER_ANSWER, stdout)
  // Not its output: that may hold half a secret.
  if (!answer.ok) throw helperFailed(program, file, host, 'its answer is not the JSON of a credential helper')
  const { Username: username, Secret: secret } = answer.value
  if (secret === '') return undefined
  if (username === '<token>') return { kind: 'identity-token', token: secret }
  return { kind: 'password', username, password: secret }
}

function helperFailed(program: string, file: string, host: string, why: string): RegistryError {
  return new RegistryError({
    host,
    problem: 'other',
    message: `The credential helper ${program}, which ${file} names for ${host}, failed`,
    detail: why,
  })
}
