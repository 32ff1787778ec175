import { existsSync, readdirSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from '@jest/globals'
import { parse } from 'yaml'

// The code in the documents is the code that integration tests run, and everything that the documents link to exists.

const checkout = fileURLToPath(new URL('..', import.meta.url))
const read = (path: string) => readFile(join(checkout, path), 'utf8')

const documents = ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'SECURITY.md', 'docs/workflows.md']
const others = [
  'docs/verify.md',
  'docs/provenance.md',
  'docs/sbom.md',
  'docs/unchanged.md',
  'docs/guarantees.md',
  'docs/reusable-workflow.md',
  'BENCHMARKS.md',
]

/** A code block follows `<!-- examples/… -->` if it is that file, or `<!-- part of examples/… -->` if it is part of it. */
const BLOCK = /(?:<!-- (part of )?(examples\/\S+) -->\n)?```(?:yaml|nix)\n(.*?)```/gs

describe.each(['README.md', 'docs/workflows.md', 'docs/reusable-workflow.md'])('the code in %s', (document) => {
  test('is the code of the examples', async () => {
    const blocks = [...(await read(document)).matchAll(BLOCK)]
    expect(blocks).not.toEqual([])
    for (const [block, part, path, code] of blocks) {
      if (path === undefined) throw new Error(`${document} does not name the example of this code:\n${block}`)
      const file = withoutHeading(await read(path))
      if (part === undefined) expect(code).toBe(file)
      else expect(`\n${file}`).toContain(`\n${code}`)
    }
  })
})

/** Removes the comment at the beginning of a file, which the document replaces with its text. */
function withoutHeading(text: string): string {
  return text.replace(/^(#.*\n)+/, '')
}

test('README.md names each example of a workflow', async () => {
  const readme = await read('README.md')
  const names = await readdir(join(checkout, 'examples/workflows'))
  expect(names.filter((name) => !readme.includes(`examples/workflows/${name}`))).toEqual([])
})

describe('the merge job waits for those of other branches and tags', () => {
  // The first publishes nothing, and the others have their merge job in the reusable workflow.
  const publishing = readdirSync(join(checkout, 'examples/workflows')).filter(
    (name) => !['verify.yml', 'reusable.yml', 'reusable-release.yml'].includes(name),
  )
  test.each(publishing)('in %s', async (name) => {
    const workflow = parse(await read(`examples/workflows/${name}`))
    const jobs = Object.values<{ concurrency?: Record<string, string>; steps: { with?: { mode?: string } }[] }>(
      workflow.jobs,
    )
    const merging = jobs.filter(({ steps }) => steps.some((step) => step.with?.mode === 'merge'))
    expect(merging).toHaveLength(1)
    const { group, queue } = merging[0]?.concurrency ?? {}
    expect(group).toMatch(/^image-merge/)
    expect(group?.replace("github.event_name == 'pull_request' && github.ref", '')).not.toContain('github.ref')
    // Otherwise, GitHub cancels a waiting merge when another one starts to wait.
    expect(queue).toBe(['without-artifacts.yml', 'gitea.yml'].includes(name) ? undefined : 'max')
    // GitHub Enterprise Server and Gitea do not support `queue`. With a single branch, only the latest merge matters.
    if (queue === undefined) expect(workflow.on).toEqual({ push: { branches: ['main'] } })
  })
})

test('action.yml has expressions only in defaults, where the runner evaluates them', async () => {
  const { inputs, ...others } = parse(await read('action.yml'))
  const texts = Object.values<{ description: string }>(inputs).map(({ description }) => description)
  expect(JSON.stringify([others, texts])).not.toContain('${{')
})

test('README.md has all inputs and outputs, and no others', async () => {
  const { inputs, outputs } = parse(await read('action.yml'))
  const readme = await read('README.md')
  const documented = Object.keys(inputs).filter((name) => !['job-total', 'job-index'].includes(name))
  expect(firstColumn(readme, 'Inputs').toSorted()).toEqual(documented.toSorted())
  expect(firstColumn(readme, 'Outputs').toSorted()).toEqual(Object.keys(outputs).toSorted())
})

test("README.md's troubleshooting quotes errors that the action reports", async () => {
  const files = (await readdir(join(checkout, 'src'), { recursive: true })).filter((name) => name.endsWith('.ts'))
  const source = (await Promise.all(files.map((name) => read(join('src', name))))).join('\n')
  const quotes = firstColumn(await read('README.md'), 'Troubleshooting')
  // Examples of values, such as a number, are not in the source.
  const pieces = quotes.flatMap((quote) => quote.split(/…|\d+|, |ghcr\.io|linux\/arm64|'aarch64-linux'/))
  const texts = pieces.map((piece) => piece.trim()).filter((piece) => piece.length > 8)
  expect(texts.length).toBeGreaterThan(20)
  expect(texts.filter((text) => !source.includes(text))).toEqual([])
})

function firstColumn(markdown: string, heading: string): readonly string[] {
  const section = markdown.split(/^## /m).find((text) => text.startsWith(`${heading}\n`)) ?? ''
  const cells = [...section.matchAll(/^\| (`.*?) \|/gm)].map(([, cell = '']) => cell)
  return cells.flatMap((cell) => [...cell.matchAll(/`([^`]+)`/g)].flatMap(([, name]) => name ?? []))
}

test.each([...documents, ...others])('the links of %s have targets', async (document) => {
  const links = [...(await read(document)).matchAll(/\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)/g)]
  for (const [link, path = '', anchor] of links) {
    const target = path === '' ? document : join(dirname(document), path)
    if (!existsSync(join(checkout, target))) throw new Error(`${document} has ${link}, which does not exist`)
    if (anchor !== undefined) expect(anchorsOf(await read(target))).toContain(anchor)
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
