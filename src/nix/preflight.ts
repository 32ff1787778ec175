import { access, readdir, readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import * as v from 'valibot'
import { openRegularFile, readWhole } from '../fs/regular-file.ts'
import { readJson } from '../json.ts'
import type { CommandResult } from '../process/command.ts'
import type { NixBuildCall } from './build.ts'
import { evaluateDerivation } from './evaluate.ts'
import { ALLOW_KVM, describeRunner } from './explain.ts'
import { placeOf } from './installable.ts'
import { foreignOptions, runNix } from './nix.ts'
import { isStorePath } from './store-path.ts'

/** What can be said before a build starts. */
export interface PreflightReport {
  /** What it is likely to fail by. */
  readonly warnings: readonly string[]
  /** What can't be known, and is of use if it fails. */
  readonly notes: readonly string[]
}

/**
 * Looks for what a build will fail by on this machine. It fails by none of it where a remote builder does the work, so
 * that all of this is told, and nothing refused.
 * @param root where `/proc` and `/dev` are
 */
export async function checkPrerequisites(call: NixBuildCall, root = '/'): Promise<PreflightReport> {
  // A macOS runner has Linux built elsewhere, by a builder of its own.
  if (!call.runnerSystem.endsWith('-linux')) return NOTHING
  // What is in the store is there already, or comes from a cache.
  if (placeOf(call.installable)?.storePath.endsWith('.drv') === false) return NOTHING
  const hasKvm = (await quietly(access(join(root, 'dev/kvm')).then(() => true))) === true
  // An evaluation takes time: only if something that the build may need is missing is it worth that.
  if (hasKvm && (await checkEmulation(call.system, call, root)) === NOTHING) return NOTHING
  const derivation = await findDerivation(call)
  const buildSystem = derivation && systemOfDerivation(derivation.text)
  const emulation =
    buildSystem === undefined
      ? asNotes(await checkEmulation(call.system, call, root))
      : await checkEmulation(buildSystem, call, root)
  const kvm = hasKvm || derivation === undefined ? [] : await checkKvm(call, derivation)
  return { warnings: [...emulation.warnings, ...kvm], notes: emulation.notes }
}

const NOTHING: PreflightReport = { warnings: [], notes: [] }

/** What is not known to be needed is no warning: an image for another system may be cross-built on this one. */
function asNotes({ warnings, notes }: PreflightReport): PreflightReport {
  const reason = 'The system that builds the image is not known before the build.'
  return { warnings: [], notes: [...warnings.map((warning) => `${reason} ${warning}`), ...notes] }
}

// Emulation

/** A system's number for its processor in the header of programs (ELF's `e_machine`), as its two bytes are there. */
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

/** The systems whose programs a machine runs by itself, or may: not every 64-bit Arm processor has a 32-bit mode. */
const NATIVE: Readonly<Record<string, readonly string[]>> = {
  'x86_64-linux': ['i686-linux'],
  'aarch64-linux': ['armv7l-linux', 'armv6l-linux'],
  'armv7l-linux': ['armv6l-linux'],
}

/** @param system that the derivation is built on; the image may be for another one, if it is cross-built */
async function checkEmulation(system: string, { runnerSystem }: NixBuildCall, root: string): Promise<PreflightReport> {
  const machine = MACHINES[system]
  if (system === runnerSystem || NATIVE[runnerSystem]?.includes(system) || machine === undefined) return NOTHING
  const registered = await emulates(machine, root)
  if (registered === true) return NOTHING
  const hint = `A build that does more than pack files needs, before Nix is installed,
  - uses: docker/setup-qemu-action@v4
or ${describeRunner(system)}, or a remote builder for ${system}.`
  if (registered === false)
    return {
      warnings: [`No emulation is registered for ${system}, and this runner is a ${runnerSystem}. ${hint}`],
      notes: [],
    }
  return { warnings: [], notes: [`Whether this runner emulates ${system} can't be seen from here. ${hint}`] }
}

/**
 * Whether programs for a processor are given to an emulator, whatever name it is registered by.
 * https://docs.kernel.org/admin-guide/binfmt-misc.html
 * @returns nothing where that can't be seen: in a container, /proc has no list, and the host's emulators work
 */
async function emulates(machine: string, root: string): Promise<boolean | undefined> {
  const folder = join(root, 'proc/sys/fs/binfmt_misc')
  const names = await quietly(readdir(folder))
  if (!names?.includes('status')) {
    const kinds = await quietly(readFile(join(root, 'proc/filesystems'), 'utf8'))
    return kinds === undefined || /\bbinfmt_misc$/m.test(kinds) ? undefined : false
  }
  const status = await quietly(readFile(join(folder, 'status'), 'utf8'))
  if (status?.trim() === 'disabled') return false
  const entries = await Promise.all(names.map((name) => quietly(readFile(join(folder, name), 'utf8'))))
  // The first bytes of a program, two digits each: "\x7fELF", and from the 18th the processor.
  return entries.some(
    (entry) =>
      entry?.startsWith('enabled\n') && entry.match(/^magic 7f454c46[0-9a-f]{28}([0-9a-f]{4})/m)?.[1] === machine,
  )
}

// Virtual machines

/**
 * Nix has the feature `kvm` where there is a /dev/kvm. Where there is none, one of the derivations to build may need it:
 * the image itself, or what it is made from directly, as with `runAsRoot`.
 */
async function checkKvm(call: NixBuildCall, { path: image, text }: Derivation): Promise<readonly string[]> {
  const needing = requiresKvm(text) ? [image] : []
  // One after the other: a flake's derivations may be thousands, and each of them large.
  for (const [, path = ''] of text.matchAll(/\("([^"]+\.drv)",\[/g)) if (await needsKvm(path)) needing.push(path)
  if (needing.length === 0 || (await hasKvmFeature())) return []
  const message = [...foreignOptions(call), ...call.nixArgs, ...call.installable.options, call.installable.text]
  // What was built before, and what a cache has, needs nothing.
  const plan = await nixSays(['build', '--dry-run', ...message])
  const [built] = needing.filter((path) => plan?.log.includes(path))
  if (built === undefined) return []
  return [
    `This runner has no /dev/kvm, and ${built} needs a virtual machine (runAsRoot or a VM test does). ${ALLOW_KVM}
A remote builder that has the feature kvm does as well.`,
  ]
}

async function needsKvm(path: string): Promise<boolean> {
  return requiresKvm((await readDerivation(path)) ?? '')
}

/**
 * Whether a derivation, as its file has it, requires a machine with KVM. With `__structuredAttrs` its attributes are
 * JSON within a string. The file has one form in all versions of Nix, other than what they print of it: that is `nix
 * show-derivation` in 2.8 and `nix derivation show` in newer ones, with other JSON from 2.32 and again from 2.34 on.
 * https://nix.dev/manual/nix/2.34/protocols/derivation-aterm
 * https://nix.dev/manual/nix/2.32/release-notes/rl-2.32
 */
export function requiresKvm(derivation: string): boolean {
  const [, features = ''] = /requiredSystemFeatures\\?"(?:,"|:\[)([^\])]*)/.exec(derivation) ?? []
  return /\bkvm\b/.test(features)
}

const SETTINGS = v.object({ 'system-features': v.object({ value: v.array(v.string()) }) })

/**
 * Newer versions have `nix config show`, and 2.8 has `nix show-config`.
 * https://nix.dev/manual/nix/2.23/command-ref/new-cli/nix3-config-show
 */
async function hasKvmFeature(): Promise<boolean> {
  const answer = (await nixSays(['config', 'show', '--json'])) ?? (await nixSays(['show-config', '--json']))
  const settings = readJson(SETTINGS, answer?.stdout ?? '')
  // Where Nix does not say, nothing is foreseen.
  return !settings.ok || settings.value['system-features'].value.includes('kvm')
}

async function nixSays(args: readonly string[]): Promise<CommandResult | undefined> {
  const result = await runNix(args, false)
  return result.exitCode === 0 ? result : undefined
}

interface Derivation {
  readonly path: string
  /** What its file has. */
  readonly text: string
}

/** Returns nothing where Nix can't evaluate it. Whatever goes wrong here goes wrong in the build as well, which says why. */
async function findDerivation(call: NixBuildCall): Promise<Derivation | undefined> {
  const path = await evaluateDerivation(call)
  const text = path && (await readDerivation(path))
  return path && text ? { path, text } : undefined
}

/**
 * Returns the system that a derivation is built on. It follows the last of three lists: of outputs, other derivations and
 * sources. None of the texts in these has a quote: they are store paths, hashes, and names of outputs.
 * https://nix.dev/manual/nix/2.34/protocols/derivation-aterm
 */
export function systemOfDerivation(derivation: string): string | undefined {
  return /\],"([\w-]{1,100})",/.exec(derivation)?.[1]
}

/** Larger than any derivation that was seen, in bytes: those of images with thousands of inputs have some 100 KB. */
const DERIVATION_LIMIT = 16 * 1024 * 1024

/** A flake may call anything its `drvPath`: what is not a file in the store is not read. */
async function readDerivation(path: string): Promise<string | undefined> {
  if (!isStorePath(path)) return undefined
  const file = await quietly(openRegularFile(path, dirname(path)))
  try {
    if (file === undefined || file.size > DERIVATION_LIMIT) return undefined
    return (await quietly(readWhole(file, path)))?.toString('utf8')
  } finally {
    await file?.handle.close()
  }
}

/** Nothing, where what was asked for can't be read. */
async function quietly<Result>(reading: Promise<Result>): Promise<Result | undefined> {
  try {
    return await reading
  } catch {
    return undefined
  }
}
