import { parseReference } from '../../src/oci/reference.ts'
import { credentialsFrom } from '../../src/registry/credentials.ts'
import { RegistryError } from '../../src/registry/registry-error.ts'

// Runs as a separate process: credential helpers are looked up on the PATH of the process, which Jest does not change.

const [name = '', docker = '', ...podman] = process.argv.slice(2)
const secrets: string[] = []
try {
  const credential = await credentialsFrom({ docker, podman }, (secret) => secrets.push(secret))(
    parseReference(name).repository,
  )
  console.log(JSON.stringify({ credential, secrets }))
} catch (error) {
  if (!(error instanceof RegistryError)) throw error
  console.log(JSON.stringify({ secrets, problem: error.problem, message: error.message, detail: error.parts.detail }))
}
