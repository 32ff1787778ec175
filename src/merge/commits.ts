import * as v from 'valibot'
import { messageOf, oneLine } from '../failure.ts'
import { readJson } from '../json.ts'
import type { Http } from '../registry/http.ts'

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
/** Commits and files of a comparison that spans years come to a few of these. */
const ANSWER_LIMIT = 16 * 1024 * 1024
const PATIENCE = 10_000

/**
 * Asks the Git host. Whatever goes wrong is an answer that can't be had, never an error.
 * Source: https://docs.github.com/en/rest/commits/commits#compare-two-commits
 */
export async function compareCommits(question: CommitQuestion, http: Http): Promise<Relation> {
  const { api, repository, token, base, head } = question
  if (base === head) return 'identical'
  if (!isCommit(base) || !isCommit(head)) return { unknown: `"${oneLine(isCommit(base) ? head : base)}" is no commit` }
  if (token === '') return { unknown: 'there is no token to ask with' }
  if (!URL.canParse(api) || repository === '') return { unknown: 'the runner does not say where to ask' }
  // The second page leaves out the files that were changed, which take the host long and can be megabytes.
  const url = new URL(`${api.replace(/\/$/, '')}/repos/${repository}/compare/${base}...${head}?per_page=1&page=2`)
  try {
    const reply = await http.send({
      method: 'GET',
      url,
      headers: { accept: 'application/vnd.github+json', authorization: `Bearer ${token}` },
      purpose: `compare ${base} with ${head}`,
      limit: ANSWER_LIMIT,
      patience: PATIENCE,
      attempts: 1,
    })
    if (!reply.ok) return { unknown: `${url.host} answered with status ${reply.status} (${wordsOf(reply.text)})` }
    const answer = readJson(ANSWER, reply.content ?? '')
    return answer.ok ? answer.value.status : { unknown: `${url.host} did not say how they stand to each other` }
  } catch (error) {
    return { unknown: oneLine(messageOf(error)) }
  }
}

function isCommit(text: string): boolean {
  return /^[0-9a-f]{7,64}$/.test(text)
}

function wordsOf(text: string): string {
  try {
    const { message }: { readonly message?: unknown } = JSON.parse(text)
    return oneLine(String(message))
  } catch {
    return oneLine(text).slice(0, 80)
  }
}
