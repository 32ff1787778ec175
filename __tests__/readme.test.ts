import { execFile } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, test } from '@jest/globals'
import { parse } from 'yaml'

// The code in the documents is the code of the examples, tables agree with action.yml, and links have targets.

const checkout = fileURLToPath(new URL('..', import.meta.url))
const read = (path: string) => readFileSync(join(checkout, path), 'utf8')
const filesIn = (folder: string) => readdirSync(join(checkout, folder)).map((name) => join(folder, name))

const docs = filesIn('docs').filter((path) => path.endsWith('.md'))
const workflows = filesIn('examples/workflows')

/**
 * A code block follows a comment with its file: `<!-- examples/… -->` if it is the whole file, `<!-- part of … -->` if it
 * is a part, and `<!-- parts of … -->` if lines with `# …` stand for what is left out.
 */
const BLOCK = /(?:<!-- (parts? of )?(examples\/\S+) -->\n)?```(?:yaml|nix)\n(.*?)```/gs
const LEFT_OUT = /^ *# …\n/m

describe.each(['README.md', ...docs])('the code in %s', (document) => {
  test('is the code of the examples', () => {
    for (const [block, part, path, code = ''] of read(document).matchAll(BLOCK)) {
      if (path === undefined) throw new Error(`${document} does not name the example of this code:\n${block}`)
      const file = withoutHeading(read(path))
      if (part === undefined) expect(code).toBe(file)
      else expectInOrder(`\n${file}`, part === 'parts of ' ? code.split(LEFT_OUT) : [code])
    }
  })
})

/** Removes the comment at the beginning of a file, which the document replaces with its text. */
function withoutHeading(text: string): string {
  return text.replace(/^(#.*\n)+/, '')
}

function expectInOrder(text: string, parts: readonly string[]): void {
  let rest = text
  for (const part of parts) {
    expect(rest).toContain(`\n${part}`)
    rest = rest.slice(rest.indexOf(`\n${part}`) + part.length)
  }
}

test('README.md has at most 250 lines', () => {
  expect(read('README.md').trimEnd().split('\n').length).toBeLessThanOrEqual(250)
})

test('README.md names each example of a workflow', () => {
  const readme = read('README.md')
  expect(workflows.filter((path) => !readme.includes(`](${path})`))).toEqual([])
})

test('documents count the lines of examples correctly', () => {
  const counts = docs.flatMap((document) => [...read(document).matchAll(/the (\d+) lines of \[.*?\]\(\.\.\/(.*?)\)/g)])
  expect(counts).not.toEqual([])
  for (const [, count, path = ''] of counts) {
    expect([path, Number(count)]).toEqual([path, withoutHeading(read(path)).trimEnd().split('\n').length])
  }
})

test('action.yml has expressions only in defaults, where the runner evaluates them', () => {
  const { inputs, ...others } = parse(read('action.yml'))
  const texts = Object.values<{ description: string }>(inputs).map(({ description }) => description)
  expect(JSON.stringify([others, texts])).not.toContain('${{')
})

test('README.md has the inputs and outputs of action.yml, as `node scripts/tables.mjs` writes them', async () => {
  await promisify(execFile)(process.execPath, [join(checkout, 'scripts/tables.mjs'), '--check'])
  const { inputs, outputs } = parse(read('action.yml'))
  const names = Object.keys(inputs).filter((name) => !['job-total', 'job-index'].includes(name))
  expect(firstColumn('README.md', 'Inputs')).toEqual(names)
  expect(firstColumn('README.md', 'Outputs')).toEqual(Object.keys(outputs))
})

test.each([
  ['mode', '`build`, `merge`, `plan`, `verify`', 'required'],
  ['image', 'list', 'required'],
  ['push', 'boolean', '`true`'],
  ['tag', 'string', '`{sha}-{system}`'],
  ['compression', '`gzip`, `zstd`', '`gzip`'],
  ['retention-days', 'number', '`1`'],
  ['tags', 'list', ''],
  ['token', 'string', '`github.token`'],
])('README.md has the type and the default of `%s`', (name, type, usual) => {
  const row = read('README.md')
    .split('\n')
    .find((line) => line.startsWith(`| \`${name}\` |`))
  expect(row?.split(' | ').slice(2, 4)).toEqual([type, usual])
})

describe('the troubleshooting tables', () => {
  const quotes = firstColumn('docs/troubleshooting.md', 'Troubleshooting')

  test('quote errors that the action reports', () => {
    const files = readdirSync(join(checkout, 'src'), { recursive: true, encoding: 'utf8' })
    const source = files
      .filter((name) => name.endsWith('.ts'))
      .map((name) => read(join('src', name)))
      .join('\n')
    // Examples of values, such as a number, are not in the source.
    const pieces = quotes.flatMap((quote) => quote.split(/…|\d+|, |ghcr\.io|linux\/arm64|'aarch64-linux'/))
    const texts = pieces.map((piece) => piece.trim()).filter((piece) => piece.length > 8)
    expect(texts.length).toBeGreaterThan(20)
    expect(texts.filter((text) => !source.includes(text))).toEqual([])
  })

  test('agree', () => {
    const solutions = (document: string) =>
      [...read(document).matchAll(/^\| `.* \| .* \|$/gm)].map(([row]) => row.replaceAll(/\]\(.*?\)/g, ']'))
    const section = firstColumn('README.md', 'Troubleshooting')
    const inReadme = solutions('README.md').filter((row) => section.some((quote) => row.startsWith(`| \`${quote}\``)))
    expect(inReadme.length).toBeGreaterThan(5)
    expect(inReadme.filter((row) => !solutions('docs/troubleshooting.md').includes(row))).toEqual([])
  })
})

/** Returns the code in the first column of the tables below a heading. */
function firstColumn(document: string, heading: string): readonly string[] {
  const sections = read(document).split(/^##? /m)
  const section = sections.find((text) => text.startsWith(`${heading}\n`)) ?? ''
  const cells = [...section.matchAll(/^\| (`.*?) \|/gm)].map(([, cell = '']) => cell)
  return cells.flatMap((cell) => [...cell.matchAll(/`([^`]+)`/g)].flatMap(([, name]) => name ?? []))
}

const linked = ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'SECURITY.md', 'BENCHMARKS.md', ...docs]

test.each(linked)('the links of %s have targets', (document) => {
  const text = read(document)
  const links = [
    ...text.matchAll(/\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)/g),
    ...text.matchAll(/src(?:set)?="([^"]+)"/g),
  ]
  for (const [link, path = '', anchor] of links) {
    const target = path === '' ? document : join(dirname(document), path)
    if (!existsSync(join(checkout, target))) throw new Error(`${document} has ${link}, which does not exist`)
    if (anchor !== undefined) expect(anchorsOf(read(target))).toContain(anchor)
  }
})

/** The anchors that GitHub creates for headings. */
function anchorsOf(markdown: string): readonly string[] {
  return [...markdown.matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-'),
  )
}
