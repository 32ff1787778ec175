import type { JobLog } from '../actions/log.ts'
import { readPreviousImages } from '../cache/previous-image.ts'
import { lookForUnchanged } from '../cache/unchanged.ts'
import type { Workflow } from '../context.ts'
import type { PlanInputs } from '../inputs/inputs.ts'
import { installableOf } from '../nix/installable.ts'
import { NixError } from '../nix/nix-error.ts'
import { formatPackages, readPackages } from '../nix/packages.ts'
import { ANY_RUNNER, hostedRunner } from '../nix/system.ts'
import { shareLookUps } from '../registry/shared-look-ups.ts'
import type { Result, Tools } from './mode.ts'
import { type PlannedBuild, summarizePlan } from './plan-summary.ts'

/**
 * Works out the matrix of the build jobs: the systems for which the flake has the image, a runner for each, and which
 * of them need no build.
 * @throws NixError where the flake has the image for no system
 */
export async function plan(inputs: PlanInputs, workflow: Workflow, tools: Tools): Promise<Result> {
  const { log } = tools
  const systems = await findSystems(inputs, workflow, log)
  const unchanged = await findUnchangedSystems(systems, inputs, workflow, tools)
  const emulated = systems.filter((system) => !inputs.runners.has(system) && hostedRunner(system) === undefined)
  if (emulated.length > 0) log.notice(adviseEmulation(emulated))
  const idle = [...inputs.runners.keys()].filter((system) => !systems.includes(system))
  if (idle.length > 0)
    log.notice(`\`runners\` has a runner for ${idle.join(', ')}, for which the flake has no ${inputs.attribute}`)
  const builds = systems.map((system): PlannedBuild => {
    const runner = runnerFor(system, inputs.runners)
    return { system, runner, ...(unchanged.has(system) && { unchanged: true }) }
  })
  for (const build of builds)
    log.info(`${build.system} on ${build.runner}: ${build.unchanged ? 'unchanged' : 'to be built'}`)
  return { outputs: { matrix: JSON.stringify({ include: builds }) }, summary: summarizePlan(builds) }
}

/**
 * The runner that can build for a system. It stays so where the image is unchanged: should it have gone from the
 * registry by the time that the job runs, the job builds it after all.
 * @param own labels of the user's, which come before the hosted ones
 */
export function runnerFor(system: string, own: ReadonlyMap<string, string>): string {
  return own.get(system) ?? hostedRunner(system) ?? ANY_RUNNER
}

function adviseEmulation(systems: readonly string[]): string {
  return `GitHub has no runners for ${systems.join(', ')}: the matrix has ${ANY_RUNNER}, which emulates them. The build job needs docker/setup-qemu-action and \`extra-platforms\` for that (README, "Emulation with QEMU"). For runners of your own, give this step
  runners: |
${systems.map((system) => `    ${system}=label`).join('\n')}`
}

async function findSystems(
  { flake, attribute, nixArgs }: PlanInputs,
  { runnerSystem }: Workflow,
  log: JobLog,
): Promise<readonly string[]> {
  // Of macOS there are no images, and its runners plan for others.
  const missing = `packages.${runnerSystem.replace(/-darwin$/, '-linux')}.${attribute}`
  const packages = await readPackages({ flake, attribute, nixArgs, runnerSystem, missing })
  const failed = packages.filter((one) => one.kind === 'failed')
  const systems = packages.filter((one) => one.kind === 'evaluated' && one.offered).map(({ system }) => system)
  if (systems.length === 0)
    throw new NixError({
      message: `The flake ${flake} has no packages.<system>.${attribute} for any system that images can be for`,
      detail: packages.map((one) => formatPackages(one, attribute)).join('\n') || '"packages" is empty',
      hint: 'Name what it has in `attribute`, or add the one that is missing to the flake.',
    })
  for (const { system, why } of failed)
    log.warning(`packages.${system} can't be evaluated, and ${system} is left out: ${why}`)
  for (const one of packages)
    if (one.kind === 'evaluated' && one.refused !== undefined) log.warning(`${one.system} is left out: ${one.refused}`)
  return systems
}

async function findUnchangedSystems(
  systems: readonly string[],
  inputs: PlanInputs,
  { runnerSystem }: Workflow,
  { registry, log }: Tools,
): Promise<ReadonlySet<string>> {
  const unchanged = new Set<string>()
  // Without `push` a build does not look either: what it is for is that the image be built.
  if (!inputs.push) return unchanged
  const shared = shareLookUps(registry)
  const earlier = await readPreviousImages(shared, inputs.reuseFrom, log)
  // One after the other: each evaluation takes all the memory that nixpkgs does.
  for (const system of systems) {
    const installable = installableOf({ ...inputs, installable: '', file: '', system }, runnerSystem)
    const question = { ...inputs, installable, system, runnerSystem }
    if (await lookForUnchanged(question, earlier, shared, log)) unchanged.add(system)
  }
  return unchanged
}
