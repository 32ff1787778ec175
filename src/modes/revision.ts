import { dirname } from 'node:path'
import { commitOfRun, type Workflow } from '../context.ts'
import type { BuildInputs } from '../inputs/build.ts'
import type { JobLog } from '../log.ts'
import { localFlake } from '../nix/installable.ts'
import { isStorePath } from '../nix/store-path.ts'
import { readHead } from '../process/git.ts'

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
 * Returns the folder of the source that is built. Forms of flake references:
 * https://nix.dev/manual/nix/2.34/command-ref/new-cli/nix3-flake#flake-references
 * @returns undefined for a source that Nix fetches
 */
export function sourceFolder({ flake, installable, file }: Source): string | undefined {
  if (file !== '') return /^(https?:|<)/.test(file) ? undefined : dirname(file)
  if (installable === '') return localFlake(flake)
  if (installable.includes('#')) return localFlake(installable.replace(/#.*$/s, '') || '.')
  // A store path was built from the workspace; other paths are of a file or the folder of a flake.
  if (isStorePath(installable)) return '.'
  const path = /^[^:]*\//.test(installable) ? installable : localFlake(installable)
  return path === undefined || /^\.\.?\/?$/.test(path) ? path : dirname(path)
}
