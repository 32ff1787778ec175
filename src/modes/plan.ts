import { readPreviousImages } from '../cache/previous-image.ts'
import { lookForUnchanged } from '../cache/unchanged.ts'
import type { Workflow } from '../context.ts'
import { NixError } from '../errors.ts'
import type { PlanInputs } from '../inputs/plan.ts'
import type { JobLog } from '../log.ts'
import { installableOf } from '../nix/installable.ts'
import { formatPackages, readPackages } from '../nix/packages.ts'
import { ANY_RUNNER, hostedRunner } from '../nix/system.ts'
import { shareLookUps } from '../registry/registry.ts'
import type { Result, Tools } from './mode.ts'
import { type PlannedBuild, summarizePlan } from './summaries.ts'

/**
 * Generates the matrix of the build jobs: the systems for which the flake has the image, with a runner for each. Marks
 * systems whose image is already published.
 * @throws NixError if the flake has the image for no system
 */
export async function plan(inputs: PlanInputs, workflow: Workflow, tools: Tools): Promise<Result> {
  const { log } = tools
  const systems = await findSystems(inputs, workflow, log)
  const unchanged = await findUnchangedSystems(systems, inputs, workflow, tools)
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
  return `GitHub has no runners for ${systems.join(', ')}, so the matrix uses ${ANY_RUNNER} with emulation. Add docker/setup-qemu-action and \`extra-platforms\` to the build job (README, "Emulation with QEMU"). To use your own runners instead, set in this step:
  runners: |
${systems.map((system) => `    ${system}=label`).join('\n')}`
}

async function findSystems(
  { flake, attribute, nixArgs }: PlanInputs,
  { runnerSystem }: Workflow,
  log: JobLog,
): Promise<readonly string[]> {
  // Images are always for Linux, but this step may run on macOS.
  const missing = `packages.${runnerSystem.replace(/-darwin$/, '-linux')}.${attribute}`
  const packages = await readPackages({ flake, attribute, nixArgs, runnerSystem, missing })
  const failed = packages.filter((one) => one.kind === 'failed')
  const systems = packages.filter((one) => one.kind === 'evaluated' && one.offered).map(({ system }) => system)
  if (systems.length === 0)
    throw new NixError({
      message: `The flake ${flake} has no packages.<system>.${attribute} for any supported system`,
      detail: packages.map((one) => formatPackages(one, attribute)).join('\n') || '"packages" is empty',
      hint: 'Set `attribute` to a package of the flake, or add the missing package to the flake.',
    })
  for (const { system, why } of failed) log.warning(`Skipping ${system}: packages.${system} can't be evaluated: ${why}`)
  for (const one of packages)
    if (one.kind === 'evaluated' && one.refused !== undefined) log.warning(`Skipping ${one.system}: ${one.refused}`)
  return systems
}

async function findUnchangedSystems(
  systems: readonly string[],
  inputs: PlanInputs,
  { runnerSystem }: Workflow,
  { registry, log }: Tools,
): Promise<ReadonlySet<string>> {
  const unchanged = new Set<string>()
  // With `push: false`, builds always build, to check that the image can be built.
  if (!inputs.push) return unchanged
  const shared = shareLookUps(registry)
  const earlier = await readPreviousImages(shared, inputs.reuseFrom, log)
  // Sequential: each evaluation needs the memory for all of nixpkgs.
  for (const system of systems) {
    const installable = installableOf({ ...inputs, installable: '', file: '', system }, runnerSystem)
    const question = { ...inputs, installable, system, runnerSystem }
    if (await lookForUnchanged(question, earlier, shared, log)) unchanged.add(system)
  }
  return unchanged
}
