import { MODES, type Mode } from '../inputs/mode.ts'
import { DEFAULT_RECORDS, PROGRAM } from './arguments.ts'
import { type ActionMetadata, type Option, optionsOf } from './options.ts'
import { inTermsOfOptions } from './wording.ts'

/**
 * Returns the help for a mode or, without one, for the command.
 * @param width of the terminal, in characters
 */
export function formatHelp(mode: Mode | undefined, action: ActionMetadata, width: number): string {
  const columns = Math.min(Math.max(width, 40), 100)
  return mode === undefined ? formatOverview(action, columns) : formatMode(mode, action, columns)
}

function formatOverview(action: ActionMetadata, columns: number): string {
  const rows = MODES.map((mode) => [mode, describeMode(mode, action)] as const)
  return [
    ...wrap(`${action.description}.`, columns),
    '',
    `Usage: ${PROGRAM} <mode> [options]`,
    '',
    'Modes:',
    ...formatTable(rows, columns),
    '',
    'Options:',
    ...formatTable(
      [
        ['-h, --help', 'Print help. After a mode: the options of that mode.'],
        ['--version', 'Print the version.'],
      ],
      columns,
    ),
    '',
    'Environment:',
    ...formatTable(
      [
        ['DOCKER_CONFIG', 'The folder of the file config.json with the logins. Default: ~/.docker.'],
        ['GITHUB_TOKEN', 'A token for ghcr.io, used if no login is configured for it.'],
      ],
      columns,
    ),
    '',
    `For the options of a mode, run "${PROGRAM} build --help".`,
    '',
  ].join('\n')
}

function formatMode(mode: Mode, action: ActionMetadata, columns: number): string {
  const options = optionsOf(mode, action)
  const rows = options.map(
    (option) => [formatOption(option), inTermsOfOptions(describeOption(option), options)] as const,
  )
  const usesRecords = mode === 'build' || mode === 'merge'
  const own: readonly (readonly [string, string])[] = [
    ...(usesRecords ? [['--records <folder>', describeRecords(mode)] as const] : []),
    ['--json', 'Print the outputs as a JSON object.'],
    ['--verbose', 'Log details for the diagnosis of errors.'],
    ['-h, --help', 'Print this help.'],
  ]
  const required = options.filter((option) => option.required).map((option) => formatOption(option))
  return [
    ...wrap(describeMode(mode, action), columns),
    '',
    `Usage: ${[PROGRAM, mode, ...required, '[options]'].join(' ')}`,
    '',
    'Options:',
    ...formatTable([...rows, ...own], columns),
    '',
    'Repeat an option with "..." to give several values.',
    '',
  ].join('\n')
}

function describeRecords(mode: Mode): string {
  const what =
    mode === 'build' ? 'to write the digest record to, for the merge' : 'with the digest records of the builds'
  return `The folder ${what}. Default: ${DEFAULT_RECORDS}.`
}

function formatOption({ name, kind, default: usual }: Option): string {
  if (kind === 'switch') return usual === 'true' ? `--[no-]${name}` : `--${name}`
  return `--${name} <${kind === 'list' ? 'value>...' : 'value>'}`
}

function describeOption({ kind, default: usual, description }: Option): string {
  // `true` attaches… → Attaches…
  const text =
    kind === 'switch' ? description.replace(/^`true` (.)/, (_, first: string) => first.toUpperCase()) : description
  if (kind === 'switch') return usual === 'true' ? `${text} Default: true.` : text
  return usual === '' || text.includes('Default: ') ? text : `${text} Default: \`${usual}\`.`
}

/** Returns what the description of the input `mode` says about a mode: `build`: build and push one system's image. */
export function describeMode(mode: Mode, { inputs }: ActionMetadata): string {
  const [, text = ''] = new RegExp(`\`${mode}\`: (.*?\\.)(?= \`|$)`, 's').exec(inputs.mode?.description ?? '') ?? []
  return text.charAt(0).toUpperCase() + text.slice(1)
}

const INDENT = 2
/** Of the first column. Longer names get a line of their own. */
const NAME_WIDTH = 28

function formatTable(rows: readonly (readonly [string, string])[], columns: number): readonly string[] {
  const width = Math.min(NAME_WIDTH, Math.max(...rows.map(([name]) => name.length + 2)))
  return rows.flatMap(([name, text]) => {
    const lines = wrap(text, columns - INDENT - width)
    const [first = '', ...more] = name.length + 2 > width ? ['', ...lines] : lines
    const indent = ' '.repeat(INDENT)
    return [`${indent}${name.padEnd(width)}${first}`, ...more.map((line) => indent + ' '.repeat(width) + line)].map(
      (line) => line.trimEnd(),
    )
  })
}

/** Breaks a text into lines of at most `width` characters, between words. */
function wrap(text: string, width: number): readonly string[] {
  const lines: string[] = ['']
  for (const word of text.split(/\s+/)) {
    const line = lines.at(-1) ?? ''
    if (line === '') lines[lines.length - 1] = word
    else if (line.length + 1 + word.length <= width) lines[lines.length - 1] = `${line} ${word}`
    else lines.push(word)
  }
  return lines
}
