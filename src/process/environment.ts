type Environment = Readonly<Record<string, string | undefined>>

/**
 * How much of the step's environment a program gets.
 * `everything`: Docker and credential helpers, which may need any of it to log in.
 * `nix`: Nix and other tools that read what a flake brings: nothing that only this step may use.
 * `script`: programs that a flake brings: no configuration with registry logins either.
 */
export type Trust = 'everything' | 'nix' | 'script'

/**
 * Returns the environment for a child process. Without full trust, it lacks the step's inputs, the tokens of the runner
 * and of the job, and the files by which a step gives the runner commands:
 * https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands#environment-files
 */
export function environmentFor(trust: Trust, env: Environment = process.env): Environment {
  if (trust === 'everything') return env
  const withheld = trust === 'nix' ? [OF_THE_STEP] : [OF_THE_STEP, REGISTRY_LOGINS]
  const given = Object.entries(env).filter(([name]) => !withheld.some((pattern) => pattern.test(name)))
  return { ...NO_QUESTIONS, ...Object.fromEntries(given) }
}

/**
 * Has Git and SSH, which Nix fetches flakes with, fail where they would ask for a login. Programs have no terminal to ask
 * on, but without these they would run programs that ask in a window. Not `GIT_SSH_COMMAND` with `BatchMode`: it would
 * replace the `core.sshCommand` by which a job chooses its key. A job's own values count.
 * https://git-scm.com/docs/git#Documentation/git.txt-codeGITASKPASScode
 * https://man.openbsd.org/ssh#SSH_ASKPASS_REQUIRE
 */
const NO_QUESTIONS: Environment = { GIT_TERMINAL_PROMPT: '0', GIT_ASKPASS: '', SSH_ASKPASS_REQUIRE: 'never' }

/**
 * `ACTIONS_…` has the tokens for artifacts, caches and identities. Gitea and Forgejo set variables of the same meaning
 * under names of their own as well.
 */
const OF_THE_STEP =
  /^(INPUT_.*|(ACTIONS|GITEA_ACTIONS|FORGEJO_ACTIONS)_.*|(GITHUB|GITEA|FORGEJO|GH)_((ENTERPRISE_|RUNTIME_)?TOKEN|ENV|PATH|OUTPUT|STATE|STEP_SUMMARY|ARTIFACTS))$/i

const REGISTRY_LOGINS = /^(DOCKER_CONFIG|REGISTRY_AUTH_FILE|DOCKER_AUTH_CONFIG)$/
