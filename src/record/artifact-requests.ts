import { AsyncLocalStorage } from 'node:async_hooks'
import { subscribe } from 'node:diagnostics_channel'
import { type ClientRequest, type IncomingMessage, STATUS_CODES } from 'node:http'
import * as v from 'valibot'
import { readErrorAnswer } from '../http/http-error.ts'
import { readJson } from '../json.ts'
import { startActivity } from '../log.ts'
import { sanitizeLine } from '../text.ts'

/** A call to the client. */
interface Call {
  /** Whether its result is no longer needed. */
  ended: boolean
  readonly requests: Set<ClientRequest>
  /** Rejects the call, unless it has settled. */
  readonly fail: (error: unknown) => void
}

const calls = new AsyncLocalStorage<Call>()

/** Runs a call, which fails as soon as one of its requests does, whatever the client does about that. */
export async function callWithin<Result>(
  timeoutMs: number,
  operation: string,
  start: () => Promise<Result>,
): Promise<Result> {
  const { promise, reject } = Promise.withResolvers<never>()
  const call: Call = { ended: false, requests: new Set(), fail: reject }
  const late = new Error(`the connection stalled: no response within ${Math.round(timeoutMs / 1000)} s`)
  const timer = setTimeout(() => reject(late), timeoutMs)
  const activity = startActivity(`the artifact service to ${operation}`)
  try {
    return await Promise.race([calls.run(call, start), promise])
  } finally {
    clearTimeout(timer)
    activity.end()
    // Stop the client: the next attempt may have done the same work already.
    call.ended = true
    for (const request of call.requests) abandon(request)
  }
}

let watching = false

/**
 * Watches all requests of the client. By itself, the client never settles its promises if a response breaks off, drops
 * the text of a response that is not JSON, and retries some requests for minutes without logging.
 */
export function watchClient(): void {
  if (watching) return
  watching = true
  subscribe('http.client.request.created', (message) => {
    const call = calls.getStore()
    if (call !== undefined) watchRequest((message as { readonly request: ClientRequest }).request, call)
  })
  // Errors in its streams and timers would end the process.
  process.on('uncaughtException', (error) => {
    const call = calls.getStore()
    if (call !== undefined) call.fail(error)
    else if (process.listenerCount('uncaughtException') === 1) throw error
  })
}

/** Reports whether the runner belongs to Gitea or Forgejo. */
export function isGitea({ GITEA_ACTIONS, FORGEJO_ACTIONS }: NodeJS.ProcessEnv = process.env): boolean {
  return GITEA_ACTIONS === 'true' || FORGEJO_ACTIONS === 'true'
}

/** Reports whether the service refuses to overwrite an artifact. Gitea and act allow it. */
export function reservesNames(): boolean {
  return !isGitea() && process.env.ACT !== 'true'
}

/**
 * Adapts a request to the artifact server of act, which rejects the field `mime_type`
 * (https://github.com/nektos/act/issues/6022) and requires the padding of the signature that the blob store's client
 * removes from the URL. Tested with act 0.2.89.
 */
function adaptToAct(request: ClientRequest): void {
  request.path = request.path.replace(/([?&]sig=[\w-]{43})(?=&|$)/, '$1%3D')
  if (!request.path.endsWith('/CreateArtifact')) return
  const write = request.write.bind(request)
  const rewrite = (body: unknown): boolean => {
    const { mime_type: _, ...message }: Readonly<Record<string, unknown>> = JSON.parse(String(body))
    const text = JSON.stringify(message)
    request.setHeader('content-length', Buffer.byteLength(text))
    return write(text)
  }
  Object.assign(request, { write: rewrite })
}

function watchRequest(request: ClientRequest, call: Call): void {
  request.once('error', call.fail)
  // Gitea's runner is based on act and also sets ACT.
  if (process.env.ACT === 'true' && !isGitea()) adaptToAct(request)
  if (call.ended) {
    abandon(request)
    return
  }
  call.requests.add(request)
  request.once('close', () => call.requests.delete(request))
  request.once('response', (response: IncomingMessage) => {
    response.once('close', () => {
      if (!response.complete) call.fail(new Error('the connection closed before the response was complete'))
    })
    const operation = /\/twirp\/.*\/(\w+)$/.exec(request.path)?.[1]
    const { statusCode: status = 0, headers } = response
    const fail = (text: string) => call.fail(new ErrorResponse(status, operation, text, headers['retry-after']))
    if (status >= 400) readResponse(response, fail)
    else if (status === 200 && operation !== undefined)
      whenRead(response, () =>
        readResponse(response, (text) => {
          if (!isJson(text)) fail(text)
        }),
      )
  })
}

/** Ends a request with an error that its client does not retry. The clients for Twirp and the blob store differ. */
function abandon(request: ClientRequest): void {
  const code = request.path.includes('/twirp/') ? 'ECONNRESET' : 'ERR_CANCELED'
  request.destroy(Object.assign(new Error('the call has ended'), { code }))
}

/** Calls back when the client begins to read a body: reading it earlier would take data from the client. */
function whenRead(response: IncomingMessage, onRead: () => void): void {
  response.on('newListener', function listen(event: string | symbol) {
    if (event !== 'data') return
    response.off('newListener', listen)
    onRead()
  })
}

function readResponse(response: IncomingMessage, onEnd: (text: string) => void): void {
  const chunks: Buffer[] = []
  let size = 0
  response.on('data', (chunk: Buffer) => {
    if (size < RESPONSE_LIMIT) chunks.push(chunk)
    size += chunk.length
  })
  response.once('end', () => onEnd(Buffer.concat(chunks).toString('utf8')))
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

/** In bytes. A list of a thousand artifacts has half as many. */
const RESPONSE_LIMIT = 4 * 1024 * 1024

/** An error response of the artifact service or its blob store. */
export class ErrorResponse extends Error {
  readonly status: number
  /** The method of the service, such as `CreateArtifact`. Absent for the blob store. */
  readonly operation: string | undefined
  readonly text: string
  readonly retryAfter: string | undefined

  constructor(status: number, operation: string | undefined, text: string, retryAfter: string | undefined) {
    const reason = errorText(text)
    const where = operation ?? 'the blob store'
    const message = `${status} ${STATUS_CODES[status] ?? ''}`.trim()
    super(
      `${where} answered ${message}${status < 400 ? ', but not with JSON' : ''}${reason === '' ? '' : `: ${reason}`}`,
    )
    this.status = status
    this.operation = operation
    this.text = text
    this.retryAfter = retryAfter
  }
}

const TWIRP_ERROR = v.object({ msg: v.string() })

/** Returns the reason in a Twirp error (https://twitchtv.github.io/twirp/docs/spec_v7.html#error-codes) or another response. */
function errorText(text: string): string {
  const twirp = readJson(TWIRP_ERROR, text)
  return twirp.ok ? sanitizeLine(twirp.value.msg) : readErrorAnswer(text).detail
}
