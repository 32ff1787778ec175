import { runCommand } from './command.ts'

/**
 * Reads which commit the work tree around a folder has checked out. Reads it although the folder belongs to another
 * user, as in container jobs: nothing that the repository configures is run for this.
 * @returns undefined if the folder is in no work tree, or Git is not installed
 */
export async function readHead(folder: string): Promise<string | undefined> {
  const args = ['-c', 'safe.directory=*', '-C', folder, 'rev-parse', '--verify', 'HEAD']
  const result = await runCommand('git', args, { trust: 'nix' })
  const commit = result?.exitCode === 0 ? result.stdout.trim() : ''
  return isCommitId(commit) ? commit : undefined
}

/**
 * Reads the URL of the remote `origin` of the repository that a folder is in. It may contain credentials.
 * @returns undefined if there is none
 */
export async function readOrigin(folder: string): Promise<string | undefined> {
  const args = ['-c', 'safe.directory=*', '-C', folder, 'config', '--get', 'remote.origin.url']
  const result = await runCommand('git', args, { trust: 'nix' })
  return (result?.exitCode === 0 && result.stdout.trim()) || undefined
}

/** Reports whether a text is a full commit ID of Git. */
export function isCommitId(text: string): boolean {
  return /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(text)
}
