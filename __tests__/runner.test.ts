import { access, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { startArtifactService } from './support/artifact-service.ts'
import { type ActionCall, type ActionRun, prepareRunner, runAction } from './support/runner.ts'

const metadata = `
name: fixture
inputs:
  name of it: { description: d, required: true }
  kebab-case: { description: d, default: true }
  system: { description: d, default: "\${{ matrix.system }}" }
  where: { description: d, default: "\${{ github.repository }} on \${{ runner.os }}, one of \${{ strategy.job-total }}" }
  token: { description: d, default: "\${{ github.token }}" }
runs: { using: node24, main: main.mjs }
`

let actionFolder: string

beforeAll(async () => {
  actionFolder = await mkdtemp(join(tmpdir(), 'runner-test-'))
  await writeFile(join(actionFolder, 'action.yml'), metadata)
})

afterAll(() => rm(actionFolder, { recursive: true }))

describe('inputs', () => {
  test('are the given values, or else the defaults with the values of the job', async () => {
    const env = await environment({
      inputs: { 'name of it': 'a b' },
      matrix: { system: 'aarch64-linux' },
      jobTotal: 2,
      repository: 'some/where',
      token: 'ghs_1',
    })
    expect(inputs(env)).toEqual({
      INPUT_NAME_OF_IT: 'a b',
      'INPUT_KEBAB-CASE': 'true',
      INPUT_SYSTEM: 'aarch64-linux',
      INPUT_WHERE: 'some/where on Linux, one of 2',
      INPUT_TOKEN: 'ghs_1',
    })
  })

  test('are empty if they have no default or the job has no such value', async () => {
    const env = await environment({ inputs: {} })
    expect(inputs(env)).toMatchObject({ INPUT_NAME_OF_IT: '', INPUT_SYSTEM: '', INPUT_TOKEN: '' })
  })

  test('that are set to an empty text stay empty', async () => {
    const env = await environment({ inputs: { 'kebab-case': '' } })
    expect(env['INPUT_KEBAB-CASE']).toBe('')
  })

  test('that the action does not define are an error', async () => {
    await expect(environment({ inputs: { kebabCase: 'x' } })).rejects.toThrow("Unexpected input(s) 'kebabCase'")
  })

  test("of this action are read from this checkout's action.yml", async () => {
    const runner = await prepareRunner({ inputs: { mode: 'build' }, matrix: { system: 'x86_64-linux' }, jobTotal: 3 })
    expect(inputs(runner.env)).toMatchObject({
      INPUT_MODE: 'build',
      INPUT_IMAGE: '',
      INPUT_SYSTEM: 'x86_64-linux',
      'INPUT_JOB-TOTAL': '3',
    })
    expect(runner.main).toMatch(/dist\/index\.js$/)
    await runner.close()
  })
})

describe('the environment', () => {
  test("describes the job, and contains nothing of the developer's environment", async () => {
    const env = await environment({
      inputs: {},
      job: 'image',
      runId: '42',
      runAttempt: 3,
      sha: 'f'.repeat(40),
      repository: 'o/r',
      ref: 'refs/pull/7/merge',
      eventName: 'pull_request',
    })
    expect(env).toMatchObject({
      CI: 'true',
      GITHUB_ACTIONS: 'true',
      GITHUB_JOB: 'image',
      GITHUB_RUN_ID: '42',
      GITHUB_RUN_ATTEMPT: '3',
      GITHUB_SHA: 'f'.repeat(40),
      GITHUB_REPOSITORY: 'o/r',
      GITHUB_REPOSITORY_OWNER: 'o',
      GITHUB_REF: 'refs/pull/7/merge',
      GITHUB_REF_NAME: '7/merge',
      GITHUB_EVENT_NAME: 'pull_request',
      GITHUB_SERVER_URL: 'https://github.com',
      RUNNER_OS: 'Linux',
      RUNNER_ARCH: { x64: 'X64', arm64: 'ARM64' }[process.arch as string],
      PATH: process.env.PATH,
    })
    expect(env.HOME).not.toBe(process.env.HOME)
    const passedOn = ['PATH', 'TMPDIR', 'LANG', 'NODE_EXTRA_CA_CERTS', 'HOME']
    expect(Object.keys(env).filter((name) => !/^(GITHUB|RUNNER|INPUT)_/.test(name) && name !== 'CI')).toEqual(
      passedOn.filter((name) => process.env[name] !== undefined),
    )
  })

  test('can be changed by the caller, who can add, replace and remove variables', async () => {
    const env = await environment({ inputs: {}, env: { EXTRA: '1', RUNNER_OS: 'macOS', GITHUB_SHA: undefined } })
    expect(env).toMatchObject({ EXTRA: '1', RUNNER_OS: 'macOS' })
    expect(env).not.toHaveProperty('GITHUB_SHA')
  })

  test("includes the run's artifact service, if any", async () => {
    const artifacts = await startArtifactService()
    expect(await environment({ inputs: {}, artifacts })).toMatchObject(artifacts.env)
    expect(await environment({ inputs: {} })).not.toHaveProperty('ACTIONS_RESULTS_URL')
    await artifacts.close()
  })

  test('also works for code in this process: its files can be read, and are removed afterwards', async () => {
    const runner = await prepareRunner({ inputs: {}, actionFolder })
    await writeFile(String(runner.env.GITHUB_OUTPUT), 'digest=sha256:1\n')
    await writeFile(String(runner.env.GITHUB_STEP_SUMMARY), '# Done\n')
    await writeFile(join(String(runner.env.RUNNER_TEMP), 'left'), '')

    expect(await runner.readOutputs()).toEqual({ digest: 'sha256:1' })
    expect(await runner.readSummary()).toBe('# Done\n')
    expect(await runner.tempLeft()).toEqual(['left'])

    await runner.close()
    for (const name of ['HOME', 'RUNNER_TEMP', 'GITHUB_WORKSPACE', 'GITHUB_OUTPUT']) {
      await expect(access(String(runner.env[name]))).rejects.toThrow('ENOENT')
    }
  })
})

describe('a run', () => {
  test('has the whole environment, names with hyphens included', async () => {
    const script = `console.log(JSON.stringify({ ...process.env }))`
    const { log } = await run(script, { env: { EXTRA: '1' } })
    const env = JSON.parse(log)
    expect(env).toMatchObject({ 'INPUT_KEBAB-CASE': 'true', EXTRA: '1', GITHUB_ACTIONS: 'true' })
    expect(env).not.toHaveProperty('NODE_OPTIONS')
  })

  test('reports exit code, outputs, summary and the remaining files in RUNNER_TEMP', async () => {
    const { exitCode, outputs, summary, tempLeft } = await run(`
      import { appendFileSync, mkdirSync, writeFileSync } from 'node:fs'
      appendFileSync(process.env.GITHUB_OUTPUT, 'one=a=b<<c\\ntwo<<EOF\\n\\nx=1\\n\\nEOF\\nempty=\\nnothing<<E\\nE\\n')
      appendFileSync(process.env.GITHUB_STEP_SUMMARY, '# Title\\n')
      mkdirSync(process.env.RUNNER_TEMP + '/sub')
      writeFileSync(process.env.RUNNER_TEMP + '/sub/file', '')
      process.exitCode = 3
    `)
    expect(exitCode).toBe(3)
    expect(outputs).toEqual({ one: 'a=b<<c', two: '\nx=1\n', empty: '', nothing: '' })
    expect(summary).toBe('# Title\n')
    expect(tempLeft).toEqual(['sub', 'sub/file'])
  })

  test.each([
    ['no separator', "Invalid format 'no separator'"],
    ['name<<EOF\nvalue\n', "Matching delimiter not found 'EOF'"],
  ])('fails on an output file of %j, as the runner does', async (text, message) => {
    const script = `import { writeFileSync } from 'node:fs'; writeFileSync(process.env.GITHUB_OUTPUT, ${JSON.stringify(text)})`
    await expect(run(script)).rejects.toThrow(message)
  })

  test('has the workspace as its working directory', async () => {
    const script = `console.log(process.cwd(), process.cwd() === process.env.GITHUB_WORKSPACE)`
    expect((await run(script)).log).toMatch(/ true\n$/)
    expect((await run(script, { cwd: actionFolder })).log).toBe(`${actionFolder} true\n`)
  })

  test('keeps standard output and error in the order in which they were written', async () => {
    const lines: string[] = []
    const script = `
      for (let i = 0; i < 50; i++) { console.log('out', i); console.error('err', i) }
      process.stdout.write('no newline at the end')
    `
    const { log } = await run(script, { onLog: (line) => lines.push(line) })
    const expected = Array.from({ length: 50 }, (_, i) => [`out ${i}`, `err ${i}`]).flat()
    expect(lines).toEqual([...expected, 'no newline at the end'])
    expect(log).toBe(`${lines.join('\n')}\n`)
  })

  test('collects annotations, with their titles, decoded', async () => {
    const { errors, warnings, notices, log } = await run(`
      console.log('::error title=50%25%3A a%2Cb,file=x::100%25%0Asecond line, %3A kept')
      console.log('  ::error::plain')
      console.error('::warning::on standard error')
      console.log('::notice file=a.nix,line=3::look')
      console.log('not at the start ::error::so not one')
      console.log('::unknown::command')
    `)
    expect(errors).toEqual(['50%: a,b: 100%\nsecond line, %3A kept', 'plain'])
    expect(warnings).toEqual(['on standard error'])
    expect(notices).toEqual(['look'])
    expect(log.split('\n')).toEqual([
      '##[error]100%',
      'second line, %3A kept',
      '##[error]plain',
      '##[warning]on standard error',
      '##[notice]look',
      'not at the start ::error::so not one',
      '::unknown::command',
      '',
    ])
  })

  test('shows groups, and debug messages only if asked for', async () => {
    const script = `console.log('::group::Build\\n::debug::detail\\nx\\n::endgroup::')`
    expect((await run(script)).log).toBe('##[group]Build\nx\n##[endgroup]\n')
    expect((await run(script, { env: { RUNNER_DEBUG: '1' } })).log).toContain('##[debug]detail\n')
  })

  test('hides a secret only after it is masked', async () => {
    const { log, masks, warnings, summary } = await run(`
      import { appendFileSync } from 'node:fs'
      console.log('hunter2')
      console.log('::add-mask::hunter2')
      console.log('::add-mask::hunter2345%0Asecond')
      console.log('::add-mask::')
      console.error('hunter2 hunter2345 second')
      console.log('::warning::hunter2')
      appendFileSync(process.env.GITHUB_STEP_SUMMARY, 'hunter2')
    `)
    expect(log).toBe('hunter2\n*** *** ***\n##[warning]***\n')
    expect(masks).toEqual(['hunter2', 'hunter2345\nsecond', ''])
    expect(warnings).toEqual(['***'])
    expect(summary).toBe('***')
  })

  test("hides the job's own tokens from the start", async () => {
    const artifacts = await startArtifactService()
    const script = `console.log(process.env.INPUT_TOKEN, process.env.ACTIONS_RUNTIME_TOKEN)`
    const { log, masks } = await run(script, { artifacts, token: 'ghs_secret' })
    expect(log).toBe('*** ***\n')
    expect(masks).toEqual([])
    await artifacts.close()
  })

  test('ignores commands while they are stopped', async () => {
    const { errors, log } = await run(`
      console.log('::stop-commands::some-token\\n::error::from a build\\n::some-token::\\n::error::from the action')
    `)
    expect(errors).toEqual(['from the action'])
    expect(log).toBe('::error::from a build\n##[error]from the action\n')
  })

  test('can be cancelled, and receives a signal', async () => {
    const controller = new AbortController()
    const script = `
      process.on('SIGINT', () => { console.log('cancelled'); process.exit(130) })
      setInterval(() => {}, 1000)
      console.log('ready')
    `
    const { exitCode, log } = await run(script, { signal: controller.signal, onLog: () => controller.abort() })
    expect(exitCode).toBe(130)
    expect(log).toBe('ready\ncancelled\n')
  })

  test('that is killed by a signal has its exit code', async () => {
    expect((await run(`process.kill(process.pid, 'SIGKILL'); setInterval(() => {}, 1000)`)).exitCode).toBe(137)
  })

  test('leaves no files', async () => {
    const { log } = await run(`console.log(process.env.RUNNER_TEMP); console.log(process.env.HOME)`)
    for (const path of log.trim().split('\n')) await expect(access(path)).rejects.toThrow('ENOENT')
  })
})

async function environment(call: ActionCall): Promise<Readonly<Record<string, string>>> {
  const runner = await prepareRunner({ actionFolder, ...call })
  await runner.close()
  return runner.env
}

function inputs(env: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  return Object.fromEntries(Object.entries(env).filter(([name]) => name.startsWith('INPUT_')))
}

async function run(script: string, call: Omit<ActionCall, 'inputs'> = {}): Promise<ActionRun> {
  await writeFile(join(actionFolder, 'main.mjs'), script)
  return runAction({ inputs: {}, actionFolder, ...call })
}
