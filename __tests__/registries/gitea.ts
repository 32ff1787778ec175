import { execFile } from 'node:child_process'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { builtProgram } from './programs.ts'
import { findPlace, type Login, type Place, type RealRegistry, startServer } from './server.ts'

const run = promisify(execFile)

/** A Gitea with the users `writer` and `other`. */
export interface Gitea {
  readonly host: string
  /** Runs `gitea` and returns the last line of its output. */
  readonly command: (...args: readonly string[]) => Promise<string>
  /** Creates an access token for `writer`. */
  readonly login: (...scopes: readonly string[]) => Promise<Login>
  readonly close: () => Promise<void>
}

export async function startGitea(): Promise<Gitea> {
  const place = await findPlace()
  const config = await place.write('app.ini', configuration(place))
  const command: Gitea['command'] = async (...args) => {
    const { stdout } = await run(builtProgram('gitea').path, ['--config', config, ...args], { cwd: place.folder })
    // Warnings, such as the one about root, precede the result.
    return stdout.trim().split('\n').at(-1) ?? ''
  }
  await command('migrate')
  // Gitea makes the first user an administrator.
  for (const user of ['other', 'writer']) {
    const account = ['--username', user, '--email', `${user}@example.org`, '--random-password']
    await command('admin', 'user', 'create', ...account, '--must-change-password=false')
  }
  const close = await startServer({ place, program: 'gitea', args: ['--config', config, 'web'] })
  return { host: place.host, command, login: (...scopes) => accessToken(command, scopes.join()), close }
}

/** Gitea's registry, with a login by access token. */
export async function startGiteaRegistry(): Promise<RealRegistry> {
  const { host, close, login: makeLogin } = await startGitea()
  const login = await makeLogin('write:package')
  const readOnly = await makeLogin('read:package')
  return {
    host,
    owner: 'writer',
    login,
    readers: [
      { name: 'a user who does not own the packages', login, repository: 'other/app' },
      { name: 'an access token that may only read packages', login: readOnly, repository: 'writer/app' },
    ],
    close,
  }
}

async function accessToken(command: Gitea['command'], scopes: string): Promise<Login> {
  const token = ['--username', 'writer', '--token-name', scopes, '--scopes', scopes, '--raw']
  return { user: 'writer', password: await command('admin', 'user', 'generate-access-token', ...token) }
}

function configuration({ folder, host, port }: Place): string {
  return `
RUN_MODE = prod
RUN_USER = ${userInfo().username}
WORK_PATH = ${folder}
I_AM_BEING_UNSAFE_RUNNING_AS_ROOT = true

[server]
HTTP_ADDR = 127.0.0.1
HTTP_PORT = ${port}
ROOT_URL = http://${host}/
STATIC_ROOT_PATH = ${builtProgram('gitea').folder}
DISABLE_SSH = true
OFFLINE_MODE = true

[database]
DB_TYPE = sqlite3
PATH = ${join(folder, 'gitea.db')}

[security]
INSTALL_LOCK = true
SECRET_KEY = of this test
PASSWORD_HASH_ALGO = pbkdf2_v2

[log]
LEVEL = warn

[indexer]
ISSUE_INDEXER_TYPE = db

[actions]
ENABLED = true
; Actions are repositories of this Gitea.
DEFAULT_ACTIONS_URL = self
`
}
