import { dirname } from 'node:path'
import { type CheckedOut, readCheckedOut, sameGitRepository } from '../git.ts'
import type { BuildInputs } from '../inputs/inputs.ts'
import type { JobLog } from '../job-log.ts'
import { isStorePath } from '../nix/store-path.ts'
import { commitOfRun, type Workflow } from '../workflow.ts'

type Source = Pick<BuildInputs, 'flake' | 'installable' | 'file'>

/**
 * Returns the commit that a build is of: the one that is checked out where the flake is, because a workflow may check out
 * another commit than its run is of (`workflow_dispatch` with a ref, `workflow_run`). A commit of another repository is
 * not meant: the images are published for this one.
 * @returns an empty string if the commit is unknown
 */
export async function findRevision(source: Source, workflow: Workflow, log: JobLog): Promise<string> {
  const folder = sourceFolder(source)
  const checkedOut = folder === undefined ? undefined : await readCheckedOut(folder)
  const { revision, foreign } = chooseRevision(checkedOut, workflow)
  if (foreign) log.info(`The commit that is checked out in ${folder} is of another repository: ${checkedOut?.origin}`)
  if (revision !== commitOfRun(workflow) && workflow.revision !== '')
    log.notice(
      `The image is of commit ${revision}, which is checked out, and not of ${workflow.revision}, the commit of this run (GITHUB_SHA). Its tag, its revision and the order of commits follow the commit that is built.`,
    )
  return revision
}

/** Decides which commit a build is of, from the one that is checked out and those that the runner names. */
export function chooseRevision(
  checkedOut: CheckedOut | undefined,
  workflow: Workflow,
): { readonly revision: string; readonly foreign: boolean } {
  const ofRun = commitOfRun(workflow)
  if (checkedOut === undefined) return { revision: ofRun, foreign: false }
  const { commit, origin = '' } = checkedOut
  if (origin !== '' && workflow.source !== '' && !sameGitRepository(origin, workflow.source))
    return { revision: ofRun, foreign: true }
  // The commit that GitHub makes to try a pull request is in no branch.
  return { revision: commit === workflow.revision ? ofRun : commit, foreign: false }
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
