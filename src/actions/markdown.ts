/** References and digests can't hold a backtick; store paths and system names neither. */
export function code(text: string): string {
  return `\`${text.replaceAll('`', '')}\``
}

/** Lines of Markdown as a text that ends in one line break. */
export function lines(...all: readonly string[]): string {
  return `${all.join('\n').trimEnd()}\n`
}
