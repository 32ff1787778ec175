import { mkdir, mkdtemp, realpath, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { parseSettings, settingArguments, systemsOfBuilders } from '../../src/nix/settings.ts'
import { locateStore, type NixSetup, setupOf } from '../../src/nix/setup.ts'

const PATH = process.env.PATH
let root: string
beforeEach(async () => {
  // Stands for the root folder of a machine.
  root = await mkdtemp(join(await realpath(tmpdir()), 'machine-'))
})
afterEach(async () => {
  process.env.PATH = PATH
  await rm(root, { recursive: true })
})

async function write(path: string, content: string, mode = 0o644): Promise<string> {
  const file = join(root, path)
  await mkdir(dirname(file), { recursive: true })
  await writeFile(file, content, { mode })
  return file
}

const AARCH64 = `enabled
interpreter /usr/bin/qemu-aarch64
flags: POCF
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
`

describe('Nix gets the option to build for another system', () => {
  const settings = { store: 'auto', builders: '', extraPlatforms: [], systemFeatures: undefined }
  const OPTION = ['--option', 'extra-platforms', 'aarch64-linux']

  async function setup(
    system = 'aarch64-linux',
    runnerSystem = 'x86_64-linux',
    builders = '',
  ): Promise<Pick<NixSetup, 'platformOptions' | 'hasBuilder'>> {
    const { platformOptions, hasBuilder } = await setupOf({ system, runnerSystem }, { ...settings, builders }, [], root)
    return { platformOptions, hasBuilder }
  }

  test('if emulation is registered for it', async () => {
    await write('proc/sys/fs/binfmt_misc/status', 'enabled\n')
    await write('proc/sys/fs/binfmt_misc/qemu-aarch64', AARCH64)
    expect(await setup()).toEqual({ platformOptions: OPTION, hasBuilder: false })
  })

  test('if the processor runs its programs', async () => {
    await write('proc/sys/fs/binfmt_misc/status', 'enabled\n')
    expect((await setup('i686-linux')).platformOptions).toEqual(['--option', 'extra-platforms', 'i686-linux'])
  })

  test.each([
    [0, ['--option', 'extra-platforms', 'armv7l-linux']],
    // Some 64-bit Arm processors have no 32-bit mode: the system call of setarch fails.
    [1, []],
  ])('if the Arm processor has a 32-bit mode (exit code %d of setarch)', async (exitCode, options) => {
    await write('proc/sys/fs/binfmt_misc/status', 'enabled\n')
    const setarch = await write('bin/setarch', `#!/bin/sh\n[ "$*" = 'linux32 true' ] && exit ${exitCode}\n`, 0o755)
    process.env.PATH = `${dirname(setarch)}${delimiter}${PATH}`
    expect((await setup('armv7l-linux', 'aarch64-linux')).platformOptions).toEqual(options)
  })

  test('if emulation is unknown, as in a container, whose host may have it', async () => {
    await write('proc/filesystems', 'nodev\tproc\nnodev\tbinfmt_misc\n')
    expect((await setup()).platformOptions).toEqual(OPTION)
  })

  test('but not if no emulation is registered', async () => {
    await write('proc/sys/fs/binfmt_misc/status', 'enabled\n')
    expect(await setup()).toEqual({ platformOptions: [], hasBuilder: false })
  })

  test('but not if a remote builder builds for it, although emulation is registered', async () => {
    await write('proc/sys/fs/binfmt_misc/status', 'enabled\n')
    await write('proc/sys/fs/binfmt_misc/qemu-aarch64', AARCH64)
    const builder = (systems: string) => `ssh://build.example.org ${systems} - 4`
    const expected = { platformOptions: [], hasBuilder: true }
    expect(await setup('aarch64-linux', 'x86_64-linux', builder('x86_64-linux,aarch64-linux'))).toEqual(expected)
    expect((await setup('aarch64-linux', 'x86_64-linux', builder('aarch64-darwin'))).platformOptions).toEqual(OPTION)
  })

  test('but not for the system of the runner, or on macOS, which has a virtual machine as its builder', async () => {
    await write('proc/filesystems', 'nodev\tbinfmt_misc\n')
    expect((await setup('x86_64-linux')).platformOptions).toEqual([])
    expect((await setup('aarch64-linux', 'aarch64-darwin')).platformOptions).toEqual([])
  })
})

describe('the systems of remote builders', () => {
  const read = async (builders: string) => [...(await systemsOfBuilders(builders, 'x86_64-linux'))]

  test.each([
    ['', []],
    ['ssh://one aarch64-linux', ['aarch64-linux']],
    [
      'ssh://one i686-linux,x86_64-linux /key 2 1 kvm - ; ssh-ng://two\taarch64-linux',
      ['i686-linux', 'x86_64-linux', 'aarch64-linux'],
    ],
    ['# ssh://off aarch64-linux\n  ssh://one riscv64-linux # fast\n', ['riscv64-linux']],
    // Without a system, a builder has that of the runner.
    ['ssh://one', ['x86_64-linux']],
    ['ssh://one - - 4', ['x86_64-linux']],
  ])('are read from the setting %j', async (builders, systems) => {
    expect(await read(builders)).toEqual(systems)
  })

  test('are read from the file that the setting names, if it exists', async () => {
    const file = await write('machines', '# The fast one\nssh://one aarch64-linux /key 8\n\nssh://two armv7l-linux\n')
    expect(await read(`@${file}`)).toEqual(['aarch64-linux', 'armv7l-linux'])
    expect(await read(`@${file}.missing; ssh://three s390x-linux`)).toEqual(['s390x-linux'])
    const loop = await write('loop', `@${join(root, 'loop')}\nssh://one aarch64-linux\n`)
    expect(await read(`@${loop}`)).toEqual(['aarch64-linux'])
  })
})

describe('the settings of Nix', () => {
  test('are read from what Nix 2.8 to 2.34 show', () => {
    const shown = {
      builders: { aliases: [], defaultValue: '@/etc/nix/machines', value: 'ssh://one aarch64-linux' },
      store: { value: 'local://?root=/home/runner/nix' },
      'extra-platforms': { value: ['i686-linux'] },
      'system-features': { value: ['benchmark', 'kvm'] },
    }
    expect(parseSettings(JSON.stringify(shown))).toEqual({
      builders: 'ssh://one aarch64-linux',
      store: 'local://?root=/home/runner/nix',
      extraPlatforms: ['i686-linux'],
      systemFeatures: ['benchmark', 'kvm'],
    })
  })

  test.each(['', '[]', '{}', '{"store": {"value": 1}, "builders": {"value": []}}'])(
    'are the defaults if they are unreadable: %j',
    (json) => {
      const defaults = { builders: '', store: 'auto', extraPlatforms: [], systemFeatures: undefined }
      expect(parseSettings(json)).toEqual(defaults)
    },
  )

  test('include the user’s arguments, without those that only other commands know', () => {
    const store = ['--store', 'local?root=/tmp/store']
    const option = ['--option', 'builders', '@/machines']
    const args = ['--impure', ...store, '--override-input', 'a', 'b', ...option, '--builders', '', '--store']
    expect(settingArguments(args)).toEqual([...store, ...option, '--builders', ''])
  })
})

describe('the store on this runner', () => {
  const here = { storeFolder: '/nix/store', withoutSystemStore: false, dataFolder: '/home/runner/.local/share' }

  test.each([
    ['auto', '/nix/store'],
    ['', '/nix/store'],
    ['daemon', '/nix/store'],
    ['local', '/nix/store'],
    ['unix:///run/nix.socket', '/nix/store'],
    ['ssh-ng://build.example.org/path', '/nix/store'],
    ['/home/runner/nix', '/home/runner/nix/nix/store'],
    ['/home/runner/a+b%20c', '/home/runner/a+b c/nix/store'],
    ['./store', join(process.cwd(), 'store/nix/store')],
    ['local?root=/tmp/a+b', '/tmp/a+b/nix/store'],
    ['local://?root=/tmp/store', '/tmp/store/nix/store'],
    ['local:///tmp/store', '/tmp/store/nix/store'],
    ['auto?root=/tmp/store', '/tmp/store/nix/store'],
    ['unix:///run/nix.socket?root=/mnt', '/mnt/nix/store'],
    ['local?real=/data/store', '/data/store'],
  ])('with the URL %j is %s', (url, place) => {
    expect(locateStore(url, here)).toEqual({ name: '/nix/store', place })
  })

  test('is where the setting says, also for programs that get no other arguments', async () => {
    const settings = { store: 'local?root=/tmp/store', builders: '', extraPlatforms: [], systemFeatures: undefined }
    const systems = { system: 'x86_64-linux', runnerSystem: 'x86_64-linux' }
    const args = ['--impure', '--store', 'local?root=/tmp/store', '-L']
    expect(await setupOf(systems, settings, args)).toMatchObject({
      store: { place: '/tmp/store/nix/store' },
      storeOptions: ['--store', 'local?root=/tmp/store'],
    })
  })

  test('is in the user’s home if there is no other one', () => {
    const alone = { ...here, withoutSystemStore: true }
    const place = '/home/runner/.local/share/nix/root/nix/store'
    for (const url of ['auto', '']) expect(locateStore(url, alone)).toEqual({ name: '/nix/store', place })
    expect(locateStore('daemon', alone).place).toBe('/nix/store')
    expect(locateStore('local?root=/tmp/store', alone).place).toBe('/tmp/store/nix/store')
  })

  test('has the folder of `NIX_STORE_DIR` in its store paths', () => {
    const elsewhere = { ...here, storeFolder: '/data/store' }
    expect(locateStore('auto', elsewhere)).toEqual({ name: '/data/store', place: '/data/store' })
    expect(locateStore('local?root=/tmp', elsewhere)).toEqual({ name: '/data/store', place: '/tmp/nix/store' })
    expect(locateStore('local?store=/gnu/store', elsewhere)).toEqual({ name: '/gnu/store', place: '/gnu/store' })
  })
})
