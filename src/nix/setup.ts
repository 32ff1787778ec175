import { existsSync } from 'node:fs'
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { canRun } from './emulation.ts'
import type { Installable } from './installable.ts'
import { findNixVersion } from './nix.ts'
import { type NixSettings, readSettings, systemsOfBuilders } from './settings.ts'
import { type StoreFolder, storeFolder } from './store-path.ts'

/** How Nix is set up on this runner, for a build for one system. */
export interface NixSetup {
  /** Such as `Nix 2.34.1`. */
  readonly version: string
  readonly store: StoreFolder
  /** The options that select the store, for programs of Nix that don't get the user's arguments. */
  readonly storeOptions: readonly string[]
  /** The options that let Nix build for the system on this runner. */
  readonly platformOptions: readonly string[]
  /** Whether Nix builds for the system on this runner by its own configuration, although the runner's system differs. */
  readonly platformConfigured: boolean
  /** Whether a remote builder is configured for the system. */
  readonly hasBuilder: boolean
  /** The features in Nix's setting `system-features`. Undefined if they are unknown. */
  readonly systemFeatures: readonly string[] | undefined
}

/** The subject of a call of Nix. */
export interface NixCall {
  readonly installable: Installable
  readonly system: string
  /** The system of the runner. */
  readonly runnerSystem: string
  /** More arguments for Nix. */
  readonly nixArgs: readonly string[]
  readonly setup: NixSetup
}

/** The systems of a build. */
export interface BuildSystems {
  readonly system: string
  /** The system of the runner. */
  readonly runnerSystem: string
}

/**
 * Reads how Nix is set up on this runner.
 * @param nixArgs the user's arguments, which may change the setup
 * @throws NixError if Nix is not installed
 */
export async function readNixSetup(systems: BuildSystems, nixArgs: readonly string[]): Promise<NixSetup> {
  const [version, settings] = await Promise.all([findNixVersion(), readSettings(nixArgs)])
  return { version, ...(await setupOf(systems, settings, nixArgs)) }
}

/** Returns the setup that settings of Nix describe. @param root the folder that contains `/proc` */
export async function setupOf(
  { system, runnerSystem }: BuildSystems,
  { store: url, builders, extraPlatforms, systemFeatures }: NixSettings,
  nixArgs: readonly string[],
  root = '/',
): Promise<Omit<NixSetup, 'version'>> {
  const foreign = system !== runnerSystem
  const hasBuilder = foreign && (await systemsOfBuilders(builders, runnerSystem)).has(system)
  // With the option, Nix would build on this runner when the builders are busy. In a container, emulators are unknown.
  const runs = foreign && !hasBuilder && (await canRun(system, runnerSystem, root)) !== false
  return {
    store: locateStore(url, localCircumstances()),
    storeOptions: nixArgs.flatMap((word, at) => (word === '--store' ? nixArgs.slice(at, at + 2) : [])),
    platformOptions: runs ? ['--option', 'extra-platforms', system] : [],
    platformConfigured: extraPlatforms.includes(system),
    hasBuilder,
    systemFeatures,
  }
}

/** What decides where the store is, besides its URL. */
export interface StoreCircumstances {
  /** The folder in store paths. */
  readonly storeFolder: string
  /** Whether Nix, without a URL, would create a store in the user's home. */
  readonly withoutSystemStore: boolean
  /** The user's folder for data: `~/.local/share`. */
  readonly dataFolder: string
}

/**
 * Returns where the store with a URL is on this runner.
 * https://nix.dev/manual/nix/2.34/store/types/local-store
 * @param url as in Nix's setting `store`: the default, `auto`, is a store in the user's home if there is no other one
 */
export function locateStore(
  url: string,
  { storeFolder, withoutSystemStore, dataFolder }: StoreCircumstances,
): StoreFolder {
  const [, base = '', query = ''] = /^([^?]*)\??(.*)$/s.exec(url) ?? []
  const parameters = new URLSearchParams(query.replaceAll('+', '%2B'))
  const name = parameters.get('store') || storeFolder
  const root = parameters.get('root') || rootOf(base)
  const real = parameters.get('real')
  if (real) return { name, place: resolve(real) }
  if (root !== undefined) return { name, place: join(resolve(root), 'nix/store') }
  const isAuto = (base === '' || base === 'auto') && query === ''
  return { name, place: isAuto && withoutSystemStore ? join(dataFolder, 'nix/root/nix/store') : name }
}

/** Returns the root that a URL without parameters names: `/home/runner/nix`, or `local:///home/runner/nix`. */
function rootOf(base: string): string | undefined {
  const path = base.replace(/^local:\/\//, '')
  return path.includes('/') && !path.includes('://') ? decodeURI(path) : undefined
}

/** See `openFromNonUri` in Nix's store-api.cc, of 2.10 and later versions. */
function localCircumstances(): StoreCircumstances {
  const { NIX_STORE_DIR, NIX_STATE_DIR, NIX_DAEMON_SOCKET_PATH, XDG_DATA_HOME } = process.env
  return {
    storeFolder: storeFolder(),
    withoutSystemStore:
      process.geteuid?.() !== 0 &&
      !NIX_STORE_DIR &&
      !NIX_STATE_DIR &&
      ![NIX_DAEMON_SOCKET_PATH || '/nix/var/nix/daemon-socket/socket', '/nix/var/nix'].some((path) => existsSync(path)),
    dataFolder: XDG_DATA_HOME || join(homedir(), '.local/share'),
  }
}
