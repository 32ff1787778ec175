import { Readable } from 'node:stream'
import { type Dispatcher, errors, request } from 'undici'
import { type Activity, startActivity } from '../log.ts'
import { LateAnswer, watchBody } from './body.ts'
import type { Attempt } from './budget.ts'
import type { HttpRequest, ResponseHeaders } from './messages.ts'
import { isProtocolError } from './outcome.ts'
import type { Connections } from './proxy.ts'

/** The beginning of an answer, whose body must be read or discarded. */
export interface AnswerHead {
  readonly status: number
  readonly headers: ResponseHeaders
  readonly body: Dispatcher.ResponseData['body']
}

/** Sends a request once. */
export type SendRequest = (call: HttpRequest, attempt: Attempt) => Promise<AnswerHead>

/** Returns a function that sends a request once, and returns the beginning of its answer. @param stall in milliseconds */
export function createSender(connections: Connections, userAgent: string, stall: number): SendRequest {
  // Origins that send bodies after HEAD, which has none: on a kept connection, the body is read as the next answer.
  const headBodyOrigins = new Set<string>()

  return async (call, attempt) => {
    const { method, url, headers, body } = call
    const dispatcher = await connections.dispatcherFor(call).catch((error) => {
      // undici closes the bodies of the requests that it gets.
      if (body instanceof Readable) body.destroy()
      throw error
    })
    const timeoutMs = attempt.limit(timeoutFor(call, stall))
    const timer = createTimer()
    const sent = body instanceof Readable ? watchUpload(body, timer, attempt, timeoutMs, stall) : body
    try {
      const answer = await request(url, {
        method,
        headers: { 'user-agent': userAgent, ...headers },
        body: sent ?? null,
        dispatcher,
        // undici's timeout begins when the request is sent, and would include the time of the upload.
        headersTimeout: body instanceof Readable ? 0 : timeoutMs,
        signal: timer.signal,
        // Each interim answer restarts undici's timeout.
        onInfo() {
          if (!timer.running() && !(body instanceof Readable))
            timer.start(timeoutMs, `only interim answers arrived within ${timeoutMs / 1000} s`)
        },
        // Without this, undici opens a new connection for each HEAD.
        reset: method === 'HEAD' && headBodyOrigins.has(url.origin),
      })
      return { status: answer.statusCode, headers: joinValues(answer.headers), body: answer.body }
    } catch (error) {
      if (isProtocolError(error)) headBodyOrigins.add(url.origin)
      if (error instanceof errors.HeadersTimeoutError) throw new LateAnswer(noAnswerWithin(timeoutMs))
      throw error
    } finally {
      timer.end()
    }
  }
}

function joinValues(headers: Readonly<Record<string, string | string[] | undefined>>): ResponseHeaders {
  return new Map(
    Object.entries(headers).flatMap(([name, value]) => {
      const values = [value ?? []].flat()
      return values.length === 0 ? [] : [[name, values.join(', ')] as const]
    }),
  )
}

/** Counts each part of a body that the connection accepts as progress. */
function watchUpload(body: Readable, timer: Timer, attempt: Attempt, timeoutMs: number, stall: number): Readable {
  const limit = attempt.limit(stall)
  return watchBody(body, {
    start() {
      attempt.progress()
      if (body.readableEnded) timer.start(timeoutMs, noAnswerWithin(timeoutMs))
      else timer.start(limit, `nothing more of the upload was taken within ${limit / 1000} s`)
    },
    stop: timer.stop,
  })
}

/** Bytes per millisecond. Registries may copy a blob at the end of its upload, and answer only after that. */
const COPY_SPEED = 20_000

function timeoutFor({ timeoutMs, body, headers }: HttpRequest, usual: number): number {
  if (timeoutMs !== undefined || !(body instanceof Readable)) return timeoutMs ?? usual
  return usual + Number(headers['content-length'] ?? 0) / COPY_SPEED
}

function noAnswerWithin(timeoutMs: number): string {
  return `no answer arrived within ${Math.round(timeoutMs) / 1000} s`
}

/** Registers a request as an activity, which is reported while the host is silent. Returns a function that ends it. */
export function startRequestActivity({ url, operation, body }: HttpRequest): () => void {
  let activity: Activity | undefined
  let ended = false
  const start = () => {
    if (!ended) activity = startActivity(`${url.host} to ${operation}`)
  }
  // The host can answer an upload only once it has all of it.
  if (body instanceof Readable) body.once('close', start)
  else start()
  return () => {
    ended = true
    activity?.end()
  }
}

/** Cancels a request that takes too long. */
interface Timer {
  readonly signal: AbortSignal
  start(milliseconds: number, reason: string): void
  stop(): void
  /** Stops for good: a body may still be read after an early answer. */
  end(): void
  running(): boolean
}

function createTimer(): Timer {
  const late = new AbortController()
  let timer: NodeJS.Timeout | undefined
  let ended = false
  const stop = (): void => {
    clearTimeout(timer)
    timer = undefined
  }
  return {
    signal: late.signal,
    start(milliseconds, reason) {
      stop()
      if (!ended) timer = setTimeout(() => late.abort(new LateAnswer(reason)), milliseconds)
    },
    stop,
    end() {
      ended = true
      stop()
    },
    running: () => timer !== undefined,
  }
}
