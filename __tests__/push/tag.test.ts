import { describe, expect, test } from '@jest/globals'
import { InputError } from '../../src/errors.ts'
import { checkTag, chooseTag } from '../../src/push/tag.ts'
import { open } from '../registry/connect.ts'
import { openRegistry, push } from '../support/merging.ts'
import { OCI_INDEX, seedIndex } from '../support/seed.ts'

const REVISION = '0123456789abcdef0123456789abcdef01234567'
const inputs = { tag: '', system: 'aarch64-linux', variant: '', jobTotal: 2, pushWith: 'registry' } as const

describe('the tag of a build', () => {
  test.each([
    ['{sha}-{system}', '0123456-aarch64-linux'],
    ['{variant}-{sha}-{sha}', 'debug-0123456-0123456'],
    ['', ''],
  ])('%s', (tag, expected) => {
    expect(chooseTag({ ...inputs, jobTotal: 1, variant: 'debug', tag }, REVISION)).toEqual({ tag: expected })
  })

  test('needs a commit only for {sha}', () => {
    expect(chooseTag({ ...inputs, tag: 'dev-{system}' }, '')).toEqual({ tag: 'dev-aarch64-linux' })
    const choose = () => chooseTag({ ...inputs, tag: '{sha}-{system}' }, '')
    expect(choose).toThrow('The input `tag` contains {sha}, but the commit is unknown\n')
    expect(choose).toThrow('Remove {sha} from the tag.')
  })

  test.each(['latest-arm64', 'v1_aarch64', 'aarch64-linux', 'ARM64.v2'])('may name the platform itself: %s', (tag) => {
    expect(chooseTag({ ...inputs, tag }, REVISION)).toEqual({ tag })
  })

  test.each(['latest', '{sha}', 'arm64latest', 'latest-amd64'])(
    'is left out if all jobs of a matrix would write it: %s',
    (pattern) => {
      const { tag, warning } = chooseTag({ ...inputs, tag: pattern }, REVISION)
      expect(tag).toBe('')
      expect(warning).toMatch(
        /^The tag "[\w-]+" does not name the system, so the 2 jobs of this matrix .* This build pushes its image without a tag\./,
      )
      expect(warning).toContain(`\n  tag: ${pattern}-{system}\n`)
    },
  )

  test('is an error for such jobs if Docker pushes, which needs a tag', () => {
    const choose = () => chooseTag({ ...inputs, tag: 'latest', pushWith: 'docker' }, REVISION)
    expect(choose).toThrow(InputError)
    expect(choose).toThrow('The tag "latest" does not name the system, so the 2 jobs of this matrix')
  })

  test('may be any tag in a matrix of one job', () => {
    for (const jobTotal of [1, undefined])
      expect(chooseTag({ ...inputs, tag: 'latest', jobTotal }, REVISION)).toEqual({ tag: 'latest' })
  })
})

describe('a tag that points to an index', () => {
  const AMD64 = { os: 'linux', architecture: 'amd64' }

  async function check(systems: readonly string[], tagged = true): Promise<unknown> {
    const registry = await openRegistry()
    const entries = (await push(registry, 'app', systems)).map(({ entry }) => entry)
    if (tagged) seedIndex(registry, 'app', entries, 'latest')
    const client = open(registry.host)
    return checkTag(client, { repository: client.repository, tag: 'latest' }, AMD64)
  }

  test('for other platforms is not replaced by an image for one', async () => {
    const checking = check(['x86_64-linux', 'aarch64-linux'])
    await expect(checking).rejects.toThrow(
      /^The build for linux\/amd64 can't write the tag \S+\/app:latest: it points to an index of linux\/amd64, linux\/arm64\n/,
    )
    await expect(checking).rejects.toThrow('\n  tag: latest-{system}\n')
  })

  test('that can’t be read is not replaced either', async () => {
    const registry = await openRegistry()
    registry.seedManifest('app', Buffer.from('{"manifests":3}'), OCI_INDEX, 'latest')
    const client = open(registry.host)
    const checking = checkTag(client, { repository: client.repository, tag: 'latest' }, AMD64)
    await expect(checking).rejects.toThrow("it points to an index that can't be read\n")
  })

  test.each([
    ['x86_64-linux', undefined],
    ['aarch64-linux', /can't write the tag \S+\/app:latest: it points to the image for linux\/arm64\n/],
  ])('or to the image of %s', async (system, refusal) => {
    const registry = await openRegistry()
    const [{ image }] = await push(registry, 'app', [system])
    registry.seedTag('app', 'latest', image.digest)
    const client = open(registry.host)
    const checking = checkTag(client, { repository: client.repository, tag: 'latest' }, AMD64)
    if (refusal === undefined) await expect(checking).resolves.toBeUndefined()
    else await expect(checking).rejects.toThrow(refusal)
  })

  test('for this platform alone is replaced', async () => {
    await expect(check(['x86_64-linux'])).resolves.toBeUndefined()
  })

  test('that does not exist is written', async () => {
    await expect(check(['x86_64-linux', 'aarch64-linux'], false)).resolves.toBeUndefined()
  })
})
