import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { digestOf } from './digest.ts'
import { mediaTypes } from './registry/manifests.ts'
import {
  type Answer,
  absent,
  acceptAll,
  basic,
  type Client,
  config,
  createClient,
  descriptor,
  expectBody,
  index,
  type Login,
  layer,
  locationOf,
  manifest,
  octets,
} from './registry/wire.ts'

/** A registry to verify against the contract. */
export interface ContractSubject {
  readonly host: string
  readonly close: () => Promise<void>
}

/**
 * The behaviour that this project relies on, which is Docker Distribution 2.8's and that of the in-process registry.
 * `account` is the account of a registry that requires a password.
 */
export function describeRegistryContract(name: string, start: () => Promise<ContractSubject>, account?: Login): void {
  describe(name, () => {
    const client = useSubject(start, account === undefined ? {} : { authorization: basic(account) })
    describeFrame(client)
    describeBlobs(client)
    describeRanges(client)
    describeUploads(client)
    describeChunks(client)
    describeRefusedUploads(client)
    describeMounts(client)
    describeManifests(client)
    describeRefusedManifests(client)
    describeIndexes(client)
    describeNegotiation(client)
    describeTags(client)
    describeDeletion(client)
  })
}

/** The behaviour of a registry with `htpasswd` for requests without the password. */
export function describeBasicAuthContract(name: string, start: () => Promise<ContractSubject>, account: Login): void {
  describe(name, () => {
    const client = useSubject(start, {})

    test.each(['/v2/', '/v2/basic/tags/list', `/v2/basic/blobs/${digestOf(layer)}`])(
      'asks for a password with a Basic challenge on %s',
      async (path) => {
        const answer = await client.request('GET', path)
        expect(answer).toMatchObject({ status: 401, codes: ['UNAUTHORIZED'] })
        expect(answer.headers.get('www-authenticate')).toMatch(/^Basic realm="[^"]+"$/)
      },
    )

    test('refuses a wrong password', async () => {
      const headers = { authorization: basic({ ...account, password: `not ${account.password}` }) }
      expect(await client.request('GET', '/v2/', { headers })).toMatchObject({ status: 401, codes: ['UNAUTHORIZED'] })
    })

    test('accepts no upload without the password', async () => {
      expect(await client.request('POST', '/v2/basic/blobs/uploads/')).toMatchObject({ status: 401 })
    })
  })
}

/** The behaviour of a registry with a token realm: challenges with the scope, and tokens that are valid only for it. */
export function describeTokenAuthContract(name: string, start: () => Promise<ContractSubject>, account: Login): void {
  describe(name, () => {
    const client = useSubject(start, {})
    describeChallenges(client)
    describeTokens(client, account)
  })
}

function describeFrame({ request }: Client): void {
  test('announces the protocol on /v2/', async () => {
    const answer = await request('GET', '/v2/')
    expect(answer.status).toBe(200)
    expect(answer.headers.get('docker-distribution-api-version')).toBe('registry/2.0')
    expect(answer.body.toString()).toBe('{}')
  })

  test('redirects a URL without a trailing slash to the one with it', async () => {
    const answer = await request('GET', '/v2')
    expect(answer.status).toBe(301)
    expect(answer.headers.get('location')).toMatch(/\/v2\/$/)
  })

  test.each([
    '/v2/frame',
    '/v2/frame/blobs/no-digest',
    `/v2/frame/UPPER/blobs/${digestOf(layer)}`,
    '/v2/frame/manifests/.no-tag',
    `/v2/frame/manifests/${'t'.repeat(129)}`,
    `/v2/frame/referrers/${digestOf(layer)}`,
  ])('answers with plain text if there is no route: %s', async (path) => {
    const answer = await request('GET', path)
    expect(answer.status).toBe(404)
    expect(answer.headers.get('content-type')).toBe('text/plain; charset=utf-8')
    expect(answer.body.toString()).toBe('404 page not found\n')
  })

  test.each([
    ['POST', '/v2/frame/tags/list', 'GET'],
    ['POST', '/v2/frame/manifests/latest', 'DELETE, GET, HEAD, PUT'],
    ['PUT', `/v2/frame/blobs/${digestOf(layer)}`, 'DELETE, GET, HEAD'],
  ])('lists the supported methods instead of %s %s', async (method, path, allowed) => {
    const answer = await request(method, path)
    expect(answer.status).toBe(405)
    expect(answer.headers.get('allow')).toBe(allowed)
  })

  test('refuses a repository name of more than 255 characters', async () => {
    const answer = await request('GET', `/v2/${'a'.repeat(256)}/manifests/latest`)
    expect(answer.status).toBeGreaterThanOrEqual(400)
    expect(answer.codes).toHaveLength(1)
  })
}

function describeBlobs({ request, push }: Client): void {
  test('returns the bytes of a blob, with its digest, size and type', async () => {
    const digest = await push('blobs', layer)
    const answer = await request('GET', `/v2/blobs/blobs/${digest}`)
    expect(answer.status).toBe(200)
    expect(answer.body).toEqual(layer)
    expect(
      headersOf(answer, 'content-length', 'content-type', 'docker-content-digest', 'etag', 'accept-ranges'),
    ).toEqual([String(layer.length), 'application/octet-stream', digest, `"${digest}"`, 'bytes'])
  })

  test('answers HEAD with the headers of GET', async () => {
    const digest = await push('blobs', layer)
    const answer = await request('HEAD', `/v2/blobs/blobs/${digest}`)
    expect(answer.status).toBe(200)
    expect(answer.body).toHaveLength(0)
    expect(headersOf(answer, 'content-length', 'docker-content-digest')).toEqual([String(layer.length), digest])
  })

  test('stores an empty blob', async () => {
    const digest = await push('blobs', Buffer.alloc(0))
    const answer = await request('GET', `/v2/blobs/blobs/${digest}`)
    expectBody(answer, 200, Buffer.alloc(0))
  })

  test('stores a blob of some megabytes', async () => {
    const large = Buffer.alloc(5_000_000, 'large')
    const digest = await push('blobs', large)
    const answer = await request('GET', `/v2/blobs/blobs/${digest}`)
    expect(answer.body.equals(large)).toBe(true)
  })

  test('does not send a blob that the client already has, by its etag', async () => {
    const digest = await push('blobs', layer)
    const answer = await request('GET', `/v2/blobs/blobs/${digest}`, { headers: { 'if-none-match': `"${digest}"` } })
    expectBody(answer, 304, Buffer.alloc(0))
  })

  test('has no blob that was never pushed', async () => {
    const answer = await request('GET', `/v2/blobs/blobs/${absent}`)
    expect(answer).toMatchObject({ status: 404, codes: ['BLOB_UNKNOWN'], details: [absent] })
    expectBody(await request('HEAD', `/v2/blobs/blobs/${absent}`), 404, Buffer.alloc(0))
  })

  test('does not show a blob of another repository', async () => {
    const digest = await push('blobs', layer)
    expect(await request('GET', `/v2/blobs/not/here/blobs/${digest}`)).toMatchObject({ codes: ['BLOB_UNKNOWN'] })
  })

  test.each(['sha256:abcd', 'md5:d41d8cd98f00b204e9800998ecf8427e'])(
    'refuses the malformed digest %s',
    async (digest) => {
      expect(await request('GET', `/v2/blobs/blobs/${digest}`)).toMatchObject({
        status: 400,
        codes: ['DIGEST_INVALID'],
      })
    },
  )
}

function describeRanges({ request, push }: Client): void {
  test.each([
    ['bytes=2-5', 2, 5],
    ['bytes=10-', 10, layer.length - 1],
    ['bytes=-4', layer.length - 4, layer.length - 1],
    ['bytes=5-100000', 5, layer.length - 1],
  ])('returns the part of a blob that %s requests', async (range, start, end) => {
    const digest = await push('ranges', layer)
    const answer = await request('GET', `/v2/ranges/blobs/${digest}`, { headers: { range } })
    expect(answer.status).toBe(206)
    expect(answer.body).toEqual(layer.subarray(start, end + 1))
    expect(headersOf(answer, 'content-range', 'content-length')).toEqual([
      `bytes ${start}-${end}/${layer.length}`,
      String(end + 1 - start),
    ])
  })

  test('returns nothing for a range beyond the end of a blob', async () => {
    const digest = await push('ranges', layer)
    // Docker Distribution 2.8 breaks the connection, because its 416 announces the length of the complete blob.
    const headers = { range: 'bytes=100000-' }
    const status = await request('GET', `/v2/ranges/blobs/${digest}`, { headers }).then(
      (answer) => answer.status,
      () => 'broken off',
    )
    expect([416, 'broken off']).toContain(status)
  })
}

function describeUploads({ request, startUpload, finishUpload }: Client): void {
  test('accepts a blob by POST and one PUT', async () => {
    const started = await request('POST', '/v2/uploads/blobs/uploads/')
    expect(started.status).toBe(202)
    expect(headersOf(started, 'range', 'content-length')).toEqual(['0-0', '0'])
    expect(started.headers.get('docker-upload-uuid')).toMatch(/^[0-9a-f-]{36}$/)
    const finished = await finishUpload(locationOf(started), layer)
    expect(finished.status).toBe(201)
    expect(finished.headers.get('docker-content-digest')).toBe(digestOf(layer))
    expect(locationOf(finished)).toMatch(new RegExp(`/v2/uploads/blobs/${digestOf(layer)}$`))
  })

  test('reports the progress of an upload', async () => {
    const location = await startUpload('uploads')
    const answer = await request('GET', location)
    expectBody(answer, 204, Buffer.alloc(0))
    expect(headersOf(answer, 'range')).toEqual(['0-0'])
    expect((await finishUpload(locationOf(answer), layer)).status).toBe(201)
  })

  test('accepts a blob in the POST, or continues as if it had no body', async () => {
    const answer = await request('POST', `/v2/uploads/posted/blobs/uploads/?digest=${digestOf(layer)}`, octets(layer))
    expect([201, 202]).toContain(answer.status)
    const finished = answer.status === 201 ? answer : await finishUpload(locationOf(answer), layer)
    expect(finished.status).toBe(201)
    expect(await request('HEAD', `/v2/uploads/posted/blobs/${digestOf(layer)}`)).toMatchObject({ status: 200 })
  })

  test('accepts the same blob twice', async () => {
    await finishUpload(await startUpload('uploads/twice'), layer)
    expect((await finishUpload(await startUpload('uploads/twice'), layer)).status).toBe(201)
  })

  test('discards a cancelled upload', async () => {
    const location = await startUpload('uploads')
    expect(await request('DELETE', location)).toMatchObject({ status: 204 })
    const gone = { status: 404, codes: ['BLOB_UPLOAD_UNKNOWN'] }
    expect(await request('GET', location)).toMatchObject(gone)
    expect(await request('DELETE', location)).toMatchObject(gone)
    expect(await finishUpload(location, layer)).toMatchObject(gone)
  })

  test('discards a finished upload', async () => {
    const location = await startUpload('uploads')
    await finishUpload(location, layer)
    expect(await request('GET', location)).toMatchObject({ status: 404, codes: ['BLOB_UPLOAD_UNKNOWN'] })
  })
}

function describeChunks({ request, startUpload, finishUpload }: Client): void {
  test('assembles a blob from chunks', async () => {
    const first = await request('PATCH', await startUpload('chunks'), octets(layer.subarray(0, 5)))
    expect(first.status).toBe(202)
    expect(headersOf(first, 'range')).toEqual(['0-4'])
    const chunk = octets(layer.subarray(5, 9))
    const headers = { ...chunk.headers, 'content-range': '5-8' }
    const second = await request('PATCH', locationOf(first), { ...chunk, headers })
    expect(headersOf(second, 'range')).toEqual(['0-8'])
    const finished = await finishUpload(locationOf(second), layer.subarray(9), digestOf(layer))
    expect(finished.status).toBe(201)
    expectBody(await request('GET', `/v2/chunks/blobs/${digestOf(layer)}`), 200, layer)
  })

  test('accepts a last PUT without bytes', async () => {
    const patched = await request('PATCH', await startUpload('chunks/closed'), octets(layer))
    const finished = await finishUpload(locationOf(patched), Buffer.alloc(0), digestOf(layer))
    expect(finished.status).toBe(201)
  })

  test('continues only from the Location of the last chunk', async () => {
    const location = await startUpload('chunks')
    await request('PATCH', location, octets(layer))
    const invalid = { status: 404, codes: ['BLOB_UPLOAD_INVALID'] }
    expect(await request('PATCH', location, octets(layer))).toMatchObject(invalid)
    expect(await request('GET', location)).toMatchObject(invalid)
  })
}

function describeRefusedUploads({ request, startUpload, finishUpload }: Client): void {
  test('refuses bytes with a different digest, and ends that upload', async () => {
    const location = await startUpload('refused')
    const refused = await finishUpload(location, layer, absent)
    expect(refused).toMatchObject({ status: 400, codes: ['DIGEST_INVALID'] })
    expect(await finishUpload(location, layer)).toMatchObject({ status: 404 })
    for (const digest of [absent, digestOf(layer)]) {
      expect(await request('HEAD', `/v2/refused/blobs/${digest}`)).toMatchObject({ status: 404 })
    }
  })

  test.each([
    ['without a digest', '', 'digest missing'],
    ['with a malformed digest', '&digest=nonsense', 'digest parsing failed'],
  ])('refuses a last PUT %s', async (_, query, detail) => {
    const answer = await request('PUT', (await startUpload('refused')) + query, octets(layer))
    expect(answer).toMatchObject({ status: 400, codes: ['DIGEST_INVALID'], details: [detail] })
  })

  test('refuses a URL without the query of the Location', async () => {
    const [path] = (await startUpload('refused')).split('?')
    const answer = await request('PUT', `${path}?digest=${digestOf(layer)}`, octets(layer))
    expect(answer).toMatchObject({ status: 404, codes: ['BLOB_UPLOAD_INVALID'] })
  })

  test('refuses the Location of another repository', async () => {
    const location = await startUpload('refused')
    const answer = await finishUpload(location.replace('/refused/', '/refused/other/'), layer)
    expect(answer).toMatchObject({ status: 404, codes: ['BLOB_UPLOAD_INVALID'] })
  })

  test('has no upload that was never started', async () => {
    const answer = await request('GET', '/v2/refused/blobs/uploads/2b5b0d1e-1111-4222-8333-944444444444')
    expect(answer).toMatchObject({ status: 404, codes: ['BLOB_UPLOAD_INVALID'] })
  })
}

function describeMounts({ request, push, finishUpload }: Client): void {
  test('mounts a blob of another repository without its bytes', async () => {
    const digest = await push('mounts/from', layer)
    const answer = await request('POST', `/v2/mounts/to/blobs/uploads/?mount=${digest}&from=mounts/from`)
    expect(answer.status).toBe(201)
    expect(answer.headers.get('docker-content-digest')).toBe(digest)
    expect(locationOf(answer)).toMatch(new RegExp(`/v2/mounts/to/blobs/${digest}$`))
    expectBody(await request('GET', `/v2/mounts/to/blobs/${digest}`), 200, layer)
  })

  test.each([
    ['of a repository that has it not', digestOf(layer), '&from=mounts/empty'],
    ['of a repository that has another', absent, '&from=mounts/other'],
    ['from nowhere', digestOf(layer), ''],
    ['of a malformed digest', 'nonsense', '&from=mounts/other'],
  ])('starts an ordinary upload instead of a mount %s', async (_, digest, from) => {
    await push('mounts/other', layer)
    const answer = await request('POST', `/v2/mounts/unmounted/blobs/uploads/?mount=${digest}${from}`)
    expect(answer.status).toBe(202)
    expect((await finishUpload(locationOf(answer), config)).status).toBe(201)
  })
}

function describeManifests({ request, push, pushImage, putManifest }: Client): void {
  test('returns the bytes of a manifest, by tag and by digest, with its type', async () => {
    const { bytes, digest } = await pushImage('manifests', mediaTypes.ociManifest, 'latest')
    for (const reference of ['latest', digest]) {
      const answer = await request('GET', `/v2/manifests/manifests/${reference}`, acceptAll)
      expectBody(answer, 200, bytes)
      expect(headersOf(answer, 'content-type', 'docker-content-digest', 'content-length', 'etag')).toEqual([
        mediaTypes.ociManifest,
        digest,
        String(bytes.length),
        `"${digest}"`,
      ])
    }
  })

  test('answers HEAD with the headers of GET', async () => {
    const { bytes, digest } = await pushImage('manifests', mediaTypes.dockerManifest, 'docker')
    const answer = await request('HEAD', '/v2/manifests/manifests/docker', acceptAll)
    expectBody(answer, 200, Buffer.alloc(0))
    expect(headersOf(answer, 'content-type', 'docker-content-digest', 'content-length')).toEqual([
      mediaTypes.dockerManifest,
      digest,
      String(bytes.length),
    ])
  })

  test('reports the digest and location of a stored manifest', async () => {
    await push('manifests', config)
    const bytes = manifest(mediaTypes.ociManifest, { layers: [] })
    for (const reference of ['stored', digestOf(bytes)]) {
      const answer = await putManifest('manifests', reference, bytes, mediaTypes.ociManifest)
      expect(answer.status).toBe(201)
      expect(answer.headers.get('docker-content-digest')).toBe(digestOf(bytes))
      expect(locationOf(answer)).toMatch(new RegExp(`/v2/manifests/manifests/${digestOf(bytes)}$`))
    }
  })

  test('preserves the bytes, including white space', async () => {
    await push('manifests', config)
    const bytes = Buffer.from(
      JSON.stringify(JSON.parse(String(manifest(mediaTypes.ociManifest, { layers: [] }))), null, 7),
    )
    const { headers } = await putManifest('manifests', 'spaces', bytes, `${mediaTypes.ociManifest}; charset=utf-8`)
    expect(headers.get('docker-content-digest')).toBe(digestOf(bytes))
    const answer = await request('GET', '/v2/manifests/manifests/spaces', acceptAll)
    expect(answer.body).toEqual(bytes)
    expect(answer.headers.get('content-type')).toBe(mediaTypes.ociManifest)
  })

  test('does not send a manifest that the client already has, by its etag', async () => {
    const { digest } = await pushImage('manifests', mediaTypes.ociManifest, 'latest')
    const headers = { ...acceptAll.headers, 'if-none-match': `"${digest}"` }
    expect(await request('GET', '/v2/manifests/manifests/latest', { headers })).toMatchObject({ status: 304 })
  })

  test('accepts an OCI manifest without its media type', async () => {
    await push('manifests', config)
    const bytes = manifest(mediaTypes.ociManifest, { layers: [], mediaType: undefined })
    expect(await putManifest('manifests', 'untyped', bytes, mediaTypes.ociManifest)).toMatchObject({ status: 201 })
  })

  test('has no manifest that was never pushed', async () => {
    await pushImage('manifests', mediaTypes.ociManifest, 'latest')
    expect(await request('GET', '/v2/manifests/manifests/absent', acceptAll)).toMatchObject({
      status: 404,
      codes: ['MANIFEST_UNKNOWN'],
      details: [{ Tag: 'absent' }],
    })
    expect(await request('GET', `/v2/manifests/manifests/${absent}`, acceptAll)).toMatchObject({
      status: 404,
      codes: ['MANIFEST_UNKNOWN'],
      details: [{ Name: 'manifests', Revision: absent }],
    })
    expect(await request('HEAD', '/v2/manifests/manifests/absent', acceptAll)).toMatchObject({ status: 404 })
  })

  test('does not show a manifest of another repository, nor as a blob', async () => {
    const { digest } = await pushImage('manifests', mediaTypes.ociManifest, 'latest')
    expect(await request('GET', `/v2/elsewhere/manifests/${digest}`, acceptAll)).toMatchObject({ status: 404 })
    expect(await request('HEAD', `/v2/manifests/blobs/${digest}`)).toMatchObject({ status: 404 })
  })
}

function describeRefusedManifests({ request, push, putManifest }: Client): void {
  test('refuses a manifest whose config and layers are missing, and names them', async () => {
    const bytes = manifest(mediaTypes.ociManifest)
    expect(await putManifest('unready', 'latest', bytes, mediaTypes.ociManifest)).toMatchObject({
      status: 400,
      codes: ['MANIFEST_BLOB_UNKNOWN', 'MANIFEST_BLOB_UNKNOWN'],
      details: [digestOf(config), digestOf(layer)],
    })
    await push('unready', config)
    const answer = await putManifest('unready', 'latest', bytes, mediaTypes.ociManifest)
    expect(answer).toMatchObject({ status: 400, codes: ['MANIFEST_BLOB_UNKNOWN'], details: [digestOf(layer)] })
    expect(await request('GET', '/v2/unready/manifests/latest', acceptAll)).toMatchObject({ status: 404 })
  })

  test('refuses a manifest whose config and layers are in another repository', async () => {
    await push('unready/other', config)
    await push('unready/other', layer)
    const answer = await putManifest('unready/none', 'latest', manifest(mediaTypes.ociManifest), mediaTypes.ociManifest)
    expect(answer.codes).toEqual(['MANIFEST_BLOB_UNKNOWN', 'MANIFEST_BLOB_UNKNOWN'])
  })

  test('refuses a manifest under another digest', async () => {
    await push('refused', config)
    const bytes = manifest(mediaTypes.ociManifest, { layers: [] })
    const answer = await putManifest('refused', absent, bytes, mediaTypes.ociManifest)
    expect(answer).toMatchObject({ status: 400, codes: ['DIGEST_INVALID'] })
  })

  test('refuses a manifest without a config', async () => {
    const bytes = manifest(mediaTypes.ociManifest, { config: undefined, layers: [] })
    const answer = await putManifest('refused', 'latest', bytes, mediaTypes.ociManifest)
    expect(answer).toMatchObject({ status: 400, codes: ['DIGEST_INVALID', 'MANIFEST_BLOB_UNKNOWN'] })
  })

  const valid = { layers: [] }
  test.each([
    ['what is no JSON', 'garbage', mediaTypes.ociManifest],
    ['an empty body', '', mediaTypes.ociManifest],
    ['a media type that it does not know', manifest(mediaTypes.ociManifest, valid), 'application/x-other'],
    ['a Docker manifest as an OCI one', manifest(mediaTypes.dockerManifest, valid), mediaTypes.ociManifest],
    ['an OCI manifest as a Docker one', manifest(mediaTypes.ociManifest, valid), mediaTypes.dockerManifest],
    [
      'a Docker manifest that leaves out its media type',
      manifest(mediaTypes.dockerManifest, { ...valid, mediaType: undefined }),
      mediaTypes.dockerManifest,
    ],
    ['a manifest that is also an index', manifest(mediaTypes.ociManifest, { manifests: [] }), mediaTypes.ociManifest],
    ['an index that is also a manifest', index(mediaTypes.ociIndex, [], { layers: [] }), mediaTypes.ociIndex],
    [
      'a manifest of more than 4 MiB',
      manifest(mediaTypes.ociManifest, { ...valid, annotations: { long: 'x'.repeat(5 << 20) } }),
      mediaTypes.ociManifest,
    ],
  ])('refuses %s', async (_, body, mediaType) => {
    await push('refused', config)
    const answer = await putManifest('refused', 'latest', Buffer.from(body), mediaType)
    expect(answer).toMatchObject({ status: 400, codes: ['MANIFEST_INVALID'] })
    expect(await request('GET', '/v2/refused/manifests/latest', acceptAll)).toMatchObject({ status: 404 })
  })

  test('refuses a manifest of another schema version', async () => {
    await push('refused', config)
    const bytes = manifest(mediaTypes.ociManifest, { ...valid, schemaVersion: 1 })
    const answer = await putManifest('refused', 'latest', bytes, mediaTypes.ociManifest)
    expect(answer.status).toBeGreaterThanOrEqual(400)
  })
}

function describeIndexes({ request, pushImage, putManifest }: Client): void {
  test.each([mediaTypes.ociIndex, mediaTypes.dockerList])(
    'takes an index of manifests that are there, as %s',
    async (mediaType) => {
      const children = [
        descriptor(await pushImage('indexes', mediaTypes.ociManifest), 'amd64'),
        descriptor(await pushImage('indexes', mediaTypes.dockerManifest), 'arm64'),
      ]
      const bytes = index(mediaType, children)
      const put = await putManifest('indexes', 'multi', bytes, mediaType)
      expect(put.status).toBe(201)
      const answer = await request('GET', '/v2/indexes/manifests/multi', acceptAll)
      expect(answer.body).toEqual(bytes)
      expect(headersOf(answer, 'content-type', 'docker-content-digest')).toEqual([mediaType, digestOf(bytes)])
    },
  )

  test('accepts an index of an index, and an empty one', async () => {
    const empty = index(mediaTypes.ociIndex, [])
    expect(await putManifest('indexes', 'empty', empty, mediaTypes.ociIndex)).toMatchObject({ status: 201 })
    const nested = index(mediaTypes.ociIndex, [
      descriptor({ bytes: empty, digest: digestOf(empty), mediaType: mediaTypes.ociIndex }, 'amd64'),
    ])
    expect(await putManifest('indexes', 'nested', nested, mediaTypes.ociIndex)).toMatchObject({ status: 201 })
  })

  test('refuses an index of a missing manifest, and names it', async () => {
    const child = descriptor({ bytes: layer, digest: absent, mediaType: mediaTypes.ociManifest }, 'amd64')
    const answer = await putManifest('indexes', 'holey', index(mediaTypes.ociIndex, [child]), mediaTypes.ociIndex)
    expect(answer).toMatchObject({ status: 400, codes: ['MANIFEST_BLOB_UNKNOWN'], details: [absent] })
    expect(await request('GET', '/v2/indexes/manifests/holey', acceptAll)).toMatchObject({ status: 404 })
  })

  test('refuses an index of a manifest in another repository', async () => {
    const child = descriptor(await pushImage('indexes/other', mediaTypes.ociManifest), 'amd64')
    const answer = await putManifest('indexes/none', 'latest', index(mediaTypes.ociIndex, [child]), mediaTypes.ociIndex)
    expect(answer.codes).toEqual(['MANIFEST_BLOB_UNKNOWN'])
  })
}

function describeNegotiation({ request, pushImage, putManifest }: Client): void {
  test.each(['*/*', 'application/json', mediaTypes.dockerManifest, mediaTypes.ociIndex])(
    'hides an OCI manifest from a client that accepts just %s',
    async (accept) => {
      const { digest } = await pushImage('accept', mediaTypes.ociManifest, 'latest')
      for (const reference of ['latest', digest]) {
        const answer = await request('GET', `/v2/accept/manifests/${reference}`, { headers: { accept } })
        expect(answer).toMatchObject({ status: 404, codes: ['MANIFEST_UNKNOWN'] })
      }
    },
  )

  test('reads a list of types, with weights, in Accept', async () => {
    await pushImage('accept', mediaTypes.ociManifest, 'latest')
    const accept = `${mediaTypes.ociIndex}, ${mediaTypes.ociManifest};q=0.5`
    expect(await request('GET', '/v2/accept/manifests/latest', { headers: { accept } })).toMatchObject({ status: 200 })
  })

  test('hides an OCI index from a client that accepts no index', async () => {
    const child = descriptor(await pushImage('accept', mediaTypes.ociManifest), 'amd64')
    await putManifest('accept', 'index', index(mediaTypes.ociIndex, [child]), mediaTypes.ociIndex)
    const headers = { accept: `${mediaTypes.ociManifest}, ${mediaTypes.dockerList}` }
    const answer = await request('GET', '/v2/accept/manifests/index', { headers })
    expect(answer).toMatchObject({ status: 404, codes: ['MANIFEST_UNKNOWN'] })
  })

  test('returns the linux/amd64 manifest of a Docker list to a client that accepts no list, by tag', async () => {
    const image = await pushImage('accept', mediaTypes.dockerManifest)
    const list = index(mediaTypes.dockerList, [descriptor(image, 'amd64')])
    await putManifest('accept', 'list', list, mediaTypes.dockerList)
    const headers = { accept: mediaTypes.dockerManifest }
    const byTag = await request('GET', '/v2/accept/manifests/list', { headers })
    expectBody(byTag, 200, image.bytes)
    expect(headersOf(byTag, 'content-type', 'docker-content-digest')).toEqual([image.mediaType, image.digest])
    const byDigest = await request('GET', `/v2/accept/manifests/${digestOf(list)}`, { headers })
    expectBody(byDigest, 200, list)
  })

  test('does not return an unchanged Docker manifest to a client that accepts only OCI', async () => {
    const { bytes } = await pushImage('accept', mediaTypes.dockerManifest, 'docker')
    const headers = { accept: mediaTypes.ociManifest }
    const answer = await request('GET', '/v2/accept/manifests/docker', { headers })
    expect(answer).toMatchObject({ status: 400, codes: ['MANIFEST_INVALID'] })
    expect(answer.body).not.toEqual(bytes)
  })
}

function describeTags({ request, push, pushImage }: Client): void {
  test('lists the tags of a repository', async () => {
    await pushImage('tags/two', mediaTypes.ociManifest, 'one')
    await pushImage('tags/two', mediaTypes.dockerManifest, 'Two_2.0-x')
    const answer = await request('GET', '/v2/tags/two/tags/list')
    expect(answer.status).toBe(200)
    // In any order: the specification requires sorting, Docker Distribution 2.8 does not sort.
    expect(tagsOf(answer)).toEqual({ name: 'tags/two', tags: ['Two_2.0-x', 'one'] })
  })

  test('moves a tag to the last push, and keeps the previous manifest', async () => {
    const before = await pushImage('tags/moved', mediaTypes.ociManifest, 'latest')
    const after = await pushImage('tags/moved', mediaTypes.dockerManifest, 'latest')
    const answer = await request('GET', '/v2/tags/moved/manifests/latest', acceptAll)
    expect(answer.headers.get('docker-content-digest')).toBe(after.digest)
    expect(await request('GET', `/v2/tags/moved/manifests/${before.digest}`, acceptAll)).toMatchObject({ status: 200 })
  })

  test('does not list a repository without tags', async () => {
    await push('tags/blobs', layer)
    await pushImage('tags/digests', mediaTypes.ociManifest)
    for (const name of ['tags/never', 'tags/blobs', 'tags/digests']) {
      const answer = await request('GET', `/v2/${name}/tags/list`)
      expect(answer).toMatchObject({ status: 404, codes: ['NAME_UNKNOWN'], details: [{ name }] })
    }
  })
}

function describeDeletion({ request, push, pushImage, putManifest }: Client): void {
  test('deletes a blob from one repository only', async () => {
    const digest = await push('deleted/one', layer)
    await push('deleted/other', layer)
    expect(await request('DELETE', `/v2/deleted/one/blobs/${digest}`)).toMatchObject({ status: 202 })
    expect(await request('HEAD', `/v2/deleted/one/blobs/${digest}`)).toMatchObject({ status: 404 })
    expect(await request('HEAD', `/v2/deleted/other/blobs/${digest}`)).toMatchObject({ status: 200 })
    const again = await request('DELETE', `/v2/deleted/one/blobs/${digest}`)
    expect(again).toMatchObject({ status: 404, codes: ['BLOB_UNKNOWN'] })
  })

  test('deletes a manifest by its digest, and the tags that point to it', async () => {
    const { digest } = await pushImage('deleted', mediaTypes.ociManifest, 'one')
    await pushImage('deleted', mediaTypes.ociManifest, 'two')
    await pushImage('deleted', mediaTypes.dockerManifest, 'other')
    expect(await request('DELETE', `/v2/deleted/manifests/${digest}`)).toMatchObject({ status: 202 })
    for (const reference of ['one', 'two', digest]) {
      const answer = await request('GET', `/v2/deleted/manifests/${reference}`, acceptAll)
      expect(answer).toMatchObject({ status: 404, codes: ['MANIFEST_UNKNOWN'] })
    }
    expect(tagsOf(await request('GET', '/v2/deleted/tags/list')).tags).toEqual(['other'])
    const again = await request('DELETE', `/v2/deleted/manifests/${digest}`)
    expect(again).toMatchObject({ status: 404, codes: ['MANIFEST_UNKNOWN'] })
  })

  test('lists null if all tags are deleted', async () => {
    const { digest } = await pushImage('deleted/all', mediaTypes.ociManifest, 'latest')
    await request('DELETE', `/v2/deleted/all/manifests/${digest}`)
    expect(tagsOf(await request('GET', '/v2/deleted/all/tags/list'))).toEqual({ name: 'deleted/all', tags: null })
  })

  test('deletes no tag by its name', async () => {
    await pushImage('deleted/tag', mediaTypes.ociManifest, 'latest')
    const answer = await request('DELETE', '/v2/deleted/tag/manifests/latest')
    expect(answer).toMatchObject({ status: 400, codes: ['DIGEST_INVALID'] })
    expect(await request('GET', '/v2/deleted/tag/manifests/latest', acceptAll)).toMatchObject({ status: 200 })
  })

  test('keeps an index unchanged when one of its manifests is deleted', async () => {
    const image = await pushImage('deleted/child', mediaTypes.ociManifest)
    const bytes = index(mediaTypes.ociIndex, [descriptor(image, 'amd64')])
    await putManifest('deleted/child', 'latest', bytes, mediaTypes.ociIndex)
    await request('DELETE', `/v2/deleted/child/manifests/${image.digest}`)
    expectBody(await request('GET', '/v2/deleted/child/manifests/latest', acceptAll), 200, bytes)
  })
}

function describeChallenges({ request }: Client): void {
  test('names the token realm, without a scope, on /v2/', async () => {
    const answer = await request('GET', '/v2/')
    expect(answer).toMatchObject({ status: 401, codes: ['UNAUTHORIZED'] })
    expect(challengeOf(answer)).toEqual({ realm: expect.stringMatching(/^https?:/), service: expect.any(String) })
  })

  test.each([
    ['GET', '/v2/owner/app/tags/list', ['repository:owner/app:pull']],
    ['HEAD', '/v2/owner/app/manifests/latest', ['repository:owner/app:pull']],
    ['PUT', '/v2/owner/app/manifests/latest', ['repository:owner/app:pull,push']],
    ['POST', '/v2/owner/app/blobs/uploads/', ['repository:owner/app:pull,push']],
    ['DELETE', `/v2/owner/app/manifests/${absent}`, ['repository:owner/app:delete']],
    [
      'POST',
      `/v2/owner/app/blobs/uploads/?mount=${absent}&from=owner/base`,
      ['repository:owner/app:pull,push', 'repository:owner/base:pull'],
    ],
  ])('names the scope that %s %s needs', async (method, path, scopes) => {
    const answer = await request(method, path)
    expect(answer.status).toBe(401)
    expect(challengeOf(answer).scope?.split(' ').sort()).toEqual(scopes)
  })

  test('rejects an invalid token', async () => {
    const answer = await request('GET', '/v2/app/tags/list', { headers: { authorization: 'Bearer nonsense' } })
    expect(answer).toMatchObject({ status: 401, codes: ['UNAUTHORIZED'] })
    expect(challengeOf(answer)).toMatchObject({ scope: 'repository:app:pull', error: 'invalid_token' })
  })

  test('does not accept a password directly', async () => {
    const headers = { authorization: 'Basic dXNlcjpwYXNz' }
    const answer = await request('GET', '/v2/', { headers })
    expect(answer.status).toBe(401)
    expect(challengeOf(answer)).not.toHaveProperty('error')
  })
}

function describeTokens({ request }: Client, account: Login): void {
  const bearer = async (...scopes: readonly string[]): Promise<Headers> => {
    const { realm = '', service = '' } = challengeOf(await request('GET', '/v2/'))
    const query = new URLSearchParams({ service })
    for (const scope of scopes) query.append('scope', scope)
    const answer = await request('GET', `${realm}?${query}`, { headers: { authorization: basic(account) } })
    const { token }: { readonly token: string } = JSON.parse(answer.body.toString())
    return new Headers({ authorization: `Bearer ${token}` })
  }

  test('accepts a token within its scope', async () => {
    const headers = await bearer('repository:app:pull,push')
    expect(await request('GET', '/v2/', { headers })).toMatchObject({ status: 200 })
    expect(await request('POST', '/v2/app/blobs/uploads/', { headers })).toMatchObject({ status: 202 })
  })

  test.each([
    ['POST', '/v2/app/blobs/uploads/', 'repository:app:pull,push'],
    ['GET', '/v2/app/api/tags/list', 'repository:app/api:pull'],
    ['DELETE', `/v2/app/manifests/${absent}`, 'repository:app:delete'],
  ])('refuses %s %s with a token for pulling from app, and names the missing scope', async (method, path, scope) => {
    const answer = await request(method, path, { headers: await bearer('repository:app:pull') })
    expect(answer).toMatchObject({ status: 401, codes: ['UNAUTHORIZED'] })
    expect(challengeOf(answer)).toMatchObject({ scope, error: 'insufficient_scope' })
  })

  test('mounts only with a token that may also pull from the other repository', async () => {
    const path = `/v2/app/blobs/uploads/?mount=${absent}&from=base`
    const one = await request('POST', path, { headers: await bearer('repository:app:pull,push') })
    expect(one.status).toBe(401)
    const headers = await bearer('repository:app:pull,push', 'repository:base:pull')
    expect(await request('POST', path, { headers })).toMatchObject({ status: 202 })
  })
}

/** Starts the registry before the tests of this block and stops it after them. */
function useSubject(start: () => Promise<ContractSubject>, headers: Readonly<Record<string, string>>): Client {
  let subject: ContractSubject | undefined
  beforeAll(async () => {
    subject = await start()
  })
  afterAll(async () => {
    await subject?.close()
  })
  return createClient(() => `http://${subject?.host}`, headers)
}

function headersOf({ headers }: Answer, ...names: readonly string[]): readonly (string | null)[] {
  return names.map((name) => headers.get(name))
}

function tagsOf({ body }: Answer): { readonly name: string; readonly tags: readonly string[] | null } {
  const { name, tags }: { name: string; tags: string[] | null } = JSON.parse(body.toString())
  return { name, tags: tags?.sort() ?? null }
}

/**
 * The parameters of a Bearer challenge, with sorted actions of a scope, because Docker Distribution does not order
 * them.
 */
function challengeOf({ headers }: Answer): Readonly<Record<string, string>> {
  const challenge = headers.get('www-authenticate') ?? ''
  expect(challenge).toMatch(/^Bearer /)
  const parameters = [...challenge.matchAll(/(\w+)="([^"]*)"/g)].map(
    ([, name = '', value = '']) => [name, value] as const,
  )
  const inOrder = (scopes: string): string =>
    scopes.replace(/:([a-z,]+)(?= |$)/g, (_, actions: string) => `:${actions.split(',').sort().join(',')}`)
  return Object.fromEntries(parameters.map(([name, value]) => [name, name === 'scope' ? inOrder(value) : value]))
}
