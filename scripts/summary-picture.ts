// Renders samples of the job summaries as GitHub shows them, and checks that nothing is cut off at its width.
//
//   npm run summary-picture                  writes docs/images/summary.md, summary-light.png and summary-dark.png
//   npm run summary-picture -- --all FOLDER  writes a picture of every sample into a folder, also with long names
//
// Needs Chromium.
import { execFileSync } from 'node:child_process'
import { accessSync, constants, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { delimiter, join, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { marked } from 'marked'
import { LONG_NAMES, pictured, sampleSummaries } from './summary/samples.ts'

const THEMES = ['light', 'dark'] as const
type Theme = (typeof THEMES)[number]

/** The width of the content of a run's page, in pixels. */
const WIDTH = 1012
const MARGIN = 24

const FLAGS = [
  ...['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--hide-scrollbars'],
  ...['--disable-background-networking', '--disable-component-update', '--disable-sync'],
]

const images = fileURLToPath(new URL('../docs/images/', import.meta.url))
const require = createRequire(import.meta.url)
const work = mkdtempSync(join(tmpdir(), 'summary-'))
try {
  const [option, folder] = process.argv.slice(2)
  if (option === undefined) await drawForDocs()
  else if (option === '--all' && folder !== undefined) await drawAll(resolve(folder))
  else throw new Error('Usage: npm run summary-picture [-- --all FOLDER]')
} finally {
  rmSync(work, { recursive: true, force: true })
}

async function drawForDocs(): Promise<void> {
  writeFileSync(join(images, 'summary.md'), pictured().join('\n'))
  await draw(pictured(), join(images, 'summary'))
}

async function drawAll(folder: string): Promise<void> {
  mkdirSync(folder, { recursive: true })
  for (const [suffix, samples] of [
    ['', sampleSummaries()],
    ['-long', sampleSummaries(LONG_NAMES)],
  ] as const)
    for (const [name, markdown] of Object.entries(samples)) await draw([markdown], join(folder, `${name}${suffix}`))
}

/** @param file the path of the pictures, without their theme and extension */
async function draw(summaries: readonly string[], file: string): Promise<void> {
  for (const theme of THEMES) {
    const page = join(work, 'page.html')
    writeFileSync(page, await renderPage(summaries, theme))
    const measured = runChromium(['--window-size=1060,100', '--dump-dom'], page)
    const { height, cutOff } = JSON.parse(/<title>(.*)<\/title>/.exec(measured)?.[1] ?? '{}')
    if (cutOff.length > 0) throw new Error(`${file} has parts that are cut off: ${cutOff.join(', ')}`)
    const size = `--window-size=${WIDTH + 2 * MARGIN},${height}`
    runChromium([size, `--screenshot=${file}-${theme}.png`], page)
    process.stdout.write(`${file}-${theme}.png\n`)
  }
}

async function renderPage(summaries: readonly string[], theme: Theme): Promise<string> {
  const css = readFileSync(require.resolve(`github-markdown-css/github-markdown-${theme}.css`), 'utf8')
  const articles = await Promise.all(
    summaries.map(async (markdown) => `<article class="markdown-body">${await marked.parse(markdown)}</article>`),
  )
  return `<!doctype html><html><head><meta charset="utf-8"><title></title><style>${css}
body { margin: 0; padding: ${MARGIN}px; width: ${WIDTH}px; background: ${theme === 'light' ? '#fff' : '#0d1117'} }
.markdown-body + .markdown-body { margin-top: 32px; padding-top: 32px; border-top: 1px solid ${theme === 'light' ? '#d1d9e0' : '#3d444d'} }
</style></head><body>${articles.join('\n')}<script>
const isCutOff = (element) => element.scrollWidth > Math.max(element.clientWidth, 1)
const cutOff = [...document.querySelectorAll('article, table')].filter(isCutOff).map((one) => one.tagName)
document.title = JSON.stringify({ height: document.documentElement.offsetHeight, cutOff })
</script></body></html>`
}

function runChromium(options: readonly string[], page: string): string {
  const profile = mkdtempSync(join(work, 'profile-'))
  const args = [...FLAGS, `--user-data-dir=${profile}`, ...options, pathToFileURL(page).href]
  return execFileSync(findChromium(), args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
}

function findChromium(): string {
  const names = ['chromium', 'chromium-browser', 'google-chrome']
  const paths = names.flatMap((name) => (process.env.PATH ?? '').split(delimiter).map((folder) => join(folder, name)))
  const found = paths.find(isExecutable)
  if (found === undefined) throw new Error('Chromium is not installed. On Debian and Ubuntu: apt-get install chromium')
  return found
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}
