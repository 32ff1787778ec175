import { execFile } from 'node:child_process'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'

/** The command prefix that runs buildx. */
export type Buildx = readonly [program: string, ...args: readonly string[]]

// The folders where Docker looks for plugins and packages install them. The last entry is the standalone program.
// https://github.com/docker/cli/blob/master/cli-plugins/manager/manager_unix.go
const PLUGIN_FOLDERS = [
  join(process.env['DOCKER_CONFIG'] ?? join(homedir(), '.docker'), 'cli-plugins'),
  join(homedir(), '.docker/cli-plugins'),
  ...['/usr/local/lib', '/usr/local/libexec', '/usr/lib', '/usr/libexec'].map((folder) =>
    join(folder, 'docker/cli-plugins'),
  ),
]
const WAYS: readonly Buildx[] = [
  ['docker', 'buildx'],
  ...PLUGIN_FOLDERS.map((folder): Buildx => [join(folder, 'docker-buildx')]),
  ['buildx'],
]

/** Finds Docker's buildx, as a plugin or as a standalone program, which needs no Docker. Undefined if not installed. */
export async function findBuildx(): Promise<Buildx | undefined> {
  const answers = await Promise.all(WAYS.map(async (way) => ({ way, found: await answersAs(way) })))
  return answers.find(({ found }) => found)?.way
}

async function answersAs([program, ...args]: Buildx): Promise<boolean> {
  // Docker without the plugin ignores the arguments and shows its help.
  return promisify(execFile)(program, [...args, 'version']).then(
    ({ stdout }) => stdout.includes('docker/buildx'),
    () => false,
  )
}
