import { execFile } from 'node:child_process'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'

/** The beginning of a command line that runs buildx. */
export type Buildx = readonly [program: string, ...args: readonly string[]]

// Where Docker itself looks for plugins, and where packages put them; the last is the program by itself.
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

/** Docker's buildx, as a plugin or a program by itself, which needs no Docker; nothing where there is none. */
export async function findBuildx(): Promise<Buildx | undefined> {
  const answers = await Promise.all(WAYS.map(async (way) => ({ way, found: await answersAs(way) })))
  return answers.find(({ found }) => found)?.way
}

async function answersAs([program, ...args]: Buildx): Promise<boolean> {
  // A Docker without the plugin takes the words for its own, and shows its help.
  return promisify(execFile)(program, [...args, 'version']).then(
    ({ stdout }) => stdout.includes('docker/buildx'),
    () => false,
  )
}
