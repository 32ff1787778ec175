import { withoutSecrets } from './secrets.ts'

/**
 * Returns text from another program or service in a form that is safe to print to the job's log: without escape
 * sequences, invisible characters and workflow commands (lines that begin with `::`, and `##[` anywhere). Truncates long
 * lines and long texts.
 */
export function sanitize(text: string): string {
  const lines = withoutHidden(withoutEscapes(cut(text, TEXT_LIMIT)))
    .split('\n')
    .map((line) => withoutCommands(cut(line, LINE_LIMIT)))
  return lines.join('\n')
}

/** In characters. */
const LINE_LIMIT = 2000
const TEXT_LIMIT = 64 * 1024

/**
 * Returns text from another program or service as one line of at most 500 characters that is safe to print to the job's
 * log: without secrets, control characters and workflow commands.
 */
export function sanitizeLine(text: string): string {
  // Remove secrets before truncating, which could leave a part of one.
  const visible = withoutEscapes(withoutSecrets(text).slice(0, 8192)).replace(/[\s\p{Cc}]+/gu, ' ')
  return cut(withoutCommands(withoutHidden(visible).trim()), 500)
}

/** Truncates a text to a number of characters, and marks the cut with an ellipsis. */
export function cut(text: string, limit: number): string {
  return text.length > limit ? `${text.slice(0, limit)}…` : text
}

/** Returns the last lines of a log. */
export function lastLines(log: string, count: number): string {
  return log.trimEnd().split('\n').slice(-count).join('\n')
}

/** Returns a line without workflow commands: the runner executes `::` at the start of a line, and `##[` anywhere. */
export function withoutCommands(line: string): string {
  return line.replace(/^(\s*):(?=:)/, '$1: ').replaceAll('##[', '# [')
}

/**
 * Removes terminal escape sequences: colours, titles, links, cursor movements. Takes linear time for any input.
 * https://www.ecma-international.org/publications-and-standards/standards/ecma-48/
 */
export function withoutEscapes(text: string): string {
  return text.includes('\u001b') || text.includes('\u009b') ? text.replace(ESCAPE, '') : text
}

/** Operating system commands, which end with BEL or ST; control sequences; other escape sequences. */
const ESCAPE = new RegExp(
  [
    String.raw`\u001b[\]PX^_][^\u0007\u001b\u009c\n]*(?:\u0007|\u001b\\|\u009c)?`,
    String.raw`(?:\u001b\[|\u009b)[0-?]*[ -/]*[@-~]?`,
    String.raw`\u001b[ -/]*[0-~]?`,
  ].join('|'),
  'g',
)

/**
 * Removes invisible characters that change how the rest of a text reads: control characters other than tab and line
 * feed, bidirectional controls, and zero-width characters.
 * https://www.unicode.org/reports/tr36/#Bidirectional_Text_Spoofing
 */
export function withoutHidden(text: string): string {
  return text.replace(HIDDEN, '')
}

/**
 * `Cc` except tab and line feed; `Cf` (bidirectional controls, zero-width characters, tags); line and paragraph
 * separators; and `Cs`, because two lone surrogates would form a new character once the text between them is removed.
 */
const HIDDEN = /[^\P{Cc}\t\n]|[\p{Cf}\p{Cs}]|[\u2028\u2029\u115f\u1160\u3164\uffa0]/gu

/** Compares texts for sorting, in the same way on every machine. `localeCompare` depends on the machine's language. */
export function compareText(one: string, other: string): number {
  return one < other ? -1 : one > other ? 1 : 0
}

const BYTE_UNITS = ['B', 'kB', 'MB', 'GB', 'TB']

/** Formats a number of bytes in decimal units: `3.1 MB`. */
export function formatBytes(bytes: number): string {
  const step = Math.min(BYTE_UNITS.length - 1, Math.max(0, Math.floor(Math.log10(Math.max(1, bytes)) / 3)))
  const amount = bytes / 1000 ** step
  return `${amount >= 100 || step === 0 ? amount.toFixed(0) : amount.toFixed(1)} ${BYTE_UNITS[step]}`
}

/** Formats a duration in milliseconds: `310 ms`, `14.2 s`, `1 min 23 s`, `2 h 5 min`. */
export function formatDuration(milliseconds: number): string {
  if (milliseconds < 999.5) return `${Math.round(milliseconds)} ms`
  if (milliseconds < 59_950) return `${(milliseconds / 1000).toFixed(1)} s`
  const seconds = Math.round(milliseconds / 1000)
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`
  const minutes = Math.round(seconds / 60)
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}
