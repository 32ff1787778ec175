type Environment = Readonly<Record<string, string | undefined>>

/**
 * How much of the step's environment a program gets.
 * `everything`: all of it, for Docker and credential helpers, which may need it to log in.
 * `nix`: without the secrets and command files of the step, for Nix and other tools that read the flake.
 * `script`: without the configuration of registry logins as well, for programs that the flake provides.
 */
export type Trust = 'everything' | 'nix' | 'script'

/**
 * Returns the environment for a child process. Unless the program is fully trusted, removes the step's inputs, the tokens
 * of the runner and the job, and the files for workflow commands:
 * https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands#environment-files
 */
export function environmentFor(trust: Trust, env: Environment = process.env): Environment {
  if (trust === 'everything') return env
  const withheld = trust === 'nix' ? [STEP_SECRETS] : [STEP_SECRETS, REGISTRY_LOGINS]
  const given = Object.entries(env).filter(([name]) => !withheld.some((pattern) => pattern.test(name)))
  return { ...NO_PROMPTS, ...Object.fromEntries(given) }
}

/**
 * Makes Git and SSH, with which Nix fetches flakes, fail instead of asking for a login. There is no terminal, but they
 * would start programs that ask in a window. Does not set `BatchMode` in `GIT_SSH_COMMAND`, which would override a job's
 * `core.sshCommand` and with it the choice of a key. Values that the job has set take precedence.
 * https://git-scm.com/docs/git#Documentation/git.txt-codeGITASKPASScode
 * https://man.openbsd.org/ssh#SSH_ASKPASS_REQUIRE
 */
const NO_PROMPTS: Environment = { GIT_TERMINAL_PROMPT: '0', GIT_ASKPASS: '', SSH_ASKPASS_REQUIRE: 'never' }

/**
 * `ACTIONS_…` includes the tokens for artifacts, caches and OpenID Connect. Gitea and Forgejo also set variables of the
 * same meaning under their own names.
 */
const STEP_SECRETS =
  /^(INPUT_.*|(ACTIONS|GITEA_ACTIONS|FORGEJO_ACTIONS)_.*|(GITHUB|GITEA|FORGEJO|GH)_((ENTERPRISE_|RUNTIME_)?TOKEN|ENV|PATH|OUTPUT|STATE|STEP_SUMMARY|ARTIFACTS))$/i

const REGISTRY_LOGINS = /^(DOCKER_CONFIG|REGISTRY_AUTH_FILE|DOCKER_AUTH_CONFIG)$/
