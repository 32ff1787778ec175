import { expect, test } from '@jest/globals'
import { type ActionStep, runWorkflow } from './support/workflow.ts'

// The stand-in for running a workflow's jobs. It must be strict, so that a mistake in an example fails a test.

const STEP = '{ uses: owner/action@v1, with: { value: VALUE } }'

async function run(jobs: string, outputs: Readonly<Record<string, string>> = {}) {
  const steps: ActionStep[] = []
  const results = await runWorkflow(`name: Test\non: push\njobs:\n${jobs}`, {
    github: { repository: 'Owner/App' },
    actions: {
      'owner/action': async (step) => {
        steps.push(step)
        return { outputs, masks: ['secret'] }
      },
    },
  })
  return { values: steps.map((step) => step.with.value), steps, jobs: Object.fromEntries(results) }
}

function jobWith(value: string): string {
  return `  one: { runs-on: linux, steps: [${STEP.replace('VALUE', JSON.stringify(value))}] }`
}

test('evaluates contexts, and passes outputs between steps and jobs', async () => {
  const { values, steps, jobs } = await run(
    `
  one:
    strategy: { matrix: { include: [{ system: x }, { system: y }] } }
    runs-on: linux
    outputs: { x: "\${{ steps.script.outputs.x }}", y: "\${{ steps.script.outputs.y }}" }
    steps:
      - { id: first, uses: owner/action@v1, with: { value: "\${{ matrix.system }} of \${{github.repository}}" } }
      - id: script
        env: { SYSTEM: "\${{ matrix.system }}", VALUE: "\${{ steps.first.outputs.value }}" }
        run: |
          test -d "$RUNNER_TEMP"
          printf '%s<<END\\n%s %s\\n2\\nEND\\n' "$SYSTEM" "$SYSTEM" "$VALUE" >> "$GITHUB_OUTPUT"
  two:
    needs: one
    runs-on: linux
    steps: [${STEP.replace('VALUE', '"${{ needs.one.outputs.x }}, ${{ needs.one.outputs.y }}"')}]`,
    { value: '1' },
  )
  expect(values).toEqual(['x of Owner/App', 'y of Owner/App', 'x 1\n2, y 1\n2'])
  expect(steps.map(({ job, jobIndex, jobTotal }) => [job, jobIndex, jobTotal])).toEqual([
    ['one', 0, 2],
    ['one', 1, 2],
    ['two', 0, 1],
  ])
  expect(jobs).toEqual({ one: { x: 'x 1\n2', y: 'y 1\n2' }, two: {} })
})

test('skips jobs whose condition does not hold, and those that need them', async () => {
  const job = (condition: string) => `{ if: "${condition}", runs-on: linux, steps: [${STEP}] }`
  const other = `{ needs: one, runs-on: linux, steps: [${STEP}] }`
  const { jobs } = await run(`
  one: ${job("github.repository == 'owner/other'")}
  two: ${other}
  three: ${job('github.repository == github.repository')}`)
  expect(Object.keys(jobs)).toEqual(['three'])
})

test('evaluates the environment of the workflow, and keys of caches', async () => {
  const { values } = await run(`
  one: { runs-on: linux, steps: [${STEP.replace('VALUE', "\"${{ env.NAME }}-${{ hashFiles('**/*.nix', 'flake.lock') }}\"")}] }
env: { NAME: app }`)
  expect(values).toEqual(['app-hash'])
})

const MADE = `
  plan:
    runs-on: linux
    outputs: { matrix: "\${{ steps.plan.outputs.matrix }}" }
    steps: [{ id: plan, uses: owner/action@v1 }]
  one:
    needs: plan
    strategy: { matrix: "\${{ fromJSON(needs.plan.outputs.matrix) }}" }
    runs-on: "\${{ matrix.runner }}"
    steps: [${STEP.replace('VALUE', '"${{ matrix.system }} on ${{ matrix.runner }}"')}]`

test('creates the jobs of a matrix from an earlier job', async () => {
  const include = [
    { system: 'x', runner: 'intel' },
    { system: 'y', runner: 'arm', unchanged: true },
  ]
  const { values, steps } = await run(MADE, { matrix: JSON.stringify({ include }) })
  expect(values.slice(1)).toEqual(['x on intel', 'y on arm'])
  expect(steps.slice(1).map(({ matrix, jobTotal }) => [matrix.unchanged, jobTotal])).toEqual([
    [undefined, 2],
    ['true', 2],
  ])
})

test.each([
  ['is no JSON', 'x', 'JSON'],
  ['has no jobs', '{"include":[]}', 'has no jobs'],
  ['has something else', '{"system":["x"]}', 'include'],
])('refuses a matrix that %s', async (_what, matrix, detail) => {
  await expect(run(MADE, { matrix })).rejects.toThrow(detail)
})

test('uses the output of the last job if several jobs of a matrix set it', async () => {
  const { jobs } = await run(`
  one:
    strategy: { matrix: { include: [{ system: x }, { system: y }] } }
    runs-on: linux
    outputs: { record: "\${{ matrix.system }}" }
    steps: []`)
  expect(jobs).toEqual({ one: { record: 'y' } })
})

test.each([
  ["github.repository != 'Owner/App'", false],
  ["github.repository == 'owner/app'", true],
  ["${{ github.repository != 'Owner/App' }}", false],
  ["${{ github.repository != 'Owner/Other' }}", true],
])('runs a step if its condition holds: %s', async (condition, runs) => {
  const { values } = await run(
    `  one: { runs-on: linux, steps: [{ if: "${condition}", uses: owner/action@v1, with: { value: x } }] }`,
  )
  expect(values).toEqual(runs ? ['x'] : [])
})

test('compares a value with a text', async () => {
  const { values } = await run(jobWith("${{ github.repository != 'Owner/App' }}"))
  expect(values).toEqual(['false'])
})

test('drops an output of a job that contains a secret', async () => {
  const { jobs } = await run(
    `
  one:
    runs-on: linux
    outputs: { value: "\${{ steps.first.outputs.value }}" }
    steps: [{ id: first, uses: owner/action@v1 }]`,
    { value: 'a secret in the middle' },
  )
  expect(jobs).toEqual({ one: { value: '' } })
})

test.each([
  ['a function', jobWith('${{ toJSON(github) }}'), "can't evaluate ${{ toJSON(github) }}"],
  ['an operator', jobWith("${{ github.ref || 'x' }}"), "can't evaluate"],
  ['a context that it lacks', jobWith('${{ secrets.TOKEN }}'), 'there is no secrets.TOKEN'],
  ['a value that it lacks', jobWith('${{ github.actor }}'), 'there is no github.actor'],
  ['a matrix that is not there', jobWith('${{ matrix.system }}'), 'there is no matrix.system'],
  ['a step that is not there', jobWith('${{ steps.build.outputs.x }}'), 'there is no "build" before steps.build'],
  ['a job that is not needed', jobWith('${{ needs.build.outputs.x }}'), 'there is no "build" before needs.build'],
  [
    'an output that a job does not declare',
    `${jobWith('x')}\n  two: { needs: one, runs-on: linux, steps: [${STEP.replace('VALUE', '"${{ needs.one.outputs.x }}"')}] }`,
    'there is no needs.one.outputs.x',
  ],
  [
    'a need that comes later',
    '  one: { needs: two, runs-on: linux, steps: [] }',
    'there is no "two" before needs of one',
  ],
  [
    'a matrix of a job that is not needed',
    '  one: { strategy: { matrix: "${{ fromJSON(needs.plan.outputs.matrix) }}" }, runs-on: linux, steps: [] }',
    'there is no "plan" before needs.plan',
  ],
  [
    'a matrix of anything else',
    '  one: { strategy: { matrix: "${{ fromJSON(vars.MATRIX) }}" }, runs-on: linux, steps: [] }',
    "can't evaluate the matrix",
  ],
  ['another action', '  one: { runs-on: linux, steps: [{ uses: other/action@v1 }] }', 'other/action@v1'],
  ['a script that fails', '  one: { runs-on: linux, steps: [{ run: "false\\ntrue" }] }', 'Command failed'],
  [
    'a condition of a step that it does not know',
    '  one: { runs-on: linux, steps: [{ if: failure(), uses: owner/action@v1 }] }',
    "can't evaluate",
  ],
  [
    'a condition of a step that is a text',
    '  one: { runs-on: linux, steps: [{ if: github.repository, uses: owner/action@v1 }] }',
    'neither true nor false',
  ],
  ['a condition of a job', '  one: { if: always(), runs-on: linux, steps: [] }', "can't evaluate ${{ always() }}"],
  ['a shell', '  one: { runs-on: linux, steps: [{ run: x, shell: pwsh }] }', "can't read jobs.one.steps.0"],
])('refuses %s', async (_what, jobs, detail) => {
  await expect(run(jobs)).rejects.toThrow(detail)
})
