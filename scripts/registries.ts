// Builds registries and the programs that read them from their Go modules, and tests the action against them.
//
//   npm run test:registries                   all registries
//   npm run test:registries -- zot gitea      only test files with one of these in their names
//   npm run test:registries -- zot -t zstd    also takes Jest's options
//
// Programs are built once, into .cache/registries. Existing programs are used as they are.
import { type SpawnSyncOptions, spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { allPrograms, type Program, programFolder } from '../__tests__/registries/programs.ts'

const checkout = fileURLToPath(new URL('..', import.meta.url))
const args = process.argv.slice(2)
// Arguments before the first option of Jest are parts of file names.
const optionsAt = args.findIndex((arg) => arg.startsWith('-'))
const names = optionsAt < 0 ? args : args.slice(0, optionsAt)
// The tests of Gitea also need its runner.
const isNeeded = ({ name, shared, tests = name.replace(/-.*/, '') }: Program): boolean =>
  names.length === 0 || shared === true || names.some((part) => basename(part).startsWith(tests))
const missing = allPrograms.filter(
  (program) => isNeeded(program) && !existsSync(join(programFolder(program), program.name)),
)

if (missing.length > 0) requireGo()
for (const program of missing) {
  console.log(`Building ${program.name} from ${program.module}@${program.version}`)
  try {
    build(program)
  } catch (error) {
    // Continue: only the tests of this program fail.
    console.error(`${program.name} could not be built: ${error instanceof Error ? error.message : error}`)
  }
}

const jest = join(checkout, 'node_modules/jest/bin/jest.js')
const nodeOptions = ['--experimental-vm-modules', '--disable-warning=ExperimentalWarning']
const { status } = spawnSync(
  process.execPath,
  [...nodeOptions, jest, '--config', join(checkout, '__tests__/registries/jest.config.js'), ...args],
  { cwd: checkout, stdio: 'inherit' },
)
process.exitCode = status ?? 1

function requireGo(): void {
  if (spawnSync('go', ['version']).status === 0) return
  console.error('Go is not installed. Install Go 1.26 or later: https://go.dev/doc/install')
  process.exit(1)
}

/** Builds a program in its module's folder, where the module's `replace` directives and checksums apply. */
function build(program: Program): void {
  const folder = programFolder(program)
  mkdirSync(dirname(folder), { recursive: true })
  // Renamed only when complete, so that an interrupted build is repeated.
  const incomplete = mkdtempSync(`${folder}-`)
  try {
    const module = download(program, incomplete)
    const tags = program.tags === undefined ? [] : ['-tags', program.tags]
    const options = ['-C', module, '-mod=readonly', '-trimpath', '-buildvcs=false', ...tags]
    run('nice', ['-n', '15', 'go', 'build', ...options, '-o', join(incomplete, program.name), program.package])
    for (const resource of program.resources ?? []) {
      cpSync(join(module, resource), join(incomplete, resource), { recursive: true })
    }
    renameSync(incomplete, folder)
  } finally {
    rmSync(incomplete, { recursive: true, force: true })
  }
}

/** Returns the module's folder in Go's module cache. */
function download({ module, version }: Program, cwd: string): string {
  const json = run('go', ['mod', 'download', '-json', `${module}@${version}`], { cwd })
  const { Dir } = JSON.parse(json) as { readonly Dir: string }
  return Dir
}

function run(command: string, commandArgs: readonly string[], options: SpawnSyncOptions = {}): string {
  const { status, stdout, error } = spawnSync(command, commandArgs, {
    ...options,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  if (status === 0) return stdout
  const reason = error?.message ?? stdout.trim()
  throw new Error([`"${[command, ...commandArgs].join(' ')}" ended with ${status}`, reason].filter(Boolean).join('\n'))
}
