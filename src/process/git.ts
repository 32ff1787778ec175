import { runCommand } from './command.ts'

/**
 * Runs Git in a folder. Reads a work tree although it belongs to another user, as in container jobs: nothing that the
 * repository configures is run for the commands that are used here.
 * @returns the trimmed output, undefined if the command fails or Git is not installed
 */
export async function runGit(folder: string, args: readonly string[]): Promise<string | undefined> {
  const result = await runCommand('git', ['-c', 'safe.directory=*', '-C', folder, ...args], { trust: 'no-secrets' })
  return result?.exitCode === 0 ? result.stdout.trim() : undefined
}

/**
 * Reads which commit the work tree around a folder has checked out.
 * @returns undefined if the folder is in no work tree, or Git is not installed
 */
export async function readHead(folder: string): Promise<string | undefined> {
  const commit = (await runGit(folder, ['rev-parse', '--verify', 'HEAD'])) ?? ''
  return isCommitId(commit) ? commit : undefined
}

/**
 * Reads the URL of the remote `origin` of the repository that a folder is in. It may contain credentials.
 * @returns undefined if there is none
 */
export async function readOrigin(folder: string): Promise<string | undefined> {
  const args = ['-c', 'safe.directory=*', '-C', folder, 'config', '--get', 'remote.origin.url']
  const result = await runCommand('git', args, { trust: 'no-secrets' })
  return (result?.exitCode === 0 && result.stdout.trim()) || undefined
}

/** Reports whether a text is a full commit ID of Git. */
export function isCommitId(text: string): boolean {
  return /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(text)
}
