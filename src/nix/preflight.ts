import { access } from 'node:fs/promises'
import { join } from 'node:path'
import type { CommandResult } from '../process/command.ts'
import { derivationTarget } from './build.ts'
import { readDerivation, requiresKvm, systemOfDerivation } from './derivation.ts'
import { canRun } from './emulation.ts'
import type { Evaluation } from './evaluate.ts'
import { ALLOW_KVM, describeRunner } from './explain.ts'
import type { NixBuildCall } from './failure.ts'
import { storePlaceOf } from './installable.ts'
import { runNix } from './nix.ts'
import type { StoreFolder } from './store-path.ts'
import { SYSTEMS } from './system.ts'

/** The findings before a build starts. */
export interface PreflightReport {
  /** Likely reasons for a failure. */
  readonly warnings: readonly string[]
  /** Things that could not be checked, for reference if the build fails. */
  readonly notes: readonly string[]
}

/**
 * Checks whether this runner lacks emulation or a virtual machine that the build needs. Only warns, because the build
 * succeeds anyway if a remote builder does the work.
 * @param evaluation undefined if the derivation is unknown
 * @param root the folder that contains `/proc` and `/dev`
 */
export async function checkPrerequisites(
  call: NixBuildCall,
  evaluation: Evaluation | undefined,
  root = '/',
): Promise<PreflightReport> {
  // A macOS runner builds for Linux on a remote builder or in a virtual machine.
  if (!call.runnerSystem.endsWith('-linux')) return NOTHING
  // A store path exists already or comes from a cache.
  if (storePlaceOf(call.installable)?.storePath.endsWith('.drv') === false) return NOTHING
  const hasKvm = (await orUndefined(access(join(root, 'dev/kvm')).then(() => true))) === true
  // Only read derivations if something is missing that the build may need.
  if (hasKvm && (await checkEmulation(call.system, call, root)) === NOTHING) return NOTHING
  const derivation = await findDerivation(call, evaluation)
  const buildSystem = derivation && systemOfDerivation(derivation.text)
  const emulation =
    buildSystem === undefined
      ? asNotes(await checkEmulation(call.system, call, root))
      : await checkEmulation(buildSystem, call, root)
  const kvm = hasKvm || derivation === undefined ? [] : await checkKvm(call, derivation)
  return { warnings: [...emulation.warnings, ...kvm], notes: emulation.notes }
}

const NOTHING: PreflightReport = { warnings: [], notes: [] }

/** Turns warnings into notes: an image for another system may be cross-built on this one, without emulation. */
function asNotes({ warnings, notes }: PreflightReport): PreflightReport {
  const reason = 'The system that builds the image is not known before the build.'
  return { warnings: [], notes: [...warnings.map((warning) => `${reason} ${warning}`), ...notes] }
}

// Emulation

/** @param system the system that builds the derivation. A cross-built image is for another system. */
async function checkEmulation(
  system: string,
  { system: wanted, runnerSystem, setup }: NixBuildCall,
  root: string,
): Promise<PreflightReport> {
  // Nix itself builds some derivations, whose system is `builtin`.
  if (!SYSTEMS.includes(system) || (setup.hasBuilder && system === wanted)) return NOTHING
  const runs = await canRun(system, runnerSystem, root)
  if (runs === true) return NOTHING
  const exception = setup.platformConfigured ? 'the build only packs files' : 'a cache has the image'
  const hint = `Unless ${exception}, add before the step that installs Nix:
  - uses: docker/setup-qemu-action@v4
Or use ${describeRunner(system)}, or a remote builder for ${system}.`
  if (runs === false)
    return {
      warnings: [`No emulation is registered for ${system} on this runner, which is ${runnerSystem}. ${hint}`],
      notes: [],
    }
  return { warnings: [], notes: [`Can't determine whether this runner emulates ${system}. ${hint}`] }
}

// Virtual machines

/**
 * Warns if a derivation needs KVM: the image itself or one of its direct inputs, as with `runAsRoot`. By default, Nix has
 * the feature `kvm` only if /dev/kvm exists.
 */
async function checkKvm(call: NixBuildCall, { path: image, text, target }: Derivation): Promise<readonly string[]> {
  const { store, platformOptions, systemFeatures } = call.setup
  // Without a warning if the features are unknown.
  if (systemFeatures?.includes('kvm') !== false) return []
  const needing = requiresKvm(text) ? [image] : []
  // One after the other: there may be thousands of derivations, and each may be large.
  for (const [, path = ''] of text.matchAll(/\("([^"]+\.drv)",\[/g)) if (await needsKvm(path, store)) needing.push(path)
  if (needing.length === 0) return []
  // Derivations that are in the store or in a cache are not built.
  const plan = await queryNix(['build', '--dry-run', ...platformOptions, ...call.nixArgs, target])
  const [built] = needing.filter((path) => plan?.log.includes(path))
  if (built === undefined) return []
  return [
    `This runner has no /dev/kvm, and ${built} needs a virtual machine (for \`runAsRoot\` or a VM test). ${ALLOW_KVM}
Or use a remote builder that has the feature kvm.`,
  ]
}

async function needsKvm(path: string, store: StoreFolder): Promise<boolean> {
  return requiresKvm((await readDerivation(path, store)) ?? '')
}

async function queryNix(args: readonly string[]): Promise<CommandResult | undefined> {
  const result = await runNix(args, false)
  return result.exitCode === 0 ? result : undefined
}

interface Derivation {
  readonly path: string
  /** The content of its file. */
  readonly text: string
  /** The installable that builds it. */
  readonly target: string
}

async function findDerivation(
  { installable, setup }: NixBuildCall,
  evaluation: Evaluation | undefined,
): Promise<Derivation | undefined> {
  const path = evaluation?.derivation ?? installable.text
  const text = path.endsWith('.drv') ? await readDerivation(path, setup.store) : undefined
  return text === undefined
    ? undefined
    : { path, text, target: evaluation === undefined ? path : derivationTarget(evaluation) }
}

/** Returns undefined if something can't be read. */
async function orUndefined<Result>(reading: Promise<Result>): Promise<Result | undefined> {
  try {
    return await reading
  } catch {
    return undefined
  }
}
