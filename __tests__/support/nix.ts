import { chmod, mkdir, readdir, realpath, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { NixSetup } from '../../src/nix/setup.ts'
import { storeInPlace } from '../../src/nix/store-path.ts'

// No substituters: Nix uses no network. No build users and no sandbox: neither needs root. Other systems without emulation:
// the builds only pack files.
const configuration = `\
experimental-features = nix-command flakes
sandbox = false
build-users-group =
substituters =
flake-registry =
extra-platforms = x86_64-linux i686-linux aarch64-linux armv7l-linux riscv64-linux
`

/**
 * The environment in which Nix works offline, without root or a daemon, and writes nothing outside `folder`: store,
 * state, logs, cache and home. Creates the folder if needed.
 */
export async function nixEnvironment(folder: string): Promise<Record<string, string>> {
  await mkdir(join(folder, 'home'), { recursive: true })
  await mkdir(join(folder, 'conf'), { recursive: true })
  // Nix refuses a store below a symlink, such as /tmp on some systems.
  const root = await realpath(folder)
  const conf = join(root, 'conf/nix.conf')
  await writeFile(conf, configuration)
  return {
    HOME: join(root, 'home'),
    NIX_CONFIG: '',
    NIX_CONF_DIR: join(root, 'conf'),
    NIX_LOG_DIR: join(root, 'log'),
    NIX_REMOTE: 'local',
    NIX_STATE_DIR: join(root, 'state'),
    NIX_STORE_DIR: join(root, 'store'),
    NIX_USER_CONF_FILES: conf,
    XDG_CACHE_HOME: join(root, 'home/.cache'),
    XDG_CONFIG_HOME: join(root, 'home/.config'),
    XDG_DATA_HOME: join(root, 'home/.local/share'),
    XDG_STATE_HOME: join(root, 'home/.local/state'),
  }
}

/** The setup of a runner that builds only for its own system, in a store that is where its name says. */
export const PLAIN_SETUP: NixSetup = {
  store: storeInPlace(),
  version: 'Nix 2.34.1',
  storeOptions: [],
  platformOptions: [],
  platformConfigured: false,
  hasBuilder: false,
  systemFeatures: undefined,
}

/** Removes `folder` with the store in it, which Nix has made read-only. */
export async function removeNixFolder(folder: string): Promise<void> {
  await makeWritable(folder)
  await rm(folder, { recursive: true, force: true })
}

async function makeWritable(folder: string): Promise<void> {
  await chmod(folder, 0o700)
  const entries = await readdir(folder, { withFileTypes: true })
  await Promise.all(
    entries.filter((entry) => entry.isDirectory()).map((entry) => makeWritable(join(folder, entry.name))),
  )
}
