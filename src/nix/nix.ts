import { lastLines, sanitizeLine } from '../errors.ts'
import { type CommandResult, runCommand, type Shown } from '../process/command.ts'
import type { Installable } from './installable.ts'
import { NixError } from './nix-error.ts'

/** What Nix is asked about, and for which system. */
export interface NixCall {
  readonly installable: Installable
  readonly system: string
  /** The system of the machine that Nix runs on. */
  readonly runnerSystem: string
  /** More arguments for Nix. */
  readonly nixArgs: readonly string[]
}

const FEATURES = ['--extra-experimental-features', 'nix-command flakes']

/**
 * Runs Nix with the features that flakes need, whatever its configuration has.
 * @param shown as for `runCommand`
 * @param trust `script` if Nix runs a program that the flake brings
 * @throws NixError where it is not installed
 */
export async function runNix(
  args: readonly string[],
  shown: Shown,
  trust: 'nix' | 'script' = 'nix',
): Promise<CommandResult> {
  const result = await runCommand('nix', [...FEATURES, ...args], { trust, shown })
  if (result !== undefined) return result
  throw nixMissing()
}

/** The error of a runner without Nix. */
export function nixMissing(): NixError {
  return new NixError({
    message: 'Nix is not installed on this runner',
    hint: 'Install it in a step before this one:\n  - uses: cachix/install-nix-action@v31',
  })
}

/** The options by which Nix builds for a system that is not the runner's own. */
export function foreignOptions({ system, runnerSystem }: NixCall): readonly string[] {
  return system === runnerSystem ? [] : ['--option', 'extra-platforms', system]
}

/** On one line, what Nix's log says is wrong: old versions put it before the traces, new ones behind them. */
export function errorIn(log: string): string {
  const errors = log.split('\n').filter((line) => /^\s*error: \S/.test(line))
  return sanitizeLine(errors.at(-1) ?? lastLines(log, 3))
}
