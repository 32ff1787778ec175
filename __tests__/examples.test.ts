import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from '@jest/globals'
import { parse } from 'yaml'
import { readInputs } from '../src/inputs/inputs.ts'
import { type ActionStep, runWorkflow, type StepResult, type WorkflowRun } from './support/workflow.ts'

// Runs the workflows of examples/workflows with stand-ins for all actions. The stand-in of this action reads its inputs as
// the action does. Integration tests run most of them with the action itself.

const checkout = fileURLToPath(new URL('..', import.meta.url))
const read = (path: string) => readFileSync(join(checkout, path), 'utf8')
const NAME = 'nix-image-action/nix-image-action'

interface Job {
  readonly steps?: readonly { readonly uses?: string; readonly with?: Readonly<Record<string, string>> }[]
  readonly concurrency?: Readonly<Record<string, string>>
}

const workflows = readdirSync(join(checkout, 'examples/workflows')).map((name) => {
  const text = read(`examples/workflows/${name}`)
  // Like the runner, read every scalar as text.
  const jobs = Object.values<Job>(parse(text, { schema: 'failsafe' }).jobs)
  return { name, text, jobs, steps: jobs.flatMap(({ steps = [] }) => steps) }
})

const { inputs } = parse(read('action.yml'), { schema: 'failsafe' })
const defaults = Object.entries<{ default?: string }>(inputs).map(([name, input]) => [name, input.default ?? ''])

const own = workflows.filter(({ steps }) => steps.some(({ uses = '' }) => uses.startsWith(`${NAME}@`)))

test.each(own)('$name uses inputs, outputs and contexts that exist', async ({ text, steps }) => {
  const modes: unknown[] = []
  const stub = async (step: ActionStep) => {
    modes.push(step.with.mode)
    return runOwn(step)
  }
  await run(text, { [NAME]: stub })
  expect(new Set(modes)).toEqual(new Set(steps.flatMap((step) => step.with?.mode ?? [])))
})

async function run(text: string, actions: WorkflowRun['actions']): ReturnType<typeof runWorkflow> {
  const names = [...text.matchAll(/uses: ([^@\s]+)@/g)].map(([, name = '']) => name)
  return runWorkflow(text, {
    github: {
      repository: 'Owner/App',
      actor: 'octocat',
      token: 'token-of-the-job',
      ref_name: 'v1.2.3',
      event_name: 'push',
      'event.number': '7',
      'event.pull_request.head.repo.full_name': 'Owner/App',
    },
    secrets: withValues(secretsAndVars(text, 'secrets')),
    vars: withValues(secretsAndVars(text, 'vars')),
    actions: { ...Object.fromEntries(names.map((name) => [name, async () => ({})])), ...actions },
  })
}

/** The secrets and variables that users create are only passed to other actions. */
function secretsAndVars(text: string, context: string): readonly string[] {
  return [...text.matchAll(new RegExp(`\\b${context}\\.(\\w+)`, 'g'))].map(([, name = '']) => name)
}

function withValues(names: readonly string[]): Readonly<Record<string, string>> {
  return Object.fromEntries(names.map((name) => [name, `value of ${name}`]))
}

const DIGEST = `sha256:${'0'.repeat(64)}`

async function runOwn({ with: given, matrix }: ActionStep): Promise<StepResult> {
  expect(Object.keys(given).filter((name) => !(name in inputs))).toEqual([])
  const contexts = { system: matrix.system ?? '', token: 'token-of-the-job', 'job-total': '', 'job-index': '' }
  const values = Object.entries<string>({ ...Object.fromEntries(defaults), ...contexts, ...given })
  const env = Object.fromEntries(values.map(([name, value]) => [`INPUT_${name.toUpperCase()}`, value]))
  const { mode, notices } = readInputs({ RUNNER_OS: 'Linux', RUNNER_ARCH: 'X64', ...env })
  expect(notices).toEqual([])
  switch (mode) {
    case 'plan':
      return {
        outputs: { matrix: JSON.stringify({ include: [{ system: 'x86_64-linux', runner: 'ubuntu-24.04' }] }) },
      }
    case 'build':
      return { outputs: { record: DIGEST } }
    default:
      return { outputs: { name: 'ghcr.io/owner/app', digest: DIGEST } }
  }
}

test('actions-attest.yml passes the published index to actions/attest', async () => {
  const subjects: unknown[] = []
  const attest = async (step: ActionStep) => {
    subjects.push(step.with)
    return {}
  }
  await run(read('examples/workflows/actions-attest.yml'), { [NAME]: runOwn, 'actions/attest': attest })
  expect(subjects).toEqual([
    { 'subject-name': 'ghcr.io/owner/app', 'subject-digest': DIGEST, 'push-to-registry': 'true' },
  ])
})

test('private-inputs.yml passes the token for the inputs to Nix', async () => {
  const tokens: unknown[] = []
  const install = async (step: ActionStep) => {
    tokens.push(step.with.github_access_token)
    return {}
  }
  await run(read('examples/workflows/private-inputs.yml'), { [NAME]: runOwn, 'cachix/install-nix-action': install })
  expect(tokens).toEqual(['value of FLAKE_INPUTS_TOKEN'])
})

test('pull-request.yml gives its jobs only permissions to read', () => {
  const { permissions, jobs } = parse(read('examples/workflows/pull-request.yml'))
  expect(permissions).toEqual({})
  for (const job of Object.values<{ permissions: Readonly<Record<string, string>> }>(jobs)) {
    expect(new Set(Object.values(job.permissions))).toEqual(new Set(['read']))
  }
})

describe('a merge job waits for those of other branches and tags', () => {
  // The quick start is as short as possible, and runs on every server. Merges at the same time are safe, too.
  const merging = workflows
    .filter(({ name }) => name !== 'simple.yml')
    .flatMap(({ name, text, jobs }) =>
      jobs
        .filter(({ steps = [] }) => steps.some((step) => step.with?.mode === 'merge'))
        .map((job) => [name, text, job] as const),
    )
  test.each(merging)('in %s', (name, text, { concurrency: { group, queue } = {} }) => {
    expect(group).toBe('image-merge')
    // GitHub Enterprise Server and Gitea do not support `queue`. With a single branch, only the latest merge matters.
    if (['without-artifacts.yml', 'gitea.yml'].includes(name)) {
      expect(parse(text).on).toEqual({ push: { branches: ['main'] } })
    } else {
      // Otherwise, GitHub cancels a waiting merge when another one starts to wait.
      expect(queue).toBe('max')
    }
  })
})
