import { existsSync, readdirSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from '@jest/globals'
import { parse } from 'yaml'

// What people copy from the documents is what integration tests run, and what the documents name is there.

const checkout = fileURLToPath(new URL('..', import.meta.url))
const read = (path: string) => readFile(join(checkout, path), 'utf8')

const documents = ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'SECURITY.md', 'docs/workflows.md']
const others = ['docs/unchanged.md', 'docs/guarantees.md', 'BENCHMARKS.md']

/** `<!-- examples/… -->` before a block of code says that it is that file, `<!-- part of examples/… -->` lines of it. */
const BLOCK = /(?:<!-- (part of )?(examples\/\S+) -->\n)?```(?:yaml|nix)\n(.*?)```/gs

describe.each(['README.md', 'docs/workflows.md'])('the code in %s', (document) => {
  test('is that of the examples', async () => {
    const blocks = [...(await read(document)).matchAll(BLOCK)]
    expect(blocks).not.toEqual([])
    for (const [block, part, path, code] of blocks) {
      if (path === undefined) throw new Error(`${document} does not say which example this is of:\n${block}`)
      const file = withoutHeading(await read(path))
      if (part === undefined) expect(code).toBe(file)
      else expect(`\n${file}`).toContain(`\n${code}`)
    }
  })
})

/** The comment that a file begins with, which the document has in words of its own. */
function withoutHeading(text: string): string {
  return text.replace(/^(#.*\n)+/, '')
}

test('README.md names each example of a workflow', async () => {
  const readme = await read('README.md')
  const names = await readdir(join(checkout, 'examples/workflows'))
  expect(names.filter((name) => !readme.includes(`examples/workflows/${name}`))).toEqual([])
})

describe('the job that merges waits for those of other branches and tags', () => {
  test.each(readdirSync(join(checkout, 'examples/workflows')))('in %s', async (name) => {
    const workflow = parse(await read(`examples/workflows/${name}`))
    const jobs = Object.values<{ concurrency?: Record<string, string>; steps: { with?: { mode?: string } }[] }>(
      workflow.jobs,
    )
    const merging = jobs.filter(({ steps }) => steps.some((step) => step.with?.mode === 'merge'))
    expect(merging).toHaveLength(1)
    const { group, queue } = merging[0]?.concurrency ?? {}
    expect(group).toMatch(/^image-merge/)
    expect(group?.replace("github.event_name == 'pull_request' && github.ref", '')).not.toContain('github.ref')
    // Otherwise, GitHub cancels a merge that waits when another one comes.
    expect(queue).toBe(['without-artifacts.yml', 'gitea.yml'].includes(name) ? undefined : 'max')
    // GitHub Enterprise Server and Gitea have no such queue. With one branch, the later merge is the one to keep.
    if (queue === undefined) expect(workflow.on).toEqual({ push: { branches: ['main'] } })
  })
})

test('action.yml has expressions where the runner takes them, which is in defaults alone', async () => {
  const { inputs, ...others } = parse(await read('action.yml'))
  const texts = Object.values<{ description: string }>(inputs).map(({ description }) => description)
  expect(JSON.stringify([others, texts])).not.toContain('${{')
})

test('README.md has all inputs and outputs, and no others', async () => {
  const { inputs, outputs } = parse(await read('action.yml'))
  const readme = await read('README.md')
  const forPeople = Object.keys(inputs).filter((name) => !['job-total', 'job-index'].includes(name))
  expect(firstColumn(readme, 'Inputs').toSorted()).toEqual(forPeople.toSorted())
  expect(firstColumn(readme, 'Outputs').toSorted()).toEqual(Object.keys(outputs).toSorted())
})

function firstColumn(markdown: string, heading: string): readonly string[] {
  const section = markdown.split(/^## /m).find((text) => text.startsWith(`${heading}\n`)) ?? ''
  const cells = [...section.matchAll(/^\| (`.*?) \|/gm)].map(([, cell = '']) => cell)
  return cells.flatMap((cell) => [...cell.matchAll(/`([^`]+)`/g)].flatMap(([, name]) => name ?? []))
}

test.each([...documents, ...others])('the links of %s lead somewhere', async (document) => {
  const links = [...(await read(document)).matchAll(/\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)/g)]
  for (const [link, path = '', anchor] of links) {
    const target = path === '' ? document : join(dirname(document), path)
    if (!existsSync(join(checkout, target))) throw new Error(`${document} has ${link}, which is not there`)
    if (anchor !== undefined) expect(anchorsOf(await read(target))).toContain(anchor)
  }
})

/** As GitHub makes them of headings. */
function anchorsOf(markdown: string): readonly string[] {
  return [...markdown.matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-'),
  )
}
