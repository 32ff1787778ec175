import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { constants } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { messageOf } from '../errors.ts'

/** How a program ended. */
export interface Exit {
  /** As in a shell: 128 plus the signal's number if a signal ended the program, 126 if it could not be started. */
  readonly code: number
  /** Why the program could not be started. */
  readonly error?: string
}

/** A running program that leads its own process group. */
export interface Child {
  /** Undefined if the program could not be started. Its streams may be undefined, too. */
  readonly process?: ChildProcess
  /** Never rejects. */
  readonly exited: Promise<Exit>
}

/** Leaders of process groups that may still have running processes. */
const running = new Set<ChildProcess>()
/** Set when the step is cancelled. No program starts after that. */
let ending = false

/**
 * Starts a program without a shell and without a terminal.
 * @param stdin `ignore`: the standard input is empty, so that a prompt fails instead of waiting for an answer
 * @param variables added to its environment
 */
export function startChild(
  path: string,
  args: readonly string[],
  trust: Trust,
  stdin: 'ignore' | 'pipe',
  variables: Environment = {},
): Child {
  if (ending) return { exited: Promise.resolve({ code: 126, error: 'the step is cancelled' }) }
  try {
    const env = { ...environmentFor(trust), ...variables }
    // `detached` creates a process group, so that the program's own children can be signalled as well.
    const child = spawn(path, args, { env, stdio: [stdin, 'pipe', 'pipe'], detached: true })
    // A program may exit before it has read its input (EPIPE). The exit code and the log tell why.
    for (const pipe of [child.stdin, child.stdout, child.stderr]) pipe?.on('error', () => undefined)
    running.add(child)
    return { process: child, exited: exitOf(child, trust) }
  } catch (error) {
    // Node throws some errors of spawn (ELOOP, E2BIG) and emits others (ENOENT).
    return { exited: Promise.resolve({ code: 126, error: messageOf(error) }) }
  }
}

async function exitOf(child: ChildProcess, trust: Trust): Promise<Exit> {
  try {
    const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null]
    return { code: code ?? 128 + (signal === null ? 0 : constants.signals[signal]) }
  } catch (error) {
    running.delete(child)
    return { code: 126, error: messageOf(error) }
  } finally {
    // Docker and credential helpers may leave agents running. `endGroup` ends what other programs leave running.
    if (trust === 'everything') running.delete(child)
  }
}

/** Kills a program and every process in its group. */
export function endGroup(child: ChildProcess | undefined): void {
  if (child === undefined) return
  if (child.pid !== undefined) signalGroup(child.pid, 'SIGKILL')
  running.delete(child)
}

/** Returns false if the group has no process that this user may signal. */
function signalGroup(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(-pid, signal)
  } catch {
    return false
  }
}

/** Time that programs get to end after a signal, in milliseconds. Nix ends its builders in that time. */
const GRACE = 3000

/**
 * Sends a signal to the process groups of all running programs, and kills those that are left after the grace period.
 * Prevents other programs from starting. Resolves once all have ended.
 */
export async function endChildren(signal: NodeJS.Signals, grace = GRACE): Promise<void> {
  ending = true
  const children = [...running]
  for (const { pid } of children) if (pid !== undefined) signalGroup(pid, signal)
  const deadline = performance.now() + grace
  // Wait for the whole group, not just its leader: a shell that runs Nix ends before Nix has ended its builders.
  while (children.some(isGroupAlive) && performance.now() < deadline) await sleep(POLL_INTERVAL)
  for (const child of children) endGroup(child)
}

/** In milliseconds. */
const POLL_INTERVAL = 50

function isGroupAlive({ pid }: ChildProcess): boolean {
  return pid !== undefined && signalGroup(pid, 0)
}

type Environment = Readonly<Record<string, string | undefined>>

/**
 * How much of the step's environment a program gets.
 * `everything`: all of it but the input `token`, for Docker and credential helpers, which may need it to log in.
 * `no-secrets`: without the secrets and command files of the step, for Nix, Git and other tools, and for the script in
 * `test`.
 * `no-logins`: without the configuration of registry logins as well, for programs that the flake provides.
 */
export type Trust = 'everything' | 'no-secrets' | 'no-logins'

/**
 * Returns the environment for a child process. Unless the program is fully trusted, removes the step's inputs, the tokens
 * of the runner and the job, and the files for workflow commands:
 * https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands#environment-files
 */
export function environmentFor(trust: Trust, env: Environment = process.env): Environment {
  const withheld = WITHHELD[trust]
  const given = Object.entries(env).filter(([name]) => !withheld.some((pattern) => pattern.test(name)))
  return { ...(trust !== 'everything' && NO_PROMPTS), ...Object.fromEntries(given) }
}

/**
 * Makes Git and SSH, with which Nix fetches flakes, fail instead of asking for a login. There is no terminal, but they
 * would start programs that ask in a window. Does not set `BatchMode` in `GIT_SSH_COMMAND`, which would override a job's
 * `core.sshCommand` and with it the choice of a key. Values that the job has set take precedence.
 * https://git-scm.com/docs/git#Documentation/git.txt-codeGITASKPASScode
 * https://man.openbsd.org/ssh#SSH_ASKPASS_REQUIRE
 */
const NO_PROMPTS: Environment = { GIT_TERMINAL_PROMPT: '0', GIT_ASKPASS: '', SSH_ASKPASS_REQUIRE: 'never' }

/**
 * `ACTIONS_…` includes the tokens for artifacts, caches and OpenID Connect. Gitea and Forgejo also set variables of the
 * same meaning under their own names. `CI_…` are the logins of a job of GitLab:
 * https://docs.gitlab.com/ci/variables/predefined_variables/
 */
const STEP_SECRETS =
  /^(INPUT_.*|(ACTIONS|GITEA_ACTIONS|FORGEJO_ACTIONS)_.*|(GITHUB|GITEA|FORGEJO|GH)_((ENTERPRISE_|RUNTIME_)?TOKEN|ENV|PATH|OUTPUT|STATE|STEP_SUMMARY|ARTIFACTS)|CI_(.*_)?(TOKEN|PASSWORD|USER)|CI_JOB_JWT.*)$/i

const REGISTRY_LOGINS = /^(DOCKER_CONFIG|REGISTRY_AUTH_FILE|DOCKER_AUTH_CONFIG)$/

const WITHHELD: Readonly<Record<Trust, readonly RegExp[]>> = {
  everything: [/^INPUT_TOKEN$/i],
  'no-secrets': [STEP_SECRETS],
  'no-logins': [STEP_SECRETS, REGISTRY_LOGINS],
}
