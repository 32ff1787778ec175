import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { explainBuildFailure } from '../../src/nix/explain.ts'
import { failureIn } from '../../src/nix/failure.ts'
import { errorIn } from '../../src/nix/nix.ts'
import { type NixLog, readNixLine, startNixLog } from '../../src/nix/nix-log.ts'
import { formatNearest } from '../../src/nix/packages.ts'
import { MEMORY_LIMIT, type Measured, measure } from '../support/peak.ts'

// Builders can print anything into Nix's log, and a flake can give its packages any names. Tests with very long lines
// fail by their time limit: a regular expression of quadratic time takes minutes.

const nix = (event: object): string => `@nix ${JSON.stringify(event)}`
const start = (id: number, path: string): string =>
  nix({ action: 'start', fields: [path, '', 1, 1], id, level: 3, parent: 0, text: '', type: 105 })
const print = (id: number, line: string): string => nix({ action: 'result', fields: [line], id, type: 101 })
const fail = (msg: string): string => nix({ action: 'msg', level: 0, msg })

function read(lines: readonly string[]): NixLog {
  return lines.reduce((log, line) => readNixLine(log, line, 0).log, startNixLog(0))
}

/** The length of the longest line that is not split. */
const LENGTH = 250_000

describe('a malicious log is read in linear time:', () => {
  test.each([
    '\u001b]',
    '\u001bP',
    '\u001b[',
    '\u009b',
    '\u001b[0',
    '\u001b]0;x\u001b',
    '\r',
    '\rx',
    '\u0000[',
    '\u200b',
    '[',
    ' ',
    "'",
    '{',
  ])('lines of %j', (part) => {
    const line = part.repeat(LENGTH / part.length)
    const lines = Array.from({ length: 10 }, () => `${line}x`)
    const log = read([...lines, ...lines.map((one) => print(1, one))])
    expect(failureIn(log).detail.length).toBeLessThan(70_000)
  })

  test.each([
    "error: builder for '/nix/store/x.drv' failed; last 10 log lines:\n >",
    '\n last 1 log lines:',
    ',\n',
    '1',
    "1 dependencies of derivation '",
    "a 'x' with features {",
    'Required features: {',
    "unable to download 'https://gitlab",
    "unable to download 'https://github",
    "Path 'flake.nix' in the repository ",
    "path 'flake.nix",
    "getting status of '/-source/",
    "cannot find flake 'flake:",
    "unable to download 'https://github.com/a/",
    "unable to download 'https://x/api/v4/projects/",
    "fatal: repository 'https://",
    'Permission denied (',
    "ignoring untrusted flake configuration setting '",
    "error: getting status of '/",
    "'^",
  ])('errors, and the patterns that they are matched against, with %j', (part) => {
    const text = part.repeat(LENGTH / part.length)
    const log = read([
      start(1, '/nix/store/x.drv'),
      ...Array.from({ length: 10 }, () => print(1, text)),
      fail(`error: ${text}`),
    ])
    const { detail, evidence } = failureIn(log)
    explainBuildFailure(evidence, { system: 'aarch64-linux', runnerSystem: 'x86_64-linux' })
    explainBuildFailure(text, { system: 'aarch64-linux', runnerSystem: 'x86_64-linux' })
    expect(errorIn(text).length).toBeLessThanOrEqual(501)
    expect(detail.length).toBeLessThan(500_000)
  })

  test.each([
    ['with a hundred thousand nested arrays', `@nix ${'['.repeat(100_000)}`],
    ['with thousands of nested objects', `@nix {"action":${'{"a":'.repeat(30_000)}`],
  ])('JSON %s is read as plain text', (_, line) => {
    const { log, shown } = readNixLine(startNixLog(0), line, 0)
    expect(log.structured).toBe(false)
    expect(shown).toHaveLength(1)
  })
})

describe('a large log does not exhaust the memory:', () => {
  const lines = (code: string): Promise<Measured> =>
    measure(
      `const { readNixLine, startNixLog } = await load('nix/nix-log.ts')
      const { failureIn } = await load('nix/failure.ts')
      const { explainBuildFailure } = await load('nix/explain.ts')
      const nix = (event) => '@nix ' + JSON.stringify(event)
      let log = startNixLog(0)
      const read = (line) => { log = readNixLine(log, line, 0).log }
      ${code}
      read(nix({ action: 'msg', level: 0, msg: 'error: /nix/store/x.drv failed' }))
      const { detail, evidence } = failureIn(log)
      explainBuildFailure(evidence, { runnerSystem: 'x86_64-linux' })
      return detail.length + evidence.length`,
    )

  test.each([
    [
      'long lines of the largest number of builds',
      `const line = 'ü'.repeat(100_000)
      for (let id = 1; id <= 300; id++) {
        read(nix({ action: 'start', fields: ['/nix/store/x.drv'], id, level: 3, text: '', type: 105 }))
        for (let at = 0; at < 8; at++) read(nix({ action: 'result', fields: [at + line], id, type: 101 }))
      }`,
    ],
    [
      'many lines of each build',
      `for (let id = 1; id <= 200; id++)
        read(nix({ action: 'start', fields: ['/nix/store/x.drv'], id, level: 3, text: '', type: 105 }))
      for (let id = 1; id <= 200; id++)
        for (let at = 0; at < 300; at++) read(nix({ action: 'result', fields: [at + 'ü'.repeat(1900)], id, type: 101 }))`,
    ],
    ['lines outside of builds', `for (let at = 0; at < 1000; at++) read(at + 'x'.repeat(250_000))`],
    [
      'ids of a hundred thousand digits',
      `const digits = '1'.repeat(200_000)
      for (const type of [100, 103, 104, 105])
        for (let at = 0; at < 500; at++) {
          const event = nix({ action: 'start', fields: ['/nix/store/x.drv'], id: 1, level: 9, text: '', type })
          read(event.replace('"id":1', '"id":' + digits + at))
        }`,
    ],
    [
      'derivations with names of a hundred thousand characters',
      `for (let id = 1; id <= 1000; id++)
        read(nix({ action: 'start', fields: ['/nix/store/' + id + 'ü'.repeat(200_000)], id, level: 9, text: '', type: 105 }))`,
    ],
  ])('%s', async (_, code) => {
    const { value, error, peak } = await lines(code)
    expect(error).toBeUndefined()
    expect(value).toBeLessThan(20_000_000)
    expect(peak).toBeLessThan(MEMORY_LIMIT)
  })
})

describe('Nix', () => {
  let folder: string

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'hostile-nix-'))
  })

  afterAll(async () => {
    await rm(folder, { recursive: true })
  })

  /** Builds in a separate process, with this shell script as Nix. */
  async function buildWith(script: string): Promise<Measured> {
    await writeFile(join(folder, 'nix'), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
    return measure(
      `process.env.PATH = args[0]
      const { buildInstallable } = await load('nix/build.ts')
      const installable = { options: [], text: '.#app', name: '.#app' }
      const system = 'x86_64-linux'
      const setup = { platformOptions: [], hasBuilder: false }
      process.stdout.write = () => true
      return buildInstallable({ installable, nixArgs: [], folders: [], system, runnerSystem: system, setup })`,
      `${folder}${delimiter}${process.env.PATH}`,
    )
  }

  test.each([
    ['a file of the runner', '/etc/passwd'],
    ['an option', '--help'],
    ['nothing', ''],
    ['a path below a store path', `/nix/store/${'0'.repeat(32)}-app/image`],
    ['a path with `..`', `/nix/store/../${'0'.repeat(32)}-app`],
    ['two lines', `/nix/store/${'0'.repeat(32)}-app\\\\n::error::x`],
  ])('that returns %s instead of a store path is refused', async (_, path) => {
    const { error } = await buildWith(`cat <<'END'\n[{"outputs":{"out":"${path.replace('\\\\', '\\')}"}}]\nEND`)
    expect(error).toMatchObject({
      name: 'NixError',
      message: expect.stringMatching(/^Nix built \.#app, but its output is not a store path/),
    })
  })

  test.each([
    ['megabytes of invalid JSON', 'head -c 15000000 /dev/zero | tr "\\0" "\\n"', /its JSON output can't be read/],
    ['a million values', 'printf "["; yes "{}," | head -n 4000000; echo "{}]"', /its JSON output can't be read/],
    [
      'a hundred thousand outputs',
      `printf '[{"outputs":{"a":"/nix/store/${'0'.repeat(32)}-app"'; seq -f ',"%.0f":"/nix/store/${'0'.repeat(32)}-app"' 100000; echo '}}]'`,
      /Nix built 100001 outputs of \.#app instead of one image/,
    ],
    ['endless output', 'exec yes', /nix wrote more than 16777216 bytes to its standard output/],
    [
      'a log of 100 MB',
      `yes '${'a line of the log '.repeat(100)}' | head -c 100000000 >&2; exit 1`,
      /a line of the log/,
    ],
    ['one line of 100 MB', 'tr "\\0" x < /dev/zero | head -c 100000000 >&2; exit 1', /Nix could not build \.#app/],
  ])('that writes %s fails within the memory limit', async (_, script, message) => {
    const { value, error, peak } = await buildWith(script)
    expect(value).toBeUndefined()
    expect(error?.name).toBe('NixError')
    expect(error?.message).toMatch(message)
    expect(error?.message.length).toBeLessThan(70_000)
    expect(peak).toBeLessThan(MEMORY_LIMIT)
  })
})

test('only the start of long names is compared and shown', () => {
  const names = Array.from({ length: 100 }, (_, at) => `${at}${'n'.repeat(100_000)}`)
  const shown = formatNearest([...names, 'image'], `image${'n'.repeat(10_000)}`)
  expect(shown.length).toBeLessThan(2500)
  expect(shown).toMatch(/… and 81 more$|image and 81 more$/)
})
