/**
 * Returns a text without the sequences by which programs give a terminal commands: colours, titles, links, moves of the
 * cursor. Takes time in proportion to the text's length, whatever is in it.
 * https://www.ecma-international.org/publications-and-standards/standards/ecma-48/
 */
export function withoutEscapes(text: string): string {
  return text.includes('\u001b') || text.includes('\u009b') ? text.replace(ESCAPE, '') : text
}

/** A command of an operating system's, which ends with BEL or ST; a control sequence; an escape of a few characters. */
const ESCAPE = new RegExp(
  [
    String.raw`\u001b[\]PX^_][^\u0007\u001b\u009c\n]*(?:\u0007|\u001b\\|\u009c)?`,
    String.raw`(?:\u001b\[|\u009b)[0-?]*[ -/]*[@-~]?`,
    String.raw`\u001b[ -/]*[0-~]?`,
  ].join('|'),
  'g',
)

/**
 * Returns a text without characters that are not seen and change how the others are read: control characters but for
 * tab and line feed, those that change the direction of text, and those without width.
 * https://www.unicode.org/reports/tr36/#Bidirectional_Text_Spoofing
 */
export function withoutHidden(text: string): string {
  return text.replace(HIDDEN, '')
}

/**
 * `Cc` without tab and line feed, `Cf` (directions, zero widths, tags), line and paragraph separators, and `Cs`: halves
 * of characters, which would make a hidden one once what is between them is gone.
 */
const HIDDEN = /[^\P{Cc}\t\n]|[\p{Cf}\p{Cs}]|[\u2028\u2029\u115f\u1160\u3164\uffa0]/gu

/** In characters. */
const LINE_LIMIT = 2000
const TEXT_LIMIT = 64 * 1024

/**
 * Returns a text of anybody's as it may stand in the job's log: without escape sequences, hidden characters and commands
 * to the runner, which are lines that begin with `::` and any `##[`; its lines and itself cut where they are too long.
 */
export function sanitize(text: string): string {
  const lines = withoutHidden(withoutEscapes(cut(text, TEXT_LIMIT)))
    .split('\n')
    .map((line) => withoutCommands(cut(line, LINE_LIMIT)))
  return lines.join('\n')
}

/** Returns a line in which the runner finds no command. */
export function withoutCommands(line: string): string {
  return line.replace(/^(\s*):(?=:)/, '$1: ').replaceAll('##[', '# [')
}

/** Returns a text without what is beyond so many characters. */
export function cut(text: string, limit: number): string {
  return text.length > limit ? `${text.slice(0, limit)}…` : text
}
