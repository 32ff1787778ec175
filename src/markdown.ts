/** The width of a line in a code block on GitHub, in characters. Longer lines are cut off until a user scrolls. */
const BLOCK_WIDTH = 115

/** The longest text in a cell of a table that is not broken, in characters: a digest has 71. */
const CELL_WIDTH = 72
/** The length of the pieces that a longer text may be broken into. */
const PIECE_WIDTH = 36

/** Formats inline code. The text may contain anything; backticks and line breaks are removed. */
export function code(text: string): string {
  const plain = plainCode(text)
  return plain === '' ? '' : `\`${plain}\``
}

/**
 * Formats inline code for a cell of a table. A long text gets places at which it may be broken: GitHub widens a table for
 * a long word, until the columns to its right are cut off.
 */
export function codeCell(text: string): string {
  const plain = plainCode(text)
  if (plain.length <= CELL_WIDTH) return code(plain)
  const pieces = Array.from({ length: Math.ceil(plain.length / PIECE_WIDTH) }, (_, at) =>
    escapeMarkdown(plain.slice(at * PIECE_WIDTH, (at + 1) * PIECE_WIDTH)),
  )
  return `<code>${pieces.join('<wbr>')}</code>`
}

function plainCode(text: string): string {
  return text.replaceAll('`', '').replace(/\s+/g, ' ').trim()
}

/** Escapes text that may contain anything, so that it has no formatting, HTML or links. */
export function escapeMarkdown(text: string): string {
  return (
    text
      .replaceAll('&', '&amp;')
      .replaceAll('<', '&lt;')
      .replaceAll('>', '&gt;')
      .replace(/[\\`*_[\]~#|!$]/g, '\\$&')
      .replace(/:(?=\/\/)/g, '&#58;')
      .replace(/\b(www)\./gi, '$1&#46;')
      // Lists and underlined headings.
      .replace(/^(\s*\d*)(?=[-+=.)])/gm, '$1\\')
  )
}

/** Formats text that may contain anything, except for inline code between backticks. */
function escapeExceptCode(text: string): string {
  return text
    .split(/`([^`\n]+)`/)
    .map((part, at) => (at % 2 === 1 ? code(part) : escapeMarkdown(part)))
    .join('')
}

/** Formats a code block, as lines. The text may contain anything. */
export function codeBlock(text: string, language = ''): readonly string[] {
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map(([ticks]) => ticks.length))
  const fence = '`'.repeat(longest + 1)
  return [`${fence}${language}`, ...text.split('\n').map((line) => line.trimEnd()), fence, '']
}

/** Breaks the long lines of a text for a code block. Not for commands, which users copy. */
export function breakLines(text: string): string {
  return text.split('\n').flatMap(breakLine).join('\n')
}

/** Splits a line into parts of at most `BLOCK_WIDTH` characters: at a space, or within a word that fills most of a part. */
function breakLine(line: string): readonly string[] {
  const lines: string[] = []
  let rest = line
  while (rest.length > BLOCK_WIDTH) {
    const space = rest.lastIndexOf(' ', BLOCK_WIDTH)
    const end = space > BLOCK_WIDTH / 4 ? space : BLOCK_WIDTH
    lines.push(rest.slice(0, end))
    rest = rest.slice(end).trimStart()
  }
  return [...lines, rest]
}

/** Formats text that may contain anything, as lines. Lines that are indented are commands or YAML. */
export function formatText(text: string): readonly string[] {
  const blocks: string[][] = []
  for (const line of text.split('\n')) {
    const block = blocks.at(-1)
    if (block?.[0] !== undefined && isIndented(block[0]) === isIndented(line)) block.push(line)
    else blocks.push([line])
  }
  return blocks.flatMap((block) => {
    const [first = ''] = block
    if (isIndented(first)) return codeBlock(block.map((line) => line.replace(/^ {2}/, '')).join('\n'))
    const shown = block.filter((line) => line.trim() !== '').map((line) => escapeExceptCode(line.trim()))
    return shown.length === 0 ? [] : [shown.join('<br>'), '']
  })
}

function isIndented(line: string): boolean {
  return line.startsWith('  ')
}

/**
 * Formats a table, as lines. Its cells are Markdown.
 * @returns nothing for a table without rows
 */
export function table(header: readonly string[], rows: readonly (readonly string[])[]): readonly string[] {
  if (rows.length === 0) return []
  const format = (cells: readonly string[]) => `| ${cells.map((cell) => cell.replace(/\\?\|/g, '\\|')).join(' | ')} |`
  return [format(header), `|${'---|'.repeat(header.length)}`, ...rows.map(format), '']
}

/**
 * Folds lines until a user opens them.
 * @param title without characters that are special in HTML
 */
export function foldLines(title: string, lines: readonly string[]): readonly string[] {
  return [`<details><summary>${title}</summary>`, '', ...lines, '</details>', '']
}

/** Formats a list, as lines. */
export function bulletList(items: readonly string[]): readonly string[] {
  return [...items.map((item) => `- ${item}`), '']
}

/** Joins lines of Markdown, with one line break at the end. */
export function joinLines(...all: readonly string[]): string {
  return `${all.join('\n').trimEnd()}\n`
}
