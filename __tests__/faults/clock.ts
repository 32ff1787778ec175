import { createRequire, syncBuiltinESMExports } from 'node:module'
import { Socket } from 'node:net'
import timersPromises from 'node:timers/promises'
import { Worker } from 'node:worker_threads'

/**
 * Virtual time for a complete process. The clock jumps to the next timer as soon as the process is idle: no connection
 * transfers bytes and no program runs. A wait of an hour takes some milliseconds, and no timer fires early on a slow
 * machine.
 */
export interface VirtualClock {
  /** Returns the milliseconds since the process started, including jumps. */
  now(): number
  /** Runs `work`. Time jumps only while it runs. */
  run<Result>(work: () => Promise<Result>, limits: Limits): Promise<Result>
  /** Prevents jumps until this work of another process has ended. */
  hold<Result>(work: Promise<Result>): Promise<Result>
  /** Declares that this many programs are idle, although they run. */
  addIdleProgram(count: number): void
}

export interface Limits {
  /** Of virtual time, in milliseconds. */
  readonly virtual: number
  /** Of real time, in milliseconds. */
  readonly real: number
}

/** An error for work that did not end. */
export class Hang extends Error {
  override readonly name = 'Hang'
}

interface Timer {
  readonly callback: () => void
  readonly every: number | undefined
  delay: number
  due: number
  order: number
}

/** The process is idle after this many turns of the event loop, of about a millisecond each, without activity. */
const QUIET_TURNS = 4
const MOST_IN_A_ROW = 4
/** Without a timer, the work hangs after this many turns without activity. */
const DEAD_TURNS = 300

const real = { setTimeout: globalThis.setTimeout, now: performance.now.bind(performance) }
const timers = new Set<Timer>()
/** Changes with each activity. */
let activity = 0
let jumped = 0
let orders = 0
let idlePrograms = 0
/** The number of unanswered requests to threads and other processes. */
let atWork = 0

const now = (): number => real.now() + jumped

/** Replaces all clocks and timers of this process. */
export function installClock(): VirtualClock {
  const started = Date.now() - real.now()
  replaceTimers()
  replaceDate(() => Math.floor(started + now()))
  watchSockets()
  watchThreads()
  return {
    now,
    run,
    hold: async (work) => {
      atWork++
      try {
        return await work
      } finally {
        answered()
      }
    },
    addIdleProgram(count) {
      idlePrograms += count
      activity++
    },
  }
}

async function run<Result>(work: () => Promise<Result>, limits: Limits): Promise<Result> {
  const ended = Promise.withResolvers<never>()
  let done = false
  const pump = async (): Promise<void> => {
    try {
      await jumpUntil(() => done, limits)
    } catch (error) {
      ended.reject(error)
    }
  }
  const pumped = pump()
  ended.promise.catch(() => undefined)
  try {
    return await Promise.race([work(), ended.promise])
  } finally {
    done = true
    await pumped
    // The end of the action's process would also end its timers.
    timers.clear()
  }
}

async function jumpUntil(isDone: () => boolean, limits: Limits): Promise<void> {
  const start = { virtual: now(), real: real.now() }
  let quiet = 0
  let seen = activity
  while (!isDone()) {
    await new Promise((resolve) => void real.setTimeout(resolve, 1))
    if (now() - start.virtual > limits.virtual) throw new Hang(`did not end within ${limits.virtual / 60_000} min`)
    if (real.now() - start.real > limits.real) throw new Hang(`did not end within ${limits.real / 1000} s of real time`)
    if (seen !== activity || isBusy()) {
      seen = activity
      quiet = 0
      continue
    }
    quiet++
    if (timers.size === 0 && quiet > DEAD_TURNS) throw new Hang('waits without a timer or any pending work')
    if (timers.size === 0 || quiet < QUIET_TURNS) continue
    await fireUntilSomethingHappens(isDone, start.virtual + limits.virtual)
    quiet = 0
  }
}

/** Fires the next timer. Fires several intervals in a row, because most of them have no effect. */
async function fireUntilSomethingHappens(isDone: () => boolean, limit: number): Promise<void> {
  const before = activity
  for (let fired = 0; fired < MOST_IN_A_ROW && activity === before && !isDone() && now() <= limit; fired++) {
    const next = [...timers].reduce<Timer | undefined>(earlier, undefined)
    if (next === undefined || isBusy()) return
    jumped += Math.max(0, next.due - now())
    if (next.every === undefined) timers.delete(next)
    else next.due = now() + next.every
    next.callback()
    if (next.every === undefined) return
    for (let turn = 0; turn < 2; turn++) await new Promise((resolve) => setImmediate(resolve))
  }
}

function earlier(one: Timer | undefined, other: Timer): Timer {
  return one === undefined || other.due < one.due || (other.due === one.due && other.order < one.order) ? other : one
}

const PENDING = new Set(['FSReqCallback', 'FSReqPromise', 'FileHandleCloseReq', 'TCPConnectWrap', 'GetAddrInfoReqWrap'])

/** Reports whether the operating system or another process has pending work. */
function isBusy(): boolean {
  if (atWork > 0) return true
  const resources = process.getActiveResourcesInfo()
  if (resources.some((resource) => PENDING.has(resource))) return true
  return resources.filter((resource) => resource === 'ProcessWrap').length > idlePrograms
}

function start(callback: () => void, delay: number | undefined, every?: number): Timer {
  const milliseconds = Math.max(1, Number(delay) || 1)
  const timer = { callback, every, delay: milliseconds, due: now() + milliseconds, order: orders++ }
  timers.add(timer)
  activity++
  return timer
}

function stop(timer: unknown): void {
  if (timers.delete(timer as Timer)) activity++
}

/** The return value of `setTimeout`. */
class Handle {
  readonly timer: Timer
  constructor(timer: Timer) {
    this.timer = timer
  }
  ref(): this {
    return this
  }
  unref(): this {
    return this
  }
  hasRef(): boolean {
    return true
  }
  refresh(): this {
    this.timer.due = now() + this.timer.delay
    timers.add(this.timer)
    return this
  }
  close(): this {
    stop(this.timer)
    return this
  }
  [Symbol.dispose](): void {
    stop(this.timer)
  }
}

type Callback = (...args: readonly unknown[]) => void

function setVirtualTimeout(callback: Callback, delay?: number, ...args: readonly unknown[]): Handle {
  return new Handle(start(() => callback(...args), delay))
}

function setVirtualInterval(callback: Callback, delay?: number, ...args: readonly unknown[]): Handle {
  return new Handle(start(() => callback(...args), delay, Math.max(1, Number(delay) || 1)))
}

function clearVirtual(handle: unknown): void {
  if (handle instanceof Handle) stop(handle.timer)
}

interface SleepOptions {
  readonly signal?: AbortSignal
}

function sleep<Value>(delay?: number, value?: Value, { signal }: SleepOptions = {}): Promise<Value | undefined> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(aborted(signal))
    const abort = (): void => {
      stop(timer)
      reject(aborted(signal))
    }
    const timer = start(() => {
      signal?.removeEventListener('abort', abort)
      resolve(value)
    }, delay)
    signal?.addEventListener('abort', abort, { once: true })
  })
}

function aborted(signal: AbortSignal | undefined): Error {
  return Object.assign(new Error('The operation was aborted', { cause: signal?.reason }), {
    name: 'AbortError',
    code: 'ABORT_ERR',
  })
}

function replaceTimers(): void {
  const replacements = {
    setTimeout: setVirtualTimeout,
    clearTimeout: clearVirtual,
    setInterval: setVirtualInterval,
    clearInterval: clearVirtual,
  }
  Object.assign(globalThis, replacements)
  // undici has a timer that fires twice a second. One jump for each would be slow.
  const undiciTimers = createRequire(import.meta.url)('undici/lib/util/timers.js')
  Object.assign(undiciTimers, { ...replacements, setFastTimeout: setVirtualTimeout, clearFastTimeout: clearVirtual })
  Object.assign(timersPromises, { setTimeout: sleep })
  AbortSignal.timeout = (delay) => {
    const controller = new AbortController()
    start(() => controller.abort(new DOMException('The operation was aborted due to timeout', 'TimeoutError')), delay)
    return controller.signal
  }
  syncBuiltinESMExports()
}

function replaceDate(read: () => number): void {
  const RealDate = Date
  globalThis.Date = new Proxy(RealDate, {
    construct: (target, args, newTarget) => Reflect.construct(target, args.length === 0 ? [read()] : args, newTarget),
    get: (target, name) => (name === 'now' ? read : Reflect.get(target, name)),
  })
  performance.now = now
}

/** Replaces the timers of sockets, which are separate in Node, and records when bytes are transferred. */
function watchSockets(): void {
  const timeouts = new WeakMap<Socket, Timer>()
  const prototype = Socket.prototype as Socket & { _unrefTimer(): void; _onTimeout(): void }
  prototype._unrefTimer = function (this: Socket) {
    activity++
    const timer = timeouts.get(this)
    if (timer !== undefined && timers.has(timer)) timer.due = now() + timer.delay
  }
  prototype.setTimeout = function (this: typeof prototype, delay: number, callback?: () => void) {
    Object.assign(this, { timeout: delay })
    stop(timeouts.get(this))
    if (delay > 0 && Number.isFinite(delay))
      timeouts.set(
        this,
        start(() => this._onTimeout(), delay),
      )
    if (callback !== undefined && delay > 0) this.once('timeout', callback)
    if (callback !== undefined && delay === 0) this.removeListener('timeout', callback)
    return this
  }
  const destroy = prototype.destroy
  prototype.destroy = function (this: Socket, error?: Error) {
    activity++
    stop(timeouts.get(this))
    return destroy.call(this, error)
  }
}

function answered(): void {
  atWork--
  activity++
}

/** Counts the requests to worker threads, each of which gets one answer. */
function watchThreads(): void {
  const { postMessage } = Worker.prototype
  Worker.prototype.postMessage = function (this: Worker, ...args: Parameters<Worker['postMessage']>) {
    atWork++
    if (this.listenerCount('message', answered) === 0) this.on('message', answered)
    postMessage.apply(this, args)
  }
}
