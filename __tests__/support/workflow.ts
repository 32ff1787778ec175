import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import * as v from 'valibot'
import { parse } from 'yaml'
import { parseOutputs } from './runner.ts'

// Runs a workflow's jobs, with the features that the examples need: matrices, `needs`, outputs, `run:`. It refuses
// unsupported features rather than behaving differently from GitHub.

/** A step that uses an action, with all expressions evaluated. */
export interface ActionStep {
  readonly with: Readonly<Record<string, string>>
  /** The environment that earlier steps have set. */
  readonly env: Readonly<Record<string, string>>
  readonly job: string
  readonly matrix: Readonly<Record<string, string>>
  readonly jobTotal: number
  readonly jobIndex: number
  /** `RUNNER_TEMP`, which the steps of a job share. */
  readonly temp: string
}

/** The result of a step. */
export interface StepResult {
  readonly outputs?: Readonly<Record<string, string>>
  /** Environment variables for all later steps of the job. */
  readonly env?: Readonly<Record<string, string>>
  /** Secrets: the runner drops job outputs that contain one. */
  readonly masks?: readonly string[]
}

export interface WorkflowRun {
  /** Values of `github.…`, such as `actor` and `event.number`; all others are refused. */
  readonly github: Readonly<Record<string, string>>
  /** Values of `secrets.…` and `vars.…`. */
  readonly secrets?: Readonly<Record<string, string>>
  readonly vars?: Readonly<Record<string, string>>
  /** The stand-in for each action, by its name without the version. */
  readonly actions: Readonly<Record<string, (step: ActionStep) => Promise<StepResult>>>
}

/**
 * Runs all jobs of a workflow one after another, in the order of the file. The same applies to the jobs of a matrix.
 * @returns the outputs of each job that ran
 */
export async function runWorkflow(text: string, run: WorkflowRun): Promise<Needs> {
  const { env, jobs } = readWorkflow(text)
  const done = new Map<string, Outputs>()
  const skipped = new Set<string>()
  for (const [id, job] of Object.entries(jobs)) {
    // GitHub skips a job if it skips one that the job needs.
    if (listOf(job.needs).some((name) => skipped.has(name)) || !isWanted(job, run)) {
      skipped.add(id)
      continue
    }
    const needs = new Map(listOf(job.needs).map((name) => [name, found(done, name, `needs of ${id}`)]))
    done.set(id, await runJob(id, job, { env, needs }, run))
  }
  return done
}

type Outputs = Readonly<Record<string, string>>
type Needs = ReadonlyMap<string, Outputs>

const TEXTS = v.record(v.string(), v.string())
const STEP = v.union([
  v.strictObject({
    id: v.optional(v.string()),
    if: v.optional(v.string()),
    uses: v.string(),
    with: v.optional(TEXTS, {}),
    env: v.optional(TEXTS, {}),
  }),
  v.strictObject({
    id: v.optional(v.string()),
    if: v.optional(v.string()),
    run: v.string(),
    env: v.optional(TEXTS, {}),
  }),
])
const JOB = v.strictObject({
  needs: v.optional(v.union([v.string(), v.array(v.string())]), []),
  if: v.optional(v.string()),
  strategy: v.optional(v.strictObject({ matrix: v.union([v.strictObject({ include: v.array(TEXTS) }), v.string()]) })),
  concurrency: v.optional(TEXTS),
  'runs-on': v.string(),
  permissions: v.optional(TEXTS),
  outputs: v.optional(TEXTS, {}),
  steps: v.array(STEP),
})
const WORKFLOW = v.strictObject({
  name: v.string(),
  on: v.unknown(),
  permissions: v.optional(TEXTS),
  concurrency: v.optional(TEXTS),
  env: v.optional(TEXTS, {}),
  jobs: v.record(v.string(), JOB),
})
type Job = v.InferOutput<typeof JOB>
type Step = v.InferOutput<typeof STEP>

function readWorkflow(text: string): v.InferOutput<typeof WORKFLOW> {
  // Like the runner, read every scalar as text.
  const result = v.safeParse(WORKFLOW, parse(text, { schema: 'failsafe' }))
  if (result.success) return result.output
  const [issue] = result.issues
  throw new Error(`can't read ${v.getDotPath(issue) ?? 'the workflow'}: ${issue.message}`)
}

/** The condition of a job can use only what is known before the job. */
function isWanted(job: Job, run: WorkflowRun): boolean {
  const none = { matrix: {}, needs: new Map(), env: {} }
  return job.if === undefined || holds(job.if, (text) => evaluate(text, lookupIn(run, none, '', new Map())))
}

/** The results of earlier jobs, and the environment of the workflow. */
interface JobContext {
  readonly needs: Needs
  /** The environment of the workflow. */
  readonly env: Outputs
}

async function runJob(id: string, job: Job, context: JobContext, run: WorkflowRun): Promise<Outputs> {
  const legs = legsOf(job, context.needs)
  const outputs: Record<string, string> = {}
  for (const [jobIndex, matrix] of legs.entries()) {
    const leg = await runLeg(job, { job: id, matrix, jobTotal: legs.length, jobIndex, ...context }, run)
    // The jobs of a matrix share output names. The last job with a value for an output wins.
    for (const [name, value] of Object.entries(leg)) if (value !== '' || !(name in outputs)) outputs[name] = value
  }
  return outputs
}

/** The jobs of a matrix, which may be the output of an earlier job: `${{ fromJSON(needs.plan.outputs.matrix) }}`. */
function legsOf({ strategy }: Job, needs: Needs): readonly Outputs[] {
  if (strategy === undefined) return [{}]
  const { matrix } = strategy
  if (typeof matrix !== 'string') return matrix.include
  const [, path] = /^\$\{\{\s*fromJSON\(\s*(needs\.[\w.-]+)\s*\)\s*\}\}$/.exec(matrix) ?? []
  if (path === undefined) throw new Error(`can't evaluate the matrix ${matrix}`)
  const json = evaluate(`\${{ ${path} }}`, lookupIn({ github: {} }, { matrix: {}, needs, env: {} }, '', new Map()))
  const { include } = v.parse(v.pipe(v.string(), v.parseJson(), MATRIX), json)
  if (include.length === 0) throw new Error(`the matrix ${matrix} has no jobs`)
  // Contexts convert every value to text.
  return include.map((leg) => Object.fromEntries(Object.entries(leg).map(([key, value]) => [key, String(value)])))
}

const MATRIX = v.strictObject({
  include: v.array(v.record(v.string(), v.union([v.string(), v.boolean(), v.number()]))),
})

interface Leg extends JobContext, Pick<ActionStep, 'job' | 'matrix' | 'jobTotal' | 'jobIndex'> {}

async function runLeg(job: Job, leg: Leg, run: WorkflowRun): Promise<Outputs> {
  const folder = await mkdtemp(join(tmpdir(), 'job-'))
  try {
    const temp = join(folder, 'temp')
    await mkdir(temp)
    const steps = new Map<string, Outputs>()
    const masks: string[] = []
    let env: Readonly<Record<string, string>> = leg.env
    const evaluator = (text: string) => evaluate(text, lookupIn(run, leg, temp, steps))
    for (const step of job.steps) {
      if (step.if !== undefined && !holds(step.if, evaluator)) continue
      const result = await runStep(step, { evaluator, env, folder, temp, leg }, run)
      if (step.id !== undefined) steps.set(step.id, result.outputs ?? {})
      masks.push(...(result.masks ?? []))
      env = { ...env, ...result.env }
    }
    return mapValues(job.outputs, (text) => withoutSecrets(evaluator(text), masks))
  } finally {
    await rm(folder, { recursive: true })
  }
}

interface StepPlace {
  readonly evaluator: (text: string) => string
  readonly env: Readonly<Record<string, string>>
  readonly folder: string
  readonly temp: string
  readonly leg: Leg
}

async function runStep(step: Step, place: StepPlace, { actions }: WorkflowRun): Promise<StepResult> {
  const { evaluator, temp, leg } = place
  const env = { ...place.env, ...mapValues(step.env, evaluator) }
  if ('run' in step) return { outputs: await runScript(evaluator(step.run), env, place) }
  const name = step.uses.replace(/@.*/, '')
  const action = actions[name]
  if (action === undefined) throw new Error(`no stand-in is defined for ${step.uses}`)
  return action({ ...leg, with: mapValues(step.with, evaluator), env, temp })
}

/** Decides whether a step runs. GitHub accepts conditions with and without `${{ }}`. */
function holds(condition: string, evaluator: (text: string) => string): boolean {
  const value = evaluator(/^\$\{\{.*\}\}$/s.test(condition) ? condition : `\${{ ${condition} }}`)
  // GitHub treats any other text as true, which can only be a mistake.
  if (value !== 'true' && value !== 'false') throw new Error(`the condition ${condition} is neither true nor false`)
  return value === 'true'
}

/** Uses the runner's shell for steps that do not name one. */
async function runScript(
  script: string,
  env: Readonly<Record<string, string>>,
  { folder, temp }: StepPlace,
): Promise<Outputs> {
  const [file, output] = [join(folder, 'script'), join(folder, 'output')]
  await Promise.all([writeFile(file, script), writeFile(output, '')])
  const own = { PATH: process.env.PATH, RUNNER_TEMP: temp, GITHUB_OUTPUT: output }
  await promisify(execFile)('bash', ['-e', file], { cwd: folder, env: { ...own, ...env } })
  return parseOutputs(await readFile(output, 'utf8'))
}

function withoutSecrets(output: string, masks: readonly string[]): string {
  return masks.some((secret) => output.includes(secret)) ? '' : output
}

// Expressions

type Lookup = (path: readonly string[]) => string

/** Evaluates `${{ a.b.c }}`, `${{ a.b.c != 'text' }}` and `${{ a.b.c == d.e }}`. Refuses any other expression. */
function evaluate(text: string, lookup: Lookup): string {
  return text.replaceAll(/\$\{\{(.*?)\}\}/gs, (expression, inner: string) => {
    // Its value depends on files, and is used only in the keys of caches.
    if (/^\s*hashFiles\([^()]*\)\s*$/.test(inner)) return 'hash'
    const [, left = '', operator, right = ''] = /^\s*([\w.-]+)\s*(?:([!=]=)\s*('[^']*'|[\w.-]+)\s*)?$/.exec(inner) ?? []
    const termValue = (term: string) => {
      if (term.startsWith("'")) return term.slice(1, -1)
      const path = term.split('.')
      if (!path.every((part) => /^[A-Za-z_][\w-]*$/.test(part))) throw new Error(`can't evaluate ${expression}`)
      return lookup(path)
    }
    if (operator === undefined) return termValue(left)
    // GitHub ignores case when it compares texts.
    const equal = termValue(left).toLowerCase() === termValue(right).toLowerCase()
    return String(equal === (operator === '=='))
  })
}

/** Refuses missing values, which GitHub treats as empty, if they can only be a typing mistake. */
function lookupIn(
  { github, secrets = {}, vars = {} }: Pick<WorkflowRun, 'github' | 'secrets' | 'vars'>,
  { matrix, needs, env }: Pick<Leg, 'matrix' | 'needs' | 'env'>,
  temp: string,
  steps: ReadonlyMap<string, Outputs>,
): Lookup {
  const plain: Readonly<Record<string, Outputs>> = { github, secrets, vars, matrix, env, runner: { temp } }
  const outputOf = (context: string, id: string, output: string, where: string): string | undefined => {
    // Earlier steps may or may not have set these. The workflow lists a job's outputs.
    if (context === 'steps') return found(steps, id, where)[output] ?? ''
    return context === 'needs' ? found(needs, id, where)[output] : undefined
  }
  return (path) => {
    const name = path.join('.')
    const [context = '', key = '', kind, output] = path
    const isOutput = path.length === 4 && kind === 'outputs' && output !== undefined
    const value = isOutput ? outputOf(context, key, output, name) : plain[context]?.[path.slice(1).join('.')]
    if (value === undefined) throw new Error(`there is no ${name}`)
    return value
  }
}

function found<Value>(map: ReadonlyMap<string, Value>, key: string, where: string): Value {
  const value = map.get(key)
  if (value === undefined) throw new Error(`there is no "${key}" before ${where}`)
  return value
}

function mapValues(
  texts: Readonly<Record<string, string>>,
  change: (text: string) => string,
): Readonly<Record<string, string>> {
  return Object.fromEntries(Object.entries(texts).map(([key, text]) => [key, change(text)]))
}

function listOf(value: string | readonly string[]): readonly string[] {
  return typeof value === 'string' ? [value] : value
}
