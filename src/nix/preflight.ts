import { access, readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import * as v from 'valibot'
import { readJson } from '../json.ts'
import type { CommandResult } from '../process/command.ts'
import { derivationTarget } from './build.ts'
import { readDerivation, requiresKvm, systemOfDerivation } from './derivation.ts'
import type { Evaluation } from './evaluate.ts'
import { ALLOW_KVM, describeRunner } from './explain.ts'
import type { NixBuildCall } from './failure.ts'
import { storePlaceOf } from './installable.ts'
import { foreignOptions, runNix } from './nix.ts'

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

/** The processor in the ELF header of a system's programs (`e_machine`), as the two bytes in hexadecimal. */
const MACHINES: Readonly<Record<string, string>> = {
  'x86_64-linux': '3e00',
  'aarch64-linux': 'b700',
  'armv7l-linux': '2800',
  'armv6l-linux': '2800',
  'i686-linux': '0300',
  'powerpc64le-linux': '1500',
  'riscv64-linux': 'f300',
  's390x-linux': '0016',
}

/** Other systems whose programs a machine runs natively. Some 64-bit Arm processors lack the 32-bit mode. */
const NATIVE: Readonly<Record<string, readonly string[]>> = {
  'x86_64-linux': ['i686-linux'],
  'aarch64-linux': ['armv7l-linux', 'armv6l-linux'],
  'armv7l-linux': ['armv6l-linux'],
}

/** @param system the system that builds the derivation. A cross-built image is for another system. */
async function checkEmulation(system: string, { runnerSystem }: NixBuildCall, root: string): Promise<PreflightReport> {
  const machine = MACHINES[system]
  if (system === runnerSystem || NATIVE[runnerSystem]?.includes(system) || machine === undefined) return NOTHING
  const registered = await isEmulationRegistered(machine, root)
  if (registered === true) return NOTHING
  const hint = `Unless the build only packs files, add before the step that installs Nix:
  - uses: docker/setup-qemu-action@v4
Or use ${describeRunner(system)}, or a remote builder for ${system}.`
  if (registered === false)
    return {
      warnings: [`No emulation is registered for ${system} on this runner, which is ${runnerSystem}. ${hint}`],
      notes: [],
    }
  return { warnings: [], notes: [`Can't determine whether this runner emulates ${system}. ${hint}`] }
}

/**
 * Returns whether the kernel has an emulator for a processor, registered under any name.
 * https://docs.kernel.org/admin-guide/binfmt-misc.html
 * @returns undefined if unknown: in a container, /proc does not list the host's emulators, although they work
 */
async function isEmulationRegistered(machine: string, root: string): Promise<boolean | undefined> {
  const folder = join(root, 'proc/sys/fs/binfmt_misc')
  const names = await orUndefined(readdir(folder))
  if (!names?.includes('status')) {
    const kinds = await orUndefined(readFile(join(root, 'proc/filesystems'), 'utf8'))
    return kinds === undefined || /\bbinfmt_misc$/m.test(kinds) ? undefined : false
  }
  const status = await orUndefined(readFile(join(folder, 'status'), 'utf8'))
  if (status?.trim() === 'disabled') return false
  const entries = await Promise.all(names.map((name) => orUndefined(readFile(join(folder, name), 'utf8'))))
  // The magic bytes in hexadecimal: "\x7fELF" at the start, and the processor at offset 18.
  return entries.some(
    (entry) =>
      entry?.startsWith('enabled\n') && entry.match(/^magic 7f454c46[0-9a-f]{28}([0-9a-f]{4})/m)?.[1] === machine,
  )
}

// Virtual machines

/**
 * Warns if a derivation needs KVM: the image itself or one of its direct inputs, as with `runAsRoot`. By default, Nix has
 * the feature `kvm` only if /dev/kvm exists.
 */
async function checkKvm(call: NixBuildCall, { path: image, text, target }: Derivation): Promise<readonly string[]> {
  const needing = requiresKvm(text) ? [image] : []
  // One after the other: there may be thousands of derivations, and each may be large.
  for (const [, path = ''] of text.matchAll(/\("([^"]+\.drv)",\[/g)) if (await needsKvm(path)) needing.push(path)
  if (needing.length === 0 || (await hasKvmFeature())) return []
  // Derivations that are in the store or in a cache are not built.
  const plan = await queryNix(['build', '--dry-run', ...foreignOptions(call), ...call.nixArgs, target])
  const [built] = needing.filter((path) => plan?.log.includes(path))
  if (built === undefined) return []
  return [
    `This runner has no /dev/kvm, and ${built} needs a virtual machine (for \`runAsRoot\` or a VM test). ${ALLOW_KVM}
Or use a remote builder that has the feature kvm.`,
  ]
}

async function needsKvm(path: string): Promise<boolean> {
  return requiresKvm((await readDerivation(path)) ?? '')
}

const SETTINGS = v.object({ 'system-features': v.object({ value: v.array(v.string()) }) })

/**
 * Returns whether Nix has the feature `kvm`. The command is `nix config show`, and `nix show-config` in Nix 2.8.
 * https://nix.dev/manual/nix/2.23/command-ref/new-cli/nix3-config-show
 */
async function hasKvmFeature(): Promise<boolean> {
  const answer = (await queryNix(['config', 'show', '--json'])) ?? (await queryNix(['show-config', '--json']))
  const settings = readJson(SETTINGS, answer?.stdout ?? '')
  // Do not warn if the settings are unknown.
  return !settings.ok || settings.value['system-features'].value.includes('kvm')
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
  { installable }: NixBuildCall,
  evaluation: Evaluation | undefined,
): Promise<Derivation | undefined> {
  const path = evaluation?.derivation ?? installable.text
  const text = path.endsWith('.drv') ? await readDerivation(path) : undefined
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
