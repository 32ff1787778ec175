import { type CommitQuestion, compareCommits, type Relation } from '../actions/commits.ts'
import { commitOfRun, type Workflow } from '../context.ts'
import type { Http } from '../http/client.ts'
import type { Log } from '../log.ts'
import { type Annotation, placeAnnotations, REVISION, SOURCE } from '../oci/annotation.ts'
import type { PublishedTag } from '../publish/published.ts'
import type { DigestRecord } from '../record/record.ts'
import { sanitizeLine } from '../text.ts'

/** The commit that the images were built from. */
export interface BuiltCommit {
  /** Empty if it is unknown. */
  readonly revision: string
  /** Annotations for the commit and its repository. The user's annotations take precedence. */
  readonly origin: Readonly<Record<string, string>>
  /** The revision that the index names. Determines whether a tag moves to a newer or an older commit. */
  readonly head: string | undefined
}

/** Returns the commit that the records name. Warns if they name several. */
export function findBuiltCommit(
  records: readonly DigestRecord[],
  annotations: readonly Annotation[],
  workflow: Workflow,
  log: Log,
): BuiltCommit {
  const revision = builtRevision(records, workflow, log)
  const { source } = workflow
  const origin = { ...(revision !== '' && { [REVISION]: revision }), ...(source !== '' && { [SOURCE]: source }) }
  const head = { ...origin, ...placeAnnotations(annotations, []).index }[REVISION]
  return { revision, origin, head }
}

/** Assumes the commit of the run for records that name none. */
function builtRevision(records: readonly DigestRecord[], workflow: Workflow, log: Log): string {
  const ofRun = commitOfRun(workflow)
  const byCommit = Map.groupBy(records, ({ revision = ofRun }) => revision)
  const [first = ofRun, ...more] = [...byCommit.keys()]
  if (more.length === 0) return first
  const revision = byCommit.has(ofRun) ? ofRun : first
  const systems = [...byCommit].map(([commit, some]) => `${some.map(({ system }) => system).join(', ')}: ${commit}`)
  log.warning(
    `The images were built from different commits:\n${systems.map((line) => `  ${line}`).join('\n')}\nThe index names ${revision}. Check out the same commit in all build jobs.`,
  )
  return revision
}

/** How the commit of the index relates to each published commit. */
export type Relations = ReadonlyMap<string, Relation>

/** Compares the commit of the index with the commit of each published tag. */
export async function relateCommits(
  published: readonly PublishedTag[],
  origin: BuiltCommit['origin'],
  question: Omit<CommitQuestion, 'base'>,
  http: Http,
): Promise<Relations> {
  const bases = Map.groupBy(
    published.filter(({ revision }) => revision !== undefined),
    ({ revision = '' }) => revision,
  )
  const relations = [...bases].map(async ([base, [first]]): Promise<[string, Relation]> => {
    const source = first?.source
    if (source !== undefined && !sameSource(source, origin[SOURCE]))
      return [base, { unknown: `commit ${sanitizeLine(base)} is from another repository, ${sanitizeLine(source)}` }]
    return [base, await compareCommits({ ...question, base }, http)]
  })
  return new Map(await Promise.all(relations))
}

function sameSource(one: string, other = ''): boolean {
  const plain = (url: string) => url.replace(/(\.git)?\/*$/, '').toLowerCase()
  return plain(one) === plain(other)
}

/** Returns the published commits that are newer than the commit of the index. */
export function newerCommits(relations: Relations): ReadonlySet<string> {
  return new Set([...relations].flatMap(([commit, relation]) => (relation === 'behind' ? [commit] : [])))
}
