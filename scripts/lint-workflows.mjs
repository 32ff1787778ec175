// Lints the workflows of this repository and of examples/ with actionlint and zizmor, in the versions below.
//
//   npm run lint:workflows    needs Go and Python 3; the first run installs both tools into .cache/tools
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const ACTIONLINT = '1.7.12'
const ZIZMOR = '1.32.0'

const checkout = fileURLToPath(new URL('..', import.meta.url))
const tools = join(checkout, '.cache/tools')
const workflows = ymlFilesIn('.github/workflows')
const examples = [...ymlFilesIn('examples'), ...ymlFilesIn('examples/workflows')]

run(actionlint(), [...workflows, ...ymlFilesIn('examples/workflows')])
const zizmorProgram = zizmor()
run(zizmorProgram, ['--quiet', '--offline', '--no-progress', '--config', '.github/zizmor.yml', '.github', 'action.yml'])
run(zizmorProgram, ['--quiet', '--offline', '--no-progress', '--config', '.github/zizmor-examples.yml', ...examples])

/**
 * @param {string} folder
 * @returns {readonly string[]}
 */
function ymlFilesIn(folder) {
  return readdirSync(join(checkout, folder))
    .filter((name) => name.endsWith('.yml'))
    .map((name) => join(folder, name))
}

/** @returns {string} the path of the program, which it installs if it is missing */
function actionlint() {
  const folder = join(tools, `actionlint-${ACTIONLINT}`)
  if (!existsSync(join(folder, 'actionlint'))) {
    run('go', ['install', `github.com/rhysd/actionlint/cmd/actionlint@v${ACTIONLINT}`], { GOBIN: folder })
  }
  return join(folder, 'actionlint')
}

/** @returns {string} the path of the program, which it installs if it is missing */
function zizmor() {
  const folder = join(tools, `zizmor-${ZIZMOR}`)
  const program = join(folder, 'bin/zizmor')
  if (!existsSync(program)) {
    rmSync(folder, { recursive: true, force: true })
    run('python3', ['-m', 'venv', folder])
    run(join(folder, 'bin/pip'), ['install', '--quiet', '--disable-pip-version-check', `zizmor==${ZIZMOR}`])
  }
  return program
}

/**
 * Runs a program in the checkout, and ends this script with its exit code if it fails.
 * @param {string} program
 * @param {readonly string[]} args
 * @param {Readonly<Record<string, string>>} env
 */
function run(program, args, env = {}) {
  try {
    execFileSync(program, args, { cwd: checkout, stdio: 'inherit', env: { ...process.env, ...env } })
  } catch (error) {
    const { status, message } = /** @type {{ status?: number | null, message: string }} */ (error)
    // The program has reported its findings. Without a status, it could not be started.
    if (typeof status !== 'number') console.error(message)
    process.exit(status || 1)
  }
}
