import { dirname } from 'node:path'
import { commitOfRun, type Workflow } from '../context.ts'
import type { BuildInputs } from '../inputs/build.ts'
import type { JobLog } from '../log.ts'
import { localFlake } from '../nix/installable.ts'
import { isStorePath } from '../nix/store-path.ts'
import { readHead, readOrigin } from '../process/git.ts'

type Source = Pick<BuildInputs, 'flake' | 'installable' | 'file'>

/**
 * Returns the commit being built: the one that is checked out in the folder of the flake. It may differ from the
 * commit of the run, for example with `workflow_run`.
 * @returns an empty string if the commit is unknown
 */
export async function findRevision(source: Source, workflow: Workflow, log: JobLog): Promise<string> {
  const folder = sourceFolder(source)
  const revision = chooseRevision(folder === undefined ? undefined : await readHead(folder), workflow)
  if (revision !== commitOfRun(workflow) && workflow.revision !== '')
    log.notice(
      `Building commit ${revision}, which is checked out, instead of the commit of this run, ${workflow.revision} (GITHUB_SHA). The tag, the revision and the order of commits use the commit that is built.`,
    )
  return revision
}

/**
 * Chooses the commit being built.
 * @param head the commit that is checked out
 */
export function chooseRevision(head: string | undefined, workflow: Workflow): string {
  // The merge commit that GitHub creates for a pull request isn't on any branch.
  return head === undefined || head === workflow.revision ? commitOfRun(workflow) : head
}

/**
 * Returns the URL of the repository that has the commit being built. It is another one than the run's if the workflow has
 * checked out another one.
 * @param revision as `findRevision` returns it
 * @returns undefined if it is unknown, as for a source that Nix fetches
 */
export async function findSourceRepository(
  source: Source,
  revision: string,
  workflow: Workflow,
): Promise<string | undefined> {
  const folder = sourceFolder(source)
  if (revision === '' || folder === undefined || choosesRevision(flakeOf(source))) return undefined
  if (revision === commitOfRun(workflow)) return workflow.source || undefined
  const origin = await readOrigin(folder)
  return origin === undefined ? undefined : sourceOf(origin, workflow.source)
}

/**
 * Returns the URL of a repository on a host, without credentials.
 * @param remote the URL of a remote: https://git-scm.com/docs/git-clone#_git_urls
 * @param own the URL of the run's repository, which is returned for its remotes of other protocols as well
 */
export function sourceOf(remote: string, own: string): string | undefined {
  const url = URL.parse(remote.replace(/^([^/:@]+@)?([^/:]+):(?!\/\/)/, 'ssh://$1$2/'))
  if (url === null || !/^(https?|ssh):$/.test(url.protocol)) return undefined
  if (placeOf(url) === placeOf(URL.parse(own))) return own
  return url.protocol === 'ssh:' ? undefined : `${url.origin}${withoutSuffix(url.pathname)}`
}

function placeOf(url: URL | null): string {
  return url === null ? '' : `${url.hostname}${withoutSuffix(url.pathname)}`.toLowerCase()
}

function withoutSuffix(path: string): string {
  return path.replace(/(\.git)?\/*$/, '')
}

/**
 * Returns the folder of the source that is built. Forms of flake references:
 * https://nix.dev/manual/nix/2.34/command-ref/new-cli/nix3-flake#flake-references
 * @returns undefined for a source that Nix fetches
 */
export function sourceFolder({ flake, installable, file }: Source): string | undefined {
  if (file !== '') return /^(https?:|<)/.test(file) ? undefined : dirname(file)
  const reference = flakeOf({ flake, installable, file })
  if (reference !== undefined) return localFlake(reference)
  // A store path was built from the workspace; other paths are of a file or the folder of a flake.
  if (isStorePath(installable)) return '.'
  const path = /^[^:]*\//.test(installable) ? installable : localFlake(installable)
  return path === undefined || /^\.\.?\/?$/.test(path) ? path : dirname(path)
}

/** Returns the reference of the flake that is built. Undefined for a file, and for an installable without an attribute. */
export function flakeOf({ flake, installable, file }: Source): string | undefined {
  if (file !== '' || (installable !== '' && !installable.includes('#'))) return undefined
  return installable === '' ? flake : installable.replace(/#.*$/s, '') || '.'
}

/** Reports whether a flake reference chooses a commit, which may not be the one that is checked out. */
export function choosesRevision(reference: string | undefined): boolean {
  const query = new URLSearchParams(reference?.replace(/^[^?]*/, ''))
  return query.has('ref') || query.has('rev')
}
