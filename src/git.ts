import { runCommand } from './process/command.ts'
import { isCommitId } from './record.ts'

/** The commit that a Git work tree has checked out. */
export interface CheckedOut {
  readonly commit: string
  /** The URL of the remote `origin`. Absent if there is none. */
  readonly origin?: string | undefined
}

/**
 * Reads which commit the work tree around a folder has checked out. Reads it although the folder belongs to another
 * user, as in container jobs: nothing that the repository configures is run for this.
 * @returns undefined if the folder is in no work tree, or Git is not installed
 */
export async function readCheckedOut(folder: string): Promise<CheckedOut | undefined> {
  const commit = await git(folder, ['rev-parse', '--verify', 'HEAD'])
  if (commit === undefined || !isCommitId(commit)) return undefined
  return { commit, origin: await git(folder, ['config', '--get', 'remote.origin.url']) }
}

async function git(folder: string, args: readonly string[]): Promise<string | undefined> {
  const result = await runCommand('git', ['-c', 'safe.directory=*', '-C', folder, ...args], { trust: 'nix' })
  return result?.exitCode === 0 ? result.stdout.trim() : undefined
}

/** Reports whether two URLs are of one Git repository, however it is reached. */
export function sameGitRepository(one: string, other: string): boolean {
  return one !== '' && repositoryPlace(one) === repositoryPlace(other)
}

/** `github.com/owner/name`, for `https://…`, `ssh://git@…` and `git@github.com:owner/name.git`. */
function repositoryPlace(url: string): string {
  const [, host = '', path = ''] =
    /^(?:[a-z+]+:\/\/)(?:[^@/]*@)?([^/:]+)(?::\d+)?\/(.*)$/i.exec(url) ?? /^(?:[^@/:]*@)?([^/:]+):(.*)$/.exec(url) ?? []
  return `${host}/${path.replace(/^\/+/, '').replace(/(\.git)?\/*$/, '')}`.toLowerCase()
}
