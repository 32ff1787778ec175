import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface GitHostOptions {
  /** `owner/name` of its only repository. */
  readonly repository: string
  /** The only token that may read it. */
  readonly token: string
  /** The parent of each commit in the repository. The first has none. */
  readonly parents: Readonly<Record<string, string | undefined>>
  /**
   * Gitea and Forgejo do not return the relation of two commits; they list the commits that only the second one
   * contains.
   */
  readonly countsOnly?: boolean
  /** Stores attestations, like GitHub for a token with `attestations: write`. */
  readonly attestations?: boolean
}

export interface GitHostRequest {
  /** Without the query. */
  readonly path: string
  readonly authorization: string | undefined
}

export interface GitHostAnswer {
  readonly status: number
  readonly body?: string
  readonly headers?: Readonly<Record<string, string>>
}

export interface GitHost {
  /** The value of `GITHUB_API_URL`. */
  readonly api: string
  readonly requests: readonly GitHostRequest[]
  /** The stored attestations, as JSON. */
  readonly bundles: readonly string[]
  /** Returns this answer instead, or breaks the connection; for the given number of requests, or for all. */
  readonly setFault: (fault: GitHostAnswer | 'reset', times?: number) => void
  readonly close: () => Promise<void>
}

/**
 * Starts a stand-in for a Git host's API on a free port of 127.0.0.1, which can compare two commits and store attestations:
 * https://docs.github.com/en/rest/commits/commits#compare-two-commits
 * https://docs.github.com/en/rest/repos/attestations#create-an-attestation
 */
export async function startGitHost(options: GitHostOptions): Promise<GitHost> {
  const requests: GitHostRequest[] = []
  let fault: GitHostAnswer | 'reset' | undefined
  let left = 0
  const bundles: string[] = []
  const server = createServer(async (request, response) => {
    const path = new URL(request.url ?? '/', 'http://localhost').pathname
    const { authorization } = request.headers
    requests.push({ path, authorization })
    const body = request.method === 'POST' ? await readText(request) : undefined
    const broken = left-- > 0 ? fault : undefined
    const answer = body === undefined ? answerTo : storeIn(bundles, body)
    send(request, response, broken ?? answer(path, authorization, options))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    api: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    bundles,
    setFault: (next, times = Number.POSITIVE_INFINITY) => {
      fault = next
      left = times
    },
    close: async () => {
      server.close()
      server.closeAllConnections()
      await once(server, 'close')
    },
  }
}

function answerTo(path: string, authorization: string | undefined, options: GitHostOptions): GitHostAnswer {
  if (authorization !== `Bearer ${options.token}`) return json(401, { message: 'Bad credentials' })
  const prefix = `/repos/${options.repository}/compare/`
  const [base = '', head = ''] = path.startsWith(prefix) ? path.slice(prefix.length).split('...') : []
  if (!Object.hasOwn(options.parents, base) || !Object.hasOwn(options.parents, head))
    return json(404, { message: 'Not Found', documentation_url: 'https://docs.github.com/rest' })
  if (options.countsOnly) {
    const commits = lineOf(head, options).filter((sha) => !lineOf(base, options).includes(sha))
    return json(200, { total_commits: commits.length, commits: commits.map((sha) => ({ sha })) })
  }
  const status = relationOf(lineOf(base, options), lineOf(head, options))
  return json(200, { url: path, status, total_commits: 0, commits: [], files: [] })
}

/** Returns the answer to a request to store an attestation. */
function storeIn(bundles: string[], body: string): typeof answerTo {
  return (path, authorization, { repository, token, attestations = false }) => {
    if (authorization !== `Bearer ${token}`) return json(401, { message: 'Bad credentials' })
    if (path !== `/repos/${repository}/attestations`) return json(404, { message: 'Not Found' })
    if (!attestations) return json(403, { message: 'Resource not accessible by integration' })
    const { bundle } = JSON.parse(body)
    if (bundle?.dsseEnvelope === undefined) return json(422, { message: 'Invalid bundle' })
    bundles.push(JSON.stringify(bundle))
    return json(201, { id: bundles.length })
  }
}

async function readText(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk)
  return Buffer.concat(chunks).toString()
}

/** The relation of the last commit of `head` to that of `base`. */
function relationOf(base: readonly string[], head: readonly string[]): string {
  const [of, to] = [head[0] ?? '', base[0] ?? '']
  if (of === to) return 'identical'
  if (base.includes(of)) return 'behind'
  return head.includes(to) ? 'ahead' : 'diverged'
}

/** A commit and its ancestors, newest first. */
function lineOf(commit: string | undefined, options: GitHostOptions): readonly string[] {
  return commit === undefined ? [] : [commit, ...lineOf(options.parents[commit], options)]
}

function json(status: number, value: unknown): GitHostAnswer {
  return { status, body: JSON.stringify(value), headers: { 'content-type': 'application/json; charset=utf-8' } }
}

function send(request: IncomingMessage, response: ServerResponse, answer: GitHostAnswer | 'reset'): void {
  if (answer === 'reset') request.socket.resetAndDestroy()
  else response.writeHead(answer.status, answer.headers).end(answer.body)
}
