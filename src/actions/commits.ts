import * as v from 'valibot'
import { messageOf } from '../errors.ts'
import type { Http } from '../http/client.ts'
import type { HttpReply } from '../http/messages.ts'
import { pauseBeforeRetry, RETRY_PAUSES } from '../http/retry.ts'
import { readJson } from '../json.ts'
import { sanitizeLine } from '../text.ts'

/** The relation of this run's commit to a published one, or the reason why it is unknown. */
export type Relation = 'ahead' | 'behind' | 'identical' | 'diverged' | { readonly unknown: string }

/** Two commits to compare. */
export interface CommitComparison {
  /** `$GITHUB_API_URL` */
  readonly api: string
  /** `owner/name` */
  readonly repository: string
  readonly token: string
  /** The published commit. */
  readonly base: string
  /** This run's commit. */
  readonly head: string
}

const GITHUB_ANSWER = v.object({ status: v.picklist(['ahead', 'behind', 'identical', 'diverged']) })
/** The answer of Gitea and Forgejo: the number of commits of the head that the base lacks. https://gitea.com/api/swagger#/repository/repoCompareDiff */
const GITEA_ANSWER = v.object({ total_commits: v.pipe(v.number(), v.safeInteger(), v.minValue(0)) })
/** In bytes. A comparison that spans years has a few MiB of commits and files. */
const COMPARISON_LIMIT = 16 * 1024 * 1024

/**
 * Compares two commits with the API of the Git host. Never throws: after a failure, the relation is unknown.
 * Source: https://docs.github.com/en/rest/commits/commits#compare-two-commits
 */
export async function compareCommits(comparison: CommitComparison, http: Http): Promise<Relation> {
  const { api, repository, token, base, head } = comparison
  if (base === head) return 'identical'
  if (!isCommit(base) || !isCommit(head))
    return { unknown: `"${sanitizeLine(isCommit(base) ? head : base)}" is not a commit` }
  if (token === '') return { unknown: 'there is no token for the API' }
  if (!URL.canParse(api) || repository === '') return { unknown: 'the runner does not provide the address of the API' }
  const ask = (from: string, to: string) =>
    requestComparison(`${api.replace(/\/$/, '')}/repos/${repository}`, from, to, token, http)
  try {
    const answer = await ask(base, head)
    if (typeof answer !== 'number') return answer
    // Gitea and Forgejo only count the commits on one side.
    const behind = await ask(head, base)
    return typeof behind === 'number' ? relationOf(answer, behind) : behind
  } catch (error) {
    return { unknown: sanitizeLine(messageOf(error)) }
  }
}

function relationOf(ahead: number, behind: number): Relation {
  if (ahead > 0) return behind > 0 ? 'diverged' : 'ahead'
  return behind > 0 ? 'behind' : 'identical'
}

/** Requests a comparison. @returns a number if the host only counts the commits of `head` that `base` lacks */
async function requestComparison(
  repository: string,
  base: string,
  head: string,
  token: string,
  http: Http,
): Promise<Relation | number> {
  // The second page omits the changed files, which take the host long to list, and can be megabytes.
  const url = new URL(`${repository}/compare/${base}...${head}?per_page=1&page=2`)
  const operation = `compare ${base} with ${head}`
  const headers = { accept: 'application/vnd.github+json', authorization: `Bearer ${token}` }
  const ask = () => http.send({ method: 'GET', url, headers, operation, limit: COMPARISON_LIMIT })
  for (const milliseconds of RETRY_PAUSES) {
    const relation = readRelation(await ask())
    // A host may know a commit only some seconds after it was pushed.
    if (relation.transient !== true) return relation.relation
    await pauseBeforeRetry(`Can't ${operation}: ${relation.relation.unknown}`, milliseconds, http)
  }
  return readRelation(await ask()).relation
}

type Reading =
  | { readonly relation: Relation | number; readonly transient?: false }
  | { readonly relation: { readonly unknown: string }; readonly transient: true }

function readRelation(reply: HttpReply): Reading {
  const { host } = reply.url
  if (!reply.ok) {
    const tries = reply.tries === undefined ? '' : `, ${reply.tries}`
    const unknown = `${host} answered with status ${reply.status} (${errorMessageOf(reply.text)}${tries})`
    return reply.status === 404 ? { relation: { unknown }, transient: true } : { relation: { unknown } }
  }
  const answer = readJson(GITHUB_ANSWER, reply.content ?? '')
  if (answer.ok) return { relation: answer.value.status }
  const counted = readJson(GITEA_ANSWER, reply.content ?? '')
  if (counted.ok) return { relation: counted.value.total_commits }
  return {
    relation: { unknown: `the answer of ${host} has neither a status nor a number of commits` },
    transient: true,
  }
}

function isCommit(text: string): boolean {
  return /^[0-9a-f]{7,64}$/.test(text)
}

function errorMessageOf(text: string): string {
  try {
    const { message }: { readonly message?: unknown } = JSON.parse(text)
    return sanitizeLine(String(message))
  } catch {
    return sanitizeLine(text).slice(0, 80)
  }
}
