import { readFileSync } from 'node:fs'
import { describe, expect, test } from '@jest/globals'
import { explainBuildFailure } from '../../src/nix/explain.ts'
import { failureIn } from '../../src/nix/failure.ts'
import { endNixLog, type NixLog, readNixLine, remind, startNixLog } from '../../src/nix/nix-log.ts'

// Recorded from real builds, with other names of folders and hosts.
const failed = recorded('nix-2.8-failed.log')
const fetched = recorded('nix-2.8-fetched.log')

function recorded(name: string): readonly string[] {
  const file = new URL(`../fixtures/nix-log/${name}`, import.meta.url)
  return readFileSync(file, 'utf8').trimEnd().split('\n')
}

/** Reads a log whose lines arrive at these times, or all at the start. Returns the lines that are shown. */
function read(
  lines: readonly string[],
  timeOf: (at: number) => number = () => 0,
): { readonly log: NixLog; readonly shown: readonly string[] } {
  let log = startNixLog(0)
  const shown: string[] = []
  for (const [at, line] of lines.entries()) {
    const next = readNixLine(log, line, timeOf(at))
    log = next.log
    shown.push(...next.shown)
  }
  return { log, shown: [...shown, ...endNixLog(log)] }
}

const nix = (event: object): string => `@nix ${JSON.stringify(event)}`
const drv = (name: string): string => `/nix/store/${'0'.repeat(32)}-${name}.drv`
/** As newer versions and Lix write it, by their source: an activity says of which other one it is a part. */
const building = (id: number, name: string): string =>
  nix({
    action: 'start',
    fields: [drv(name), '', 1, 1],
    id,
    level: 3,
    parent: 0,
    text: `building '${drv(name)}'`,
    type: 105,
  })
const printing = (id: number, line: string): string => nix({ action: 'result', fields: [line], id, type: 101 })
const stopping = (id: number): string => nix({ action: 'stop', id })
const failing = (message: string): string =>
  nix({ action: 'msg', level: 0, msg: `\u001b[31;1merror:\u001b[0m ${message}`, raw_msg: message })

describe('ignored settings of a flake', () => {
  // Of Nix 2.8, and of 2.34 by its source.
  const warning = (name: string, more = ''): string =>
    nix({
      action: 'msg',
      level: 1,
      msg: `\u001b[35;1mwarning:\u001b[0m ignoring untrusted flake configuration setting '${name}'${more}`,
    })

  test('are read from the log, each once', () => {
    const lines = [
      warning('extra-substituters'),
      warning('allow-dirty', ".\nPass '--accept-flake-config' to trust it"),
      warning('extra-substituters'),
    ]
    expect(read(lines).log.ignoredSettings).toEqual(['extra-substituters', 'allow-dirty'])
    expect(read(failed).log.ignoredSettings).toEqual([])
  })

  test('are limited in number and length', () => {
    const names = Array.from({ length: 1000 }, (_, at) => `setting-${at}`)
    expect(read(names.map((name) => warning(name))).log.ignoredSettings).toHaveLength(20)
    expect(read([warning('x'.repeat(1000)), warning('::error::')]).log.ignoredSettings).toEqual([])
  })
})

describe('the log that is shown', () => {
  test('has the builds, their output, and the messages of Nix', () => {
    const { shown } = read(failed)
    expect(shown.slice(0, 5)).toEqual([
      "building '/nix/store/9fw5bixg2aqw2z5d36idaasfaasxmimm-failing.drv'",
      "building '/nix/store/9rcsb6yy95wwzdl4il1klqirq78w425f-noisy.drv'",
      'failing> warming up',
      'noisy> noise 0',
      'failing> b\tced\u001b[0m',
    ])
    expect(shown).toContain('failing> hello.c:1: no such thing')
    expect(shown.filter((line) => line.includes('failed with exit code 3'))).toHaveLength(1)
    expect(shown.join('\n')).not.toContain('@nix')
  })

  test('has the progress at most every ten seconds, and at the end', () => {
    const { shown } = read(fetched, (at) => at * 300)
    expect(shown).toEqual([
      'Nix: 0 of 1 built, 1 left',
      'Nix: 0 of 1 built, 0 of 1 fetched (3.1 MB of 30.0 MB), 2 left',
      'Nix: 0 of 1 built, 0 of 1 fetched (18.0 MB of 30.0 MB), 2 left',
      'Nix: 0 of 1 built, 0 of 1 fetched (30.0 MB of 30.0 MB), 2 left',
      'Nix: 1 of 1 fetched (30.0 MB of 30.0 MB), 0 left',
    ])
    expect(read(fetched, () => 9_999).shown).toEqual(['Nix: 1 of 1 fetched (30.0 MB of 30.0 MB), 0 left'])
  })

  test('has the same for newer versions, which print lists at the start', () => {
    expect(read(recorded('nix-2.34-fetched.log'), (at) => at * 700).shown).toEqual([
      'this derivation will be built:',
      '  /nix/store/35xgkpdb1hhbxpr5x3myalc2yvxr4jyd-app.drv',
      'this path will be fetched (28.6 MiB download, 28.6 MiB unpacked):',
      '  /nix/store/xdlcmg3zkg8mckgk9yqy3xmr89scq04w-big',
      'Nix: 0 of 1 built, 1 left',
      'Nix: 0 of 2 built, 0 of 1 fetched, 3 left',
      'Nix: 0 of 1 built, 1 of 1 fetched (30.0 MB of 30.0 MB), 1 left',
      "building '/nix/store/35xgkpdb1hhbxpr5x3myalc2yvxr4jyd-app.drv'",
      'Nix: 1 of 1 built, 1 of 1 fetched (30.0 MB of 30.0 MB), 0 left',
    ])
  })

  describe('after 30 seconds of silence', () => {
    const shownAfter = (lines: readonly string[], now: number) => {
      const { log, shown } = remind(read(lines).log, now)
      return { shown, again: [now, now + 29_999, now + 30_000].map((at) => remind(log, at).shown.length) }
    }
    const start = nix({ action: 'start', id: 1, level: 0, parent: 0, text: '', type: 104 })
    const amount = nix({ action: 'result', fields: [1, 4, 0, 0], id: 1, type: 105 })

    test('has a reminder of the running builds, every 30 seconds', () => {
      const lines = [start, amount, building(2, 'one'), building(3, 'two'), stopping(2)]
      expect(shownAfter(lines, 29_999).shown).toEqual([])
      expect(shownAfter(lines, 30_000)).toEqual({
        shown: ['Nix: 1 of 4 built, 3 left; still building two'],
        again: [0, 0, 1],
      })
    })

    test('names three builds at most', () => {
      const lines = ['a', 'b', 'c', 'd'].map((name, id) => building(id, name))
      expect(shownAfter(lines, 30_000).shown).toEqual(['Nix is still building a, b, c, …'])
    })

    test('has a reminder that Nix is running if no build is', () => {
      expect(shownAfter([], 30_000).shown).toEqual(['Nix is still running'])
    })

    test('measures the silence from the last line', () => {
      const { log } = readNixLine(read([building(2, 'one')]).log, printing(2, 'a line'), 20_000)
      expect(remind(log, 49_999).shown).toEqual([])
      expect(remind(log, 50_000).shown).toEqual(['Nix is still building one'])
    })
  })

  test('adds up the progress of several activities of one kind, as with builds during the evaluation', () => {
    const start = (id: number): string => nix({ action: 'start', id, level: 0, parent: 0, text: '', type: 104 })
    const amount = (id: number, done: number, expected: number): string =>
      nix({ action: 'result', fields: [done, expected, 0, 0], id, type: 105 })
    const { shown } = read([start(1), amount(1, 2, 2), stopping(1), start(2), amount(2, 1, 4)])
    expect(shown).toEqual(['Nix: 3 of 6 built, 3 left'])
  })

  test.each([
    [1e308, 1e308],
    [0, -5],
    [1, 0.5],
    [-1, 3],
  ])('ignores invalid counts: %p of %p', (done, expected) => {
    const start = nix({ action: 'start', id: 1, level: 0, parent: 0, text: '', type: 104 })
    const amount = (fields: readonly number[]) => nix({ action: 'result', fields, id: 1, type: 105 })
    const { shown } = read([start, amount([1, 3, 0, 0]), amount([done, expected, 0, 0])])
    expect(shown).toEqual(['Nix: 1 of 3 built, 2 left'])
  })

  test('ends with all builds, although Lix does not report the last one', () => {
    // Of Lix 2.95, by its source: the worker no longer reports progress when the last build ends.
    const start = nix({ action: 'start', id: 1, level: 0, parent: 0, text: '', type: 104, fields: [] })
    const amount = (done: number, running: number): string =>
      nix({ action: 'result', fields: [done, 2, running, 0], id: 1, type: 105 })
    const lines = [start, amount(0, 1), building(2, 'one'), stopping(2), amount(1, 1), building(3, 'two'), stopping(3)]
    expect(read([...lines, stopping(1)]).shown.at(-1)).toBe('Nix: 2 of 2 built, 0 left')
  })

  test('distinguishes activities whose ids exceed the safe integers of JavaScript', () => {
    // The process id is 4194303, and shifted left by 32 bits.
    const lines = ['first', 'second'].flatMap((name, at) => {
      const id = `1801439850948198${at + 4}`
      return [building(0, name).replace('"id":0', `"id":${id}`), printing(0, name).replace('"id":0', `"id":${id}`)]
    })
    expect(read(lines).shown.filter((line) => line.includes('> '))).toEqual(['first> first', 'second> second'])
  })

  test.each([
    ['of another program', 'ssh: connect to host builder port 22: Connection refused'],
    ['of Nix without its format', "building '/nix/store/00-app.drv'..."],
    ['with truncated JSON', '@nix {"action":"result","fields":["a'],
    ['with an unknown action', '@nix {"action":"dance","id":1}'],
    ['that starts like an event, but has no JSON', '@nix is a name'],
    ['with a workflow command, which the runner ignores at this time', '::error::from a builder'],
    ['that is empty', ''],
  ])('has a line %s unchanged', (_, line) => {
    expect(read([line]).shown).toEqual([line])
  })

  test.each([
    ['colours stay', '\u001b[1;32mok\u001b[0m\tdone', '\u001b[1;32mok\u001b[0m\tdone'],
    ['nothing is erased', '\u001b[2K\u001b[1Aone', 'one'],
    ['no title is set', '\u001b]0;title\u0007one', 'one'],
    ['no bell rings', 'o\u0007ne\u0000\u009b', 'one'],
    ['a colour needs an escape character', '\u0007[31mone', '[31mone'],
    ['of overwritten text, the last remains', '10%\r20%\r\u001b[K30%\r', '30%'],
  ])('has no control characters other than colours: %s', (_, line, expected) => {
    expect(read([line]).shown).toEqual([expected])
    expect(read([building(1, 'app'), printing(1, line)]).shown[1]).toBe(`app> ${expected}`)
    expect(read([nix({ action: 'msg', level: 1, msg: line })]).shown).toEqual([expected])
  })

  test('has all lines of a message', () => {
    const list = nix({ action: 'msg', level: 0, msg: 'these 2 derivations will be built:\n  a.drv\n  b.drv' })
    expect(read([list]).shown).toEqual(['these 2 derivations will be built:', '  a.drv', '  b.drv'])
  })

  test('omits verbose messages and the paths that are fetched', () => {
    const lines = [
      nix({ action: 'start', id: 1, level: 4, parent: 0, text: "copying '/home/runner/app'", type: 0 }),
      nix({ action: 'start', id: 2, level: 3, parent: 0, text: "copying path '/nix/store/00-app'", type: 100 }),
      // Only in newer versions.
      nix({ action: 'start', id: 3, level: 4, parent: 0, text: 'fetching github input', type: 112 }),
      nix({ action: 'result', fields: ['receiving objects'], id: 3, type: 108 }),
    ]
    expect(read(lines).shown).toEqual([])
  })

  test('has builds that wait, and the output of a post-build hook', () => {
    const lines = [
      nix({ action: 'start', id: 1, level: 1, parent: 0, text: 'waiting for a machine to build it', type: 111 }),
      nix({ action: 'result', fields: ['uploading'], id: 2, type: 107 }),
    ]
    expect(read(lines).shown).toEqual(['waiting for a machine to build it', 'post-build-hook> uploading'])
  })
})

describe('the error for a failure', () => {
  test.each([
    ['2.8', 29, "builder for '/nix/store/9fw5bixg2aqw2z5d36idaasfaasxmimm-failing.drv' failed with exit code 3"],
    ['2.26', 24, "builder for '/nix/store/1f0pbmq1awvcdhwql8kkncj53491gqjp-failing.drv' failed with exit code 3"],
    [
      '2.34',
      24,
      "Cannot build '/nix/store/2xs9pwxrf9xvdrgn0hvj446scw5ybc0f-failing.drv'.\n       Reason: builder failed with exit code 3.\n       Output paths:\n         /nix/store/l5rqfspz047d8qpsr2rzdpj7kc27ndg9-failing",
    ],
  ])('has the last lines of the failed derivation, and the error of Nix %s', (version, last, error) => {
    const { detail } = failureIn(read(recorded(`nix-${version}-failed.log`)).log)
    const steps = Array.from({ length: 19 }, (_, at) => `failing> step ${at + last - 18}`)
    expect(detail).toBe([...steps, 'failing> hello.c:1: no such thing', `error: ${error}`].join('\n'))
  })

  const app = drv('app')
  test.each([
    [
      'an older Nix, with a daemon',
      `builder for '${app}' failed with exit code 1;\n       last 2 log lines:\n       > one\n       > two\n       For full logs, run 'nix log ${app}'.`,
      `error: builder for '${app}' failed with exit code 1`,
    ],
    [
      'a newer one and Lix, with a daemon',
      `builder for '${app}' failed with exit code 1;\n       last 2 log lines:\n       > one\n       >\n       > two\n       For full logs, run:\n         nix log ${app}`,
      `error: builder for '${app}' failed with exit code 1`,
    ],
    [
      'the newest, with a daemon',
      `Cannot build '${app}'.\n       Reason: builder failed with exit code 1.\n       Output paths:\n         /nix/store/00-app\n       Last 2 log lines:\n       > one\n       > two\n       For full logs, run:\n         nix log ${app}`,
      `error: Cannot build '${app}'.\n       Reason: builder failed with exit code 1.\n       Output paths:\n         /nix/store/00-app`,
    ],
  ])('has the log once even if the error repeats it: %s', (_, message, error) => {
    const log = [building(1, 'app'), printing(1, 'one'), printing(1, 'two'), failing(message), stopping(1)]
    expect(failureIn(read(log).log).detail).toBe(`app> one\napp> two\n${error}`)
    // The lines in the error are kept if the log has no others, as with some remote builders.
    expect(failureIn(read([failing(message)]).log).detail).toContain('> two\n')
  })

  test.each([
    `1 dependencies of derivation '${drv('image')}' failed to build`,
    `Cannot build '${drv('image')}'.\n       Reason: 1 dependency failed.\n       Output paths:\n         /nix/store/00-image`,
    'Build failed due to failed dependency',
  ])('has the cause, but not its consequence: %s', (consequence) => {
    const cause = `builder for '${app}' failed with exit code 1`
    expect(failureIn(read([failing(cause), failing(consequence), failing(cause)]).log).detail).toBe(`error: ${cause}`)
    // The consequence is shown if the cause is unknown.
    expect(failureIn(read([failing(consequence)]).log).detail).toBe(`error: ${consequence}`)
  })

  test('has the log of each failed derivation with its name, even if the error comes after the end of the build', () => {
    const names = ['one', 'two']
    const builds = names.flatMap((name, id) => [building(id, name), printing(id, `oh ${name}`), stopping(id)])
    const errors = names.map((name) => failing(`hash mismatch in fixed-output derivation '${drv(name)}'`))
    const { detail } = failureIn(read([...builds, ...errors]).log)
    expect(detail).toMatch(
      /^one> oh one\ntwo> oh two\nerror: hash mismatch.*one\.drv'\nerror: hash mismatch.*two\.drv'$/,
    )
  })

  test.each([
    ['2.8', "error: program 'git' failed with exit code 128"],
    ['2.26', "error: resolving Git reference 'master': revspec 'master' not found"],
    ['2.34', "error: Failed to fetch git repository 'ssh://git@example.org/owner/private'"],
  ])('has the reason that Git gives if Nix %s can’t fetch an input', (version, error) => {
    const { detail, evidence } = failureIn(read(recorded(`nix-${version}-private.log`)).log)
    expect(detail.split('\n').slice(0, 3)).toEqual([
      'git@example.org: Permission denied (publickey).',
      'fatal: Could not read from remote repository.',
      expect.stringMatching(/^error:/),
    ])
    expect(detail.endsWith(error)).toBe(true)
    expect(explainBuildFailure(evidence, { runnerSystem: 'x86_64-linux' })).toMatch(/^SSH has no key/)
  })

  test('has what a Git host says, without the progress of the download', () => {
    const lines = [
      'remote: Enumerating objects: 5, done.',
      'remote: Total 5 (delta 0), reused 0 (delta 0)',
      'Receiving objects: 100% (5/5), done.',
      'remote: Repository not found.',
      "fatal: repository 'https://git.example.org/owner/private/' not found",
    ]
    const errors = [...lines, failing("program 'git' failed with exit code 128")]
    expect(failureIn(read(errors).log).detail).toBe(
      `${lines.slice(3).join('\n')}\nerror: program 'git' failed with exit code 128`,
    )
    // Not if Nix failed for another reason.
    expect(failureIn(read([...lines, failing('unexpected end of file')]).log).detail).toBe(
      'error: unexpected end of file',
    )
  })

  test('has the output of other programs if Nix printed no error', () => {
    const { detail } = failureIn(read([building(1, 'app'), printing(1, 'noise'), 'Killed']).log)
    expect(detail).toBe('Killed')
  })

  test('does not take its hint from the output of other derivations', () => {
    const noise = [building(1, 'tests'), printing(1, 'No space left on device is handled: ok'), stopping(1)]
    const log = [
      ...noise,
      building(2, 'app'),
      printing(2, 'app: Exec format error'),
      failing(`builder for '${app}' failed`),
    ]
    const { evidence } = failureIn(read(log).log)
    expect(evidence).toContain('Exec format error')
    expect(evidence).not.toContain('No space left')
  })

  test('stays small for a long log', () => {
    const long = 'x'.repeat(100_000)
    const builds = Array.from({ length: 300 }, (_, id) => [building(id, `p${id}`), printing(id, long), stopping(id)])
    const last = [building(300, 'app'), ...Array.from({ length: 1000 }, (_, at) => printing(300, `${at}${long}`))]
    const { log } = read([...builds.flat(), ...last, ...Array.from({ length: 1000 }, () => long), failing(app)])
    expect(JSON.stringify(log.others).length + JSON.stringify([...log.builds]).length).toBeLessThan(2e6)
    expect(failureIn(log).detail).toContain('app> 999x')
  })

  test('stays small if the error is about many builds', () => {
    const long = 'x'.repeat(2000)
    const ids = Array.from({ length: 200 }, (_, id) => id)
    const builds = ids.flatMap((id) => [building(id, 'app'), ...Array.from({ length: 50 }, () => printing(id, long))])
    const { evidence, detail } = failureIn(read([...builds, failing(`builder for '${app}' failed`)]).log)
    expect(evidence.length).toBeLessThan(3e6)
    expect(detail).toContain(`app> ${long}`)
  })
})
