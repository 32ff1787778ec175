import { dirname } from 'node:path'
import type { JobLog } from '../actions/log.ts'
import { commitOfRun, type Workflow } from '../context.ts'
import type { BuildInputs } from '../inputs/inputs.ts'
import { isStorePath } from '../nix/store-path.ts'
import { readHead } from '../process/git.ts'

type Source = Pick<BuildInputs, 'flake' | 'installable' | 'file'>

/**
 * Returns the commit that a build is of: the one that is checked out where the flake is. A workflow may check out another
 * commit than its run is of (`workflow_dispatch` with a ref, `workflow_run`).
 * @returns an empty string if the commit is unknown
 */
export async function findRevision(source: Source, workflow: Workflow, log: JobLog): Promise<string> {
  const folder = sourceFolder(source)
  const revision = chooseRevision(folder === undefined ? undefined : await readHead(folder), workflow)
  if (revision !== commitOfRun(workflow) && workflow.revision !== '')
    log.notice(
      `The image is built from the commit that is checked out, ${revision}, and this run is of ${workflow.revision} (GITHUB_SHA). The tag, the revision and the order of commits use the commit that is built.`,
    )
  return revision
}

/**
 * Decides which commit a build is of.
 * @param head the commit that is checked out
 */
export function chooseRevision(head: string | undefined, workflow: Workflow): string {
  // The commit that GitHub makes to test a pull request is in no branch.
  return head === undefined || head === workflow.revision ? commitOfRun(workflow) : head
}

/**
 * Returns the folder that what is built lies in. Source of the forms:
 * https://nix.dev/manual/nix/2.34/command-ref/new-cli/nix3-flake#flake-references
 * @returns undefined for a flake that Nix fetches from elsewhere
 */
export function sourceFolder({ flake, installable, file }: Source): string | undefined {
  if (file !== '') return /^(https?:|<)/.test(file) ? undefined : dirname(file)
  if (installable === '') return localFlake(flake)
  if (installable.includes('#')) return localFlake(installable.replace(/#.*$/s, '') || '.')
  // A path is of a file that something in the workspace has made, or of a flake's folder.
  if (isStorePath(installable)) return '.'
  const folder = localFlake(installable)
  return folder === undefined || /^(\.\.?)?\/?$/.test(folder) ? folder : dirname(folder)
}

function localFlake(reference: string): string | undefined {
  const path = reference.replace(/\?.*$/s, '').replace(/^(?:path|git\+file):(?:\/\/)?/, '')
  return path.startsWith('.') || path.startsWith('/') ? path : undefined
}
