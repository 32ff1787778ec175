import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from '@jest/globals'
import { runCommand } from '../../src/process/command.ts'
import { MEMORY_LIMIT, measure } from '../support/peak.ts'

test('returns the whole output of a program, and the end of its log without colours', async () => {
  const script = 'seq 100000; seq 100000 >&2; printf "\\033[31mlast\\033[0m\\r\\n" >&2; exit 3'
  const result = await runCommand('sh', ['-c', script], { trust: 'no-secrets' })
  expect(result?.exitCode).toBe(3)
  expect(result?.stdout.split('\n').slice(-3)).toEqual(['99999', '100000', ''])
  expect(result?.stdout).toMatch(/^1\n2\n/)
  expect(result?.log).toMatch(/^\d+\n[\d\n]*\n100000\nlast\n$/)
  expect(result?.log.length).toBeGreaterThan(250_000)
  expect(result?.log.length).toBeLessThan(270_000)
})

test('passes on each line of the log, however it is split into chunks', async () => {
  const write = process.stdout.write
  process.stdout.write = () => true
  const lines: string[] = []
  try {
    await runCommand('sh', ['-c', 'printf a >&2; printf "b\\nc\\n\\nd" >&2'], {
      trust: 'no-secrets',
      shown: (line) => void lines.push(line),
    })
  } finally {
    process.stdout.write = write
  }
  expect(lines).toEqual(['ab', 'c', '', 'd'])
})

test('a program that reads its standard input does not wait for input', async () => {
  expect(await runCommand('sh', ['-c', 'cat; echo done'], { trust: 'no-secrets' })).toMatchObject({
    exitCode: 0,
    stdout: 'done\n',
  })
})

test('a program that a signal ends, or that can’t be started, has failed', async () => {
  expect((await runCommand('sh', ['-c', 'kill -TERM $$'], { trust: 'no-secrets' }))?.exitCode).toBe(143)
  const folder = await mkdtemp(join(tmpdir(), 'command-'))
  const path = join(folder, 'program')
  await writeFile(path, '#!/absent/interpreter\n', { mode: 0o755 })
  try {
    expect(await runCommand(path, [], { trust: 'no-secrets' })).toMatchObject({
      exitCode: 126,
      log: expect.stringContaining('ENOENT'),
    })
  } finally {
    await rm(folder, { recursive: true })
  }
})

test('does not wait for a process that the program leaves behind, even if it keeps the output open', async () => {
  const result = await runCommand('sh', ['-c', 'sleep 600 & echo $!; echo e >&2'], {
    trust: 'no-secrets',
    lingerMs: 50,
  })
  process.kill(Number(result?.stdout))
  expect(result).toMatchObject({ exitCode: 0, log: 'e\n' })
})

test('a program that the system has no resources for has failed', async () => {
  // Longer than Linux allows for one argument.
  expect(await runCommand('true', ['x'.repeat(200_000)], { trust: 'no-secrets' })).toMatchObject({
    exitCode: 126,
    log: expect.stringContaining('E2BIG'),
  })
  const module = new URL('../../src/process/command.ts', import.meta.url)
  // Uses up all file descriptors first.
  const script = `import { openSync } from 'node:fs'
    import { runCommand } from ${JSON.stringify(module.href)}
    await runCommand('true', [], { trust: 'no-secrets' })
    try { for (;;) openSync('/dev/null') } catch {}
    console.log(JSON.stringify(await runCommand(process.execPath, [], { trust: 'no-secrets' })))`
  const node = [process.execPath, '--input-type=module', '--eval', script]
  const result = await runCommand('sh', ['-c', 'ulimit -n 100; exec "$@"', 'sh', ...node], { trust: 'no-secrets' })
  expect(JSON.parse(result?.stdout ?? '')).toMatchObject({ exitCode: 126, log: expect.stringContaining('EMFILE') })
})

test('returns undefined for a program that is not installed', async () => {
  expect(await runCommand('no-such-program', [], { trust: 'no-secrets' })).toBeUndefined()
})

test('kills a program that floods its output, and says so in its log', async () => {
  const { value, peak } = await measure(
    `const { runCommand } = await load('process/command.ts')
    const { exitCode, stdout, log } = await runCommand('sh', ['-c', 'exec yes'], { trust: 'no-secrets' })
    return { exitCode, length: stdout.length, log }`,
  )
  expect(value).toEqual({
    exitCode: 125,
    length: 16 * 1024 * 1024,
    log: expect.stringContaining('sh wrote more than 16777216 bytes to its standard output.'),
  })
  expect(peak).toBeLessThan(MEMORY_LIMIT)
})

test.each([
  ['lines', 'yes "a line of the log" | head -c 400000000 >&2'],
  ['one line', 'head -c 400000000 /dev/zero >&2'],
  ['single bytes', `exec "${process.execPath}" -e 'for (let i = 0; i < 3e5; i++) fs.writeSync(2, "x")'`],
])('keeps only the end of a flooded log: %s', async (_, script) => {
  const { value, peak } = await measure(
    `const { runCommand } = await load('process/command.ts')
    const { exitCode, log } = await runCommand('sh', ['-c', args[0]], { trust: 'no-secrets', shown: () => {} })
    return { exitCode, length: log.length }`,
    script,
  )
  expect(value).toEqual({ exitCode: 0, length: expect.any(Number) })
  expect((value as { readonly length: number }).length).toBeLessThanOrEqual(256 * 1024)
  expect(peak).toBeLessThan(MEMORY_LIMIT)
})

test('kills a program that exceeds its time limit, and the processes that it has started', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'command-'))
  const pids = join(folder, 'pids')
  try {
    const script = 'trap "" TERM; sleep 600 & echo $! > "$0"; while :; do sleep 600; done'
    const result = await runCommand('sh', ['-c', script, pids], { trust: 'no-secrets', timeoutMs: 500 })
    expect(result?.exitCode).toBe(137)
    const pid = Number(await readFile(pids, 'utf8'))
    const state = () => readFile(`/proc/${pid}/status`, 'utf8').catch(() => 'State:\tZ')
    while (!/^State:\tZ/m.test(await state())) await sleep(5)
  } finally {
    await rm(folder, { recursive: true })
  }
})
