import { readFile } from 'node:fs/promises'
import { describe, expect, test } from '@jest/globals'
import * as v from 'valibot'
import { parse } from 'yaml'
import { PARTIAL_INPUTS } from '../src/inputs/mode.ts'

// The reusable workflow passes each of its inputs on to the steps of this action that take it.

const NAMED = v.record(v.string(), v.looseObject({ default: v.optional(v.unknown()), value: v.optional(v.string()) }))
const STEP = v.looseObject({
  id: v.optional(v.string()),
  uses: v.string(),
  with: v.optional(v.record(v.string(), v.string()), {}),
})
const JOB = v.looseObject({
  permissions: v.optional(v.record(v.string(), v.string())),
  outputs: v.optional(v.record(v.string(), v.string()), {}),
  steps: v.array(STEP),
})
const WORKFLOW = v.looseObject({
  on: v.strictObject({ workflow_call: v.strictObject({ inputs: NAMED, secrets: NAMED, outputs: NAMED }) }),
  permissions: v.optional(v.unknown()),
  jobs: v.strictObject({ plan: JOB, build: JOB, merge: JOB }),
})
const ACTION = v.looseObject({ inputs: NAMED, outputs: NAMED })

const read = (path: string) => readFile(new URL(`../${path}`, import.meta.url), 'utf8')
// Like the runner, read every scalar as text.
const text = await read('.github/workflows/publish.yml')
const workflow = v.parse(WORKFLOW, parse(text, { schema: 'failsafe' }))
const action = v.parse(ACTION, parse(await read('action.yml'), { schema: 'failsafe' }))
const { inputs, secrets, outputs } = workflow.on.workflow_call
const { jobs } = workflow

/** The inputs of this action's step in a job. */
function stepOf(job: 'plan' | 'build' | 'merge'): Readonly<Record<string, string>> {
  const steps = jobs[job].steps.filter(({ uses }) => uses.startsWith('$/'))
  expect(steps.map(({ uses }) => uses)).toEqual(['$/dist'])
  return steps[0]?.with ?? {}
}

describe.each(['plan', 'build', 'merge'] as const)('the %s job', (job) => {
  test('has an action step with its mode, and with inputs that apply to it', () => {
    const { mode, ...given } = stepOf(job)
    expect(mode).toBe(job)
    const names = Object.keys(given)
    expect(names.filter((name) => !(name in action.inputs))).toEqual([])
    expect(names.filter((name) => PARTIAL_INPUTS[name]?.modes.includes(job) === false)).toEqual([])
  })

  test('gets every input of the workflow that applies to it, unchanged', () => {
    const applicable = Object.keys(inputs).filter(
      (name) => name in action.inputs && PARTIAL_INPUTS[name]?.modes.includes(job) !== false,
    )
    const { mode: _, ...given } = stepOf(job)
    expect(given).toEqual(Object.fromEntries(applicable.map((name) => [name, `\${{ inputs.${name} }}`])))
  })

  test('runs no script, in which an expression would be code, and pins the actions of others', () => {
    for (const step of jobs[job].steps) {
      expect(Object.keys(step)).not.toContain('run')
      expect(step.uses).toMatch(/^(\$\/dist|[\w-]+\/[\w-]+@[0-9a-f]{40})$/)
    }
  })
})

test('inputs have the defaults of the action', () => {
  const own = Object.entries(inputs).filter(([name]) => name in action.inputs && !['image', 'push'].includes(name))
  expect(own.length).toBeGreaterThan(8)
  for (const [name, input] of own) expect([name, input.default]).toEqual([name, action.inputs[name]?.default])
  expect(inputs.image?.default).toBe('ghcr.io/${{ github.repository }}')
  expect(inputs.push?.default).toBe("${{ github.event_name != 'pull_request' }}")
})

test('outputs are those of the merge', () => {
  for (const [name, { value }] of Object.entries(outputs)) {
    expect(value).toBe(`\${{ jobs.merge.outputs.${name} }}`)
    expect(jobs.merge.outputs[name]).toBe(`\${{ steps.merge.outputs.${name} }}`)
    expect(action.outputs).toHaveProperty(name)
  }
  expect(jobs.merge.steps.at(-1)?.id).toBe('merge')
})

test('jobs that run code of the caller have only the permissions that they need', () => {
  expect(jobs.plan.permissions).toEqual({ contents: 'read', packages: 'read' })
  expect(jobs.build.permissions).toEqual({ contents: 'read', packages: 'write' })
})

test('the merge has those of the calling job, and runs no code of the caller', () => {
  expect(workflow).not.toHaveProperty('permissions')
  expect(jobs.merge.permissions).toBeUndefined()
  expect(jobs.merge.steps.filter(({ uses }) => /checkout|nix/.test(uses))).toEqual([])
})

describe('docs/reusable-workflow.md', () => {
  test.each([
    ['Inputs', Object.keys(inputs)],
    ['Secrets', Object.keys(secrets)],
    ['Outputs', Object.keys(outputs)],
  ])('lists all %s', async (heading, names) => {
    const section = (await read('docs/reusable-workflow.md'))
      .split(/^##+ /m)
      .find((one) => one.startsWith(`${heading}\n`))
    const rows = [...(section ?? '').matchAll(/^\| `([\w-]+)` \|/gm)].map(([, name]) => name)
    expect(rows).toEqual(names)
  })
})
