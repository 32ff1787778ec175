import { endOnSignals, isCancelled } from './actions/cancel.ts'
import { type Command, type RunCommand, readCommand } from './cli/arguments.ts'
import { compareInCheckout, findUncommitted, readCheckout } from './cli/checkout.ts'
import { formatHelp } from './cli/help.ts'
import { type ActionMetadata, optionsOf, readActionMetadata } from './cli/options.ts'
import { formatJson, formatOutputs } from './cli/outputs.ts'
import { startProgressBar } from './cli/progress-bar.ts'
import { createTerminalLog, type TerminalLog } from './cli/terminal-log.ts'
import { adviseOnRegistry, inTermsOfOptions } from './cli/wording.ts'
import { type Environment, ownSystem } from './context.ts'
import { InputError } from './errors.ts'
import { readInputs } from './inputs/inputs.ts'
import { reportSilence } from './log.ts'
import type { Result } from './modes/mode.ts'
import { startPhases } from './modes/phases.ts'
import { redirectLines } from './process/output.ts'
import type { RegistryError } from './registry/registry-error.ts'
import { explainError, runMode } from './run-mode.ts'
import { withoutSecrets } from './secrets.ts'

/** Exit codes. As in most commands, 2 is a mistake in the arguments. */
const FAILED = 1
const MISUSED = 2

/**
 * Runs the command line: a mode, with inputs as options. Prints the outputs to the standard output, and everything else to
 * the standard error.
 * @returns the exit code. Connections and child processes may still be open
 */
export async function runCli(args: readonly string[], env: Environment): Promise<number> {
  const action = await readActionMetadata()
  const command = readOrExplain(args, action)
  if (typeof command === 'number') return command
  if (command.kind === 'run') return runLocally(command, action, env)
  process.stdout.write(formatHelp(command.mode, action, process.stdout.columns ?? 80))
  return 0
}

function readOrExplain(args: readonly string[], action: ActionMetadata): Command | number {
  try {
    return readCommand(args, action)
  } catch (error) {
    if (!(error instanceof InputError)) throw error
    plainLog().error(error.message)
    return MISUSED
  }
}

function plainLog(): TerminalLog {
  return createTerminalLog({
    stream: process.stderr,
    verbose: false,
    reword: (message) => message,
    onPhase: () => undefined,
  })
}

async function runLocally(command: RunCommand, action: ActionMetadata, env: Environment): Promise<number> {
  const options = optionsOf(command.mode, action)
  const bar = startProgressBar(process.stderr)
  const log = createTerminalLog({
    stream: process.stderr,
    verbose: command.verbose,
    reword: (message) => inTermsOfOptions(message, options),
    onPhase: (title) => bar?.setPhase(title),
  })
  redirectLines(log.toolLine)
  endOnSignals(log)
  const stopReports = reportSilence(log.info)
  const ownEnvironment = environmentOf(command, env)
  try {
    if (env.GITHUB_TOKEN) log.mask(env.GITHUB_TOKEN)
    const { outputs, failure } = await runInCheckout(command, ownEnvironment, log)
    bar?.stop()
    process.stdout.write(withoutSecrets(command.json ? formatJson(outputs) : formatOutputs(outputs)))
    if (failure !== undefined) throw failure
    return 0
  } catch (error) {
    // The signal handler ends the process after its child processes.
    if (isCancelled()) return new Promise(() => undefined)
    bar?.stop()
    const advise = (failure: RegistryError) => adviseOnRegistry(failure, command.mode)
    log.error((await explainError(error, ownEnvironment, advise)).message)
    if (error instanceof Error) log.debug(error.stack ?? error.message)
    return error instanceof InputError ? MISUSED : FAILED
  } finally {
    stopReports()
  }
}

/** Runs the mode in the work tree of the current folder. */
async function runInCheckout({ records }: RunCommand, env: Environment, log: TerminalLog): Promise<Result> {
  const inputs = readInputs(env)
  for (const notice of inputs.notices) log.notice(notice)
  for (const note of inputs.notes) log.info(note)
  const uncommitted = inputs.mode === 'build' && inputs.push ? await findUncommitted(inputs) : undefined
  if (uncommitted !== undefined) log.warning(uncommitted)
  const compareCommits = (base: string, head: string) => compareInCheckout('.', base, head)
  const progress = { phases: startPhases(), writes: [] }
  return runMode(inputs, env, await readCheckout('.', records, env), log, progress, { compareCommits })
}

/** Variables of a job, which must not change what a command does. */
const OF_JOBS = /^(INPUT_|GITHUB_|RUNNER_|ACTIONS_|DOCKER_METADATA_)/

/** Returns the environment of a job that has the options as inputs. */
function environmentOf({ inputs }: RunCommand, env: Environment): Environment {
  const own = Object.entries(env).filter(([name]) => !OF_JOBS.test(name))
  const machine = { ...Object.fromEntries(own), RUNNER_OS: process.platform === 'darwin' ? 'macOS' : 'Linux' }
  // Containers run Linux, and Nix on macOS can have a builder for it.
  const system = inputs.system || ownSystem(machine).replace(/-darwin$/, '-linux')
  const values = { ...inputs, system, token: env.GITHUB_TOKEN ?? '' }
  return {
    ...machine,
    // For the login to ghcr.io with the token, where any user name is accepted.
    GITHUB_SERVER_URL: 'https://github.com',
    GITHUB_ACTOR: env.GITHUB_ACTOR || 'token',
    ...Object.fromEntries(Object.entries(values).map(([name, value]) => [`INPUT_${name.toUpperCase()}`, value])),
  }
}
