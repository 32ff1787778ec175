import { expect, test } from '@jest/globals'
import { environmentFor } from '../../src/process/child.ts'
import { runCommand } from '../../src/process/command.ts'

const STEP_SECRETS = [
  'INPUT_TOKEN',
  'INPUT_NIX-ARGS',
  'ACTIONS_RUNTIME_TOKEN',
  'ACTIONS_RUNTIME_URL',
  'ACTIONS_RESULTS_URL',
  'ACTIONS_CACHE_URL',
  'ACTIONS_ID_TOKEN_REQUEST_TOKEN',
  'ACTIONS_ID_TOKEN_REQUEST_URL',
  'GITHUB_TOKEN',
  'GH_TOKEN',
  'GH_ENTERPRISE_TOKEN',
  'GITHUB_ENTERPRISE_TOKEN',
  'GITEA_TOKEN',
  'FORGEJO_TOKEN',
  'GITEA_RUNTIME_TOKEN',
  'GITHUB_ENV',
  'GITHUB_PATH',
  'GITHUB_OUTPUT',
  'GITHUB_STATE',
  'GITHUB_STEP_SUMMARY',
  'GITHUB_ARTIFACTS',
  'CI_JOB_TOKEN',
  'CI_REGISTRY_USER',
  'CI_REGISTRY_PASSWORD',
  'CI_DEPENDENCY_PROXY_PASSWORD',
  'CI_DEPLOY_USER',
]
const REGISTRY_LOGINS = ['DOCKER_CONFIG', 'REGISTRY_AUTH_FILE', 'DOCKER_AUTH_CONFIG']
/** Some start like those that are withheld. */
const OTHERS = [
  'PATH',
  'HOME',
  'NIX_CONFIG',
  'NIX_REMOTE',
  'HTTPS_PROXY',
  'NETRC',
  'SSH_AUTH_SOCK',
  'CI',
  'CI_COMMIT_SHA',
  'CI_PROJECT_DIR',
  'GITHUB_ACTIONS',
  'GITHUB_SHA',
  'GITHUB_ENVIRONMENT',
  'GITHUB_REPOSITORY',
  'RUNNER_TEMP',
  'XDG_RUNTIME_DIR',
  'INPUTRC',
  'MY_GITHUB_OUTPUT',
]

const all = Object.fromEntries([...STEP_SECRETS, ...REGISTRY_LOGINS, ...OTHERS].map((name) => [name, `of ${name}`]))

/** Set so that no program prompts for a login. */
const NO_PROMPTS = { GIT_TERMINAL_PROMPT: '0', GIT_ASKPASS: '', SSH_ASKPASS_REQUIRE: 'never' }
const SET = Object.keys(NO_PROMPTS)

function namesFor(trust: Parameters<typeof environmentFor>[0]): readonly string[] {
  return Object.keys(environmentFor(trust, all)).toSorted()
}

test('Docker and credential helpers get the whole environment except the token of the step', () => {
  const { INPUT_TOKEN: token, ...others } = all
  expect(token).toBeDefined()
  expect(environmentFor('everything', all)).toEqual(others)
})

test('Nix does not get the inputs, tokens and command files of the step', () => {
  expect(namesFor('no-secrets')).toEqual([...SET, ...REGISTRY_LOGINS, ...OTHERS].toSorted())
})

test('programs of a flake do not get registry logins either', () => {
  expect(namesFor('no-logins')).toEqual([...SET, ...OTHERS].toSorted())
})

test('variables are withheld in upper and lower case', () => {
  expect(environmentFor('no-secrets', { input_token: 'x', Github_Token: 'x', actions_runtime_token: 'x' })).toEqual(
    NO_PROMPTS,
  )
})

test('settings of the job for Git and SSH take precedence', () => {
  const own = { GIT_TERMINAL_PROMPT: '1', GIT_ASKPASS: '/askpass', SSH_ASKPASS_REQUIRE: 'force' }
  expect(environmentFor('no-secrets', own)).toEqual(own)
})

test('values are passed on unchanged', () => {
  expect(environmentFor('no-logins', all).PATH).toBe('of PATH')
})

test('a program that is started gets this environment', async () => {
  const before = { ...process.env }
  Object.assign(process.env, { INPUT_TOKEN: 'of the step', DOCKER_CONFIG: '/logins', OF_THE_JOB: 'of the job' })
  try {
    const see = async (trust: Parameters<typeof environmentFor>[0]) =>
      (await runCommand('sh', ['-c', 'echo "$INPUT_TOKEN,$DOCKER_CONFIG,$OF_THE_JOB"'], { trust }))?.stdout.trim()
    expect(await see('everything')).toBe(',/logins,of the job')
    expect(await see('no-secrets')).toBe(',/logins,of the job')
    expect(await see('no-logins')).toBe(',,of the job')
  } finally {
    for (const name of ['INPUT_TOKEN', 'DOCKER_CONFIG', 'OF_THE_JOB']) {
      if (before[name] === undefined) delete process.env[name]
      else process.env[name] = before[name]
    }
  }
})
