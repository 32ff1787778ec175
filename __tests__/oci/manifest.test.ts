import { describe, expect, test } from '@jest/globals'
import { FormatError } from '../../src/errors.ts'
import { DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, parseManifest } from '../../src/oci/manifest.ts'
import { digestOf } from '../../src/oci/reference.ts'

const digest = digestOf(Buffer.from('content'))
const layer = { mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', digest, size: 7 }
const config = { mediaType: 'application/vnd.oci.image.config.v1+json', digest, size: 7 }
const manifest = { schemaVersion: 2, config, layers: [layer] }
const child = { mediaType: OCI_MANIFEST, digest, size: 7, platform: { os: 'linux', architecture: 'arm64' } }
const index = { schemaVersion: 2, manifests: [child] }

function bytesOf(document: unknown): Uint8Array {
  return Buffer.from(typeof document === 'string' ? document : JSON.stringify(document))
}

function parse(document: unknown, sentAs: string) {
  return parseManifest(bytesOf(document), sentAs, 'ghcr.io/owner/app:1')
}

/** Invalid parts of a platform, which could end a line of the log or a cell of the summary. */
const invalidWords = ['x\n::error::y', 'x\n', 'x\r', 'a b', 'a|b', '`a`', '<b>']

/** Returns the message of the FormatError that is thrown. */
function refusal(parsing: () => unknown): string {
  try {
    parsing()
  } catch (error) {
    if (error instanceof FormatError) return error.message
    throw error
  }
  return 'nothing was thrown'
}

describe('manifests and indexes', () => {
  test.each([OCI_MANIFEST, DOCKER_MANIFEST])('a manifest is parsed as %s', (mediaType) => {
    const annotations = { a: '1' }
    expect(parse({ ...manifest, mediaType, annotations }, mediaType)).toEqual({
      kind: 'manifest',
      mediaType,
      config,
      layers: [layer],
      annotations,
    })
  })

  test.each([OCI_INDEX, DOCKER_INDEX])('an index is parsed as %s', (mediaType) => {
    expect(parse({ ...index, mediaType }, mediaType)).toEqual({
      kind: 'index',
      mediaType,
      manifests: [child],
      annotations: {},
    })
  })

  test.each([
    ['the response', manifest, OCI_MANIFEST],
    ['the response, with a parameter and in upper case', manifest, `${OCI_MANIFEST.toUpperCase()}; charset=utf-8`],
    ['the document, if the response is generic JSON', { ...manifest, mediaType: OCI_MANIFEST }, 'application/json'],
    ['the document, if the response has no type', { ...manifest, mediaType: OCI_MANIFEST }, ''],
  ])('the media type may come from %s', (_, document, sentAs) => {
    expect(parse(document, sentAs)).toMatchObject({ kind: 'manifest', mediaType: OCI_MANIFEST })
  })

  test.each([
    ['annotations that are null', { ...manifest, annotations: null }, OCI_MANIFEST],
    ['annotations of an entry that are null', { ...index, manifests: [{ ...child, annotations: null }] }, OCI_INDEX],
    ['a platform that is null', { ...index, manifests: [{ ...child, platform: null }] }, OCI_INDEX],
  ])('null counts as missing: %s', (_, document, sentAs) => {
    expect(parse(document, sentAs)).toMatchObject({ annotations: {} })
  })

  test.each([
    ['has the media type of an index', { ...manifest, mediaType: OCI_INDEX }, OCI_MANIFEST],
    ['has the media type of Docker', { ...manifest, mediaType: DOCKER_MANIFEST }, OCI_MANIFEST],
    ['has the media type of a manifest', { ...index, mediaType: OCI_MANIFEST }, OCI_INDEX],
    // https://github.com/opencontainers/image-spec/security/advisories/GHSA-77vh-xpmg-72qh
    ['has the entries of an index', { ...manifest, ...index }, OCI_MANIFEST],
    ['has the layers of a manifest', { ...manifest, ...index }, OCI_INDEX],
  ])('a document that %s but is sent as another type is refused', (_, document, sentAs) => {
    const message = refusal(() => parse(document, sentAs))
    expect(message).toContain('ghcr.io/owner/app:1')
    expect(message).toContain('contradicts itself')
  })

  test.each([
    ['invalid JSON', 'nonsense', OCI_MANIFEST, 'it is not JSON'],
    ['null', null, OCI_MANIFEST, 'ghcr.io/owner/app:1 is not a valid image manifest'],
    ['of another type', manifest, 'text/html', 'is not an image: its media type is "text/html"'],
    ['of an older type', { fsLayers: [] }, 'application/vnd.docker.distribution.manifest.v1+json', 'manifest.v1+json'],
    ['without a config', { layers: [layer] }, OCI_MANIFEST, 'config'],
    ['without layers', { config }, OCI_MANIFEST, 'layers'],
    ['without entries', {}, OCI_INDEX, 'is not a valid image index: manifests'],
    [
      'with a truncated digest',
      { config, layers: [{ ...layer, digest: 'sha256:12' }] },
      OCI_MANIFEST,
      'layers.0.digest',
    ],
    ['with a negative size', { config: { ...config, size: -1 }, layers: [] }, OCI_MANIFEST, 'config.size'],
    ['with a fractional size', { config: { ...config, size: 0.5 }, layers: [] }, OCI_MANIFEST, 'config.size'],
    ['with an annotation that is not a string', { ...manifest, annotations: { a: 1 } }, OCI_MANIFEST, 'annotations.a'],
  ])('a malformed document is refused: %s', (_, document, sentAs, why) => {
    expect(refusal(() => parse(document, sentAs))).toContain(why)
  })

  test.each(['os', 'architecture', 'variant'])('an index with an invalid %s of a platform is refused', (part) => {
    for (const word of invalidWords) {
      const platform = { ...child.platform, [part]: word }
      const message = refusal(() => parse({ ...index, manifests: [{ ...child, platform }] }, OCI_INDEX))
      expect(message).toMatch(new RegExp(`manifests\\.0\\.platform\\.${part}: has characters that no platform has$`))
    }
  })

  test.each(['os', 'architecture', 'variant'])('the %s of a platform has at most 64 characters', (part) => {
    const withWord = (length: number) =>
      parse(
        { ...index, manifests: [{ ...child, platform: { ...child.platform, [part]: 'x'.repeat(length) } }] },
        OCI_INDEX,
      )
    expect(withWord(64)).toMatchObject({ manifests: [{ platform: { [part]: 'x'.repeat(64) } }] })
    const message = refusal(() => withWord(65))
    expect(message).toMatch(new RegExp(`manifests\\.0\\.platform\\.${part}: is longer than 64 characters$`))
  })

  test('invalid UTF-8 is refused', () => {
    const bytes = Buffer.from(JSON.stringify({ ...manifest, annotations: { a: 'é' } }), 'latin1')
    expect(refusal(() => parseManifest(bytes, OCI_MANIFEST, 'app'))).toContain('app is not a valid image manifest')
  })

  test.each([
    ['a media type', { mediaType: 'text/plain\n::error::x' }, ''],
    ['a value', { ...manifest, config: { ...config, size: '1\n::error::x' } }, OCI_MANIFEST],
    ['a key', { ...manifest, annotations: { '\n::error::x': 1 } }, OCI_MANIFEST],
  ])('%s can’t add a line to the job’s log', (_, document, sentAs) => {
    expect(refusal(() => parse(document, sentAs))).not.toContain('\n')
  })
})
