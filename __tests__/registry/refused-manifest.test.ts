import { describe, expect, test } from '@jest/globals'
import { adviceFor } from '../../src/actions/advice.ts'
import { digestOf } from '../../src/oci/reference.ts'
import { mediaTypes } from '../support/registry/manifests.ts'
import { index } from '../support/registry/wire.ts'
import type { BearerAuth, FaultOf, RegistryOptions } from '../support/registry.ts'
import { account, connect, failureOf, password } from './connect.ts'

const bytes = index(mediaTypes.ociIndex, [])
const before = Buffer.from(`${bytes} `)
const bearer: BearerAuth = { kind: 'bearer', ...account }

function refusing(status: number, code: string, message: string, headers = {}): FaultOf {
  const body = JSON.stringify({ errors: [{ code, message }] })
  return ({ method, route }) =>
    method === 'PUT' && route === 'manifest' ? { kind: 'status', status, body, headers } : undefined
}

async function write(
  fault: FaultOf,
  reference: string,
  mediaType: string = mediaTypes.ociIndex,
  tagged = true,
  options: RegistryOptions = { auth: bearer },
) {
  const { server, client } = await connect({ ...options, fault }, password)
  const digest = server.seedManifest('app', before, mediaTypes.ociIndex, tagged ? 'v1' : undefined)
  const error = await failureOf(client.putManifest(client.repository, reference, mediaType, bytes))
  return { error, digest, name: `${server.host}/app`, host: server.host, requests: server.requests }
}

describe('an immutable tag', () => {
  test.each([
    [
      'Amazon ECR',
      400,
      'TAG_INVALID',
      "The image tag 'v1' already exists in the 'app' repository and cannot be overwritten because the tag is immutable.",
    ],
    ['Harbor', 412, 'PRECONDITION', "Failed to process request due to 'app:v1' configured as immutable."],
    ['another one', 409, 'CONFLICT', 'the tag is immutable'],
  ])('is reported with the digest it points to and the registry’s words: %s', async (_, status, code, detail) => {
    const { error, digest, name, host } = await write(refusing(status, code, detail), 'v1')
    expect(error).toMatchObject({ problem: 'tag-exists', status, code })
    expect(error.message).toBe(
      `Can't move the tag ${name}:v1: it exists and points to ${digest}, and ${host} refuses to change it (status ${status})\n  ${code}: ${detail}`,
    )
  })

  test.each([
    ['zot', 403, 'DENIED', 'requested access to the resource is denied'],
    ['Docker Hub', 403, 'DENIED', 'forbidden'],
    [
      'old versions of zot, for another media type',
      400,
      'MANIFEST_INVALID',
      'changing manifest media-type is disallowed',
    ],
  ])('is suspected if the registry gives no reason: %s', async (_, status, code, detail) => {
    const { error, digest } = await write(refusing(status, code, detail), 'v1')
    expect(error.problem).toBe('tag-exists')
    expect(error.message).toContain(`points to ${digest}, and `)
    expect(error.message).toContain(`(status ${status}). It may be immutable\n`)
    for (const mode of ['build', 'merge']) expect(adviceFor(error, mode)).not.toContain('write access')
  })

  test('gets the advice that fits the mode', async () => {
    const { error } = await write(refusing(400, 'TAG_INVALID', 'immutable'), 'v1')
    expect(adviceFor(error, 'build')).toContain('\n  tag: ""\n')
    expect(adviceFor(error, 'merge')).toContain('Remove this tag from `tags`, or delete it in the registry')
  })
})

describe('a manifest that is refused for another reason is reported with that reason', () => {
  const denied = refusing(403, 'DENIED', 'no')

  test('if the tag does not exist', async () => {
    expect((await write(denied, 'v1', mediaTypes.ociIndex, false)).error.problem).toBe('denied')
  })

  test('if it has no tag', async () => {
    expect((await write(denied, digestOf(bytes))).error.problem).toBe('denied')
  })

  test('if a blob is missing', async () => {
    const { error } = await write(refusing(400, 'MANIFEST_BLOB_UNKNOWN', 'unknown blob'), 'v1')
    expect(error).toMatchObject({ problem: 'other', code: 'MANIFEST_BLOB_UNKNOWN' })
  })

  test('if the registry accepts no pushes', async () => {
    expect((await write(refusing(405, 'UNSUPPORTED', 'no'), 'v1')).error.problem).toBe('read-only')
  })
})

describe('a manifest of a type that the registry does not support', () => {
  const quay = (type: string) =>
    `failed to parse manifest: manifest data does not match schema: '${type}' is not one of ['${mediaTypes.ociManifest}', '${mediaTypes.ociIndex}']`

  test.each([
    [
      'zot',
      mediaTypes.dockerManifest,
      refusing(415, 'MANIFEST_INVALID', 'manifest invalid'),
      mediaTypes.dockerManifest,
    ],
    [
      'Quay, for an entry of an index',
      mediaTypes.ociIndex,
      refusing(400, 'MANIFEST_INVALID', quay(mediaTypes.dockerManifest)),
      mediaTypes.dockerManifest,
    ],
    ['GitLab', mediaTypes.dockerList, refusing(400, 'MANIFEST_INVALID', 'unknown media type'), mediaTypes.dockerList],
  ])('of Docker’s is refused with the advice to push OCI manifests: %s', async (_, type, fault, refused) => {
    const { error } = await write(fault, 'sha256', type, false)
    expect(error).toMatchObject({ problem: 'unsupported-type', mediaType: refused })
    expect(error.message).toContain(`: manifests of the type ${refused} may not be supported\n`)
    expect(adviceFor(error)).toBe(
      'Push OCI manifests. In the build steps, remove `push-with: docker` or set:\n  push-with: registry',
    )
  })

  test.each([
    ['old versions of Gitea', refusing(404, 'NOT_FOUND', 'page not found')],
    ['old versions of Artifactory', refusing(400, 'UNSUPPORTED', 'The operation is unsupported.')],
    ['another one', refusing(415, '', '')],
  ])('of OCI’s is refused with advice on what to push instead: %s', async (_, fault) => {
    const { error } = await write(fault, 'v1', mediaTypes.ociIndex, false)
    expect(error).toMatchObject({ problem: 'unsupported-type', mediaType: mediaTypes.ociIndex })
    expect(adviceFor(error)).toContain('push-with: registry')
    const { error: other } = await write(fault, 'v1', mediaTypes.ociManifest, false)
    expect(adviceFor(other)).toContain('push-with: docker')
  })

  test('is distinguished from an invalid one, and from a missing repository', async () => {
    expect(
      (await write(refusing(400, 'MANIFEST_INVALID', 'manifest invalid'), 'v1', mediaTypes.ociIndex, false)).error
        .problem,
    ).toBe('other')
    expect((await write(refusing(404, 'NAME_UNKNOWN', 'no'), 'v1', mediaTypes.ociIndex, false)).error.problem).toBe(
      'not-found',
    )
  })
})
