import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals'
import { jobLog } from '../../src/actions/log.ts'
import { ActionError, ImageError } from '../../src/errors.ts'
import { checkTest, testImage } from '../../src/push/test-image.ts'
import type { ImageManifest } from '../../src/registry/image.ts'
import { connect } from '../registry/connect.ts'
import { folder, made, push, setUpFolder, temp } from './pushing.ts'

setUpFolder()

const IMAGE = `ghcr.io/owner/app@sha256:${'1'.repeat(64)}`
const PATH = process.env.PATH
let output: string

beforeEach(() => {
  output = ''
  jest.spyOn(process.stdout, 'write').mockImplementation((text) => {
    output += String(text)
    return true
  })
})
afterEach(() => {
  jest.restoreAllMocks()
  process.env.PATH = PATH
})

/** Returns the error of a test, if it fails. */
async function run(script: string): Promise<ActionError | undefined> {
  const asked = { script, image: IMAGE, system: 'x86_64-linux', storePath: '/nix/store/image' }
  const error = await testImage(asked, temp, jobLog).catch((thrown: unknown) => thrown)
  if (error === undefined || error instanceof ActionError) return error
  throw error
}

describe('a script that tests an image', () => {
  test('gets the image, the system and the store path', async () => {
    expect(await run('echo "$IMAGE, $SYSTEM, $STORE_PATH"')).toBeUndefined()
    expect(output).toContain(`::group::Test ${IMAGE}`)
    expect(output).toContain(`\n${IMAGE}, x86_64-linux, /nix/store/image\n`)
    expect(output).toMatch(/\nThe test of ghcr\.io\/owner\/app@sha256:1+ passed in \d+\.\d s\n$/)
  })

  test('is named by its error with its exit code and its last lines, in order', async () => {
    const error = await run('for i in {1..40}; do echo "out $i"; echo "err $i" >&2; done\nexit 3')
    expect(error).toBeInstanceOf(ImageError)
    expect(error?.parts.message).toBe(`The test of ${IMAGE} for x86_64-linux failed with exit code 3`)
    const last = Array.from({ length: 15 }, (_, at) => [`out ${26 + at}`, `err ${26 + at}`])
    expect(error?.parts.detail).toBe(last.flat().join('\n'))
    expect(error?.parts.hint).toContain('not handed over to merge, and no tag has moved')
    expect(output).not.toContain('passed')
  })

  test.each([
    ['Error response from daemon: denied', true],
    ['docker: Error response from daemon: Head "https://ghcr.io/v2/owner/app/manifests/latest": unauthorized', true],
    ['bash: /app: Permission denied', false],
  ])('needs a login of its own to pull a private image: %s', async (line, expected) => {
    const { hint = '' } = (await run(`echo '${line}'; exit 1`))?.parts ?? {}
    expect(hint.includes('log in before this step:\n  - uses: docker/login-action@v4')).toBe(expected)
  })

  test.each([
    ['a command fails', 'false\necho unreached', 1],
    ['a part of a pipe fails', 'exit 7 | true\necho unreached', 7],
    ['a command is missing', 'no-such-command', 127],
    ['a signal ends it', 'kill -TERM $$', 143],
  ])('fails if %s', async (_, script, code) => {
    expect((await run(script))?.message).toContain(`failed with exit code ${code}\n`)
    expect(output).not.toContain('unreached')
  })

  test('may contain quotes, comments, several lines and programs that read their input', async () => {
    expect(await run(`# a 'comment'\ncat\nread -r line || true\necho "it's $(printf '%s' '"$HOME"')"`)).toBeUndefined()
    expect(output).toContain(`\nit's "$HOME"\n`)
  })

  test('can write to /dev/stdout and /dev/stderr', async () => {
    expect(await run('echo one > /dev/stdout; echo two | tee /dev/stderr')).toBeUndefined()
    expect(output).toContain('\none\ntwo\ntwo\n')
  })

  test('can’t run workflow commands', async () => {
    await run('echo "::set-output name=digest::other"')
    const lines = output.split('\n')
    const stop = lines.findIndex((line) => line.startsWith('::stop-commands::'))
    const command = lines.indexOf('::set-output name=digest::other')
    const resume = lines.indexOf(`::${lines[stop]?.slice('::stop-commands::'.length)}::`)
    expect([stop > -1, stop < command, command < resume]).toEqual([true, true, true])
  })

  test('gets the registry login, and no secret of the step', async () => {
    const before = { ...process.env }
    const secrets = [
      'INPUT_TOKEN',
      'ACTIONS_RUNTIME_TOKEN',
      'ACTIONS_ID_TOKEN_REQUEST_TOKEN',
      'GITHUB_TOKEN',
      'GH_TOKEN',
    ]
    const files = ['GITHUB_ENV', 'GITHUB_OUTPUT', 'GITHUB_STEP_SUMMARY', 'GITHUB_PATH', 'GITHUB_STATE']
    try {
      for (const name of [...secrets, ...files]) process.env[name] = 'a secret of the step'
      Object.assign(process.env, { DOCKER_CONFIG: '/logins', REGISTRY_AUTH_FILE: '/auth.json' })
      expect(await run('env')).toBeUndefined()
    } finally {
      process.env = before
    }
    expect(output).toContain('\nDOCKER_CONFIG=/logins\n')
    expect(output).toContain('\nREGISTRY_AUTH_FILE=/auth.json\n')
    expect(output).not.toContain('a secret of the step')
  })

  test('that leaves a process running ends it', async () => {
    const file = join(folder, 'pid')
    expect(await run(`sleep 1000 > /dev/null 2>&1 & echo $! > '${file}'`)).toBeUndefined()
    const pid = Number(await readFile(file, 'utf8'))
    while (await isRunning(pid)) await sleep(5)
  })

  test('is checked for bash before the build', async () => {
    process.env.PATH = folder
    await expect(checkTest('true')).rejects.toThrow('needs bash, which is not on the PATH of the runner')
    await expect(checkTest('')).resolves.toBeUndefined()
  })
})

async function isRunning(pid: number): Promise<boolean> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => 'State:\tZ')
  return !/^State:\s+[ZX]/m.test(status)
}

describe('a pushed image', () => {
  test('is complete at the registry, without its tag, when it is tested', async () => {
    const { server, client } = await connect()
    const seen: unknown[] = []
    const beforeTag = async ([image]: readonly ImageManifest[]) => {
      seen.push([...server.tags('app')], server.manifest('app', image?.digest ?? '') !== undefined)
    }
    const { manifest } = await push(made, client, { beforeTag })
    expect(seen).toEqual([[], true])
    expect(Object.fromEntries(server.tags('app'))).toEqual({ v1: manifest.digest })
  })

  test('that fails its test gets no tag', async () => {
    const { server, client } = await connect()
    const beforeTag = async () => {
      throw new ImageError({ message: 'the test failed' })
    }
    await expect(push(made, client, { beforeTag })).rejects.toThrow('the test failed')
    expect([...server.tags('app')]).toEqual([])
  })
})
