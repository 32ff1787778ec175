import { which } from '@actions/io'
import { startActivity } from '../log.ts'
import { withoutEscapes, withoutHidden } from '../text.ts'
import { waitUpTo } from './cancellation.ts'
import { endGroup, startChild, type Trust } from './child.ts'
import { collectOutput, keepTail, printLine, splitLines } from './output.ts'

/** The output and exit code of a program. */
export interface CommandResult {
  /** 125 if the program wrote too much to its standard output. Otherwise as in `Exit`. */
  readonly exitCode: number
  readonly stdout: string
  /** The standard error, without colours. Only the end of a long one. */
  readonly log: string
  /** Whether the program was killed because it wrote nothing for too long. */
  readonly stalled: boolean
}

/**
 * Whether to print the command and its output to the job's log while it runs. A function receives each line of the
 * standard error instead; only the command itself is printed.
 */
export type Shown = boolean | ((line: string) => void)

export interface CommandOptions {
  readonly trust: Trust
  readonly shown?: Shown
  /** Whether to print the command, if its output is shown. */
  readonly echo?: boolean
  /** The standard input. Empty by default, so that a prompt fails instead of waiting for an answer. */
  readonly input?: string
  /** Variables to add to its environment. */
  readonly variables?: Readonly<Record<string, string>>
  /** The longest that the program may run, in milliseconds. Unlimited by default. */
  readonly timeoutMs?: number
  /** The longest that the program may go without output, in milliseconds. Unlimited by default. */
  readonly silenceMs?: number
  /** Receives each chunk of the standard output. */
  readonly onOutput?: (text: string) => void
  /** How long processes that the program leaves behind may keep its output open, in milliseconds. */
  readonly lingerMs?: number
}

/** Enough for the errors at the end of the log of any failed build. */
const LOG_LIMIT = 256 * 1024
/** The largest output is a list of a flake's packages: the names in nixpkgs take some megabytes. */
const OUTPUT_LIMIT = 16 * 1024 * 1024
const LINGER = 10_000

/**
 * Runs a program whose output is small, without a shell, and waits for it to end.
 * @returns undefined if the program is not on the PATH
 */
export async function runCommand(
  program: string,
  args: readonly string[],
  {
    trust,
    shown = false,
    echo = true,
    input,
    variables,
    timeoutMs,
    silenceMs,
    onOutput,
    lingerMs = LINGER,
  }: CommandOptions,
): Promise<CommandResult | undefined> {
  const path = await which(program)
  if (path === '') return undefined
  if (echo) printCommand(shown, path, args)
  const output = collectOutput(OUTPUT_LIMIT)
  const log = keepTail(LOG_LIMIT)
  const outputLines = shown === true ? splitLines(printPlain) : undefined
  const errorLines = shown === false ? undefined : splitLines(shown === true ? printPlain : shown)
  const activity = typeof shown === 'function' ? undefined : startActivity(`${program} ${args[0] ?? ''}`.trim())

  const stdin = input === undefined ? 'ignore' : 'pipe'
  const { process: child, exited } = startChild(path, args, trust, stdin, variables)
  const silence = limitSilence(silenceMs, () => endGroup(child))
  const closed = Promise.withResolvers<void>()
  child?.once('close', () => closed.resolve())
  // The streams are undefined if the system is out of processes or file descriptors.
  child?.stdout?.on('data', (chunk: Buffer) => {
    activity?.progress()
    silence.progress()
    onOutput?.(chunk.toString('utf8'))
    outputLines?.write(chunk)
    // Kill a program that floods its output: it might never end.
    if (!output.add(chunk)) endGroup(child)
  })
  child?.stderr?.on('data', (chunk: Buffer) => {
    activity?.progress()
    silence.progress()
    errorLines?.write(chunk)
    log.add(chunk)
  })
  child?.stdin?.end(input)
  const timeout = timeoutMs === undefined ? undefined : setTimeout(() => endGroup(child), timeoutMs)

  const { code, error } = await exited
  clearTimeout(timeout)
  silence.end()
  if (child?.pid !== undefined) await waitUpTo(lingerMs, closed.promise)
  // Docker and credential helpers may leave agents running for later calls.
  if (trust !== 'everything') endGroup(child)
  child?.stdout?.destroy()
  child?.stderr?.destroy()
  activity?.end()
  outputLines?.end()
  errorLines?.end()
  if (error !== undefined) log.add(Buffer.from(`${error}\n`))
  if (output.full) log.add(Buffer.from(`\n${program} wrote more than ${OUTPUT_LIMIT} bytes to its standard output.\n`))
  return {
    exitCode: output.full ? 125 : code,
    stdout: output.read().toString('utf8'),
    log: withoutEscapes(log.read().toString('utf8')).replaceAll('\r', ''),
    stalled: silence.exceeded(),
  }
}

/** Calls `onSilence` when `progress` has not been called for a number of milliseconds. Does nothing without a limit. */
function limitSilence(
  limit: number | undefined,
  onSilence: () => void,
): { readonly progress: () => void; readonly exceeded: () => boolean; readonly end: () => void } {
  let exceeded = false
  const stall = (): void => {
    exceeded = true
    onSilence()
  }
  const timer = limit === undefined ? undefined : setTimeout(stall, limit)
  return { progress: () => void timer?.refresh(), exceeded: () => exceeded, end: () => clearTimeout(timer) }
}

function printCommand(shown: Shown, path: string, args: readonly string[]): void {
  if (shown !== false) printLine(`[command]${[path, ...args].join(' ')}`)
}

/** Prints a line without colours: only short logs, such as those of Docker and copyTo, are printed like this. */
function printPlain(line: string): void {
  printLine(withoutHidden(withoutEscapes(line)))
}
