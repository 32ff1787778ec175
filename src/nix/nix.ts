import { NixError } from '../errors.ts'
import { type CommandResult, runCommand, type Shown } from '../process/command.ts'
import { lastLines, sanitizeLine } from '../text.ts'

const FEATURES = ['--extra-experimental-features', 'nix-command flakes']

export interface NixRunOptions {
  /** `no-logins` if Nix runs a program that the flake provides. */
  readonly trust?: 'no-secrets' | 'no-logins'
  /** Whether to print the command, if its output is shown. */
  readonly echo?: boolean
}

/**
 * Runs Nix with the experimental features that flakes need.
 * @param shown see `CommandOptions`
 * @throws NixError if Nix is not installed
 */
export async function runNix(
  args: readonly string[],
  shown: Shown,
  { trust = 'no-secrets', echo = true }: NixRunOptions = {},
): Promise<CommandResult> {
  const result = await runCommand('nix', [...FEATURES, ...args], { trust, shown, echo })
  if (result !== undefined) return result
  throw nixMissing()
}

/** In milliseconds. */
const VERSION_TIMEOUT = 10_000

/** Returns the version of Nix: `Nix 2.34.1`, `Lix 2.93.0`. @throws NixError if Nix is not installed */
export async function findNixVersion(): Promise<string> {
  const result = await runCommand('nix', ['--version'], { trust: 'no-secrets', timeoutMs: VERSION_TIMEOUT })
  if (result === undefined) throw nixMissing()
  return formatNixVersion(result.stdout)
}

/** Formats the output of `nix --version`. */
export function formatNixVersion(output: string): string {
  const [line = ''] = output.trim().split('\n')
  const [, name, version] = /^nix \(([^)]+)\) (\S+)$/.exec(sanitizeLine(line)) ?? []
  if (name === undefined || version === undefined) return 'Nix of an unknown version'
  // Determinate Nix has a version besides that of Nix.
  return /\d/.test(name) ? `${name} (Nix ${version})` : `${name.replace(/, like Nix$/, '')} ${version}`
}

/** Returns the error for a runner without Nix. */
export function nixMissing(): NixError {
  return new NixError({
    message: 'Nix is not installed on this runner',
    hint: 'Install it in a step before this one:\n  - uses: cachix/install-nix-action@v31',
  })
}

/** Returns the error in a log of Nix as one line. Old versions print it before the traces, new versions after them. */
export function errorIn(log: string): string {
  const errors = log.split('\n').filter((line) => /^\s*error: \S/.test(line))
  return sanitizeLine(errors.at(-1) ?? lastLines(log, 3))
}
