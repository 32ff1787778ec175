import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { DefaultArtifactClient } from '@actions/artifact'
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals'
import { type ArtifactService, type ArtifactServiceOptions, startArtifactService } from './support/artifact-service.ts'

const client = new DefaultArtifactClient()
const environment = { ...process.env }
let folder: string
let service: ArtifactService

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'artifact-service-'))
  // The client writes its log to standard output.
  jest.spyOn(process.stdout, 'write').mockReturnValue(true)
  await start()
})

afterEach(async () => {
  await service.close()
  await rm(folder, { recursive: true })
  process.env = { ...environment }
  jest.restoreAllMocks()
})

describe('with the client of @actions/artifact', () => {
  test('an uploaded artifact can be read by the test, and downloaded', async () => {
    const uploaded = await upload('image-digest-app', {
      'record.json': '{"schema":1}',
      'sub/ünïcode.txt': 'x'.repeat(9000),
    })

    const [stored, ...others] = await service.artifacts()
    expect(others).toEqual([])
    expect(stored).toMatchObject({ id: uploaded.id, name: 'image-digest-app', retentionDays: undefined })
    expect(text(stored?.files)).toEqual({ 'record.json': '{"schema":1}', 'sub/ünïcode.txt': 'x'.repeat(9000) })

    const { downloadPath, digestMismatch } = await client.downloadArtifact(uploaded.id ?? 0, {
      path: join(folder, 'download'),
      expectedHash: `sha256:${uploaded.digest}`,
    })
    expect(digestMismatch).toBe(false)
    expect(await readFile(join(String(downloadPath), 'sub/ünïcode.txt'), 'utf8')).toBe('x'.repeat(9000))
  })

  test("another job's artifact is listed with its size, time and digest, and downloaded", async () => {
    await service.put('from-elsewhere', { 'a.json': '{"a":1}', 'b/c.json': '{}' })

    const { artifacts } = await client.listArtifacts()
    expect(artifacts).toEqual([
      {
        id: expect.any(Number),
        name: 'from-elsewhere',
        size: expect.any(Number),
        createdAt: expect.any(Date),
        digest: expect.stringMatching(/^sha256:[0-9a-f]{64}$/),
      },
    ])

    const [artifact] = artifacts
    const path = join(folder, 'download')
    const { digestMismatch } = await client.downloadArtifact(artifact?.id ?? 0, {
      path,
      expectedHash: artifact?.digest ?? '',
    })
    expect(digestMismatch).toBe(false)
    expect(await readFile(join(path, 'a.json'), 'utf8')).toBe('{"a":1}')
    expect(await readFile(join(path, 'b/c.json'), 'utf8')).toBe('{}')
  })

  test('an artifact is found only by its complete name', async () => {
    await service.put('app', { a: '' })
    await service.put('app-api', { a: '' })

    expect((await client.getArtifact('app')).artifact.name).toBe('app')
    await expect(client.getArtifact('ap')).rejects.toThrow('Artifact not found for name: ap')
  })

  test('the retention days of an artifact are recorded', async () => {
    await upload('short', { a: 'a' }, { retentionDays: 1 })
    await upload('long', { a: 'a' }, { retentionDays: 90 })

    expect((await service.artifacts()).map(({ retentionDays }) => retentionDays)).toEqual([1, 90])
  })

  test("a name can't be used again until it is deleted, and the error is GitHub's", async () => {
    await upload('record', { a: 'first' })
    await expect(upload('record', { a: 'second' })).rejects.toThrow(
      'Failed to CreateArtifact: Received non-retryable error: Failed request: (409) Conflict: ' +
        'an artifact with this name already exists on the workflow run',
    )

    await client.deleteArtifact('record')
    expect(await service.artifacts()).toEqual([])
    await expect(client.deleteArtifact('record')).rejects.toThrow('Artifact not found for name: record')

    await upload('record', { a: 'second' })
    expect(text((await service.artifacts())[0]?.files)).toEqual({ a: 'second' })
  })

  test('an upload that was never finalized is not listed, can’t be deleted, and reserves its name', async () => {
    service.setFault(({ method }) => (method === 'FinalizeArtifact' ? { status: 403 } : undefined))
    await expect(upload('record', { a: 'a' })).rejects.toThrow('Failed to FinalizeArtifact')
    service.setFault()

    expect((await client.listArtifacts()).artifacts).toEqual([])
    expect(await service.artifacts()).toEqual([])
    await expect(client.deleteArtifact('record')).rejects.toThrow('Artifact not found')
    await expect(upload('record', { a: 'a' })).rejects.toThrow('(409) Conflict')
  })

  test('a wrong token is refused', async () => {
    process.env.ACTIONS_RUNTIME_TOKEN = `${service.env.ACTIONS_RUNTIME_TOKEN}x`
    await expect(client.listArtifacts()).rejects.toThrow('Failed request: (401) Unauthorized')
  })

  test('the token of another run is refused', async () => {
    const other = await startArtifactService({ runId: 'another-run' })
    process.env.ACTIONS_RUNTIME_TOKEN = other.env.ACTIONS_RUNTIME_TOKEN
    await expect(client.listArtifacts()).rejects.toThrow('Failed request: (401) Unauthorized')
    await other.close()
  })

  test('an upload to an expired URL is refused', async () => {
    await service.close()
    await start({ signedUrlSeconds: 0 })
    await expect(upload('record', { a: 'a' })).rejects.toThrow('Server failed to authenticate the request.')
  })

  test('a fault changes one request: a different answer, or a connection reset', async () => {
    service.setFault(({ method, name, count }) => {
      if (method === 'CreateArtifact' && name === 'record') {
        return count === 1 ? { status: 403, body: '{"msg":"not today"}' } : 'reset'
      }
      return undefined
    })

    await expect(upload('record', { a: 'a' })).rejects.toThrow('(403) Forbidden: not today')
    await expect(upload('record', { a: 'a' })).rejects.toThrow('Unable to make request: ECONNRESET')
    await upload('other', { a: 'a' })
    expect((await service.artifacts()).map(({ name }) => name)).toEqual(['other'])
  })

  test('every request is recorded', async () => {
    const { id } = await upload('record', { a: 'a' })
    await client.downloadArtifact(id ?? 0, { path: folder })
    await client.deleteArtifact('record')

    expect(service.calls).toEqual([
      { method: 'CreateArtifact', name: 'record' },
      { method: 'PutBlock', name: 'record' },
      { method: 'PutBlockList', name: 'record' },
      { method: 'FinalizeArtifact', name: 'record' },
      { method: 'ListArtifacts' },
      { method: 'GetSignedArtifactURL', name: 'record' },
      { method: 'GetBlob', name: 'record' },
      { method: 'ListArtifacts' },
      { method: 'DeleteArtifact', name: 'record' },
    ])
  })
})

describe('on the wire', () => {
  test('a request without a token is refused', async () => {
    const { status } = await twirp('ListArtifacts', {}, {})
    expect(status).toBe(401)
  })

  test('a signed URL is valid only for its blob and its purpose', async () => {
    await service.put('one', { a: 'a' })
    await service.put('two', { a: 'a' })
    const { body } = await twirp('GetSignedArtifactURL', { name: 'one' })
    const { signed_url: url } = body as { signed_url: string }
    const [one, two] = await service.artifacts()

    expect((await fetch(url)).status).toBe(200)
    expect((await fetch(url, { method: 'PUT', body: 'x' })).status).toBe(403)
    expect((await fetch(url.replace(`${one?.id}.zip`, `${two?.id}.zip`))).status).toBe(403)
    expect((await fetch(url.replace(/&sig=.*/, ''))).status).toBe(403)
  })

  test('a blob can also be uploaded in one request', async () => {
    const { body } = await twirp('CreateArtifact', { name: 'whole' })
    const { signed_upload_url: url } = body as { signed_upload_url: string }

    const early = await twirp('FinalizeArtifact', { name: 'whole', size: '0' })
    expect(early.status).toBe(400)

    const empty = Buffer.from(`504b0506${'00'.repeat(18)}`, 'hex')
    expect((await fetch(url, { method: 'PUT', body: empty, headers: { 'x-ms-blob-type': 'BlockBlob' } })).status).toBe(
      201,
    )
    expect((await twirp('FinalizeArtifact', { name: 'whole', size: '22' })).status).toBe(200)
    expect(await service.artifacts()).toMatchObject([{ name: 'whole', files: new Map() }])
  })

  test('a block list with a missing block is refused', async () => {
    const { body } = await twirp('CreateArtifact', { name: 'blocks' })
    const { signed_upload_url: url } = body as { signed_upload_url: string }
    const list = '<?xml version="1.0"?><BlockList><Latest>YQ==</Latest></BlockList>'
    expect((await fetch(`${url}&comp=blocklist`, { method: 'PUT', body: list })).status).toBe(400)
  })
})

async function start(options: ArtifactServiceOptions = {}): Promise<void> {
  service = await startArtifactService({ runId: 'the-run', ...options })
  process.env = { ...environment, ...service.env }
  delete process.env.GITHUB_SERVER_URL
  delete process.env.GITHUB_RETENTION_DAYS
}

async function upload(
  name: string,
  files: Readonly<Record<string, string>>,
  options: { readonly retentionDays?: number } = {},
): Promise<{ readonly id?: number; readonly digest?: string }> {
  const root = join(folder, 'upload', name)
  const paths = await Promise.all(
    Object.entries(files).map(async ([path, content]) => {
      const file = join(root, path)
      await mkdir(dirname(file), { recursive: true })
      await writeFile(file, content)
      return file
    }),
  )
  return client.uploadArtifact(name, paths, root, options)
}

async function twirp(
  method: string,
  request: Readonly<Record<string, string>>,
  headers: Readonly<Record<string, string>> = { authorization: `Bearer ${service.env.ACTIONS_RUNTIME_TOKEN}` },
): Promise<{ readonly status: number; readonly body: unknown }> {
  const url = new URL(`/twirp/github.actions.results.api.v1.ArtifactService/${method}`, service.env.ACTIONS_RESULTS_URL)
  const ids = { workflow_run_backend_id: 'the-run', workflow_job_run_backend_id: 'a-job' }
  const response = await fetch(url, { method: 'POST', headers, body: JSON.stringify({ ...ids, ...request }) })
  return { status: response.status, body: await response.json() }
}

function text(files: ReadonlyMap<string, Buffer> | undefined): Readonly<Record<string, string>> {
  return Object.fromEntries(Array.from(files ?? [], ([path, content]) => [path, content.toString()]))
}
