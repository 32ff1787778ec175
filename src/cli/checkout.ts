import { tmpdir } from 'node:os'
import type { Relation } from '../actions/commits.ts'
import { type Environment, ownSystem, type Workflow } from '../context.ts'
import { sourceFolder } from '../modes/revision.ts'
import { isCommitId, runGit } from '../process/git.ts'
import { sanitizeLine } from '../text.ts'

/**
 * Returns the context of a command. There is no run: the commit is the one that is checked out in the folder of the flake,
 * and records travel through a folder.
 * @param folder of the work tree, whose remote `origin` is the source of the image
 */
export async function readCheckout(folder: string, recordFolder: string, env: Environment): Promise<Workflow> {
  return {
    run: { id: '', attempt: 1 },
    job: '',
    revision: '',
    repository: '',
    source: sourceOf((await runGit(folder, ['remote', 'get-url', 'origin'])) ?? ''),
    api: '',
    tempFolder: tmpdir(),
    recordFolder,
    runnerSystem: ownSystem(env),
  }
}

/**
 * Returns the URL of a repository's page for the URL of a remote: without a login, which CI systems add. Empty for a
 * remote without a page, such as a folder.
 */
export function sourceOf(remote: string): string {
  const [, host, path] =
    /^(?:https?|ssh|git):\/\/(?:[^/@]*@)?([^/:]+)(?::\d+)?\/(.+)$/.exec(remote.trim()) ??
    /^(?:[^/@:]+@)?([^/:@]+\.[^/:@]+):([^/].*)$/.exec(remote.trim()) ??
    []
  return host === undefined || path === undefined ? '' : `https://${host}/${path.replace(/(\.git)?\/*$/, '')}`
}

/**
 * Returns a warning if the source of a build has changes that are not committed: the image is tagged and labelled with the
 * commit nevertheless.
 */
export async function findUncommitted(source: Parameters<typeof sourceFolder>[0]): Promise<string | undefined> {
  const folder = sourceFolder(source)
  // As in Nix, files that Git does not track don't count.
  const changes = folder && (await runGit(folder, ['status', '--porcelain', '--untracked-files=no', '--', '.']))
  if (!changes) return undefined
  const count = changes.split('\n').length
  const files = count === 1 ? '1 file has' : `${count} files have`
  return `${files} uncommitted changes. The image contains them, although its tag and its revision name the last commit.`
}

/** Compares two commits of the repository that is checked out in a folder. Never throws. */
export async function compareInCheckout(folder: string, base: string, head: string): Promise<Relation> {
  if (base === head) return 'identical'
  const missing = [base, head].find((commit) => !isCommitId(commit))
  if (missing !== undefined) return { unknown: `"${sanitizeLine(missing)}" is not a commit` }
  const mergeBase = await runGit(folder, ['merge-base', base, head])
  if (mergeBase === base) return 'ahead'
  if (mergeBase === head) return 'behind'
  // Commits that a shallow clone lacks could connect the two.
  const shallow = (await runGit(folder, ['rev-parse', '--is-shallow-repository'])) !== 'false'
  return mergeBase === undefined || shallow
    ? { unknown: 'the history that is checked out here does not connect the two' }
    : 'diverged'
}
