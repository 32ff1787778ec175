import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from '@jest/globals'

// `npm test` in places where the integration tests lack something.

const checkout = fileURLToPath(new URL('..', import.meta.url))

let folder: string

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'setup-'))
  // A copy, because this checkout may have unpacked the registry.
  mkdirSync(join(folder, 'scripts'))
  cpSync(join(checkout, 'scripts/setup.mjs'), join(folder, 'scripts/setup.mjs'))
})

afterAll(() => {
  rmSync(folder, { recursive: true })
})

interface Ended {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs a script without the programs of this machine, in a shell that is not CI. */
function runScript(args: readonly string[], env: Readonly<Record<string, string>> = {}): Ended {
  const own = { PATH: join(folder, 'bin'), HOME: folder, TMPDIR: folder, ...env }
  return spawnSync(process.execPath, args, { env: own, encoding: 'utf8', cwd: folder })
}

const setUp = join('scripts', 'setup.mjs')
const testing = [
  '--experimental-vm-modules',
  '--disable-warning=ExperimentalWarning',
  join(checkout, 'scripts/test.mjs'),
  `--rootDir=${checkout}`,
  `--config=${join(checkout, 'jest.config.js')}`,
  '--listTests',
]

test('a system without apt-get runs the unit tests, and says how to install the rest', () => {
  const { status, stdout } = runScript([setUp, '--tests', 'nix', 'skopeo'])
  expect(status).toBe(0)
  expect(stdout).toMatch(/^Missing:\n {2}Nix +builds the images\n {2}skopeo /)
  expect(stdout).toContain('Automatic installation supports only Debian and Ubuntu.')
  expect(stdout).toContain('https://nixos.org/nix/install')
  expect(stdout).toMatch(/\nWithout Nix, skopeo, only the unit tests run\.\n$/)
})

test.each([
  ['in CI', ['--tests', 'nix'], { CI: 'true' }],
  ['for a demo', ['nix'], {}],
])('a system without apt-get fails %s', (_, args, env) => {
  const { status, stderr } = runScript([setUp, ...args], env)
  expect(status).toBe(1)
  expect(stderr).toContain('Automatic installation supports only Debian and Ubuntu.')
})

test('the packages to install are named before anything is installed', () => {
  mkdirSync(join(folder, 'bin'))
  try {
    for (const program of ['apt-get', 'dpkg-deb'])
      writeFileSync(join(folder, 'bin', program), '#!/bin/sh\necho no network >&2\nexit 1\n', { mode: 0o755 })
    const { status, stdout, stderr } = runScript([setUp, 'nix', 'docker', 'registry'])
    expect(status).toBe(1)
    expect(stdout).toMatch(
      /^Missing:\n(.+\n)+To install on this system, with apt-get: nix-bin docker\.io\nIf this release has them, also: docker-cli docker-buildx\nTo unpack into this checkout: docker-registry\n( {2}apt-get update|$)/,
    )
    // What fails first depends on whether this test runs as root.
    expect(stderr).toMatch(/Installing needs root or sudo|failed: /)
  } finally {
    rmSync(join(folder, 'bin'), { recursive: true })
  }
})

test('`npm test` runs only unit tests if a requirement of the integration tests is missing, and says so at the end', () => {
  const { status, stdout } = runScript(testing)
  expect(status).toBe(0)
  expect(stdout).toContain('__tests__/setup.test.ts')
  expect(stdout).not.toContain('__tests__/integration/')
  expect(stdout).toMatch(
    /\nOnly the unit tests ran[^\n]*Missing:\n {2}Nix [\s\S]*To install them: node scripts\/setup\.mjs\n$/,
  )
})

test.each([
  ['in CI', [], { CI: 'true' }],
  ['if they are selected', ['--selectProjects', 'integration', '--ci'], {}],
])('`npm test` never skips integration tests %s', (_, args, env) => {
  const { stdout } = runScript([...testing, ...args], env)
  expect(stdout).toContain('__tests__/integration/')
  expect(stdout).not.toContain('Only the unit tests ran')
})
