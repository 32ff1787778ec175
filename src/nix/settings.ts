import { readFile } from 'node:fs/promises'
import * as v from 'valibot'
import { readJson } from '../json.ts'
import { runNix } from './nix.ts'

/** The settings of Nix that decide where it builds, and where its store is. */
export interface NixSettings {
  /** The URL of the store, such as `auto` or `local?root=/home/runner/nix`. */
  readonly store: string
  /** The remote builders, as in nix.conf: one per line, or `@` and the path of a file. */
  readonly builders: string
  /** The systems that Nix builds for on this runner, besides the runner's own. */
  readonly extraPlatforms: readonly string[]
  /** Undefined if they are unknown. */
  readonly systemFeatures: readonly string[] | undefined
}

/**
 * Reads the settings of Nix, from its configuration, the environment and the user's arguments. The command is `nix
 * show-config`, which newer versions also call `nix config show`.
 * https://nix.dev/manual/nix/2.23/command-ref/new-cli/nix3-config-show
 * @throws NixError if Nix is not installed
 */
export async function readSettings(nixArgs: readonly string[]): Promise<NixSettings> {
  const given = settingArguments(nixArgs)
  for (const command of [['show-config'], ['config', 'show']]) {
    const { exitCode, stdout } = await runNix([...command, '--json', ...given], false)
    if (exitCode === 0) return parseSettings(stdout)
  }
  return UNKNOWN
}

const UNKNOWN: NixSettings = { store: 'auto', builders: '', extraPlatforms: [], systemFeatures: undefined }

const VALUE = v.object({ value: v.unknown() })
const SHOWN = v.object({
  store: v.optional(VALUE),
  builders: v.optional(VALUE),
  'extra-platforms': v.optional(VALUE),
  'system-features': v.optional(VALUE),
})

/** Parses the JSON of `nix config show`. */
export function parseSettings(json: string): NixSettings {
  const shown = readJson(SHOWN, json)
  if (!shown.ok) return UNKNOWN
  const setting = (name: keyof v.InferOutput<typeof SHOWN>) => shown.value[name]?.value
  const text = (value: unknown, other: string) => (typeof value === 'string' ? value : other)
  const list = (value: unknown) => (v.is(v.array(v.string()), value) ? value : undefined)
  return {
    store: text(setting('store'), UNKNOWN.store),
    builders: text(setting('builders'), ''),
    extraPlatforms: list(setting('extra-platforms')) ?? [],
    systemFeatures: list(setting('system-features')),
  }
}

/** The options whose values change `NixSettings`, as `--name value`. */
const SETTING_OPTIONS = [
  ...['store', 'builders', 'extra-platforms', 'system-features', 'extra-system-features'].map((name) => `--${name}`),
  '--extra-extra-platforms',
]

/** Returns the arguments that set any of `NixSettings`. Others may not be known to the command that shows the settings. */
export function settingArguments(nixArgs: readonly string[]): readonly string[] {
  const given: string[] = []
  for (let at = 0; at < nixArgs.length; at++) {
    const length = nixArgs[at] === '--option' ? 3 : SETTING_OPTIONS.includes(nixArgs[at] ?? '') ? 2 : 0
    if (length === 0 || at + length > nixArgs.length) continue
    given.push(...nixArgs.slice(at, at + length))
    at += length - 1
  }
  return given
}

/**
 * Returns the systems that remote builders build for.
 * https://nix.dev/manual/nix/2.34/command-ref/conf-file#conf-builders
 * @param own the system of builders for which none is given
 */
export async function systemsOfBuilders(builders: string, own: string): Promise<ReadonlySet<string>> {
  const systems = new Set<string>()
  for (const line of builders.split(/[\n;]/).map((one) => one.replace(/#.*$/, '').trim())) {
    if (line === '') continue
    if (line.startsWith('@')) {
      const listed = await readFile(line.slice(1).trim(), 'utf8').catch(() => '')
      // A file does not name other files.
      const more = await systemsOfBuilders(listed.replace(/^\s*@.*$/gm, ''), own)
      for (const system of more) systems.add(system)
      continue
    }
    const [, listed = '-'] = line.split(/\s+/)
    for (const system of listed === '-' ? [own] : listed.split(',')) systems.add(system)
  }
  return systems
}
