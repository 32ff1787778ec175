import { credentialsFrom } from '../../src/registry/credentials.ts'
import { RegistryError } from '../../src/registry/registry-error.ts'

// A program of its own: helpers are looked for on the PATH of the process, and Jest's is not that of a test.

const [host = '', docker = '', ...podman] = process.argv.slice(2)
const told: string[] = []
try {
  const credential = await credentialsFrom({ docker, podman }, (secret) => told.push(secret))(host)
  console.log(JSON.stringify({ credential, told }))
} catch (error) {
  if (!(error instanceof RegistryError)) throw error
  console.log(JSON.stringify({ told, problem: error.problem, message: error.message, words: error.parts.words }))
}
