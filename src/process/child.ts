import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { constants } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { messageOf } from '../errors.ts'
import { environmentFor, type Trust } from './environment.ts'

/** How a program ended. */
export interface Exit {
  /** As a shell has it: 128 and the signal's number for a program that a signal ended, 126 for one that can't be run. */
  readonly code: number
  /** Why it could not be run. */
  readonly error?: string
}

/** A program that runs in a process group of its own, with whatever it starts. */
export interface Child {
  /** Absent if the program could not be started. Its streams may be absent, too. */
  readonly process?: ChildProcess
  /** Never rejects. */
  readonly exited: Promise<Exit>
}

/** Leaders of process groups in which something may still run. */
const running = new Set<ChildProcess>()
/** Set once the step is cancelled: no program starts then. */
let ending = false

/**
 * Starts a program, without a shell and without a terminal.
 * @param stdin `ignore`: it reads an empty standard input, so that nothing that it asks waits for an answer
 */
export function startChild(path: string, args: readonly string[], trust: Trust, stdin: 'ignore' | 'pipe'): Child {
  if (ending) return { exited: Promise.resolve({ code: 126, error: 'the step is cancelled' }) }
  try {
    // Detached, so that it leads a process group, by which what it starts can be ended as well.
    const child = spawn(path, args, { env: environmentFor(trust), stdio: [stdin, 'pipe', 'pipe'], detached: true })
    running.add(child)
    return { process: child, exited: exitOf(child, trust) }
  } catch (error) {
    // Node throws some of the system's errors (ELOOP, E2BIG) and emits others (ENOENT).
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
    // Docker and credential helpers may leave agents behind. What others leave behind is ended by `endGroup`.
    if (trust === 'everything') running.delete(child)
  }
}

/** Ends a program at once, with all that it has started and that has not left its process group. */
export function endGroup(child: ChildProcess | undefined): void {
  if (child === undefined) return
  if (child.pid !== undefined) signalGroup(child.pid, 'SIGKILL')
  running.delete(child)
}

/** Returns whether there is a process in the group that this user may end. */
function signalGroup(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(-pid, signal)
  } catch {
    return false
  }
}

/** How long programs may take to end after a signal, in milliseconds. Nix ends its builders in that time. */
const GRACE = 3000

/**
 * Passes a signal on to all programs that run and to what they have started, and ends those that go on in spite of it.
 * No other program starts from then on. Returns once all have ended.
 */
export async function endChildren(signal: NodeJS.Signals, grace = GRACE): Promise<void> {
  ending = true
  const children = [...running]
  for (const { pid } of children) if (pid !== undefined) signalGroup(pid, signal)
  const deadline = performance.now() + grace
  // The leader may end before the others: a shell in which Nix runs would leave Nix no time to end its builders.
  while (children.some(isGroupAlive) && performance.now() < deadline) await sleep(POLL)
  for (const child of children) endGroup(child)
}

/** In milliseconds. */
const POLL = 50

function isGroupAlive({ pid }: ChildProcess): boolean {
  return pid !== undefined && signalGroup(pid, 0)
}
