import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { constants } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { messageOf } from '../failure.ts'
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

/** Those that have not ended. */
const running = new Set<ChildProcess>()

/**
 * Starts a program, without a shell and without a terminal.
 * @param stdin `ignore`: it reads an empty standard input, so that nothing that it asks waits for an answer
 */
export function startChild(path: string, args: readonly string[], trust: Trust, stdin: 'ignore' | 'pipe'): Child {
  try {
    // Detached, so that it leads a process group, by which what it starts can be ended as well.
    const child = spawn(path, args, { env: environmentFor(trust), stdio: [stdin, 'pipe', 'pipe'], detached: true })
    running.add(child)
    return { process: child, exited: exitOf(child) }
  } catch (error) {
    // Node throws some of the system's errors (ELOOP, E2BIG) and emits others (ENOENT).
    return { exited: Promise.resolve({ code: 126, error: messageOf(error) }) }
  }
}

async function exitOf(child: ChildProcess): Promise<Exit> {
  try {
    const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null]
    return { code: code ?? 128 + (signal === null ? 0 : constants.signals[signal]) }
  } catch (error) {
    return { code: 126, error: messageOf(error) }
  } finally {
    running.delete(child)
  }
}

/** Ends a program at once, with all that it has started and that has not left its process group. */
export function endGroup(child: ChildProcess | undefined): void {
  if (child?.pid !== undefined) signalGroup(child.pid, 'SIGKILL')
  running.delete(child as ChildProcess)
}

function signalGroup(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-pid, signal)
  } catch {
    // There is nobody left in it, or nobody whom this user may end.
  }
}

/** How long programs may take to end after a signal, in milliseconds. Nix ends its builders in that time. */
const GRACE = 3000

/**
 * Passes a signal on to all programs that run and to what they have started, and ends those that go on in spite of it.
 * Returns once all have ended.
 */
export async function endChildren(signal: NodeJS.Signals, grace = GRACE): Promise<void> {
  const children = [...running]
  const ended = Promise.all(children.map((child) => once(child, 'exit').catch(() => undefined)))
  for (const { pid } of children) if (pid !== undefined) signalGroup(pid, signal)
  await Promise.race([ended, sleep(grace)])
  for (const child of children) endGroup(child)
}
