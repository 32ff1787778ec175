/** Formats inline code. Removes backticks, which references, digests, store paths and systems don't contain. */
export function code(text: string): string {
  return `\`${text.replaceAll('`', '')}\``
}

/** Joins lines of Markdown, with one line break at the end. */
export function joinLines(...all: readonly string[]): string {
  return `${all.join('\n').trimEnd()}\n`
}
