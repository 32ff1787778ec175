import { mkdir, mkdtemp, realpath, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { requiresKvm, systemOfDerivation } from '../../src/nix/derivation.ts'
import type { Evaluation } from '../../src/nix/evaluate.ts'
import { checkPrerequisites, type PreflightReport } from '../../src/nix/preflight.ts'
import { PLAIN_SETUP } from '../support/nix.ts'

let root: string
beforeEach(async () => {
  // Stands for the root folder of a machine that has /dev/kvm.
  root = await mkdtemp(join(await realpath(tmpdir()), 'machine-'))
  await machine({ 'dev/kvm': '', 'proc/filesystems': 'nodev\tproc\nnodev\tbinfmt_misc\n\text4\n' })
})
afterEach(() => rm(root, { recursive: true }))

/** Writes a derivation that this system builds, and returns its evaluation. */
async function evaluationFor(system: string, content = derivationFor(system)): Promise<Evaluation> {
  const name = `${'0'.repeat(32)}-image.drv`
  await machine({ [name]: content })
  const attributes = {
    storePath: undefined,
    stream: undefined,
    conf: undefined,
    nixVersion: '2.34.1',
    ignoredSettings: [],
  }
  return { derivation: join(root, name), output: 'out', ...attributes }
}

/** The file of a derivation, with inputs for other systems. */
function derivationFor(system: string): string {
  const inputs = '[("/nix/store/00-riscv64-linux.drv",["out"])],["/nix/store/00-s390x-linux"]'
  return `Derive([("out","/nix/store/00-image","","")],${inputs},"${system}","/bin/sh",["-c","echo > $out"],[("system","s390x-linux")])`
}

async function machine(files: Readonly<Record<string, string>>): Promise<void> {
  for (const [path, content] of Object.entries(files)) {
    await mkdir(dirname(join(root, path)), { recursive: true })
    await writeFile(join(root, path), content)
  }
}

const call = (system: string, runnerSystem = 'x86_64-linux') => ({
  system,
  runnerSystem,
  installable: { options: [], text: '.#image', name: '.#image' },
  nixArgs: [],
  folders: [],
  setup: PLAIN_SETUP,
})
const NOTHING: PreflightReport = { warnings: [], notes: [] }

// The entries that docker/setup-qemu-action creates, see https://github.com/tonistiigi/binfmt
const BINFMT = 'proc/sys/fs/binfmt_misc'
const entry = (magic: string, state = 'enabled'): string =>
  `${state}\ninterpreter /usr/bin/qemu-aarch64\nflags: POCF\noffset 0\nmagic ${magic}\nmask ffffffffffffff00fffffffffffffffffeffffff\n`
const AARCH64 = entry('7f454c460201010000000000000000000200b700')
const S390X = entry('7f454c4602020100000000000000000000020016')

describe('missing emulation', () => {
  const check = async (system: string, runnerSystem?: string) =>
    checkPrerequisites(call(system, runnerSystem), await evaluationFor(system), root)

  test('causes a warning with the step to add and the runner that does not need it', async () => {
    await machine({ [`${BINFMT}/status`]: 'enabled\n', [`${BINFMT}/qemu-s390x`]: S390X })
    const { warnings, notes } = await check('aarch64-linux')
    expect(warnings).toEqual([
      `No emulation is registered for aarch64-linux on this runner, which is x86_64-linux. Unless a cache has the image, add before the step that installs Nix:
  - uses: docker/setup-qemu-action@v4
Or use a runner that is aarch64-linux (runs-on: ubuntu-24.04-arm), or a remote builder for aarch64-linux.`,
    ])
    expect(notes).toEqual([])
  })

  test('is said to fail the build unless Nix is configured for it', async () => {
    await machine({ [`${BINFMT}/status`]: 'enabled\n' })
    const warningWith = async (platformConfigured: boolean) => {
      const given = { ...call('aarch64-linux'), setup: { ...PLAIN_SETUP, platformConfigured } }
      return (await checkPrerequisites(given, await evaluationFor('aarch64-linux'), root)).warnings
    }
    expect(await warningWith(true)).toEqual([expect.stringContaining('Unless the build only packs files, add')])
    expect(await warningWith(false)).toEqual([expect.stringContaining('Unless a cache has the image, add')])
  })

  test('is not reported if a remote builder builds for the system', async () => {
    await machine({ [`${BINFMT}/status`]: 'enabled\n' })
    const given = { ...call('aarch64-linux'), setup: { ...PLAIN_SETUP, hasBuilder: true } }
    expect(await checkPrerequisites(given, await evaluationFor('aarch64-linux'), root)).toEqual(NOTHING)
  })

  test.each([
    [
      'the entry is disabled',
      { [`${BINFMT}/status`]: 'enabled\n', [`${BINFMT}/qemu-aarch64`]: AARCH64.replace('enabled', 'disabled') },
    ],
    ['all entries are disabled', { [`${BINFMT}/status`]: 'disabled\n', [`${BINFMT}/qemu-aarch64`]: AARCH64 }],
    ['the kernel does not support binfmt_misc', { 'proc/filesystems': 'nodev\tproc\n\text4\n' }],
  ])('causes a warning if %s', async (_, files) => {
    await machine(files)
    const { warnings } = await check('aarch64-linux')
    expect(warnings).toEqual([expect.stringMatching(/^No emulation is registered for aarch64-linux/)])
  })

  test('causes a note if it is unknown, as in a container, whose host may have emulation', async () => {
    const { warnings, notes } = await check('aarch64-linux')
    expect(warnings).toEqual([])
    expect(notes).toEqual([
      expect.stringMatching(
        /^Can't determine whether this runner emulates aarch64-linux\.[\s\S]*docker\/setup-qemu-action/,
      ),
    ])
  })

  test.each([
    ['QEMU is registered', 'aarch64-linux', 'x86_64-linux', 'qemu-aarch64', AARCH64],
    ['QEMU is registered under another name, as on NixOS', 'aarch64-linux', 'x86_64-linux', 'aarch64-linux', AARCH64],
    ['the processor is big-endian', 's390x-linux', 'x86_64-linux', 'qemu-s390x', S390X],
    ['the runner has that system', 'aarch64-linux', 'aarch64-linux', 'none', ''],
    ['the processor has a 32-bit mode', 'i686-linux', 'x86_64-linux', 'none', ''],
    ['the runner uses a remote builder for Linux', 'aarch64-linux', 'aarch64-darwin', 'none', ''],
  ])('is not reported if %s', async (_, system, runnerSystem, name, content) => {
    await machine({ [`${BINFMT}/status`]: 'enabled\n', [`${BINFMT}/${name}`]: content })
    expect(await check(system, runnerSystem)).toEqual(NOTHING)
  })
})

describe('for an image for another system,', () => {
  const noEmulation = { [`${BINFMT}/status`]: 'enabled\n' }

  test.each([
    ['it is cross-built on this system', 'x86_64-linux'],
    ['Nix itself builds it', 'builtin'],
  ])('emulation is not mentioned if %s', async (_, system) => {
    await machine(noEmulation)
    expect(await checkPrerequisites(call('aarch64-linux'), await evaluationFor(system), root)).toEqual(NOTHING)
  })

  test('the warning names the system that builds it', async () => {
    await machine(noEmulation)
    const { warnings } = await checkPrerequisites(call('aarch64-linux'), await evaluationFor('riscv64-linux'), root)
    expect(warnings).toEqual([expect.stringMatching(/^No emulation is registered for riscv64-linux on /)])
  })

  test('a derivation in the store is read without an evaluation', async () => {
    await machine(noEmulation)
    const { derivation: text } = await evaluationFor('riscv64-linux')
    const given = { ...call('aarch64-linux'), installable: { options: [], text, name: text } }
    const { warnings } = await checkPrerequisites(given, undefined, root)
    expect(warnings).toEqual([expect.stringMatching(/^No emulation is registered for riscv64-linux on /)])
  })

  test.each([
    ['is unknown', async () => undefined],
    ['is not in the store', async () => ({ ...(await evaluationFor('')), derivation: '/nowhere/image.drv' })],
    ['has an unknown format', () => evaluationFor('', 'x')],
  ])('a note is logged if the derivation %s', async (_, evaluation) => {
    await machine(noEmulation)
    const { warnings, notes } = await checkPrerequisites(call('aarch64-linux'), await evaluation(), root)
    expect(warnings).toEqual([])
    expect(notes).toEqual([
      expect.stringMatching(
        /^The system that builds the image is not known before the build\. No emulation is registered for aarch64-linux on /,
      ),
    ])
  })

  test('nothing is reported if it is in the store', async () => {
    await machine(noEmulation)
    const text = `/nix/store/${'0'.repeat(32)}-image.tar`
    const given = { ...call('aarch64-linux'), installable: { options: [], text, name: text } }
    expect(await checkPrerequisites(given, undefined, root)).toEqual(NOTHING)
  })
})

describe('the system of a derivation', () => {
  test.each([
    ['in the format of Nix 2.8', derivationFor('x86_64-linux')],
    [
      'with dynamic derivations as inputs',
      `DrvWithVersion("xp-dyn-drv",[("out","","r:sha256","")],[("/nix/store/00-a.drv",(["out"],[("out",["out"])]))],[],"x86_64-linux","/bin/sh",[],[])`,
    ],
  ])('is read %s', (_, derivation) => {
    expect(systemOfDerivation(derivation)).toBe('x86_64-linux')
  })

  test.each(['', 'Derive([', `Derive(${'],"'.repeat(100_000)}`, 'x'.repeat(1_000_000)])(
    'is undefined for malformed text (%#)',
    (text) => {
      expect(systemOfDerivation(text)).toBeUndefined()
    },
  )
})

// Complete files, as written by Nix 2.8.
const plain =
  'Derive([("out","/nix/store/00-kvm","","")],[],[],"x86_64-linux","/bin/sh",["-c","echo > $out"],[("builder","/bin/sh"),("name","kvm"),("requiredSystemFeatures","kvm"),("system","x86_64-linux")])'
const structured =
  'Derive([("out","/nix/store/00-kvm","","")],[],[],"x86_64-linux","/bin/sh",[],[("__json","{\\"builder\\":\\"/bin/sh\\",\\"requiredSystemFeatures\\":[\\"kvm\\",\\"nixos-test\\"],\\"system\\":\\"x86_64-linux\\"}"),("out","/nix/store/00-kvm")])'

describe('a derivation', () => {
  test.each([plain, plain.replace('Features","kvm"', 'Features","nixos-test kvm"'), structured])(
    'requires KVM: %s',
    (derivation) => {
      expect(requiresKvm(derivation)).toBe(true)
    },
  )

  test.each([
    plain.replace('("requiredSystemFeatures","kvm"),', ''),
    plain.replace('Features","kvm"', 'Features","big-parallel"'),
    structured.replace('\\"kvm\\",', ''),
    '',
  ])('does not require KVM: %s', (derivation) => {
    expect(requiresKvm(derivation)).toBe(false)
  })
})
