import * as v from 'valibot'
import { messageOf, sanitizeLine } from '../errors.ts'
import type { Http, HttpReply } from '../http/client.ts'
import { readJson } from '../json.ts'

/** How the commit of this run stands to a published one, or why that is not known. */
export type Relation = 'ahead' | 'behind' | 'identical' | 'diverged' | { readonly unknown: string }

export interface CommitQuestion {
  /** `$GITHUB_API_URL` */
  readonly api: string
  /** `owner/name` */
  readonly repository: string
  readonly token: string
  /** The published commit. */
  readonly base: string
  /** This run's. */
  readonly head: string
}

const ANSWER = v.object({ status: v.picklist(['ahead', 'behind', 'identical', 'diverged']) })
/** Gitea's and Forgejo's: how many commits of the head the base lacks. https://gitea.com/api/swagger#/repository/repoCompareDiff */
const COUNT = v.object({ total_commits: v.pipe(v.number(), v.safeInteger(), v.minValue(0)) })
/** Commits and files of a comparison that spans years come to a few of these. */
const ANSWER_LIMIT = 16 * 1024 * 1024
/** How long to wait before an unusable answer is asked for again, in milliseconds. */
const PAUSES = [500, 2000]

/**
 * Asks the Git host. Any failure leads to an unknown relation, never to an error.
 * Source: https://docs.github.com/en/rest/commits/commits#compare-two-commits
 */
export async function compareCommits(question: CommitQuestion, http: Http): Promise<Relation> {
  const { api, repository, token, base, head } = question
  if (base === head) return 'identical'
  if (!isCommit(base) || !isCommit(head))
    return { unknown: `"${sanitizeLine(isCommit(base) ? head : base)}" is no commit` }
  if (token === '') return { unknown: 'there is no token to ask with' }
  if (!URL.canParse(api) || repository === '') return { unknown: 'the runner does not say where to ask' }
  const ask = (from: string, to: string) =>
    askFor(`${api.replace(/\/$/, '')}/repos/${repository}`, from, to, token, http)
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

/** Asks how two commits stand to each other. @returns a number where the host counts the commits that only `head` has */
async function askFor(
  repository: string,
  base: string,
  head: string,
  token: string,
  http: Http,
): Promise<Relation | number> {
  // The second page leaves out the files that were changed, which take the host long and can be megabytes.
  const url = new URL(`${repository}/compare/${base}...${head}?per_page=1&page=2`)
  const operation = `compare ${base} with ${head}`
  const headers = { accept: 'application/vnd.github+json', authorization: `Bearer ${token}` }
  const ask = () => http.send({ method: 'GET', url, headers, operation, limit: ANSWER_LIMIT })
  for (const milliseconds of PAUSES) {
    const relation = readRelation(await ask())
    // A host may know a commit only some seconds after it was pushed.
    if (relation.passing !== true) return relation.relation
    http.log.info(`Can't ${operation}: ${relation.relation.unknown}; retrying in ${(milliseconds / 1000).toFixed(1)} s`)
    await http.pause(milliseconds)
  }
  return readRelation(await ask()).relation
}

type Reading =
  | { readonly relation: Relation | number; readonly passing?: false }
  | { readonly relation: { readonly unknown: string }; readonly passing: true }

function readRelation(reply: HttpReply): Reading {
  const { host } = reply.url
  if (!reply.ok) {
    const tries = reply.tries === undefined ? '' : `, ${reply.tries}`
    const unknown = `${host} answered with status ${reply.status} (${wordsOf(reply.text)}${tries})`
    return reply.status === 404 ? { relation: { unknown }, passing: true } : { relation: { unknown } }
  }
  const answer = readJson(ANSWER, reply.content ?? '')
  if (answer.ok) return { relation: answer.value.status }
  const counted = readJson(COUNT, reply.content ?? '')
  if (counted.ok) return { relation: counted.value.total_commits }
  return { relation: { unknown: `${host} did not say how they stand to each other` }, passing: true }
}

function isCommit(text: string): boolean {
  return /^[0-9a-f]{7,64}$/.test(text)
}

function wordsOf(text: string): string {
  try {
    const { message }: { readonly message?: unknown } = JSON.parse(text)
    return sanitizeLine(String(message))
  } catch {
    return sanitizeLine(text).slice(0, 80)
  }
}
