import { type Credential, credentialsFrom } from '../../src/registry/credentials.ts'
import { RegistryError } from '../../src/registry/registry-error.ts'

// A program of its own: helpers are looked for on the PATH of the process, and Jest's is not that of a test.

const [looks = '', host = '', docker = '', ...podman] = process.argv.slice(2)
const told: string[] = []
const credentials = credentialsFrom({ docker, podman }, (secret) => told.push(secret))
let last: Credential | undefined
for (const look of looks.split(',')) {
  if (look === 'later') {
    const later = Date.now() + 5 * 60_000
    Date.now = () => later
  }
  try {
    last = await credentials(host, look === 'refused' ? last : undefined)
    console.log(JSON.stringify({ credential: last, told }))
  } catch (error) {
    if (!(error instanceof RegistryError)) throw error
    console.log(JSON.stringify({ told, problem: error.problem, message: error.message, detail: error.parts.detail }))
  }
}
