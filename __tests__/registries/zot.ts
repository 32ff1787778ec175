import { join } from 'node:path'
import { findPlace, passwordFile, type RealRegistry, startServer } from './server.ts'

const login = { user: 'writer', password: 'the right password' }

/** How many seconds zot waits before it refuses a request. */
export const failDelay = 20

/** zot with a login that may read everywhere, write below `owner/`, and delete nothing. */
export async function startZot(): Promise<RealRegistry> {
  const place = await findPlace()
  const policies = [{ users: [login.user], actions: ['read', 'create', 'update'] }]
  const config = {
    distSpecVersion: '1.1.1',
    storage: { rootDirectory: join(place.folder, 'storage'), gc: false },
    http: {
      address: '127.0.0.1',
      port: String(place.port),
      auth: { htpasswd: { path: await place.write('htpasswd', await passwordFile([login])) }, failDelay },
      accessControl: { repositories: { 'owner/**': { policies }, '**': { defaultPolicy: ['read'] } } },
    },
    log: { level: 'warn' },
  }
  const file = await place.write('config.json', JSON.stringify(config))
  const close = await startServer({ place, program: 'zot', args: ['serve', file] })
  return {
    host: place.host,
    owner: 'owner',
    login,
    readers: [{ name: 'a user who may only read', login, repository: 'other/app' }],
    close,
  }
}
