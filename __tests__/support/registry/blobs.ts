import { type Call, isDigest } from './call.ts'
import { type ByteRange, type Content, type Reply, refuse, reply, replyWith } from './reply.ts'
import type { Upload } from './store.ts'

/** `GET` and `HEAD` of a blob, complete or one range of it. */
export function getBlob(call: Call): Reply {
  const { reference, repository } = call
  if (!isDigest(reference)) return refuse(400, { code: 'DIGEST_INVALID', detail: {} })
  const blob = call.store.find(repository)?.blobs.get(reference)
  if (blob === undefined) return refuse(404, { code: 'BLOB_UNKNOWN', detail: reference })
  if (!call.servesBytes) return reply(307, { location: call.locateBytes(`/v2/${repository}/blobs/${reference}`) })
  const headers = {
    'accept-ranges': 'bytes',
    'cache-control': 'max-age=31536000',
    'content-type': 'application/octet-stream',
    'docker-content-digest': reference,
    etag: `"${reference}"`,
  }
  if (call.headers['if-none-match'] === headers.etag) return reply(304, headers)
  return replyRange(blob, requestedRange(call.headers.range, blob.size), headers)
}

export function deleteBlob({ reference, repository, store }: Call): Reply {
  if (!isDigest(reference)) return refuse(400, { code: 'DIGEST_INVALID', detail: {} })
  const deleted = store.find(repository)?.blobs.delete(reference) ?? false
  return deleted ? reply(202, { 'docker-content-digest': reference }) : refuse(404, { code: 'BLOB_UNKNOWN' })
}

/** Starts an upload, mounts a blob (`?mount=&from=`), or accepts the complete blob at once (`?digest=`). */
export async function startUpload(call: Call): Promise<Reply> {
  const { query, repository, store } = call
  const mounted = mount(call)
  if (mounted !== undefined) return mounted
  const upload = await store.startUpload(repository)
  const digest = query.get('digest')
  if (digest !== null) return await finish(call, upload, digest)
  return uploadState(call, upload, 202)
}

export function getUpload(call: Call): Reply {
  return withUpload(call, (upload) => uploadState(call, upload, 204))
}

export async function patchUpload(call: Call): Promise<Reply> {
  return await withUpload(call, async (upload) => {
    // Docker Distribution 2.8 ignores Content-Range; the specification requires 416 for a chunk out of order.
    const start = call.headers['content-range']?.match(/^(\d+)-/)?.[1]
    if (start !== undefined && Number(start) !== upload.size()) return refuse(416, { code: 'RANGE_INVALID' })
    await upload.write(call.body)
    return uploadState(call, upload, 202)
  })
}

export async function putUpload(call: Call): Promise<Reply> {
  return await withUpload(call, async (upload) => {
    const digest = call.query.get('digest')
    if (digest === null) return refuse(400, { code: 'DIGEST_INVALID', detail: 'digest missing' })
    return await finish(call, upload, digest)
  })
}

export async function deleteUpload(call: Call): Promise<Reply> {
  return await withUpload(call, async (upload) => {
    await upload.cancel()
    return reply(204, { 'docker-upload-uuid': upload.id })
  })
}

function mount(call: Call): Reply | undefined {
  const { query, repository, store } = call
  const digest = query.get('mount') ?? ''
  const blob = store.find(query.get('from') ?? '')?.blobs.get(digest)
  if (blob === undefined) return undefined
  store.repository(repository).blobs.set(digest, blob)
  return stored(call, digest)
}

async function finish(call: Call, upload: Upload, digest: string): Promise<Reply> {
  if (!isDigest(digest)) return refuse(400, { code: 'DIGEST_INVALID', detail: 'digest parsing failed' })
  await upload.write(call.body)
  const result = await upload.finish(digest)
  if (result === 'stored') return stored(call, digest)
  return refuse(400, { code: 'DIGEST_INVALID', detail: { Digest: digest, Reason: {} } })
}

function stored({ locate, repository }: Call, digest: string): Reply {
  return reply(201, { 'docker-content-digest': digest, location: locate(`/v2/${repository}/blobs/${digest}`) })
}

function uploadState(call: Call, upload: Upload, status: number): Reply {
  const path = `/v2/${upload.repository}/blobs/uploads/${upload.id}?_state=${stateOf(upload)}`
  return reply(status, {
    'docker-upload-uuid': upload.id,
    location: call.locateBytes(path),
    range: `0-${Math.max(0, upload.size() - 1)}`,
  })
}

/**
 * Like in Docker Distribution, a Location is valid for one step: `_state` contains the progress of the upload.
 * A client that constructs the URL itself, drops the query or continues with an old Location is refused.
 */
function withUpload<T>(call: Call, handle: (upload: Upload) => T): T | Reply {
  const upload = call.store.uploads.get(call.reference)
  const state = call.query.get('_state')
  if (upload === undefined && state !== null) return refuse(404, { code: 'BLOB_UPLOAD_UNKNOWN', detail: {} })
  if (upload === undefined || upload.repository !== call.repository || state !== stateOf(upload)) {
    return refuse(404, { code: 'BLOB_UPLOAD_INVALID', detail: {} })
  }
  return handle(upload)
}

function stateOf(upload: Upload): string {
  return Buffer.from(`${upload.repository} ${upload.id} ${upload.size()}`).toString('base64url')
}

function replyRange(blob: Content, range: ByteRange | 'none' | 'beyond', headers: Record<string, string>): Reply {
  if (range === 'none') return replyWith(200, blob, headers)
  if (range === 'beyond') return reply(416, { 'content-range': `bytes */${blob.size}` })
  const part = { size: range.end - range.start + 1, open: () => blob.open(range) }
  return replyWith(206, part, { ...headers, 'content-range': `bytes ${range.start}-${range.end}/${blob.size}` })
}

/** One range (RFC 9110, section 14). Several ranges, or invalid ones, return the complete blob. */
function requestedRange(header: string | undefined, size: number): ByteRange | 'none' | 'beyond' {
  const [, first, last] = header?.match(/^bytes=(\d*)-(\d*)$/) ?? []
  if (first === undefined || last === undefined || first + last === '') return 'none'
  const start = first === '' ? Math.max(0, size - Number(last)) : Number(first)
  const end = first === '' || last === '' ? size - 1 : Math.min(Number(last), size - 1)
  return start > end ? 'beyond' : { start, end }
}
