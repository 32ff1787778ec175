// Runs the Nix part of the integration tests with a given Nix.
//
//   npm run test:nix -- /opt/nix-2.34/bin/nix            all of them
//   npm run test:nix -- /opt/nix-2.34/bin/nix plan sbom  only test files with one of these in their names
//   npm run test:nix -- /opt/nix-2.34/bin/nix plan -t x  also takes Jest's options
//
// The other programs of Nix, such as nix-store, must be in the same folder. Run `npm run build` first.
import { spawnSync } from 'node:child_process'
import { delimiter, dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

/** Parts of the names of the integration tests that depend on the version of Nix. */
const FILES = [
  'action',
  'evaluate',
  'installables',
  'layered',
  'nix-',
  'plan',
  'preflight',
  'prompts',
  'sbom',
  'unchanged',
  'verify',
]

const checkout = fileURLToPath(new URL('..', import.meta.url))
const [program, ...args] = process.argv.slice(2)
if (program === undefined) {
  console.error('Give the path of a Nix: npm run test:nix -- /opt/nix-2.34/bin/nix')
  process.exit(1)
}
const nix = resolve(program)
const version = spawnSync(nix, ['--version'], { encoding: 'utf8' })
if (version.status !== 0) {
  console.error(`${nix} can't run: ${version.error?.message ?? version.stderr}`)
  process.exit(1)
}
console.log(version.stdout.trim())
// Arguments before the first option of Jest are parts of file names.
const optionsAt = args.findIndex((arg) => arg.startsWith('-'))
const names = optionsAt < 0 ? args : args.slice(0, optionsAt)
const options = optionsAt < 0 ? [] : args.slice(optionsAt)
const paths = (names.length > 0 ? names : FILES).map((name) => `__tests__/integration/${name}`)
const jest = join(checkout, 'node_modules/jest/bin/jest.js')
const { status } = spawnSync(
  process.execPath,
  [
    '--experimental-vm-modules',
    '--disable-warning=ExperimentalWarning',
    jest,
    '--selectProjects',
    'integration',
    '--ci',
    ...paths,
    ...options,
  ],
  { cwd: checkout, stdio: 'inherit', env: { ...process.env, PATH: `${dirname(nix)}${delimiter}${process.env.PATH}` } },
)
process.exit(status ?? 1)
