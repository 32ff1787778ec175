import { readdirSync, readFileSync } from 'node:fs'
import { explainBuildFailure } from '../../../src/nix/explain.ts'
import { failureIn } from '../../../src/nix/failure.ts'
import { endNixLog, readNixLine, remind, startNixLog } from '../../../src/nix/nix-log.ts'
import { sanitize, sanitizeLine, withoutCommands, withoutEscapes, withoutHidden } from '../../../src/text.ts'
import { type Json, mutateJson, mutateText } from '../mutate.ts'
import { fewOf, lengthOf, type Random } from '../random.ts'
import { check, defineTarget } from '../target.ts'

const FOLDER = new URL('../../fixtures/nix-log/', import.meta.url)

/** Lines of real logs of Nix. */
const LINES = readdirSync(FOLDER).flatMap((name) => readFileSync(new URL(name, FOLDER), 'utf8').trimEnd().split('\n'))
/** The objects in lines of Nix's JSON log format. */
const EVENTS = LINES.filter((line) => line.startsWith('@nix ')).map((line): Json => JSON.parse(line.slice(5)))

const CONTEXT = { system: 'aarch64-linux', runnerSystem: 'x86_64-linux' }

/** Nix's standard error, line by line. */
export const nixLogs = defineTarget('nix-log', makeLog, (lines) => {
  let log = startNixLog(0)
  let now = 0
  const shown: string[] = []
  for (const line of lines) {
    now += 5000
    const read = readNixLine(log, line, now)
    const reminded = remind(read.log, now + 60_000 * (line.length % 2))
    // Not passed as arguments, because a message may have more lines than a call allows.
    for (const one of [...read.shown, ...reminded.shown]) shown.push(one)
    log = reminded.log
  }
  shown.push(...endNixLog(log))
  const odd = shown.find((line) => /[^\P{Cc}\t]/u.test(withoutColours(line)))
  check(odd === undefined, 'A line has control characters', odd)
  const wrong = shown.find((line) => /^Nix: .*(NaN|undefined|Infinity|-\d)/.test(line))
  check(wrong === undefined, 'A progress line has an invalid number', wrong)
  const { detail, evidence } = failureIn(log)
  check(detail.length + evidence.length < 50e6, 'The excerpt of a log is too large', detail.length, evidence.length)
  explainBuildFailure(evidence, CONTEXT)
})

function withoutColours(line: string): string {
  return line.replace(/\p{Cc}\[[\d;]*m/gu, (colour) => (colour.startsWith('\u001b') ? '' : colour))
}

function makeLog(random: Random): readonly string[] {
  const start = random.upTo(LINES.length - 1)
  const lines = LINES.slice(start, start + lengthOf(random, 300))
  const limits = { most: random.oneIn(10) ? 256 * 1024 : 3000 }
  const changed = lines.map((line) => (random.oneIn(3) ? changeLine(random, line, limits) : line))
  const own = Array.from({ length: fewOf(random, 8) }, () => changeLine(random, '', limits))
  return random.oneIn(3) ? manyBuilds(random) : [...changed, ...own]
}

function changeLine(random: Random, line: string, limits: { readonly most: number }): string {
  return random.pick<() => string>([
    () => `@nix ${mutateJson(random, random.pick(EVENTS), EVENT_WORDS, limits)}`,
    () => `@nix ${mutateJson(random, random.pick(EVENTS), EVENT_WORDS, limits)}`,
    () => `@nix ${JSON.stringify({ action: 'msg', level: 0, msg: `error: ${badLine(random, limits.most)}` })}`,
    () => `@nix ${JSON.stringify({ action: 'result', type: 105, id: random.upTo(5), fields: numbers(random) })}`,
    () => `@nix ${JSON.stringify({ action: 'result', type: 106, id: 0, fields: numbers(random) })}`,
    () => badLine(random, limits.most),
    () => mutateText(random, line, EVENT_WORDS, limits),
    () => line + line,
  ])()
}

/** Builds with long output, whose derivations every error names. */
function manyBuilds(random: Random): readonly string[] {
  const count = lengthOf(random, 250)
  const derivation = random.pick(['', 'e', 'r', '/nix/store/00000000000000000000000000000000-app.drv'])
  const output = badLine(random, random.oneIn(20) ? 2100 : 100)
  const perBuild = 1 + fewOf(random, random.oneIn(20) ? 200 : 10)
  const event = (fields: object) => `@nix ${JSON.stringify(fields)}`
  return [
    ...Array.from({ length: count }, (_, id) => [
      event({ action: 'start', id, level: 3, text: 'building', type: 105, fields: [derivation, '', 1, 1] }),
      ...Array.from({ length: perBuild }, () => event({ action: 'result', id, type: 101, fields: [output] })),
      ...(random.oneIn(3) ? [event({ action: 'stop', id })] : []),
    ]).flat(),
    event({ action: 'msg', level: 0, msg: `error: builder for '${derivation}' failed` }),
  ]
}

const EVENT_WORDS = [
  ...[
    'action',
    'start',
    'stop',
    'result',
    'msg',
    'id',
    'parent',
    'type',
    'fields',
    'level',
    'text',
    '@nix {',
    '\\r',
    '\r',
  ],
  ...[
    'error:',
    ' last 10 log lines:',
    '\n       > ',
    'For full logs, run',
    'dependencies of derivation',
    '1',
    '9',
    '.drv',
  ],
]

function numbers(random: Random): readonly number[] {
  return Array.from({ length: 4 }, () => random.pick([0, 1, 100, 103, 104, 105, -1, 1e308, 0.5, 2 ** 53, 1e300]))
}

/** Errors of Nix and of builders, from which build failures are explained. */
export const failures = defineTarget(
  'nix-failure',
  (random) =>
    Array.from({ length: 1 + fewOf(random, 20) }, () =>
      badLine(random, random.oneIn(20) ? 256 * 1024 : 3000).repeat(random.oneIn(20) ? 1 + random.upTo(100) : 1),
    )
      .join('\n')
      .slice(0, 1024 * 1024),
  (log) => {
    check(explainBuildFailure(log, CONTEXT) !== '', 'An explanation is empty')
  },
)

/** Returns words of Nix's errors in any order, or one of them many times, which is slow with a bad pattern. */
function badLine(random: Random, most: number): string {
  const detail = Array.from({ length: 1 + fewOf(random, 6) }, () => random.pick(ERROR_WORDS))
  const [word = '', other = ''] = detail
  const times = (text: string) => text.repeat(Math.ceil(lengthOf(random, most) / text.length))
  return random
    .pick<() => string>([
      () => detail.join(''),
      () => detail.join(' '),
      () => word + times(other || 'a'),
      () => times(word),
      () => times(word + other),
      () => word + times('1') + other,
      () => mutateText(random, detail.join(''), ERROR_WORDS, { most }),
    ])()
    .slice(0, most)
}

const ERROR_WORDS = [
  ...[
    "a '",
    "A 'x86_64-linux' with features {",
    '{kvm}',
    '} is required to build',
    "Required system: '",
    'with features',
  ],
  ...['Required features: {', 'kvm', ' ', "'", '"', '^', '/', '{', '}', '-source/', "' does not exist", 'flake.nix'],
  ...[
    "unable to download 'https://github.com/",
    "': HTTP error 403",
    'https://',
    'gitlab',
    '/api/v4/projects/',
    "path '",
  ],
  ...[
    "' is not a valid URL",
    "getting status of '",
    "Path '",
    "' in the repository ",
    ' is not tracked by Git',
    'error: ',
  ],
  ...[
    "cannot find flake 'flake:",
    "' in the flake registries",
    'Exec format error',
    'No space left',
    "'x^y",
    '\u001b[',
    '1',
  ],
  ...[
    "1 dependencies of derivation '",
    "' failed to build",
    '\n',
    'Reason: 1 dependency failed',
    ' last 9 log lines:',
    '>',
  ],
]

/** Untrusted text for the job's log. */
export const texts = defineTarget(
  'text',
  (random) => mutateText(random, random.pick(TEXTS), TEXT_WORDS, { most: random.oneIn(30) ? 1_000_000 : 5000 }),
  (text) => {
    const clean = sanitize(text)
    check(!/[^\P{Cc}\t\n]|\p{Cf}/u.test(clean), 'The text has a control character', clean)
    check(!clean.split('\n').some((line) => COMMAND.test(line)), 'The text has a workflow command', clean)
    check(clean.length <= 2 * 64 * 1024 + 1, 'The text is too long', clean.length)
    const line = sanitizeLine(text)
    check(!/[\p{Cc}\p{Cf}]/u.test(line), 'A line has a control character', line)
    check(!COMMAND.test(line), 'A line is a workflow command', line)
    check(line.length <= 501, 'A line is too long', line.length)
    check(
      !['\u001b', '\u009b'].some((start) => withoutEscapes(text).includes(start)),
      'The text has an escape sequence',
      withoutEscapes(text),
    )
    check(withoutEscapes(withoutEscapes(text)) === withoutEscapes(text), 'An escape sequence remains')
    check(withoutHidden(withoutHidden(text)) === withoutHidden(text), 'A hidden character remains')
    check(withoutCommands(withoutCommands(text)) === withoutCommands(text), 'A command remains')
  },
)

/** In a line: https://github.com/actions/runner/blob/main/src/Runner.Common/ActionCommand.cs */
const COMMAND = /^\s*::|##\[/

const TEXTS = ['', 'error: it failed\nfor a reason', '\u001b[31;1merror:\u001b[0m no', ...LINES.slice(0, 30)]
const TEXT_WORDS = [
  ...[
    '::error::',
    '::',
    ':',
    '##[',
    '#',
    '[command]',
    '\n',
    '\r',
    ' ',
    '\t',
    '\u001b[',
    '\u001b]',
    '\u001b\\',
    '\u009b',
  ],
  ...[
    '\u0007',
    '31;1',
    'm',
    '\u200b',
    '\u202e',
    '\u2028',
    '\u00a0',
    '\u3000',
    '\u{e0041}',
    '\u00ad',
    '\u0085',
    '\ufeff',
  ],
]
