import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, constants as fs, openSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { Socket } from 'node:net'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import * as v from 'valibot'
import { parse } from 'yaml'
import type { ArtifactService } from './artifact-service.ts'

/** A step that uses the action, with the parts of its job that the action can see. */
export interface ActionCall {
  /** The step's `with:`. Inputs that `action.yml` does not define throw, while the runner only warns. */
  readonly inputs: Readonly<Record<string, string>>
  /** Merged over the runner's own variables. Undefined removes a variable. */
  readonly env?: Readonly<Record<string, string | undefined>>
  /** The workspace, which is also the working directory. The default is an empty folder. */
  readonly cwd?: string
  readonly matrix?: Readonly<Record<string, string>>
  readonly jobTotal?: number
  readonly jobIndex?: number
  readonly job?: string
  readonly runId?: string
  readonly runAttempt?: number
  readonly sha?: string
  readonly repository?: string
  readonly ref?: string
  readonly eventName?: string
  /** The job's `github.token`, masked from the start, as the runner does. */
  readonly token?: string
  readonly artifacts?: ArtifactService
  /** Cancels the step with SIGINT and, if it keeps running, SIGTERM and SIGKILL, at the runner's intervals. */
  readonly signal?: AbortSignal
  /** The first signal that cancels the step, instead of SIGINT. */
  readonly cancelBy?: 'SIGTERM'
  /** Kills the step's process immediately (SIGKILL), as if its machine had disappeared. */
  readonly kill?: AbortSignal
  /** Receives each line of `log` as it is written. */
  readonly onLog?: (line: string) => void
  /** The folder of `action.yml`. The default is this checkout. */
  readonly actionFolder?: string
}

/** The result of a step. */
export interface ActionRun {
  readonly exitCode: number
  /**
   * The log on the run's page: standard output and error in the order in which they were written, secrets as `***`,
   * workflow commands as the runner shows them (`##[error]…`, `##[group]…`), without masking commands and, without
   * `RUNNER_DEBUG`, without debug messages.
   */
  readonly log: string
  readonly outputs: Readonly<Record<string, string>>
  readonly summary: string
  /** Annotations: the message, after `<title>: ` if it has a title. Secrets known by then are `***`. */
  readonly errors: readonly string[]
  readonly warnings: readonly string[]
  readonly notices: readonly string[]
  /** The values that the action asked the runner to mask. */
  readonly masks: readonly string[]
  /** All paths in `RUNNER_TEMP`, relative to it. */
  readonly tempLeft: readonly string[]
  /** Standard output and error as the process wrote them, including secrets and commands. */
  readonly raw: string
  /** The contents of all remaining files: in `RUNNER_TEMP`, in the home, and the files for workflow commands. */
  readonly filesLeft: string
}

/** The environment of a step, and the results that it wrote there. */
export interface PreparedRunner {
  /** The complete environment of the action's process. */
  readonly env: Readonly<Record<string, string>>
  readonly cwd: string
  /** The script that `action.yml` names. */
  readonly main: string
  /** Throws if the file is not in its format, for which the runner fails the step. */
  readOutputs(): Promise<Readonly<Record<string, string>>>
  readSummary(): Promise<string>
  readFiles(): Promise<string>
  tempLeft(): Promise<readonly string[]>
  /** Deletes everything that was created for the step. */
  close(): Promise<void>
}

/** Returns a step that has succeeded and left nothing behind but its SBOM. Fails the test otherwise, with the step's output. */
export function passed(step: ActionRun): ActionRun {
  const { exitCode, errors, outputs, tempLeft, log } = step
  const left = tempLeft.filter((name) => !outputs['sbom']?.endsWith(`/${name}`))
  if (exitCode === 0 && errors.length === 0 && left.length === 0) return step
  throw new Error(`The step ended with ${exitCode}, and left ${left.join(', ') || 'nothing'}:\n${log}`)
}

/** Runs the action as GitHub's runner does, in a separate process with a fresh environment. */
export async function runAction(call: ActionCall): Promise<ActionRun> {
  const runner = await prepareRunner(call)
  try {
    const log = actionLog(call, runner.env)
    const exitCode = await execute(runner, log.read, call)
    return {
      exitCode,
      log: log.lines.map((line) => `${line}\n`).join(''),
      outputs: await runner.readOutputs(),
      summary: log.mask(await runner.readSummary()),
      errors: log.annotations.error,
      warnings: log.annotations.warning,
      notices: log.annotations.notice,
      masks: log.masks,
      tempLeft: await runner.tempLeft(),
      raw: log.raw.map((line) => `${line}\n`).join(''),
      filesLeft: await runner.readFiles(),
    }
  } finally {
    await runner.close()
  }
}

/**
 * Creates the folders and the environment that the runner gives a step, for `runAction` and for tests that call the
 * action's code in this process. Close it afterwards.
 */
export async function prepareRunner(call: ActionCall): Promise<PreparedRunner> {
  const actionFolder = call.actionFolder ?? checkout
  const action = v.parse(actionMetadata, parse(await readFile(join(actionFolder, 'action.yml'), 'utf8'), yamlAsText))
  const folder = await mkdtemp(join(tmpdir(), 'runner-'))
  const close = () => rm(folder, { recursive: true, force: true })
  try {
    const env = stepEnvironment(call, action, await stepFolders(folder, call.cwd))
    return {
      env,
      cwd: env.GITHUB_WORKSPACE ?? folder,
      main: join(actionFolder, action.runs.main),
      readOutputs: async () => parseOutputs(await readFile(join(folder, 'commands', 'output'), 'utf8')),
      readSummary: () => readFile(join(folder, 'commands', 'step_summary'), 'utf8'),
      readFiles: () => readAllFiles(folder),
      tempLeft: async () => {
        const names = await readdir(join(folder, 'temp'), { recursive: true })
        // Kept on purpose, for a merge in the same job.
        return names.filter((name) => !name.startsWith('nix-image-action-records')).sort()
      },
      close,
    }
  } catch (error) {
    await close()
    throw error
  }
}

async function readAllFiles(folder: string): Promise<string> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  const files = entries.filter((entry) => entry.isFile()).map(({ parentPath, name }) => join(parentPath, name))
  return (await Promise.all(files.map((file) => readFile(file, 'latin1')))).join('\n')
}

const checkout = fileURLToPath(new URL('../../', import.meta.url))

// The action and its inputs

const actionMetadata = v.object({
  inputs: v.optional(v.record(v.string(), v.object({ default: v.optional(v.string()) })), {}),
  runs: v.object({ main: v.string() }),
})
type ActionMetadata = v.InferOutput<typeof actionMetadata>

/** The runner reads every scalar as text: `default: true` is the text `true`. */
const yamlAsText = { schema: 'failsafe' } as const

/**
 * The `INPUT_` variables: each input of `action.yml`, either as given or its default. An empty text counts as given, so
 * the default does not apply.
 */
function inputVariables(
  inputs: ActionCall['inputs'],
  action: ActionMetadata,
  contexts: Contexts,
): Readonly<Record<string, string>> {
  const valid = Object.keys(action.inputs)
  const unexpected = Object.keys(inputs).filter((name) => !valid.includes(name))
  if (unexpected.length > 0) {
    throw new Error(`Unexpected input(s) '${unexpected.join("', '")}', valid inputs are ['${valid.join("', '")}']`)
  }
  return Object.fromEntries(
    Object.entries(action.inputs).map(([name, input]) => [
      `INPUT_${name.replaceAll(' ', '_').toUpperCase()}`,
      inputs[name] ?? evaluate(input.default ?? '', contexts),
    ]),
  )
}

/** The contexts that an input's default may use. Missing values are empty. */
type Contexts = Readonly<Record<'github' | 'matrix' | 'runner' | 'strategy' | 'job', ContextLookup>>
type ContextLookup = (key: string) => string | undefined

function stepContexts(call: ActionCall, env: Readonly<Record<string, string>>): Contexts {
  const variable = (prefix: string) => (key: string) => env[`${prefix}_${key.toUpperCase()}`]
  return {
    github: (key) => (key === 'token' ? call.token : variable('GITHUB')(key)),
    matrix: (key) => call.matrix?.[key],
    runner: variable('RUNNER'),
    strategy: (key) => ({ 'job-total': call.jobTotal, 'job-index': call.jobIndex })[key]?.toString(),
    job: () => undefined,
  }
}

/** Evaluates `${{ context.key }}`. Throws for any other expression, which this stand-in does not support. */
function evaluate(text: string, contexts: Contexts): string {
  return text.replaceAll(/\$\{\{(.*?)\}\}/g, (expression, inner: string) => {
    const [, name, key] = /^\s*(github|matrix|runner|strategy|job)\.([\w-]+)\s*$/.exec(inner) ?? []
    if (name === undefined || key === undefined) throw new Error(`can't evaluate ${expression} in action.yml`)
    return contexts[name as keyof Contexts](key) ?? ''
  })
}

// The environment

interface StepFolders {
  readonly home: string
  readonly temp: string
  readonly workspace: string
  /** The folder of the files behind `GITHUB_OUTPUT` and similar variables. */
  readonly files: Readonly<Record<string, string>>
}

async function stepFolders(folder: string, cwd: string | undefined): Promise<StepFolders> {
  const home = join(folder, 'home')
  const temp = join(folder, 'temp')
  const workspace = join(folder, 'workspace')
  const commands = join(folder, 'commands')
  await Promise.all([home, temp, workspace, commands].map((path) => mkdir(path)))
  const files = Object.fromEntries(
    ['output', 'step_summary', 'state', 'env', 'path'].map((name) => [
      `GITHUB_${name.toUpperCase()}`,
      join(commands, name),
    ]),
  )
  const event = join(commands, 'event.json')
  await Promise.all(Object.values(files).map((path) => writeFile(path, '')))
  await writeFile(event, '{}')
  return { home, temp, workspace: cwd ?? workspace, files: { ...files, GITHUB_EVENT_PATH: event } }
}

function stepEnvironment(
  call: ActionCall,
  action: ActionMetadata,
  folders: StepFolders,
): Readonly<Record<string, string>> {
  const runner = {
    ...defined({
      PATH: process.env.PATH,
      TMPDIR: process.env.TMPDIR,
      LANG: process.env.LANG,
      NODE_EXTRA_CA_CERTS: process.env.NODE_EXTRA_CA_CERTS,
    }),
    // Not the developer's home, because tests must not use its registry credentials.
    HOME: folders.home,
    ...jobVariables(call),
    GITHUB_WORKSPACE: folders.workspace,
    RUNNER_TEMP: folders.temp,
    ...folders.files,
    ...call.artifacts?.env,
  }
  const inputs = inputVariables(call.inputs, action, stepContexts(call, runner))
  return defined({ ...runner, ...inputs, ...call.env })
}

function jobVariables(call: ActionCall): Readonly<Record<string, string>> {
  const repository = call.repository ?? 'Owner/App'
  const ref = call.ref ?? 'refs/heads/main'
  return {
    CI: 'true',
    GITHUB_ACTIONS: 'true',
    GITHUB_ACTION: '__self',
    GITHUB_ACTOR: 'octocat',
    // An address without a service, so that no test connects to the internet.
    GITHUB_API_URL: 'http://127.0.0.1:1',
    GITHUB_EVENT_NAME: call.eventName ?? 'push',
    GITHUB_JOB: call.job ?? 'build',
    GITHUB_REF: ref,
    GITHUB_REF_NAME: ref.replace(/^refs\/(heads|tags|pull)\//, ''),
    GITHUB_REPOSITORY: repository,
    GITHUB_REPOSITORY_OWNER: repository.replace(/\/.*/, ''),
    GITHUB_RETENTION_DAYS: '90',
    GITHUB_RUN_ATTEMPT: String(call.runAttempt ?? 1),
    GITHUB_RUN_ID: call.runId ?? '1234567890',
    GITHUB_RUN_NUMBER: '1',
    GITHUB_SERVER_URL: 'https://github.com',
    GITHUB_SHA: call.sha ?? '0123456789abcdef0123456789abcdef01234567',
    GITHUB_WORKFLOW: 'CI',
    RUNNER_ARCH: process.arch === 'arm64' ? 'ARM64' : 'X64',
    RUNNER_ENVIRONMENT: 'github-hosted',
    RUNNER_NAME: 'GitHub Actions 1',
    RUNNER_OS: 'Linux',
  }
}

function defined(variables: Readonly<Record<string, string | undefined>>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(variables).flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])),
  )
}

// The action's output

/**
 * Reads `GITHUB_OUTPUT`: `name=value`, or `name<<delimiter`, lines, `delimiter`.
 * https://github.com/actions/runner/blob/main/src/Runner.Worker/FileCommandManager.cs
 */
export function parseOutputs(text: string): Readonly<Record<string, string>> {
  const outputs: Record<string, string> = {}
  const lines = text.split(/\r?\n/)
  for (let at = 0; at < lines.length; at++) {
    const line = lines[at] ?? ''
    if (line === '') continue
    const [, name, separator, rest] = /^(.+?)(=|<<)(.*)$/.exec(line) ?? []
    if (name === undefined || rest === undefined) throw new Error(`Invalid format '${line}'`)
    if (separator === '=') {
      outputs[name] = rest
      continue
    }
    const end = lines.indexOf(rest, at + 1)
    if (end < 0) throw new Error(`Invalid value. Matching delimiter not found '${rest}'`)
    outputs[name] = lines.slice(at + 1, end).join('\n')
    at = end
  }
  return outputs
}

type Level = 'error' | 'warning' | 'notice'

interface ActionLog {
  readonly lines: readonly string[]
  readonly raw: readonly string[]
  readonly annotations: Readonly<Record<Level, readonly string[]>>
  readonly masks: readonly string[]
  /** Processes one line as the process wrote it. */
  readonly read: (line: string) => void
  /** Replaces the secrets known so far. */
  readonly mask: (text: string) => string
}

/** Reads a step's output line by line, so that a secret is hidden only after the action asked for it. */
function actionLog(call: ActionCall, env: Readonly<Record<string, string>>): ActionLog {
  const lines: string[] = []
  const raw: string[] = []
  const annotations: Record<Level, string[]> = { error: [], warning: [], notice: [] }
  const masks: string[] = []
  const { mask, addSecret } = secretMasker(call.token, call.artifacts?.env.ACTIONS_RUNTIME_TOKEN)
  let stopped: string | undefined

  const show = (text: string) => {
    const line = mask(text)
    lines.push(line)
    call.onLog?.(line)
  }
  const annotate = (level: Level, { properties, message }: WorkflowCommand) => {
    const title = properties.get('title')
    annotations[level].push(mask(title === undefined ? message : `${title}: ${message}`))
    show(`##[${level}]${message}`)
  }
  const addMask = ({ message }: WorkflowCommand) => {
    masks.push(message)
    addSecret(message)
  }
  const commands = new Map<string, (command: WorkflowCommand) => void>([
    ['add-mask', addMask],
    ['debug', ({ message }) => env.RUNNER_DEBUG === '1' && show(`##[debug]${message}`)],
    ['error', (command) => annotate('error', command)],
    ['warning', (command) => annotate('warning', command)],
    ['notice', (command) => annotate('notice', command)],
    ['group', ({ message }) => show(`##[group]${message}`)],
    ['endgroup', () => show('##[endgroup]')],
  ])

  const read = (line: string) => {
    raw.push(line)
    const command = parseCommand(line)
    const carryOut = commands.get(command?.name ?? '')
    if (stopped !== undefined) {
      if (command?.name === stopped) stopped = undefined
      else show(line)
    } else if (command?.name === 'stop-commands') stopped = command.message
    else if (command !== undefined && carryOut !== undefined) carryOut(command)
    else show(line)
  }
  return { lines, raw, annotations, masks, read, mask }
}

/** Hides secrets, and each line of a multi-line secret, because the log is masked line by line. */
function secretMasker(...known: readonly (string | undefined)[]): {
  readonly mask: (text: string) => string
  readonly addSecret: (value: string) => void
} {
  const secrets = new Set(known.filter((secret) => secret !== undefined))
  return {
    // Longest first: if a secret contains another one, nothing of the longer one must remain.
    mask: (text) =>
      [...secrets]
        .sort((a, b) => b.length - a.length)
        .reduce((masked, secret) => masked.replaceAll(secret, '***'), text),
    addSecret: (value) => {
      for (const part of [value, ...value.split(/\r?\n/)]) if (part.trim() !== '') secrets.add(part)
    },
  }
}

interface WorkflowCommand {
  readonly name: string
  readonly properties: ReadonlyMap<string, string>
  readonly message: string
}

/**
 * `::name key=value,key=value::message`, see
 * https://github.com/actions/runner/blob/main/src/Runner.Common/ActionCommand.cs
 */
function parseCommand(line: string): WorkflowCommand | undefined {
  const [, name, list = '', message] = /^\s*::([^\s:]+)(?:\s+(.*?))?::(.*)$/.exec(line) ?? []
  if (name === undefined || message === undefined) return undefined
  const properties = list.split(',').flatMap((property): [string, string][] => {
    const [, key, value] = /^\s*([^=]+)=(.*)$/.exec(property) ?? []
    return key === undefined || value === undefined ? [] : [[key, decodeProperty(value)]]
  })
  return { name, properties: new Map(properties), message: decodeMessage(message) }
}

/** A message keeps `%3A` and `%2C`, which are escapes only in properties. */
function decodeMessage(text: string): string {
  return text.replaceAll('%0D', '\r').replaceAll('%0A', '\n').replaceAll('%25', '%')
}

function decodeProperty(text: string): string {
  return decodeMessage(text.replaceAll('%3A', ':').replaceAll('%2C', ','))
}

// The process

/** Runs the action's script until it and its output end, and returns its exit code. */
async function execute(
  { env, cwd, main }: PreparedRunner,
  onLine: (line: string) => void,
  { signal, cancelBy, kill }: Pick<ActionCall, 'signal' | 'cancelBy' | 'kill'>,
): Promise<number> {
  // One pipe for both streams, because only that preserves the order in which they were written.
  const { input, output } = await openPipe()
  const child = spawn(process.execPath, [main], { cwd, env, stdio: ['ignore', output, output] })
  const exited = once(child, 'exit') as Promise<[number | null, NodeJS.Signals | null]>
  const ended = once(input, 'close')
  closeSync(output)
  createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY }).on('line', onLine)
  const send = (name: NodeJS.Signals) => {
    child.kill(name)
    // Remaining child processes of the action would keep the pipe open.
    if (name === 'SIGKILL') input.destroy()
  }
  const stopCancelling = onCancel(signal, cancelBy ?? 'SIGINT', send)
  const end = () => send('SIGKILL')
  kill?.addEventListener('abort', end, { once: true })
  const [[code, killedBy]] = await Promise.all([exited, ended]).finally(() => {
    stopCancelling()
    kill?.removeEventListener('abort', end)
  })
  return code ?? 128 + (killedBy === null ? 0 : constants.signals[killedBy])
}

/** A pipe: its reading end, and the file descriptor of its writing end. */
async function openPipe(): Promise<{ readonly input: Socket; readonly output: number }> {
  const folder = await mkdtemp(join(tmpdir(), 'pipe-'))
  try {
    const path = join(folder, 'pipe')
    await promisify(execFile)('mkfifo', [path])
    const reading = openSync(path, fs.O_RDONLY | fs.O_NONBLOCK)
    const output = openSync(path, fs.O_WRONLY)
    return { input: new Socket({ fd: reading, writable: false }), output }
  } finally {
    await rm(folder, { recursive: true })
  }
}

/** Sends the signals of a cancelled step until the returned function is called. */
function onCancel(
  signal: AbortSignal | undefined,
  first: NodeJS.Signals,
  kill: (name: NodeJS.Signals) => void,
): () => void {
  const timers: NodeJS.Timeout[] = []
  const cancel = () => {
    kill(first)
    timers.push(setTimeout(kill, 7500, 'SIGTERM'), setTimeout(kill, 10_000, 'SIGKILL'))
  }
  if (signal?.aborted) cancel()
  else signal?.addEventListener('abort', cancel, { once: true })
  return () => {
    signal?.removeEventListener('abort', cancel)
    timers.forEach(clearTimeout)
  }
}
