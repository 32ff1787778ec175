import { describe, expect, test } from '@jest/globals'
import { RecordError } from '../../src/errors.ts'
import { type DigestRecord, parseRecord, serializeRecord } from '../../src/record/record.ts'
import { makeRecord } from '../support/record.ts'

const record: DigestRecord = makeRecord({
  platform: { os: 'linux', architecture: 'arm64', variant: 'v8' },
  job: { id: 'build', total: 2 },
})

describe('a record', () => {
  test.each<[string, DigestRecord]>([
    ['with all fields', record],
    ['without a variant', { ...record, platform: { os: 'linux', architecture: 'arm64' } }],
    ['of an image that the store path alone makes', { ...record, labels: [] }],
    ['of an image with labels added', { ...record, labels: ['org.example.commit'] }],
    [
      'with the derivation and the inputs of the flake',
      {
        ...record,
        derivation: `/nix/store/${'d'.repeat(32)}-app.drv`,
        inputs: [{ name: 'nixpkgs', uri: 'path:./lib', digest: { gitCommit: 'a' }, annotations: { narHash: 'b' } }],
      },
    ],
    ['without the number of jobs', { ...record, job: { id: 'build' } }],
    ['with what the runner left undefined', { ...record, job: { id: 'build', total: undefined } }],
    [
      'of 32-bit Arm',
      { ...record, system: 'armv7l-linux', platform: { os: 'linux', architecture: 'arm', variant: 'v7' } },
    ],
    ['of Docker’s media type', { ...record, mediaType: 'application/vnd.docker.distribution.manifest.v2+json' }],
  ])('%s is one line, and comes back as it was', (_, one) => {
    const line = serializeRecord(one)
    expect(line).not.toContain('\n')
    expect(parseRecord(line, 'here')).toEqual(one)
  })

  test('of a later version, with more fields, is read', () => {
    const later = { ...record, signature: 'x', run: { ...record.run, url: 'y' } }
    expect(parseRecord(JSON.stringify(later), 'here')).toEqual(record)
  })

  test('names its image in the canonical form', () => {
    expect(parseRecord(JSON.stringify({ ...record, image: 'owner/app' }), 'here').image).toBe('docker.io/owner/app')
  })
})

describe('a record that is not valid', () => {
  const { digest: _, ...withoutDigest } = record

  test.each<[string, unknown, RegExp]>([
    ['a schema of the future', { ...record, schema: 2 }, /"schema": is not 1/],
    ['an image with a tag', { ...record, image: 'ghcr.io/owner/app:v1' }, /"image": is not the name of an image/],
    ['an image in upper case', { ...record, image: 'ghcr.io/Owner/app' }, /"image": is not the name of an image/],
    ['an image that is no text', { ...record, image: 7 }, /"image": .*string/],
    ['a system that is unknown', { ...record, system: 'amd64' }, /"system": is not a supported system/],
    ['a system of macOS', { ...record, system: 'aarch64-darwin' }, /"system": is not a supported system/],
    [
      'a system called as every object has a property',
      { ...record, system: 'toString' },
      /"system": is not a supported system/,
    ],
    ['a platform without an architecture', { ...record, platform: { os: 'linux' } }, /"platform\.architecture"/],
    ['labels that are no keys', { ...record, labels: { a: 'b' } }, /"labels"/],
    ['a label that is no text', { ...record, labels: [1] }, /"labels\.0"/],
    ['a variant that is no text', { ...record, platform: { ...record.platform, variant: 8 } }, /"platform\.variant"/],
    ['a digest cut short', { ...record, digest: 'sha256:0a' }, /"digest": is not a sha256 digest/],
    ['a digest with a line behind it', { ...record, digest: `${record.digest}\n` }, /"digest": is not a sha256 digest/],
    ['no digest', withoutDigest, /digest/],
    [
      'the media type of an index',
      { ...record, mediaType: 'application/vnd.oci.image.index.v1+json' },
      /"mediaType": is not the media type of an image manifest/,
    ],
    ['a size of nothing', { ...record, size: 0 }, /"size"/],
    ['a size with a fraction', { ...record, size: 1.5 }, /"size"/],
    ['a size in words', { ...record, size: '1234' }, /"size"/],
    ['a store path that is none', { ...record, storePath: 'result' }, /"storePath"/],
    [
      'a store path of two lines',
      { ...record, storePath: '/nix/store/a\n::error::b' },
      /"storePath": is not an absolute path/,
    ],
    [
      'a compression that layers can’t have',
      { ...record, compression: 'xz' },
      /"compression": is not a layer compression/,
    ],
    [
      'a source with credentials',
      { ...record, source: 'https://a:b@example.org/o/app' },
      /"source": is not the URL of/,
    ],
    ['a source that is a path', { ...record, source: '/srv/app' }, /"source": is not the URL of/],
    ['a derivation outside of a store', { ...record, derivation: 'app.drv' }, /"derivation": is not a store path/],
    ['an input without a URI', { ...record, inputs: [{ name: 'nixpkgs' }] }, /"inputs\.0/],
    ['a job without an id', { ...record, job: { total: 2 } }, /"job\.id"/],
    ['no jobs in all', { ...record, job: { id: 'build', total: 0 } }, /"job\.total"/],
    ['an attempt before the first', { ...record, run: { id: '42', attempt: 0 } }, /"run\.attempt"/],
    ['a run without an id', { ...record, run: { attempt: 1 } }, /"run\.id"/],
    [
      'the platform of another system',
      { ...record, platform: { os: 'linux', architecture: 'amd64' } },
      /"platform" is linux\/amd64, but aarch64-linux is linux\/arm64/,
    ],
    [
      'the variant of another system',
      { ...record, system: 'armv7l-linux', platform: { os: 'linux', architecture: 'arm', variant: 'v6' } },
      /"platform" is linux\/arm\/v6, but armv7l-linux is linux\/arm\/v7/,
    ],
    [
      'another operating system',
      { ...record, platform: { os: 'windows', architecture: 'arm64' } },
      /"platform" is windows\/arm64/,
    ],
    ...['os', 'architecture', 'variant'].flatMap((part) =>
      ['x\n::error::y', 'x\n', 'x\r', 'a b', 'a|b', '`a`', '<b>'].map((word): [string, unknown, RegExp] => [
        `a platform whose ${part} is ${JSON.stringify(word)}`,
        { ...record, platform: { ...record.platform, [part]: word } },
        new RegExp(`"platform\\.${part}": has characters that no platform has`),
      ]),
    ),
    ['a list', [record], /schema/],
    ['null', null, /Object/],
  ])('%s: the message names the field and where the record is from', (_, value, message) => {
    expectMessage(JSON.stringify(value), message)
  })

  test.each(['', '{', 'sha256:abc'])('%j is no JSON', (text) => {
    expectMessage(text, /JSON/)
  })
})

function expectMessage(text: string, message: RegExp): void {
  const read = (): DigestRecord => parseRecord(text, 'line 3 of `digests`')
  expect(read).toThrow(RecordError)
  expect(read).toThrow(message)
  expect(read).toThrow(/^The digest record in line 3 of `digests` is not valid\n/)
  expect(read).toThrow(/same version of this action/)
}
