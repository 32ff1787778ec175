import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { deflateRawSync } from 'node:zlib'
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals'
import fc from 'fast-check'
import { jobLog } from '../../src/actions/log.ts'
import { RecordError } from '../../src/errors.ts'
import { type ArtifactSettings, NoArtifactService } from '../../src/record/artifact-client.ts'
import { artifactName, readFoundRecord } from '../../src/record/artifact-name.ts'
import { readRecords } from '../../src/record/read-artifacts.ts'
import { type DigestRecord, parseRecord, serializeRecord } from '../../src/record/record.ts'
import { writeRecord } from '../../src/record/write-artifact.ts'
import {
  type ArtifactFault,
  type ArtifactService,
  archiveOf,
  startArtifactService,
} from '../support/artifact-service.ts'
import { makeRecord } from '../support/record.ts'

const record: DigestRecord = makeRecord({ job: { id: 'build', total: 2 }, run: { id: '42', attempt: 1 } })
const OWN = { own: true, pattern: '' }
const other = { ...record, digest: `sha256:${'2'.repeat(64)}` } as const
const name = artifactName(record)
const second = artifactName(record, 2)
const COMMIT = 'c'.repeat(40)
const DIGEST = `sha256:${'d'.repeat(64)}` as const
const DETAILS = { sbom: DIGEST, revision: COMMIT }

// The client leaves timers behind, for which the test process would wait.
const { setInterval, setTimeout } = globalThis
globalThis.setInterval = ((...args: Parameters<typeof setInterval>) =>
  setInterval(...args).unref()) as typeof setInterval
globalThis.setTimeout = ((...args: Parameters<typeof setTimeout>) => setTimeout(...args).unref()) as typeof setTimeout

const environment = { ...process.env }
let folder: string
let context: ArtifactSettings
let service: ArtifactService
let said: string

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'artifacts-'))
  context = { tempFolder: folder, log: jobLog }
  said = ''
  // The client tells all it does on standard output.
  jest.spyOn(process.stdout, 'write').mockImplementation((text) => {
    said += String(text)
    return true
  })
  service = await startArtifactService()
  Object.assign(process.env, service.env)
})

afterEach(async () => {
  await service.close()
  process.env = { ...environment }
  jest.restoreAllMocks()
  await rm(folder, { recursive: true })
})

/** The records in the run's artifacts, by the artifacts' names. */
async function stored(): Promise<Readonly<Record<string, DigestRecord>>> {
  const artifacts = await service.artifacts()
  return Object.fromEntries(
    artifacts.map((artifact) => [
      artifact.name,
      parseRecord([...artifact.files.values()].map(String).join(), artifact.name),
    ]),
  )
}

async function read(): Promise<readonly DigestRecord[]> {
  const found = await readRecords(OWN, context)
  return found.flatMap((one) => (one.kind === 'record' ? [readFoundRecord(one, { id: '42', attempt: 3 })] : []))
}

async function expectFailure(work: Promise<unknown>, ...parts: readonly (string | RegExp)[]): Promise<void> {
  await expect(work).rejects.toBeInstanceOf(RecordError)
  for (const part of parts) await expect(work).rejects.toThrow(part)
}

describe('the name of an artifact', () => {
  const part = fc.stringMatching(/^[a-z0-9]{1,8}$/)
  const image = fc
    .tuple(part, fc.array(fc.tuple(fc.constantFrom('/', '-', '.', '_', '__'), part), { minLength: 1, maxLength: 30 }))
    .map(([host, parts]) => `${host}.io:5000/${parts.map(([separator, text]) => text + separator).join('')}x`)

  test('holds no character that artifacts can’t have, and fits the service', () => {
    fc.assert(
      fc.property(image, (one) => {
        expect(artifactName({ image: one, system: 'x86_64-linux' })).toMatch(
          /^image-digest-[A-Za-z0-9._-]{1,200}-x86_64-linux$/,
        )
      }),
    )
  })

  test('is never shared by two images or two systems', () => {
    const system = fc.constantFrom('x86_64-linux', 'aarch64-linux', 'i686-linux')
    fc.assert(
      fc.property(image, image, system, system, (one, another, first, second) => {
        fc.pre(one !== another || first !== second)
        expect(artifactName({ image: one, system: first })).not.toBe(artifactName({ image: another, system: second }))
      }),
    )
  })

  test.each([
    ['ghcr.io/owner/app', 'ghcr.io/owner-app'],
    ['ghcr.io/owner/app_api', 'ghcr.io/owner/app__api'],
    ['127.0.0.1:5000/app', '127.0.0.1/5000/app'],
    [`ghcr.io/${'x'.repeat(200)}`, `ghcr.io/${'x'.repeat(201)}`],
  ])('keeps %s and %s apart', (one, another) => {
    expect(artifactName({ image: one, system: 'x86_64-linux' })).not.toBe(
      artifactName({ image: another, system: 'x86_64-linux' }),
    )
  })
})

describe('writing', () => {
  test('a record is one artifact with one file of JSON, which merge reads', async () => {
    await writeRecord(record, 1, context)
    expect(await stored()).toEqual({ [name]: record })
    expect((await service.artifacts())[0]?.files.size).toBe(1)
    expect(await read()).toEqual([record])
  })

  test.each([1, 90])('it is kept for %i day(s)', async (days) => {
    await writeRecord(record, days, context)
    expect((await service.artifacts()).map(({ retentionDays }) => retentionDays)).toEqual([days])
  })

  test('each image and system has an artifact of its own', async () => {
    const records = [
      record,
      { ...record, image: 'ghcr.io/owner/app-api' },
      { ...record, system: 'x86_64-linux', platform: { os: 'linux', architecture: 'amd64' } },
    ]
    for (const one of records) await writeRecord(one, 1, context)
    expect(await service.artifacts()).toHaveLength(3)
    expect(await read()).toEqual(expect.arrayContaining(records))
  })

  test.each<[string, DigestRecord]>([
    ['a later attempt of the run replaces it', { ...other, run: { id: '42', attempt: 2 } }],
    ['the same digest once more replaces it', { ...record, job: { id: 'again' } }],
  ])('%s, and exactly one artifact remains', async (_, later) => {
    await writeRecord(record, 1, context)
    await writeRecord(later, 1, context)
    expect(await stored()).toEqual({ [name]: later })
    expect(await read()).toEqual([later])
  })

  test('equal builds at once, of the first attempt and of a later one, hand over the same record', async () => {
    for (const attempt of [1, 2]) {
      const equal = { ...record, run: { ...record.run, attempt } }
      await Promise.all(Array.from({ length: 5 }, () => writeRecord(equal, 1, context)))
      expect([...new Set(Object.values(await stored()).map(serializeRecord))]).toEqual([serializeRecord(equal)])
    }
  })

  test.each([
    ['one that is there already', record, record],
    ['one with its fields in another order', { revision: COMMIT, sbom: DIGEST, ...record }, { ...record, ...DETAILS }],
  ])('an equal record is not written again: %s', async (_, first, again) => {
    await writeRecord(first, 1, context)
    await writeRecord(again, 1, context)
    const methods = service.calls.map(({ method }) => method)
    expect(methods.filter((method) => method === 'FinalizeArtifact')).toHaveLength(1)
    expect(methods).not.toContain('DeleteArtifact')
    expect(await stored()).toEqual({ [name]: first })
  })

  test('the first attempt writes at once, without a look at what there is', async () => {
    await writeRecord(record, 1, context)
    expect(service.calls.map(({ method }) => method)).not.toContain('ListArtifacts')
  })

  test('two jobs that the runner calls the same, with different images, are an error that names both; both records stay', async () => {
    await writeRecord(record, 1, context)
    await expectFailure(
      writeRecord(other, 1, context),
      /^Two jobs of this run have pushed an image of ghcr\.io\/owner\/app for aarch64-linux\n/,
      `${record.digest} by the job "build"`,
      `${other.digest} by the job "build", this one`,
      /\n {2}variant: debug\nIf a single job[^\n]* start a new run/,
    )
    expect(await stored()).toEqual({ [name]: record, [second]: other })
  })

  test.each<[string, DigestRecord['job']]>([
    ['another job', { id: 'build-musl', total: 2 }],
    ['another job of the matrix', { id: 'build', total: 2, index: 1 }],
  ])('the record of %s is written beside the first', async (_, job) => {
    await writeRecord(record, 1, context)
    await writeRecord({ ...other, job }, 1, context)
    expect(await stored()).toEqual({ [name]: record, [second]: { ...other, job } })
  })

  test('each variant has an artifact of its own', async () => {
    const variants = [record, { ...other, variant: 'debug' }, { ...other, variant: 'stable' }]
    for (const one of variants) await writeRecord(one, 1, context)
    expect(Object.keys(await stored())).toEqual(variants.map((one) => artifactName(one)))
    expect(await read()).toEqual(expect.arrayContaining(variants))
  })

  describe('a re-run', () => {
    const built = { ...record, storePath: '/nix/store/other', digest: other.digest, run: { id: '42', attempt: 2 } }
    const job = { id: 'build', total: 2, index: 0, inputs: 'a' }
    const revision = '1'.repeat(40)

    test.each<[string, Partial<DigestRecord>, Partial<DigestRecord>]>([
      ['of another matrix index', { job }, { job: { ...job, index: 1 } }],
      ['with other inputs', { job }, { job: { ...job, inputs: 'b' } }],
      ['of another commit', { job, revision }, { job, revision: '2'.repeat(40) }],
      ['of another job', { job }, { job: { ...job, id: 'build-musl' } }],
      ['with other labels', { job }, { job: { ...job, inputs: 'b' }, storePath: record.storePath }],
    ])('never replaces the record of a job %s', async (_, first, later) => {
      await writeRecord({ ...record, ...first }, 1, context)
      await writeRecord({ ...built, ...later }, 1, context).catch(() => undefined)
      expect(await stored()).toEqual({ [name]: { ...record, ...first }, [second]: { ...built, ...later } })
    })

    test('of a job whose record another job holds is refused again, as in the first attempt', async () => {
      await writeRecord({ ...record, job }, 1, context)
      const own = { ...built, job: { ...job, inputs: 'b' } }
      for (const attempt of [1, 2, 3])
        await expectFailure(writeRecord({ ...own, run: { id: '42', attempt } }, 1, context), 'Two jobs of this run')
      expect(Object.values(await stored())).toEqual([
        { ...record, job },
        { ...own, run: { id: '42', attempt: 3 } },
      ])
    })

    test('of jobs that can’t be distinguished replaces neither record, if both exist', async () => {
      await writeRecord({ ...record, job }, 1, context)
      for (const attempt of [1, 2])
        await expectFailure(
          writeRecord({ ...other, job, run: { id: '42', attempt } }, 1, context),
          'Two jobs of this run',
        )
      expect(Object.values(await stored()).map(({ digest }) => digest)).toContain(record.digest)
    })

    test('replaces its own record, though it has built something else', async () => {
      await writeRecord({ ...record, job, revision }, 1, context)
      await writeRecord({ ...built, job, revision }, 1, context)
      expect(await stored()).toEqual({ [name]: { ...built, job, revision } })
    })
  })

  test.each<[string, Readonly<Record<string, unknown>>, string]>([
    ['of a later attempt', { run: { id: '42', attempt: 999 } }, 'it is of attempt 999, but this is attempt 1'],
    ['of another run', { run: { id: '41', attempt: 1 } }, 'it is of run 41, but this is run 42'],
    [
      'of another image',
      { image: 'ghcr.io/owner/api' },
      'it is of ghcr.io/owner/api for aarch64-linux, which belongs in ',
    ],
  ])('a record %s in its place is not replaced: the error says so', async (_, fields, detail) => {
    const forged = { ...other, ...fields }
    await service.put(name, { 'digest.json': serializeRecord(forged) })
    await expectFailure(
      writeRecord(record, 1, context),
      `The digest record in the artifact ${name} does not belong there\n`,
      detail,
      'It was not written by a build of this run.',
      'delete this artifact on the page of the run, and run this job again',
    )
    expect(await stored()).toEqual({ [name]: forged })
  })

  test('two such jobs at the same moment get the same error', async () => {
    service.setFault(({ method, count }) => {
      if (method === 'CreateArtifact' && count === 1) void service.put(name, { 'digest.json': serializeRecord(record) })
      return undefined
    })
    await expectFailure(writeRecord(other, 1, context), /Two jobs of this run have pushed/, record.digest, other.digest)
    expect(await stored()).toEqual({ [name]: record, [second]: other })
  })

  test('what an earlier attempt has left half-written does not keep a re-run from writing its own', async () => {
    await service.put(name, { 'digest.json': '{"schema":' })
    await writeRecord({ ...record, run: { id: '42', attempt: 2 } }, 1, context)
    expect(await read()).toHaveLength(1)
  })

  test('what can’t be fetched is not deleted: it may be another job’s', async () => {
    await writeRecord(record, 1, context)
    service.setFault(({ method }) => (method === 'GetSignedArtifactURL' ? { status: 403 } : undefined))
    await expectFailure(writeRecord(other, 1, context), "Can't read the artifact", 'not replaced')
    service.setFault()
    expect(await stored()).toEqual({ [name]: record })
  })

  test('nor does an upload that an earlier attempt has broken off, whose name is taken for good', async () => {
    service.setFault(({ method }) => (method === 'FinalizeArtifact' ? { status: 403 } : undefined))
    await expectFailure(writeRecord(record, 1, context), "Can't write the artifact")
    service.setFault()
    for (const attempt of [2, 3]) {
      const again = { ...record, run: { id: '42', attempt } }
      await writeRecord(again, 1, context)
      expect(await read()).toEqual([again])
    }
  })

  test('no files stay behind, neither after success nor after failure', async () => {
    await writeRecord(record, 1, context)
    await expect(writeRecord(other, 1, context)).rejects.toThrow()
    await read()
    expect(await readdir(folder)).toEqual([])
  })

  test('the signed URLs of the service are masked where the runner listens', async () => {
    await jobLog.group('Hand over the digest', () => writeRecord(record, 1, context))
    const lines = said.split('\n')
    const masks = lines.flatMap((line, at) => (line.startsWith('::add-mask::') ? [at] : []))
    expect(masks).not.toEqual([])
    const stopped = lines.findIndex((line) => line.startsWith('::stop-commands::'))
    const token = lines[stopped]?.slice('::stop-commands::'.length)
    const resumed = lines.lastIndexOf(`::${token}::`)
    expect(masks.filter((at) => at > stopped && at < resumed)).toEqual([])
  })
})

describe('a network error', () => {
  const later = { ...other, run: { id: '42', attempt: 2 } } as const
  const steps = ['ListArtifacts', 'DeleteArtifact', 'CreateArtifact', 'FinalizeArtifact']

  /** How long was waited, in milliseconds; no time passes. */
  const waits: number[] = []
  const wait = async (milliseconds: number) => waits.push(milliseconds)
  beforeEach(() => {
    waits.length = 0
  })

  function breakOnce(broken: string, how: 'reset' | 'lost'): void {
    let done = false
    service.setFault(({ method }) => {
      if (done || method !== broken) return undefined
      done = true
      return how
    })
  }

  test.each(steps.flatMap((step) => [[step, 'reset'] as const, [step, 'lost'] as const]))(
    'in %s does not lose the record, nor leave it twice (the request or its answer: %s)',
    async (step, how) => {
      await writeRecord(record, 1, context)
      breakOnce(step, how)
      await writeRecord(later, 1, { ...context, wait })
      expect(Object.values(await stored())).toEqual([later])
      expect(await read()).toEqual([later])
      // That an artifact is gone shows in the list.
      if (step === 'DeleteArtifact' && how === 'lost') return
      expect(waits).toHaveLength(1)
      expect(said).toMatch(/Can't .*ECONNRESET; retrying in 1\.\d s/)
    },
  )

  test.each(['ListArtifacts', 'GetSignedArtifactURL'])('in %s does not keep a record from being read', async (step) => {
    await writeRecord(record, 1, context)
    breakOnce(step, 'reset')
    expect(await readRecords(OWN, { ...context, wait })).toHaveLength(1)
    expect(waits).toHaveLength(1)
  })

  test('that lasts is reported after increasing pauses', async () => {
    service.setFault(() => 'reset')
    const cases = [
      { start: () => writeRecord(record, 1, { ...context, wait }), message: "Can't write the artifact" },
      { start: () => readRecords(OWN, { ...context, wait }), message: "Can't list the artifacts of the run" },
    ]
    for (const { start, message } of cases) {
      await expectFailure(start(), message, 'ECONNRESET')
      expect(waits.slice(0, 5)).toEqual(waits.slice(0, 5).toSorted((one, another) => one - another))
      const waited = waits.splice(0).reduce((sum, one) => sum + one)
      expect(waited).toBeGreaterThan(90_000)
      expect(waited).toBeLessThan(120_000)
    }
  })

  test('that stays while it is written leaves nothing that a re-run could not go past', async () => {
    service.setFault(({ method }) => (method === 'FinalizeArtifact' ? 'reset' : undefined))
    await expectFailure(writeRecord(record, 1, { ...context, wait }), "Can't write the artifact", 'ECONNRESET')
    service.setFault()
    await writeRecord(later, 1, { ...context, wait })
    expect(await read()).toEqual([later])
  })

  test('does not hide the record of another job', async () => {
    await service.put(name, { 'digest.json': serializeRecord(record) })
    breakOnce('GetSignedArtifactURL', 'reset')
    await expectFailure(writeRecord(other, 1, { ...context, wait }), /Two jobs of this run have pushed/)
    expect(await stored()).toEqual({ [name]: record, [second]: other })
  })
})

describe('a failure of the service that passes', () => {
  const later = { ...other, run: { id: '42', attempt: 2 } } as const
  const waits: number[] = []
  const settings = { wait: async (milliseconds: number) => waits.push(milliseconds), timeoutMs: 10_000 }
  beforeEach(() => {
    waits.length = 0
  })

  /** Breaks the first request of a method from now on. */
  function breakOnce(broken: string, how: NonNullable<ReturnType<ArtifactFault>>): void {
    let done = false
    service.setFault(({ method }) => {
      if (done || method !== broken) return undefined
      done = true
      return how
    })
  }

  const html = { status: 200, headers: { 'content-type': 'text/html' }, body: '<html>Please sign in</html>' }
  const faults: readonly [string, NonNullable<ReturnType<ArtifactFault>>, RegExp][] = [
    ['whose answer breaks off', 'truncated', /before the response was complete|aborted|ECONNRESET/],
    ['answered with HTML', html, /retrying/],
    ['answered with 404', { status: 404, body: '' }, /answered 404 Not Found; retrying/],
    ['answered with 408', { status: 408, body: 'Timeout' }, /answered 408 Request Timeout: Timeout; retrying/],
    ['answered with 429', { status: 429, body: 'slow down' }, /answered 429 Too Many Requests: slow down; retrying/],
    ['answered with 503', { status: 503, body: '<h1>Oops</h1>' }, /answered 503 Service Unavailable: Oops; retrying/],
    ['answered with 520', { status: 520, body: '' }, /answered 520; retrying/],
  ]
  const methods = ['ListArtifacts', 'CreateArtifact', 'PutBlock', 'PutBlockList', 'FinalizeArtifact']

  test.each(faults.flatMap(([name, fault, line]) => methods.map((method) => [method, name, fault, line] as const)))(
    'a %s %s does not lose the record, nor leave it twice',
    async (method, _, fault, line) => {
      breakOnce(method, fault)
      await writeRecord(record, 1, { ...context, ...settings })
      expect(await read()).toEqual([record])
      // The blob store answers an upload with nothing that could break off.
      if (waits.length > 0 || fault !== 'truncated') expect(said).toMatch(line)
      breakOnce(method, fault)
      await writeRecord(later, 1, { ...context, ...settings })
      expect(await read()).toEqual([later])
    },
  )

  test.each(
    faults.flatMap(([name, fault]) =>
      ['ListArtifacts', 'GetSignedArtifactURL', 'GetBlob'].map((method) => [method, name, fault] as const),
    ),
  )('a %s %s does not keep a record from being read', async (method, _, fault) => {
    await writeRecord(record, 1, context)
    breakOnce(method, fault)
    const [found, ...more] = await readRecords(OWN, { ...context, ...settings })
    expect(found).toMatchObject({ kind: 'record', text: `${serializeRecord(record)}\n` })
    expect(more).toEqual([])
    expect(waits).toHaveLength(1)
  })

  test.each(['ListArtifacts', 'PutBlock', 'GetBlob'])('a request that stalls is repeated: %s', async (method) => {
    if (method === 'GetBlob') await writeRecord(record, 1, context)
    breakOnce(method, 'stall')
    if (method !== 'GetBlob') await writeRecord(record, 1, { ...context, ...settings, timeoutMs: 1000 })
    expect(await readRecords(OWN, { ...context, ...settings, timeoutMs: 1000 })).toHaveLength(1)
    expect(said).toContain('the connection stalled: no response within 1 s; retrying in 1.')
  })

  test.each(['ListArtifacts', 'FinalizeArtifact'])('a 409 is one only for a name: %s', async (method) => {
    breakOnce(method, { status: 409, body: '{"msg":"conflict"}' })
    await writeRecord(record, 1, { ...context, ...settings })
    expect(await read()).toEqual([record])
  })

  test.each(['PutBlock', 'GetBlob'])('a signed URL that has expired is replaced: %s', async (method) => {
    if (method === 'GetBlob') await writeRecord(record, 1, context)
    breakOnce(method, { status: 403, body: '<Error><Code>AuthenticationFailed</Code></Error>' })
    if (method !== 'GetBlob') await writeRecord(record, 1, { ...context, ...settings })
    expect(await readRecords(OWN, { ...context, ...settings })).toHaveLength(1)
    expect(said).toContain('the blob store answered 403 Forbidden: AuthenticationFailed; retrying in 1.')
  })

  test.each([
    ['damaged', 'x'.repeat(346)],
    ['empty', ''],
  ])('a download that arrives %s is repeated', async (_, body) => {
    await writeRecord(record, 1, context)
    breakOnce('GetBlob', { status: 200, headers: { 'content-type': 'application/zip' }, body })
    expect(await readRecords(OWN, { ...context, ...settings })).toHaveLength(1)
    expect(said).toMatch(/Can't read the artifact .*: its digest is sha256:\w+, but should be sha256:\w+; retrying/)
  })

  test('a list that lacks an artifact is noticed', async () => {
    await writeRecord(record, 1, context)
    const headers = { 'content-type': 'application/json' }
    breakOnce('ListArtifacts', { status: 200, headers, body: '{"artifacts":[]}' })
    expect(await readRecords(OWN, { ...context, ...settings })).toHaveLength(1)
  })

  test('an exception inside the client does not end the process', async () => {
    const script = `
      const start = globalThis.setInterval
      let broken = false
      globalThis.setInterval = (callback, delay) => {
        // The client's own limit for an upload.
        if (delay === 300_000 && !broken) {
          broken = true
          setTimeout(() => { throw new Error('thrown by a timer') })
        }
        return start(callback, delay)
      }
      const { writeRecord } = await import(${JSON.stringify(new URL('../../src/record/write-artifact.ts', import.meta.url).href)})
      await writeRecord(${JSON.stringify(record)}, 1, { tempFolder: ${JSON.stringify(folder)}, log: console, wait: async () => undefined })
      process.exit(0)`
    const args = ['--disable-warning=ExperimentalWarning', '--input-type=module', '--eval', script]
    const { stdout } = await promisify(execFile)(process.execPath, args, { env: { ...process.env, ...service.env } })
    expect(stdout).toMatch(/Can't write the artifact .*: thrown by a timer; retrying in 1\./)
    expect(Object.values(await stored())).toEqual([record])
  })
})

describe('a failure of the service that lasts', () => {
  let waited = 0
  const settings = {
    wait: async (milliseconds: number) => {
      waited += milliseconds
    },
  }
  beforeEach(() => {
    waited = 0
  })

  test('ends with its words, how often it was tried, and what to do', async () => {
    service.setFault(({ method }) => (method === 'CreateArtifact' ? { status: 503, body: 'down' } : undefined))
    await expectFailure(
      writeRecord(record, 1, { ...context, ...settings }),
      /^Can't write the artifact \S+ \(\d+ attempts in (9\d|1[01]\d) s\)\n {2}CreateArtifact answered 503 Service Unavailable: down\nRe-run this job\./,
      'pass the `record` outputs of the build jobs to the `digests` input of the merge. See examples/workflows/without-artifacts.yml',
    )
    expect(waited).toBeLessThan(120_000)
  })

  test.each([
    [
      'the service refuses the token',
      'CreateArtifact',
      { status: 401, body: '{"msg":"expired"}' },
      '401 Unauthorized: expired',
    ],
    ['the service denies access', 'CreateArtifact', { status: 403, body: '{"msg":"no"}' }, '403 Forbidden: no'],
    [
      'the quota is used up',
      'CreateArtifact',
      { status: 429, body: '{"msg":"insufficient usage to create an artifact"}' },
      'Delete artifacts that are no longer needed',
    ],
  ])('is not waited for if %s', async (_, method, fault, detail) => {
    service.setFault((call) => (call.method === method ? fault : undefined))
    await expectFailure(writeRecord(record, 1, { ...context, ...settings }), detail, 'run this job')
    expect(waited).toBe(0)
  })
})

describe('reading', () => {
  test('only artifacts with records are read, whichever image they are of', async () => {
    const api = { ...record, image: 'ghcr.io/owner/app-api' }
    await service.put('coverage', { 'digest.json': 'not ours' })
    await service.put(artifactName(api), { 'any-name.json': serializeRecord(api) })
    await writeRecord(record, 1, context)
    expect(await read()).toEqual(expect.arrayContaining([record, api]))
  })

  test('a run without artifacts has no records', async () => {
    expect(await readRecords(OWN, context)).toEqual([])
  })

  test('what is in a record is not believed: its text is handed on with where it is from', async () => {
    await service.put('image-digest-x', { 'digest.json': 'no record' })
    expect(await readRecords(OWN, context)).toEqual([{ kind: 'record', artifact: 'image-digest-x', text: 'no record' }])
  })

  test.each<[string, Readonly<Record<string, string>>, RegExp]>([
    ['two files', { 'a.json': '{}', 'b/c.json': '{}' }, /must contain one JSON file, but contains .*a\.json/],
    ['no JSON', { 'a.txt': 'x' }, /must contain one JSON file, but contains a\.txt/],
    ['too much', { 'a.json': ' '.repeat(70_000) }, /its unpacked size exceeds 65\.5 kB/],
  ])('an artifact with %s is named in the error', async (_, files, message) => {
    await service.put('image-digest-x', files)
    await expectFailure(readRecords(OWN, context), message, 'the artifact image-digest-x')
  })
})

describe('an artifact that another job has made up', () => {
  const DIGEST = '1'.repeat(64)

  test.each([
    ['image-digest-x', 257, '', 'the limit is 262 kB'],
    ['digests-x', 1025, 'digests-*', 'the limit is 1.0 MB'],
  ])('%s is not downloaded if it has %i KiB', async (large, kibibytes, pattern, detail) => {
    await service.put(large, { 'digest.json': ' '.repeat(kibibytes * 1024) })
    await expectFailure(
      readRecords({ own: true, pattern }, context),
      `Can't read the artifact ${large}: it is too large\n`,
      detail,
      'Give it a name that does not begin with image-digest- and that `artifact-pattern` does not match.',
    )
    expect(service.calls.map(({ method }) => method)).not.toContain('GetBlob')
  })

  /** A folder beside the one that artifacts are read in, with a file in it. */
  async function neighbour(): Promise<{ readonly file: string; readonly files: () => Promise<readonly string[]> }> {
    const file = join(folder, 'outside', 'digest.json')
    await mkdir(dirname(file))
    await writeFile(file, serializeRecord(other))
    return { file, files: () => readdir(folder, { recursive: true }) }
  }

  test.each<[string, (file: string) => string]>([
    ['above it', () => '../../outside/digest.json'],
    ['above it, by way of a folder', () => 'a/../../../outside/digest.json'],
    ['above it, with other separators', () => '..\\..\\outside\\digest.json'],
    ['with an absolute name', (file) => file],
  ])('writes nothing outside of its folder: a file %s', async (_, nameOf) => {
    const { file, files } = await neighbour()
    const before = await files()
    await service.put(name, { [nameOf(file)]: serializeRecord(record) })
    expect(await read()).toEqual([record])
    expect(await readFile(file, 'utf8')).toBe(serializeRecord(other))
    expect(await files()).toEqual(before)
  })

  test('reads no file elsewhere by a symbolic link', async () => {
    const { file } = await neighbour()
    await service.put(name, {}, { 'digest.json': file })
    const [found] = await readRecords(OWN, context)
    // The archive has the link's target in place of a content, and that is not a record.
    expect(found).toMatchObject({ kind: 'record', text: file })
  })

  test('may have any characters in the name of a file', async () => {
    await service.put(name, { 'a\0\n::error::b.json': serializeRecord(record) })
    expect(await read()).toEqual([record])
    await service.put(name, { 'a\0\n::error::b': 'x' })
    await expectFailure(readRecords(OWN, context), /must contain one JSON file, but contains a ::error::b$/)
  })

  test('that is no zip, or a damaged one, is named in the error', async () => {
    const zip = archiveOf('digest.json', Buffer.from(serializeRecord(record)))
    const spoilt = (at: number) => Buffer.from(zip).fill(0xff, at, at + 4)
    const directory = zip.lastIndexOf(Buffer.from('504b0102', 'hex'))
    for (const content of [
      Buffer.alloc(0),
      Buffer.from('no zip'),
      spoilt(zip.length - 6),
      spoilt(directory + 24),
      spoilt(directory + 42),
    ]) {
      await service.putArchive(name, content)
      await expectFailure(read(), `the artifact ${name}`)
    }
  })

  test('that unpacks to far more than a record is not unpacked, whatever it says of its size', async () => {
    const packed = deflateRawSync(Buffer.alloc(50_000_000))
    const zip = archiveOf('digest.json', packed, 8)
    await service.putArchive(name, zip)
    const [found] = await readRecords(OWN, context)
    expect(found).toMatchObject({ kind: 'record', text: '\0'.repeat(packed.length) })
  })

  test('may have thousands of files', async () => {
    const digests = Array.from({ length: 3000 }, (_, at) => String(at).padStart(64, '0'))
    await service.put('digests', Object.fromEntries(digests.map((digest) => [digest, ''])))
    const found = await readRecords({ own: false, pattern: 'digests' }, context)
    expect(found).toHaveLength(digests.length)
    await service.put(
      'image-digest-x',
      Object.fromEntries(digests.slice(0, 1000).map((digest) => [`${digest}.json`, ''])),
    )
    await expectFailure(readRecords(OWN, context), /must contain one JSON file, but contains 0{64}.json, .{0,500}…$/)
  })

  test('has a digest in each file’s name alone', async () => {
    await service.put('digests', { [DIGEST]: 'not read' })
    expect(await readRecords({ own: false, pattern: 'digests' }, context)).toEqual([
      { kind: 'digest', digest: `sha256:${DIGEST}`, origin: 'the artifact digests' },
    ])
  })
})

describe('on other runners', () => {
  test('the artifact server of act, which does not know all fields, takes records', async () => {
    const server = await startArtifactService({ act: true })
    try {
      Object.assign(process.env, server.env, { ACT: 'true' })
      await writeRecord(record, 1, context)
      expect(await read()).toEqual([record])
    } finally {
      await server.close()
    }
  })

  test.each(['GITEA_ACTIONS', 'FORGEJO_ACTIONS'])(
    'with %s, the service is used whatever its host',
    async (variable) => {
      Object.assign(process.env, { GITHUB_SERVER_URL: 'https://git.example.com', [variable]: 'true', ACT: 'true' })
      await writeRecord(record, 1, context)
      expect(await read()).toEqual([record])
      // They round down to whole days.
      expect((await service.artifacts()).map(({ retentionDays }) => retentionDays)).toEqual([2])
    },
  )

  test.each(['GITEA_ACTIONS', 'FORGEJO_ACTIONS', 'ACT'])(
    'with %s, where any job can overwrite an artifact, each job has an artifact of its own',
    async (variable) => {
      Object.assign(process.env, { GITHUB_SERVER_URL: 'https://github.com', [variable]: 'true' })
      const job = { id: 'build', inputs: 'b' }
      await writeRecord(record, 1, context)
      await writeRecord({ ...other, job }, 1, context)
      expect(await read()).toEqual(expect.arrayContaining([record, { ...other, job }]))
      expect(service.calls.map(({ method }) => method)).not.toContain('DeleteArtifact')
      // Gitea counts the attempts of each job: the merge may be in an earlier one.
      const [found] = await readRecords(OWN, context)
      expect(found?.kind === 'record' && readFoundRecord(found, { id: '42', attempt: 0 })).toMatchObject({ schema: 1 })
    },
  )

  test('a version of Gitea without the service is one that has none', async () => {
    Object.assign(process.env, { GITHUB_SERVER_URL: 'https://git.example.com', GITEA_ACTIONS: 'true' })
    service.setFault(() => ({ status: 404, body: 'Not found.' }))
    for (const start of [() => writeRecord(record, 1, context), () => readRecords(OWN, context)]) {
      const work = start()
      await expectFailure(
        work,
        'this server does not support the current version of the artifact service',
        '`record` outputs',
      )
      await expect(work).rejects.toBeInstanceOf(NoArtifactService)
    }
  })
})

describe('without an artifact service, or if it fails', () => {
  const hint = /this runner has no artifact service[\s\S]*`record` outputs.*`digests`/

  test.each(['ACTIONS_RESULTS_URL', 'ACTIONS_RUNTIME_TOKEN'])(
    'without %s the help says to use `digests`',
    async (variable) => {
      delete process.env[variable]
      for (const start of [() => readRecords(OWN, context), () => writeRecord(record, 1, context)]) {
        const work = start()
        await expectFailure(work, /^Can't (list the artifacts of the run|write the artifact)/, variable, hint)
        await expect(work).rejects.toBeInstanceOf(NoArtifactService)
      }
    },
  )

  test('on GitHub Enterprise Server the help says to use `digests`', async () => {
    process.env.GITHUB_SERVER_URL = 'https://github.example.com'
    const reading = readRecords(OWN, context)
    await expectFailure(reading, 'GHES', hint)
    await expect(reading).rejects.toBeInstanceOf(NoArtifactService)
  })

  test.each([
    ['CreateArtifact', `Can't write the artifact ${name}`],
    ['FinalizeArtifact', `Can't write the artifact ${name}`],
  ])('when %s is refused, the words of the service are in the error', async (refused, message) => {
    const body = JSON.stringify({ code: 'permission_denied', msg: 'storage quota has been hit' })
    service.setFault(({ method }) => (method === refused ? { status: 403, body } : undefined))
    const writing = writeRecord(record, 1, context)
    await expectFailure(writing, message, 'storage quota has been hit')
    // A build continues without a service, but not if the service lost the record.
    await expect(writing).rejects.not.toBeInstanceOf(NoArtifactService)
  })
})
