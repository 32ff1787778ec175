import { readFile } from 'node:fs/promises'
import * as v from 'valibot'
import { readJson } from '../json.ts'
import type { Repository } from '../oci/reference.ts'
import { runCommand } from '../process/command.ts'
import { sanitize } from '../text.ts'
import { RegistryError } from './registry-error.ts'

/** Credentials for a registry. An identity token is exchanged for access tokens, never sent as a password. */
export type Credential =
  | {
      readonly kind: 'password'
      readonly username: string
      readonly password: string
      /** Whether this is the login with the input `token`: see `TokenLogin`. */
      readonly fromTokenInput?: true
    }
  | { readonly kind: 'identity-token'; readonly token: string }

/** Returns the credentials for a repository, or undefined if there are none. */
export type CredentialSource = (repository: Repository) => Promise<Credential | undefined>

/** The files with credentials, in order of precedence. */
export interface CredentialFiles {
  /** Docker's `config.json`. */
  readonly docker: string
  /** Podman's `auth.json` files. */
  readonly podman: readonly string[]
}

/**
 * Looks for credentials where docker/login-action and `podman login` store them: for each file, in `credHelpers`, then
 * `credsStore`, then `auths`. Ignores files that don't exist.
 * Source: https://github.com/docker/docker-credential-helpers#development,
 * https://github.com/containers/image/blob/main/docs/containers-auth.json.5.md
 * @param onSecret called with each secret before it is used, so that it can be masked
 */
export function credentialsFrom(files: CredentialFiles, onSecret: (secret: string) => void): CredentialSource {
  return async (repository) => {
    const { host } = repository
    for (const file of [files.docker, ...files.podman]) {
      const config = await readCredentialFile(file, host)
      const credential =
        (await fromHelper(helperFor(host, config.credHelpers ?? {}), file, host)) ??
        (await fromHelper(config.credsStore, file, host)) ??
        fromAuths(config.auths ?? {}, repository, onSecret)
      if (credential === undefined) continue
      onSecret(credential.kind === 'password' ? credential.password : credential.token)
      return credential
    }
    return undefined
  }
}

/**
 * The login with the input `token`, which is used if none is configured for its registry. Errors name `token`, pulls first
 * try without a login, and only the registry's own origin gets it.
 */
export interface TokenLogin {
  readonly host: string
  readonly username: string
  readonly password: string
}

/**
 * Adds the login with the input `token` to a source of credentials. Configured credentials take precedence, even if the
 * registry refuses them: the error must show that they are wrong.
 */
export function withTokenLogin(source: CredentialSource, login: TokenLogin | undefined): CredentialSource {
  if (login === undefined) return source
  const { host, username, password } = login
  const credential: Credential = { kind: 'password', username, password, fromTokenInput: true }
  return async (repository) => (await source(repository)) ?? (repository.host === host ? credential : undefined)
}

/** Reports whether a credential is the login with the input `token`. */
export function isTokenLogin(credential: Credential | undefined): boolean {
  return credential?.kind === 'password' && credential.fromTokenInput === true
}

const AUTH_ENTRY = v.object({
  auth: v.nullish(v.string()),
  identitytoken: v.nullish(v.string()),
  username: v.nullish(v.string()),
  password: v.nullish(v.string()),
})
const CREDENTIAL_FILE = v.object({
  auths: v.nullish(v.record(v.string(), v.nullish(AUTH_ENTRY))),
  credHelpers: v.nullish(v.record(v.string(), v.string())),
  credsStore: v.nullish(v.string()),
})
type Auths = NonNullable<v.InferOutput<typeof CREDENTIAL_FILE>['auths']>
const HELPER_ANSWER = v.object({ Username: v.string(), Secret: v.string() })

/** The keys of a registry, in order of precedence. Docker writes the first one, Podman the second. */
function registryKeys(host: string): readonly string[] {
  return host === 'docker.io' ? [HUB_KEY, host, 'index.docker.io', 'registry-1.docker.io'] : [host]
}

/** Docker's key for Docker Hub, which is still the URL of version 1 of the protocol. */
const HUB_KEY = 'https://index.docker.io/v1/'

/** Returns the name of the helper for a registry. Helpers don't support keys of repositories. */
function helperFor(host: string, helpers: Readonly<Record<string, string>>): string | undefined {
  const key = registryKeys(host).find((one) => Object.hasOwn(helpers, one))
  return key === undefined ? undefined : helpers[key]
}

async function readCredentialFile(file: string, host: string): Promise<v.InferOutput<typeof CREDENTIAL_FILE>> {
  const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return '{}'
    throw unreadableCredentials(file, host, error.message)
  })
  const result = readJson(CREDENTIAL_FILE, text.trim() === '' ? '{}' : text)
  if (result.ok) return result.value
  const { place } = result
  throw unreadableCredentials(
    file,
    host,
    place === undefined ? 'it is not a JSON object' : `"${place}" has an unexpected type`,
  )
}

function unreadableCredentials(file: string, host: string, why: string): RegistryError {
  return new RegistryError({
    host,
    problem: 'other',
    message: `Can't read the credentials for ${host} from ${file}`,
    detail: why,
    hint: `Fix or remove the file, then log in to ${host} again.`,
  })
}

function fromAuths(auths: Auths, repository: Repository, onSecret: (secret: string) => void): Credential | undefined {
  const entry = findEntry(auths, repository)
  if (!entry) return undefined
  if (entry.identitytoken) return { kind: 'identity-token', token: entry.identitytoken }
  if (entry.username && entry.password) {
    return { kind: 'password', username: entry.username, password: entry.password }
  }
  if (!entry.auth) return undefined
  onSecret(entry.auth)
  // Docker may append NULs.
  const decoded = Buffer.from(entry.auth, 'base64').toString('utf8').replace(/\0+$/, '')
  const colon = decoded.indexOf(':')
  if (colon < 1) return undefined
  return { kind: 'password', username: decoded.slice(0, colon), password: decoded.slice(colon + 1) }
}

/**
 * Finds the entry for a repository. As in Podman, the most specific key takes precedence: `quay.io/org/app`, then
 * `quay.io/org`, then `quay.io`. Such keys match whole parts of the path, and never another host.
 */
function findEntry(auths: Auths, { host, path }: Repository): Auths[string] {
  const parts = path.split('/')
  const namespaces = parts.map((_, index) => `${host}/${parts.slice(0, parts.length - index).join('/')}`)
  const keys = registryKeys(host)
  const exact = [...namespaces, ...keys].find((key) => Object.hasOwn(auths, key))
  if (exact !== undefined) return auths[exact]
  return Object.entries(auths).find(([key]) => keys.includes(hostOfUrl(key) ?? ''))?.[1]
}

/** Returns the host of a key that is a URL. Old versions of Docker wrote `https://ghcr.io/v2/` instead of `ghcr.io`. */
function hostOfUrl(key: string): string | undefined {
  return /^(?:https?:\/\/)?([^/]+)\/?(?:v[12]\/?)?$/.exec(key)?.[1]
}

async function fromHelper(
  name: string | null | undefined,
  file: string,
  host: string,
): Promise<Credential | undefined> {
  if (!name) return undefined
  const program = `docker-credential-${name}`
  // The name comes from a file. It must not contain a path or arguments.
  if (!/^[A-Za-z0-9._-]{1,100}$/.test(name)) throw helperFailed(program, file, host, 'this is not a program name')
  const result = await runCommand(program, ['get'], {
    trust: 'everything',
    input: registryKeys(host)[0] ?? host,
    timeoutMs: 60_000,
  })
  if (result === undefined) throw helperFailed(program, file, host, 'the program is not on the PATH')
  const { exitCode, stdout, log } = result
  if (exitCode === 0) return readHelperAnswer(stdout, program, file, host)
  // Helpers write this to standard output, which may also contain secrets and is not logged.
  if (/credentials not found/i.test(`${stdout}${log}`)) return undefined
  throw helperFailed(program, file, host, sanitize(log.trim()) || `it exited with status ${exitCode}`)
}

function readHelperAnswer(stdout: string, program: string, file: string, host: string): Credential | undefined {
  const answer = readJson(HELPER_ANSWER, stdout)
  // Without the output, which may contain a part of a secret.
  if (!answer.ok) throw helperFailed(program, file, host, 'its output is not the JSON of a credential helper')
  const { Username: username, Secret: secret } = answer.value
  if (secret === '') return undefined
  if (username === '<token>') return { kind: 'identity-token', token: secret }
  return { kind: 'password', username, password: secret }
}

function helperFailed(program: string, file: string, host: string, why: string): RegistryError {
  return new RegistryError({
    host,
    problem: 'other',
    message: `The credential helper ${program}, which is set in ${file} for ${host}, failed`,
    detail: why,
  })
}
