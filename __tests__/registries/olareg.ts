import { join } from 'node:path'
import { hash } from 'bcryptjs'
import { findPlace, type RealRegistry, startServer } from './server.ts'

const login = { user: 'writer', password: 'the right password' }

/** olareg with a login that may read everywhere and write below `owner/`. */
export async function startOlareg(): Promise<RealRegistry> {
  const place = await findPlace()
  const access = {
    users: { [login.user]: { cred: await hash(login.password, 4) } },
    acls: [
      { repo: '*', access: ['read'], members: [login.user] },
      { repo: 'owner/*', access: ['read', 'write'], members: [login.user] },
    ],
  }
  // JSON is valid YAML.
  const file = await place.write('access.yaml', JSON.stringify(access))
  const args = ['--addr', '127.0.0.1', '--port', String(place.port), '--dir', join(place.folder, 'storage')]
  const close = await startServer({ place, program: 'olareg', args: ['serve', ...args, '--auth-basic', file] })
  return {
    host: place.host,
    owner: 'owner',
    login,
    readers: [{ name: 'a user who may only read', login, repository: 'other/app' }],
    close,
  }
}
