import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { which } from '@actions/io'
import { loginStep } from '../advice.ts'
import { ImageError, InputError } from '../errors.ts'
import { withTempFolder } from '../fs/temp-folder.ts'
import type { JobLog } from '../log.ts'
import { parseReference } from '../oci/reference.ts'
import { runCommand } from '../process/command.ts'
import { lastLines } from '../text.ts'

/** A test of a pushed image. */
export interface ImageTest {
  /** The script. Empty: no test. */
  readonly script: string
  /** `name@digest` */
  readonly image: string
  readonly system: string
  readonly storePath: string
}

/**
 * Runs a script that tests an image. It runs like the script of a `run:` step, but without the secrets of this step.
 * @throws ImageError if the script fails
 */
export async function testImage(
  { script, image, system, storePath }: ImageTest,
  tempFolder: string,
  log: JobLog,
): Promise<void> {
  if (script === '') return
  const started = performance.now()
  const variables = { IMAGE: image, SYSTEM: system, STORE_PATH: storePath }
  const result = await withTempFolder(tempFolder, async (folder) => {
    // A file: from the standard input, the programs in the script would read the rest of it.
    const file = join(folder, 'test.sh')
    await writeFile(file, `${script}\n`)
    const options = { trust: 'no-secrets', shown: true, echo: false, variables } as const
    return log.groupToolOutput(`Test ${image}`, () => runCommand('bash', ['-c', RUN_FILE, 'bash', file], options))
  })
  if (result === undefined) throw noBash()
  if (result.exitCode !== 0)
    throw new ImageError({
      message: `The test of ${image} for ${system} failed with exit code ${result.exitCode}`,
      detail: lastLines(result.log, LINES_IN_ERROR) || 'it wrote nothing',
      hint: hintFor(image, result.log),
    })
  log.info(`The test of ${image} passed in ${((performance.now() - started) / 1000).toFixed(1)} s`)
}

/** Returns what to do about a failed test. The script gets configured logins, but not the input `token`. */
function hintFor(image: string, log: string): string {
  const { host } = parseReference(image).repository
  const login = /unauthorized|(?<!permission )denied|authentication required/i.test(log)
    ? ` If the script can't pull the image, log in before this step:\n${loginStep(host)}`
    : ''
  return `The image is not handed over to merge, and no tag has moved. Fix the image, or the script in \`test\`. To see each command of the script, begin it with \`set -x\`.${login}`
}

/**
 * Runs a file as `shell: bash` of a workflow does. Its standard output and error are one pipe, so that their lines stay
 * in order. It is a pipe of the shell, because programs can't open `/dev/stderr` if it is one of Node's sockets.
 */
const RUN_FILE = 'exec > >(exec cat >&2) 2>&1; exec bash --noprofile --norc -eo pipefail "$1"'

const LINES_IN_ERROR = 30

/** Checks before a long build that the runner can run a test. @throws InputError */
export async function checkTest(script: string): Promise<void> {
  if (script !== '' && (await which('bash')) === '') throw noBash()
}

function noBash(): InputError {
  return new InputError({
    message: 'The script in `test` needs bash, which is not on the PATH of the runner',
    hint: 'Install bash on the runner or in the container of the job.',
  })
}
