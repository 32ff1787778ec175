import type { Environment } from '../context.ts'
import type { TokenLogin } from '../registry/credentials.ts'
import { inputOf } from './field.ts'
import type { Inputs } from './inputs.ts'

/**
 * Returns the login to GitHub's container registry with the input `token`, which is used if no other one is configured.
 * Elsewhere than on github.com, such as on GitHub Enterprise or Gitea, `github.token` belongs to another server, which
 * must not be disclosed to GitHub.
 * @returns undefined if there is none, or if Docker pushes, which uses only configured logins
 */
export function readTokenLogin(env: Environment, inputs: Inputs): TokenLogin | undefined {
  const { GITHUB_ACTOR: username = '', GITHUB_SERVER_URL: server } = env
  const password = inputOf(env, 'token')
  // Gitea and Forgejo run with GitHub's URL if a job sets it.
  const onGitHub = server === 'https://github.com' && !env.GITEA_ACTIONS && !env.FORGEJO_ACTIONS
  const usedByDocker = inputs.mode === 'build' && inputs.pushWith === 'docker'
  if (!onGitHub || usedByDocker || username === '' || password === '') return undefined
  return { host: 'ghcr.io', username, password }
}
