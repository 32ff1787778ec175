import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { runCommand } from '../process/command.ts'

/**
 * Returns whether this runner can run the programs of a system, by its processor or by emulation.
 * @param root the folder that contains `/proc`
 * @returns undefined if unknown
 */
export async function canRun(system: string, runnerSystem: string, root = '/'): Promise<boolean | undefined> {
  if (system === runnerSystem || (await runsNatively(system, runnerSystem))) return true
  const machine = MACHINES[system]
  // Linux emulates only programs for Linux, and no other system emulates those.
  if (machine === undefined || !runnerSystem.endsWith('-linux')) return false
  return isEmulationRegistered(machine, root)
}

/** Other systems whose programs a processor may run. */
const NATIVE: Readonly<Record<string, readonly string[]>> = {
  'x86_64-linux': ['i686-linux'],
  'aarch64-linux': ['armv7l-linux', 'armv6l-linux'],
  'armv7l-linux': ['armv6l-linux'],
}

/** Many 64-bit Arm processors do not run 32-bit programs. On these, Linux refuses to change to that mode. */
async function runsNatively(system: string, runnerSystem: string): Promise<boolean> {
  if (!NATIVE[runnerSystem]?.includes(system)) return false
  if (runnerSystem !== 'aarch64-linux') return true
  const result = await runCommand('setarch', ['linux32', 'true'], { trust: 'no-secrets' })
  return result?.exitCode === 0
}

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

/**
 * Returns whether the kernel has an emulator for a processor, registered under any name.
 * https://docs.kernel.org/admin-guide/binfmt-misc.html
 * @returns undefined if unknown: in a container, /proc does not list the host's emulators, although they work
 */
async function isEmulationRegistered(machine: string, root: string): Promise<boolean | undefined> {
  const folder = join(root, 'proc/sys/fs/binfmt_misc')
  const names = await readdir(folder).catch(() => undefined)
  if (!names?.includes('status')) {
    const kinds = await textAt(join(root, 'proc/filesystems'))
    return kinds === undefined || /\bbinfmt_misc$/m.test(kinds) ? undefined : false
  }
  const status = await textAt(join(folder, 'status'))
  if (status?.trim() === 'disabled') return false
  const entries = await Promise.all(names.map((name) => textAt(join(folder, name))))
  // The magic bytes in hexadecimal: "\x7fELF" at the start, and the processor at offset 18.
  return entries.some(
    (entry) =>
      entry?.startsWith('enabled\n') && entry.match(/^magic 7f454c46[0-9a-f]{28}([0-9a-f]{4})/m)?.[1] === machine,
  )
}

async function textAt(path: string): Promise<string | undefined> {
  return readFile(path, 'utf8').catch(() => undefined)
}
