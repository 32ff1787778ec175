import { beforeEach, describe, expect, test } from '@jest/globals'
import {
  LATER,
  lines,
  mergeWith,
  namesIn,
  ORIGIN,
  openGitHost,
  openRegistry,
  type PushDetails,
  platformsOf,
  push,
  REVISION,
  records,
  refusalOf,
  said,
  TOKEN,
  TWO_SYSTEMS,
  writesTo,
} from '../support/merging.ts'
import type { FaultOf, TestRegistry } from '../support/registry.ts'
import { DOCKER_LIST, OCI_INDEX } from '../support/seed.ts'

// Images pushed by older versions of Docker. Quay refuses an OCI index that lists them; other registries refuse Docker's
// manifest list.

const INVALID = JSON.stringify({
  errors: [{ code: 'MANIFEST_INVALID', message: 'manifest invalid', detail: 'manifest data does not match schema' }],
})

let registry: TestRegistry

beforeEach(async () => {
  registry = await openRegistry()
})

/** Refuses manifests of this type with an answer of a real registry. */
function refusing(mediaType: string, status = 400, body = INVALID): FaultOf {
  return ({ method, route, headers }) =>
    method === 'PUT' && route === 'manifest' && headers['content-type'] === mediaType
      ? { kind: 'status', status, body }
      : undefined
}

async function inputsFor(details: PushDetails, image = 'app'): Promise<Readonly<Record<string, string>>> {
  return {
    digests: records(await push(registry, image, TWO_SYSTEMS, { docker: true, labels: ORIGIN, ...details })),
    tags: 'latest',
  }
}

const typeOf = (reference: string, repository = 'app') => registry.manifest(repository, reference)?.mediaType

describe('a registry that accepts an OCI index of Docker manifests', () => {
  test('receives one', async () => {
    await mergeWith(registry, await inputsFor({}))
    expect(typeOf('latest')).toBe(OCI_INDEX)
  })
})

describe('a registry that refuses an OCI index of Docker manifests', () => {
  test.each([
    ['400 MANIFEST_INVALID', 400, INVALID],
    ['415', 415, 'unsupported media type'],
    ['404 UNSUPPORTED', 404, '{"errors":[{"code":"UNSUPPORTED"}]}'],
  ])(
    'with %s receives a Docker manifest list if the images have all annotations as labels',
    async (_, status, body) => {
      registry.setFault(refusing(OCI_INDEX, status, body))
      const { outputs } = await mergeWith(registry, await inputsFor({}))
      expect(registry.manifest('app', 'latest')).toMatchObject({ mediaType: DOCKER_LIST, digest: outputs.digest })
      expect(platformsOf(registry, 'latest')).toEqual(['linux/amd64', 'linux/arm64'])
      expect(String(registry.manifest('app', 'latest')?.bytes)).not.toContain('annotations')
      expect(lines.join('\n')).toContain('publishing a Docker manifest list')
      expect(said).toEqual([])
    },
  )

  test('makes all repositories receive the same list', async () => {
    const inputs = await inputsFor({})
    const quay = refusing(OCI_INDEX)
    registry.setFault((request) => (request.path.includes('/mirror/') ? quay(request) : undefined))
    const image = namesIn(registry, 'app', 'mirror')
    const { outputs } = await mergeWith(registry, { ...inputs, image })
    for (const repository of ['app', 'mirror'])
      expect(registry.manifest(repository, 'latest')).toMatchObject({ mediaType: DOCKER_LIST, digest: outputs.digest })
  })

  test('keeps its current list and does not receive an index again', async () => {
    registry.setFault(refusing(OCI_INDEX))
    const inputs = await inputsFor({})
    const { outputs: first } = await mergeWith(registry, inputs)
    const before = writesTo(registry).length
    const { outputs } = await mergeWith(registry, inputs)
    expect(outputs).toMatchObject({ digest: first.digest, changed: 'false' })
    expect(writesTo(registry).slice(before)).toEqual([])
  })

  test('keeps the list of a later commit, which the labels of its images name', async () => {
    const host = await openGitHost()
    registry.setFault(refusing(OCI_INDEX))
    const labels = { ...ORIGIN, [REVISION]: LATER }
    const { outputs } = await mergeWith(registry, await inputsFor({ labels, content: 'later' }), { sha: LATER })
    const inputs = { ...(await inputsFor({})), tags: 'latest,v1', token: TOKEN }
    const older = await mergeWith(registry, inputs, { env: { GITHUB_API_URL: host.api } })
    expect(registry.tags('app').get('latest')).toBe(outputs.digest)
    expect(older.outputs['skipped-tags']).toBe(`${registry.host}/app:latest`)
  })

  test('never loses a platform of its list', async () => {
    registry.setFault(refusing(OCI_INDEX))
    await mergeWith(registry, await inputsFor({}))
    const [{ record }] = await push(registry, 'app', ['x86_64-linux'], { docker: true, labels: ORIGIN, content: 'new' })
    expect(await refusalOf(registry, { digests: record, tags: 'latest' })).toContain('latest would lose linux/arm64')
  })
})

describe('an index that is refused for its Docker manifests causes an error with a solution', () => {
  async function refusal(details: PushDetails, inputs: Readonly<Record<string, string>> = {}): Promise<string> {
    registry.setFault(refusing(OCI_INDEX))
    const message = await refusalOf(registry, { ...(await inputsFor(details)), ...inputs })
    expect(message).toContain(`${registry.host} refuses an OCI index that lists Docker manifests\n`)
    expect(message).toContain('manifest data does not match schema')
    expect(message).toContain('No tag has moved. Push OCI manifests.')
    expect(message).toContain('  push-with: registry')
    return message
  }

  test('if a list would lose the commit', async () => {
    expect(await refusal({ labels: {} })).toContain(`give every image these labels: ${Object.keys(ORIGIN).join(', ')}`)
  })

  test('if a list would lose the user’s annotations', async () => {
    expect(await refusal({}, { annotations: 'index:title=App\nmanifest-descriptor:note=x' })).toContain(
      'give every image these labels: title, note',
    )
  })

  test('if only some of them are Docker manifests', async () => {
    registry.setFault(refusing(OCI_INDEX))
    const [docker] = await push(registry, 'app', TWO_SYSTEMS, { docker: true, labels: ORIGIN })
    const [, oci] = await push(registry, 'app', TWO_SYSTEMS, { labels: ORIGIN })
    const message = await refusalOf(registry, { digests: records([docker, oci]) })
    expect(message).toContain('push-with: registry')
    expect(message).not.toContain('Docker manifest list')
  })

  test('if a list is refused as well', async () => {
    registry.setFault((request) => refusing(OCI_INDEX)(request) ?? refusing(DOCKER_LIST)(request))
    expect(await refusalOf(registry, await inputsFor({}))).toContain('push-with: registry')
  })

  test('unless it is refused for another reason, which is reported unchanged', async () => {
    registry.setFault(refusing(OCI_INDEX, 403, '{"errors":[{"code":"DENIED"}]}'))
    const message = await refusalOf(registry, await inputsFor({}))
    expect(message).toContain('DENIED')
    expect(message).not.toContain('push-with')
  })
})
