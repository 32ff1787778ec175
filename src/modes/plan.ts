import { availableParallelism } from 'node:os'
import { readPreviousImages } from '../cache/previous-image.ts'
import { lookForUnchanged, namesStorePath, ownIndexes } from '../cache/unchanged.ts'
import type { Workflow } from '../context.ts'
import type { PlanInputs } from '../inputs/plan.ts'
import { codeCell, joinLines, table } from '../markdown.ts'
import { evaluateSystems, evaluationsAtOnce, listSystems } from '../nix/evaluate-systems.ts'
import { installableOf } from '../nix/installable.ts'
import { findNixVersion } from '../nix/nix.ts'
import { submodulesOf } from '../nix/submodules.ts'
import { ANY_RUNNER, hostedRunner, platformOf } from '../nix/system.ts'
import { formatPlatform } from '../oci/platform.ts'
import { settleAll } from '../promises.ts'
import { shareLookUps } from '../registry/client.ts'
import type { Result, Tools } from './mode.ts'
import { assertOffered, assertPlanned, chooseSystems } from './plan-systems.ts'

/**
 * Generates the matrix of the build jobs: the systems for which the flake has the image, with a runner for each. Marks
 * systems whose image is already published.
 * @throws NixError if the flake has the image for no system, or it can be evaluated for none
 */
export async function plan(inputs: PlanInputs, workflow: Workflow, tools: Tools): Promise<Result> {
  const { log } = tools
  const { systems, unchanged } = await examineSystems(inputs, workflow, tools)
  const emulated = systems.filter((system) => !inputs.runners.has(system) && hostedRunner(system) === undefined)
  if (emulated.length > 0) log.notice(adviseEmulation(emulated))
  const unused = [...inputs.runners.keys()].filter((system) => !systems.includes(system))
  if (unused.length > 0)
    log.notice(
      `Ignoring the runner for ${unused.join(', ')} in \`runners\`: the flake has no ${inputs.attribute} for it`,
    )
  const builds = systems.map((system): PlannedBuild => {
    const runner = runnerFor(system, inputs.runners)
    return { system, runner, ...(unchanged.has(system) && { unchanged: true }) }
  })
  for (const build of builds)
    log.info(`${build.system} on ${build.runner}: ${build.unchanged ? 'unchanged' : 'to be built'}`)
  return { outputs: { matrix: JSON.stringify({ include: builds }) }, summary: summarizePlan(builds) }
}

/**
 * Returns a runner that can build for a system. Unchanged systems need one too: their job builds the image if it has
 * disappeared from the registry in the meantime.
 * @param own the user's labels, which take precedence
 */
export function runnerFor(system: string, own: ReadonlyMap<string, string>): string {
  return own.get(system) ?? hostedRunner(system) ?? ANY_RUNNER
}

function adviseEmulation(systems: readonly string[]): string {
  return `GitHub has no runners for ${systems.join(', ')}, so the matrix uses ${ANY_RUNNER} with emulation. Add docker/setup-qemu-action and \`extra-platforms\` to the build job (docs/runners.md, "Emulation with QEMU"; the reusable workflow does this itself). To use your own runners instead, set in this step:
  runners: |
${systems.map((system) => `    ${system}=label`).join('\n')}`
}

/** The systems of the matrix, and those whose image is already published. */
interface ExaminedSystems {
  readonly systems: readonly string[]
  readonly unchanged: ReadonlySet<string>
}

async function examineSystems(
  inputs: PlanInputs,
  { runnerSystem }: Workflow,
  { registry, log }: Tools,
): Promise<ExaminedSystems> {
  const { flake, attribute, nixArgs } = inputs
  // Images are always for Linux, but this step may run on macOS.
  const missing = `packages.${runnerSystem.replace(/-darwin$/, '-linux')}.${attribute}`
  const [submodules, version] = await Promise.all([submodulesOf(flake), findNixVersion()])
  const call = { flake, attribute, nixArgs, runnerSystem, missing, submodules }
  log.info(`Using ${version}`)
  const offered = await listSystems(call, log)
  const systems = inputs.systems.length === 0 ? offered : inputs.systems
  assertOffered(systems, offered, call)
  const shared = shareLookUps(registry)
  // With `push: false`, builds always build, to check that the image can be built.
  const earlier = inputs.push ? await readPreviousImages(shared, inputs.reuseFrom, log) : []
  const indexes = inputs.rebuild ? [] : ownIndexes(earlier, inputs.images)
  const needsStorePath = (system: string) => namesStorePath(indexes, platformOf(system))
  const limit = evaluationsAtOnce(process.availableMemory(), availableParallelism())
  const images = await evaluateSystems(call, systems, needsStorePath, limit, log)
  const { planned, warnings, notes } = chooseSystems(images, call)
  assertPlanned(inputs.systems, planned, images, call)
  for (const note of notes) log.info(note)
  for (const warning of warnings) log.warning(warning)
  const found = planned.filter((image) => image.kind === 'found')
  const looked = await settleAll(
    found.map(async ({ system, storePath }) => {
      const installable = installableOf({ ...inputs, installable: '', file: '', system }, runnerSystem)
      const question = { ...inputs, installable, system, runnerSystem }
      const lines: string[] = []
      const collect = { ...log, info: (line: string) => void lines.push(line) }
      const image = await lookForUnchanged(question, earlier, shared, collect, storePath)
      return { system, unchanged: image !== undefined, lines }
    }),
  )
  // In the order of the systems, whichever answer comes first.
  for (const line of looked.flatMap(({ lines }) => lines)) log.info(line)
  const unchanged = new Set(looked.flatMap((one) => (one.unchanged ? [one.system] : [])))
  return { systems: planned.map(({ system }) => system), unchanged }
}

/** A job of the build matrix. */
export interface PlannedBuild {
  readonly system: string
  /** A label for `runs-on`. */
  readonly runner: string
  /** Set if its image is already published. */
  readonly unchanged?: true
}

/** Returns the summary of a plan as Markdown. */
export function summarizePlan(builds: readonly PlannedBuild[]): string {
  const rows = builds.map(({ system, runner, unchanged }) => [
    formatPlatform(platformOf(system)),
    system,
    codeCell(runner),
    unchanged ? 'unchanged' : 'to be built',
  ])
  return joinLines('### Planned', '', ...table(['platform', 'system', 'runner', 'image'], rows))
}
