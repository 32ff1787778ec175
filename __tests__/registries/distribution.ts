import { join } from 'node:path'
import { selfSigned } from '../support/certificate.ts'
import { startTokenServer } from '../support/token-server.ts'
import { findPlace, type Login, type Place, passwordFile, type RealRegistry, startServer } from './server.ts'

const login: Login = { user: 'writer', password: 'the right password' }

/** Docker Distribution 3 without authentication. */
export async function startOpenDistribution(): Promise<RealRegistry> {
  const place = await findPlace()
  const close = await serve(place, {})
  return { host: place.host, owner: 'owner', readers: [], close }
}

/** Docker Distribution 3 with a password file, over HTTPS with a private certificate authority. */
export async function startDistributionWithPasswords(): Promise<RealRegistry> {
  const place = await findPlace()
  const { key, cert } = selfSigned()
  const file = await place.write('authority.pem', cert)
  const tls = { certificate: file, key: await place.write('key.pem', key) }
  const auth = { htpasswd: { realm: 'registry', path: await place.write('htpasswd', await passwordFile([login])) } }
  const close = await serve(place, { http: { tls }, auth, certificate: cert })
  // Every user in the password file may write everywhere.
  return { host: place.host, owner: 'owner', login, readers: [], authority: { file, certificate: cert }, close }
}

/** Docker Distribution 3 with a token service whose login may write below `owner/`, and read everywhere. */
export async function startDistributionWithTokens(): Promise<RealRegistry> {
  const grants = (repository: string, action: string) => action === 'pull' || repository.startsWith('owner/')
  const tokens = await startTokenServer({ ...login, grants })
  const place = await findPlace()
  const { service, issuer, certificate } = tokens
  // Names: cosign sends no login to the loopback address of another server, and this action to no other name.
  const host = `localhost:${place.port}`
  const realm = tokens.realm.replace('127.0.0.1', 'localhost')
  const rootcertbundle = await place.write('tokens.pem', certificate)
  const close = await serve(place, { auth: { token: { realm, service, issuer, rootcertbundle } } })
  return {
    host,
    owner: 'owner',
    login,
    readers: [{ name: 'a token that may only pull', login, repository: 'other/app' }],
    close: async () => {
      await close()
      await tokens.close()
    },
  }
}

interface DistributionSettings {
  readonly http?: Readonly<Record<string, unknown>>
  readonly auth?: Readonly<Record<string, unknown>>
  readonly certificate?: string
}

async function serve(place: Place, { http, auth, certificate }: DistributionSettings): Promise<() => Promise<void>> {
  const config = {
    version: '0.1',
    log: { level: 'warn', accesslog: { disabled: true } },
    storage: { filesystem: { rootdirectory: join(place.folder, 'storage') } },
    http: { addr: place.host, secret: 'shared by the requests of one upload', ...http },
    ...(auth !== undefined && { auth }),
  }
  const file = await place.write('config.json', JSON.stringify(config))
  return startServer({
    place,
    program: 'distribution',
    args: ['serve', file],
    env: { OTEL_TRACES_EXPORTER: 'none' },
    ...(certificate !== undefined && { certificate }),
  })
}
