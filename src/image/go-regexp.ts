/**
 * Translates a regular expression of Go. Supports what means the same in both languages and takes no exponential time.
 * Source: https://pkg.go.dev/regexp/syntax
 * @returns undefined if it is not supported
 */
export function goRegExp(source: string): RegExp | undefined {
  const tokens = source.match(TOKENS) ?? []
  // All tokens together are the source, unless a part of it matched none.
  if (tokens.join('') !== source) return undefined
  try {
    return new RegExp(tokens.map(translateToken).join(''), 'gu')
  } catch {
    return undefined
  }
}

/**
 * Literals, escaped punctuation, classes, groups without flags or names, and repetitions, except for those of a group:
 * nested repetitions could take forever.
 */
const TOKENS =
  /\\[!-/:-@[-`{-~]|\\[dDwW]|\[\^?[\w./+=@,:%~ -]+\]|\((?:\?:|(?!\?))|\)(?![*+])|[*+?]\??|[^\\[\](){}*+?]/gu

function translateToken(token: string): string {
  // Go's dot matches all line breaks but one.
  if (token === '.') return '[^\\n]'
  if (!token.startsWith('\\') || /\w/.test(token[1] ?? '')) return token
  const literal = token.slice(1)
  return /[$^\\.*+?()[\]{}|/]/.test(literal) ? token : literal
}

/** Returns whether an expression matches anywhere in a text. */
export function goMatches(expression: RegExp, text: string): boolean {
  expression.lastIndex = 0
  return expression.test(text)
}

/**
 * Replaces all matches. Unlike in JavaScript, an empty match directly after another match does not count.
 * @param replacement is used literally
 */
export function goReplaceAll(expression: RegExp, text: string, replacement: string): string {
  let result = ''
  let end = 0
  let from = 0
  while (from <= text.length) {
    expression.lastIndex = from
    const match = expression.exec(text)
    if (match === null) break
    const matchEnd = match.index + match[0].length
    result += text.slice(end, match.index)
    if (matchEnd > end || match.index === 0) result += replacement
    end = matchEnd
    const next = from + ((text.codePointAt(from) ?? 0) > 0xffff ? 2 : 1)
    from = Math.max(matchEnd, next)
  }
  return result + text.slice(end)
}
