import { access, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { type ProgramEnd, startStreaming } from '../../src/process/stream.ts'
import { MEMORY_LIMIT, measure } from '../support/peak.ts'

let folder: string
let files = 0

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'stream-'))
})

afterAll(async () => {
  await rm(folder, { recursive: true })
})

interface Streamed extends ProgramEnd {
  readonly output: string
}

/** Runs a shell script and reads all of its output. The script gets the path of a file, which the test can read. */
async function stream(script: string, { lingerMs = 50, pauseMs = 0 } = {}): Promise<Streamed & { file: string }> {
  const file = join(folder, `file-${files++}`)
  const program = startStreaming('/bin/sh', ['-c', script, 'sh', file], { trust: 'no-logins', lingerMs })
  try {
    const chunks: Buffer[] = []
    for await (const chunk of program.output) {
      chunks.push(Buffer.from(chunk))
      if (pauseMs > 0) await sleep(pauseMs)
    }
    return { ...(await program.ended), output: Buffer.concat(chunks).toString(), file }
  } finally {
    program.end()
  }
}

async function expectGone(file: string): Promise<void> {
  const pid = Number(await readFile(file, 'utf8'))
  // A killed process is gone once its parent has waited for it.
  while (await isRunning(pid)) await sleep(5)
}

async function isRunning(pid: number): Promise<boolean> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => 'State:\tZ')
  return !/^State:\tZ/m.test(status)
}

describe('the output of a program', () => {
  test('is streamed completely, and the last lines of the log are kept without colours', async () => {
    const { output, log, failure } = await stream(
      'seq 100000; for i in $(seq 50); do printf "\\033[31mline $i\\033[0m\\n" >&2; done',
    )
    expect(output).toMatch(/^1\n[\d\n]*\n100000\n$/)
    expect(log).toMatch(/^line 36\n(line \d+\n)*line 50$/)
    expect(failure).toBeUndefined()
  })

  test.each([
    ['exit 3', 'it ended with status 3'],
    ['kill -KILL $$', 'it ended with SIGKILL'],
  ])('ends with a failure after: %s', async (script, failure) => {
    expect(await stream(script)).toMatchObject({ failure, output: '' })
  })

  test('is complete even if the reader is slow and the program has long ended', async () => {
    // More than a pipe holds. Reading takes much longer than the output may be silent.
    const { output } = await stream('head -c 300000 /dev/zero | tr "\\0" x', { lingerMs: 20, pauseMs: 100 })
    expect(output).toHaveLength(300_000)
  })

  test('is complete even if a process that the program leaves behind writes the end of it', async () => {
    const { output } = await stream('{ sleep 0.05; echo last; } & echo first', { lingerMs: 10_000 })
    expect(output).toBe('first\nlast\n')
  })
})

describe('a program ends', () => {
  test('even if its child keeps the output open', async () => {
    const { output, failure, file } = await stream('sleep 600 & echo $! > "$1"; echo out')
    expect({ output, failure }).toEqual({ output: 'out\n', failure: undefined })
    await expectGone(file)
  })

  test('even if a child that has left its process group keeps the output open', async () => {
    const { output, failure, file } = await stream('setsid sh -c \'echo $$ > "$0"; exec sleep 600\' "$1" & echo out')
    expect({ output, failure }).toEqual({ output: 'out\n', failure: undefined })
    // The action can't end such a process, so this test does.
    process.kill(await pidIn(file))
  })

  test('even if such a child keeps writing small amounts', async () => {
    const trickle = 'trap "" PIPE; echo $$ > "$0"; while echo x 2> "$0.end"; do sleep 0.01; done'
    const { output, file } = await stream(`setsid sh -c '${trickle}' "$1" & echo out`, { lingerMs: 400 })
    expect(output).toMatch(/^out\n(x\n)+$|^(x\n)*out\n(x\n)+$/)
    // The closed pipe ends it.
    await expectGone(file)
  })

  test('even if it ignores SIGTERM', async () => {
    const file = join(folder, `file-${files++}`)
    const script = 'trap "" TERM INT HUP; echo $$ > "$0"; while :; do echo x; done'
    const program = startStreaming('/bin/sh', ['-c', script, file], { trust: 'no-logins' })
    for await (const chunk of program.output) if (chunk.length > 0) break
    program.end()
    // SIGKILL or the closed pipe ends it, whichever comes first.
    expect((await program.ended).failure).toMatch(/SIGKILL|SIGPIPE/)
    await expectGone(file)
  })

  test('even if it closes its output and keeps running', async () => {
    const { output, failure, file } = await stream('echo $$ > "$1"; echo out; exec >&-; exec sleep 600')
    expect({ output, failure }).toEqual({ output: 'out\n', failure: 'it closed its standard output, but did not end' })
    await expectGone(file)
  })

  test('even if its output is not read', async () => {
    const program = startStreaming('/bin/sh', ['-c', 'exec cat /dev/zero'], { trust: 'no-logins', reads: true })
    program.end()
    expect(await program.ended).toEqual({ failure: 'it ended with SIGKILL', log: '' })
  })
})

async function pidIn(file: string): Promise<number> {
  for (;;) {
    const pid = Number(await readFile(file, 'utf8').catch(() => ''))
    if (pid > 0) return pid
    await sleep(5)
  }
}

describe('a program that can’t be started', () => {
  test.each<[string, () => Promise<string>, RegExp]>([
    ['because it does not exist', async () => join(folder, 'absent'), /ENOENT/],
    ['because its interpreter is a symbolic link to itself', circle, /ELOOP/],
    ['because its name is invalid', async () => `${folder}/a\0b`, /null bytes/],
    ['because it is a folder', async () => folder, /EACCES/],
  ])('fails with the reason: %s', async (_, make, detail) => {
    const program = startStreaming(await make(), [], { trust: 'no-logins' })
    const chunks: Buffer[] = []
    for await (const chunk of program.output) chunks.push(chunk)
    expect(chunks).toEqual([])
    expect((await program.ended).failure).toMatch(detail)
    program.end()
  })

  async function circle(): Promise<string> {
    await symlink('there', join(folder, 'here'))
    await symlink('here', join(folder, 'there'))
    const path = join(folder, 'in-circles')
    await writeFile(path, `#!${join(folder, 'here')}\n`, { mode: 0o755 })
    await access(path)
    return path
  }
})

test.each([
  ['lines', 'yes "a line of the log" | head -c 400000000 >&2'],
  ['one line', 'head -c 400000000 /dev/zero >&2'],
])('keeps only the end of a log of 400 MB: %s', async (_, script) => {
  const { value, peak } = await measure(
    `const { startStreaming } = await load('process/stream.ts')
    const program = startStreaming('/bin/sh', ['-c', args[0]], { trust: 'no-logins' })
    for await (const _ of program.output);
    return (await program.ended).log.length`,
    script,
  )
  expect(value).toBeLessThan(100_000)
  expect(peak).toBeLessThan(MEMORY_LIMIT)
})
