import { lstat } from 'node:fs/promises'
import { join } from 'node:path'
import * as v from 'valibot'
import { messageOf } from '../errors.ts'
import { readJson } from '../json.ts'
import type { Log } from '../log.ts'
import { errorIn, runNix } from '../nix/nix.ts'
import type { NixSetup } from '../nix/setup.ts'
import { isStorePath, placeOnDisk, storeFolder, storeInPlace } from '../nix/store-path.ts'
import { mapAtMost } from '../promises.ts'
import { sanitizeLine } from '../text.ts'

/** A store path, and the facts about it that the local store has. They are undefined for paths that it does not have. */
export interface StorePathInfo {
  readonly path: string
  /** The hash of its NAR, as in `sha256-…`. */
  readonly narHash?: string
  /** The store paths that it refers to. */
  readonly references?: readonly string[]
  /** The store path of the derivation that built it. */
  readonly deriver?: string
}

/** How to reach the local store. */
export type StoreAccess = Pick<NixSetup, 'store' | 'storeOptions'>

/**
 * Returns the facts that the local store has about store paths, one entry for each path, sorted. Runs Nix once, for up to
 * about 1500 paths. If Nix fails, logs the reason and returns the paths without facts.
 */
export async function readStoreInfo(
  paths: readonly string[],
  log: Log,
  access: StoreAccess = { store: storeInPlace(), storeOptions: [] },
): Promise<readonly StorePathInfo[]> {
  const sorted = [...new Set(paths)].toSorted()
  const known = await queryStoreInfo(sorted, access).catch((error: unknown) => {
    log.info(`The SBOM lists store paths without hashes and references: ${sanitizeLine(messageOf(error))}`)
    return new Map<string, StorePathInfo>()
  })
  return sorted.map((path) => known.get(path) ?? { path })
}

/**
 * Parses the output of `nix path-info --json`: a list up to Nix 2.18, an object by store path since 2.19, and an object
 * with `version`, `storeDir` and `info` in the second version of the format.
 * @returns the valid store paths, undefined if the output has an unknown form
 */
export function parsePathInfo(json: string): readonly StorePathInfo[] | undefined {
  if (json.trimStart().startsWith('[')) {
    const list = readJson(LIST, json)
    return list.ok ? list.value.flatMap((entry) => infoOf(entry.path, entry)) : undefined
  }
  const nested = readJson(NESTED, json)
  if (nested.ok) return infosOf(nested.value.info, nested.value.storeDir)
  const byPath = readJson(BY_PATH, json)
  return byPath.ok ? infosOf(byPath.value, storeFolder()) : undefined
}

/**
 * Returns a SHA-256 hash as newer versions of Nix print it, so that the output does not depend on the version: `sha256-…`.
 * @param hash in any notation of Nix
 * @returns undefined for any other hash
 */
export function toSri(hash: string): string | undefined {
  if (/^sha256-[A-Za-z0-9+/]{43}=$/.test(hash)) return hash
  const [, digits = ''] = /^sha256:([0-9a-z]+)$/.exec(hash) ?? []
  const bytes = /^[0-9a-f]{64}$/.test(digits) ? Buffer.from(digits, 'hex') : fromNixBase32(digits)
  return bytes && `sha256-${bytes.toString('base64')}`
}

/** In bytes. Far below the limit of any system, which counts the environment as well. */
const ARGUMENTS_LIMIT = 100_000

async function queryStoreInfo(
  paths: readonly string[],
  access: StoreAccess,
): Promise<ReadonlyMap<string, StorePathInfo>> {
  const infos = new Map<string, StorePathInfo>()
  for (const batch of batches(await existing(paths, access))) {
    // With --offline, Nix does not ask caches for paths that the local store does not have.
    const { exitCode, stdout, log } = await runNix(
      ['path-info', '--offline', '--json', ...access.storeOptions, ...batch],
      false,
    )
    if (exitCode !== 0) throw new Error(`nix path-info failed: ${errorIn(log)}`)
    const parsed = parsePathInfo(stdout)
    if (parsed === undefined) throw new Error('the output of nix path-info --json has an unknown form')
    for (const info of parsed) infos.set(info.path, info)
  }
  return infos
}

/** Nix would try to build or download paths that don't exist. It takes the path of a derivation for its outputs. */
async function existing(paths: readonly string[], { store }: StoreAccess): Promise<readonly string[]> {
  const candidates = paths.filter((path) => isStorePath(path) && !path.endsWith('.drv'))
  const found = await mapAtMost(
    8,
    candidates,
    async (path) => (await lstat(placeOnDisk(path, store)).catch(() => undefined)) !== undefined,
  )
  return candidates.filter((_, at) => found[at])
}

function* batches(paths: readonly string[]): Generator<readonly string[]> {
  let batch: string[] = []
  let size = 0
  for (const path of paths) {
    if (size + path.length + 1 > ARGUMENTS_LIMIT) {
      yield batch
      batch = []
      size = 0
    }
    batch.push(path)
    size += path.length + 1
  }
  if (batch.length > 0) yield batch
}

/** The second version of the format has hashes as objects in some versions of Nix. */
const NAR_HASH = v.union([
  v.string(),
  v.pipe(
    v.object({ algorithm: v.string(), format: v.literal('base64'), hash: v.string() }),
    v.transform(({ algorithm, hash }) => `${algorithm}-${hash}`),
  ),
])

const FACTS = v.object({
  narHash: v.optional(NAR_HASH),
  references: v.optional(v.array(v.string())),
  deriver: v.nullish(v.string()),
})

type Facts = v.InferOutput<typeof FACTS>

const LIST = v.array(v.object({ path: v.string(), ...FACTS.entries }))
/** Paths that are not valid are null. */
const BY_PATH = v.record(v.string(), v.nullable(FACTS))
const NESTED = v.object({ version: v.number(), storeDir: v.string(), info: BY_PATH })

function infosOf(byPath: v.InferOutput<typeof BY_PATH>, storeDir: string): readonly StorePathInfo[] {
  return Object.entries(byPath).flatMap(([path, facts]) => (facts === null ? [] : infoOf(path, facts, storeDir)))
}

/** Returns no entry for a path that is not valid, which has no hash. */
function infoOf(
  path: string,
  { narHash = '', references = [], deriver }: Facts,
  storeDir = storeFolder(),
): readonly StorePathInfo[] {
  // The second version of the format has names instead of paths.
  const whole = (name: string) => (name.startsWith('/') ? name : join(storeDir, name))
  const hash = toSri(narHash)
  if (hash === undefined || !isStorePath(whole(path))) return []
  const info = {
    path: whole(path),
    narHash: hash,
    references: references.map(whole).filter(isStorePath).toSorted(),
    ...(deriver && isStorePath(whole(deriver)) && { deriver: whole(deriver) }),
  }
  return [info]
}

const BASE32_DIGITS = '0123456789abcdfghijklmnpqrsvwxyz'

/** https://nix.dev/manual/nix/latest/protocols/nix32 */
function fromNixBase32(text: string): Buffer | undefined {
  if (!/^[0-9a-df-np-sv-z]{52}$/.test(text)) return undefined
  let value = 0n
  for (const digit of text) value = value * 32n + BigInt(BASE32_DIGITS.indexOf(digit))
  // The first digit is the highest, and the last byte too.
  return value < 1n << 256n ? Buffer.from(value.toString(16).padStart(64, '0'), 'hex').reverse() : undefined
}
