import { chmod, mkdir, mkdtemp, readFile, realpath, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { checkPrerequisites, type PreflightReport, requiresKvm, systemOfDerivation } from '../../src/nix/preflight.ts'

let root: string
beforeEach(async () => {
  // Stands for the machine's own: it has a /dev/kvm, unless a test takes it away.
  root = await mkdtemp(join(await realpath(tmpdir()), 'machine-'))
  await machine({ 'dev/kvm': '', 'proc/filesystems': 'nodev\tproc\nnodev\tbinfmt_misc\n\text4\n' })
  await derivationIsFor('aarch64-linux')
})
afterEach(async () => {
  process.env.PATH = path
  await rm(root, { recursive: true })
})
const path = process.env.PATH

/** Puts a program in place of Nix that evaluates each image to a derivation for this system. */
async function derivationIsFor(system: string): Promise<void> {
  const derivation = join(root, `${'0'.repeat(32)}-image.drv`)
  const nix = `#!/bin/sh\necho "$*" >> '${join(root, 'calls')}'\nprintf %s '${derivation}'\n`
  await machine({ [`${'0'.repeat(32)}-image.drv`]: derivationFor(system), 'bin/nix': nix })
  await chmod(join(root, 'bin/nix'), 0o755)
  process.env.PATH = `${join(root, 'bin')}${delimiter}${path}`
}

/** As Nix writes its file, with inputs of other systems. */
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
})
const NOTHING: PreflightReport = { warnings: [], notes: [] }

// As docker/setup-qemu-action leaves them, by https://github.com/tonistiigi/binfmt
const BINFMT = 'proc/sys/fs/binfmt_misc'
const entry = (magic: string, state = 'enabled'): string =>
  `${state}\ninterpreter /usr/bin/qemu-aarch64\nflags: POCF\noffset 0\nmagic ${magic}\nmask ffffffffffffff00fffffffffffffffffeffffff\n`
const AARCH64 = entry('7f454c460201010000000000000000000200b700')
const S390X = entry('7f454c4602020100000000000000000000020016')

describe('no emulation is registered', () => {
  test('is warned of, with the step to add and the runner that needs none', async () => {
    await machine({ [`${BINFMT}/status`]: 'enabled\n', [`${BINFMT}/qemu-s390x`]: S390X })
    const { warnings, notes } = await checkPrerequisites(call('aarch64-linux'), root)
    expect(warnings).toEqual([
      `No emulation is registered for aarch64-linux, and this runner is a x86_64-linux. A build that does more than pack files needs, before Nix is installed,
  - uses: docker/setup-qemu-action@v4
or a runner that is aarch64-linux (runs-on: ubuntu-24.04-arm), or a remote builder for aarch64-linux.`,
    ])
    expect(notes).toEqual([])
  })

  test.each([
    [
      'the entry is disabled',
      { [`${BINFMT}/status`]: 'enabled\n', [`${BINFMT}/qemu-aarch64`]: AARCH64.replace('enabled', 'disabled') },
    ],
    ['all of them are', { [`${BINFMT}/status`]: 'disabled\n', [`${BINFMT}/qemu-aarch64`]: AARCH64 }],
    ['the kernel has no such thing', { 'proc/filesystems': 'nodev\tproc\n\text4\n' }],
  ])('is warned of where %s', async (_, files) => {
    await machine(files)
    const { warnings } = await checkPrerequisites(call('aarch64-linux'), root)
    expect(warnings).toEqual([expect.stringMatching(/^No emulation is registered for aarch64-linux/)])
  })

  test('is a note where it can’t be seen: the host of a container may well emulate', async () => {
    const { warnings, notes } = await checkPrerequisites(call('aarch64-linux'), root)
    expect(warnings).toEqual([])
    expect(notes).toEqual([
      expect.stringMatching(
        /^Whether this runner emulates aarch64-linux can't be seen[\s\S]*docker\/setup-qemu-action/,
      ),
    ])
  })

  test.each([
    ['QEMU is registered', 'aarch64-linux', 'x86_64-linux', 'qemu-aarch64', AARCH64],
    ['it goes by another name, as on NixOS', 'aarch64-linux', 'x86_64-linux', 'aarch64-linux', AARCH64],
    ['the processor has its bytes the other way round', 's390x-linux', 'x86_64-linux', 'qemu-s390x', S390X],
    ['the runner is of that system', 'aarch64-linux', 'aarch64-linux', 'none', ''],
    ['the processor has a 32-bit mode', 'i686-linux', 'x86_64-linux', 'none', ''],
    ['the processor may have one', 'armv7l-linux', 'aarch64-linux', 'none', ''],
    ['the runner has Linux built by another machine', 'aarch64-linux', 'aarch64-darwin', 'none', ''],
  ])('is not said where %s', async (_, system, runnerSystem, name, content) => {
    await machine({ [`${BINFMT}/status`]: 'enabled\n', [`${BINFMT}/${name}`]: content })
    expect(await checkPrerequisites(call(system, runnerSystem), root)).toEqual(NOTHING)
  })
})

describe('of an image for another system', () => {
  const noEmulation = { [`${BINFMT}/status`]: 'enabled\n' }

  test.each([
    ['it is cross-built on this one', 'x86_64-linux'],
    ['Nix itself builds it', 'builtin'],
  ])('nothing is said about emulation if %s', async (_, system) => {
    await machine(noEmulation)
    await derivationIsFor(system)
    expect(await checkPrerequisites(call('aarch64-linux'), root)).toEqual(NOTHING)
    expect(await readFile(join(root, 'calls'), 'utf8')).toMatch(/^\S+ \S+ \S+ eval --raw .* \.#image\.drvPath\n$/)
  })

  test('the warning names the system that it is built on', async () => {
    await machine(noEmulation)
    await derivationIsFor('riscv64-linux')
    const { warnings } = await checkPrerequisites(call('aarch64-linux'), root)
    expect(warnings).toEqual([expect.stringMatching(/^No emulation is registered for riscv64-linux, /)])
  })

  test.each([
    ['can’t be evaluated', '#!/bin/sh\nexit 1\n'],
    ['is not a derivation of a form that is known', "#!/bin/sh\nprintf %s '/nix/store/x'\n"],
  ])('whose derivation %s, it is a note', async (_, nix) => {
    await machine({ ...noEmulation, 'bin/nix': nix })
    const { warnings, notes } = await checkPrerequisites(call('aarch64-linux'), root)
    expect(warnings).toEqual([])
    expect(notes).toEqual([
      expect.stringMatching(
        /^The system that builds the image is not known before the build\. No emulation is registered for aarch64-linux, /,
      ),
    ])
  })

  test.each([
    ['it is in the store already', 'aarch64-linux', `/nix/store/${'0'.repeat(32)}-image.tar`, noEmulation],
    ['QEMU is registered', 'aarch64-linux', '.#image', { ...noEmulation, [`${BINFMT}/qemu-aarch64`]: AARCH64 }],
    ['it is for this system', 'x86_64-linux', '.#image', noEmulation],
  ])('nothing is evaluated if %s', async (_, system, text, files) => {
    await machine(files)
    const given = call(system)
    expect(await checkPrerequisites({ ...given, installable: { ...given.installable, text } }, root)).toEqual(NOTHING)
    await expect(readFile(join(root, 'calls'))).rejects.toThrow('ENOENT')
  })
})

describe('the system of a derivation', () => {
  test.each([
    ['as Nix 2.8 writes it', derivationFor('x86_64-linux')],
    [
      'with inputs that are known only when they are built',
      `DrvWithVersion("xp-dyn-drv",[("out","","r:sha256","")],[("/nix/store/00-a.drv",(["out"],[("out",["out"])]))],[],"x86_64-linux","/bin/sh",[],[])`,
    ],
  ])('is read %s', (_, derivation) => {
    expect(systemOfDerivation(derivation)).toBe('x86_64-linux')
  })

  test.each(['', 'Derive([', `Derive(${'],"'.repeat(100_000)}`, 'x'.repeat(1_000_000)])('is none in %#', (text) => {
    expect(systemOfDerivation(text)).toBeUndefined()
  })
})

// As the files are that Nix 2.8 writes, in full.
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
  ])('does not: %s', (derivation) => {
    expect(requiresKvm(derivation)).toBe(false)
  })
})
