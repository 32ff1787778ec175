import { describe, expect, test } from '@jest/globals'
import { digestOf } from '../../src/oci/digest.ts'
import { parseConfig, parseManifest } from '../../src/oci/document.ts'
import { FormatError } from '../../src/oci/format-error.ts'
import { DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST } from '../../src/oci/media-type.ts'

const digest = digestOf(Buffer.from('content'))
const layer = { mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', digest, size: 7 }
const config = { mediaType: 'application/vnd.oci.image.config.v1+json', digest, size: 7 }
const manifest = { schemaVersion: 2, config, layers: [layer] }
const child = { mediaType: OCI_MANIFEST, digest, size: 7, platform: { os: 'linux', architecture: 'arm64' } }
const index = { schemaVersion: 2, manifests: [child] }
const imageConfig = { os: 'linux', architecture: 'arm', rootfs: { type: 'layers', diff_ids: [digest] } }

function bytesOf(document: unknown): Uint8Array {
  return Buffer.from(typeof document === 'string' ? document : JSON.stringify(document))
}

function parse(document: unknown, sentAs: string) {
  return parseManifest(bytesOf(document), sentAs, 'ghcr.io/owner/app:1')
}

/** What could end a line of the log, or break out of a cell of the summary. */
const wordsOfNoPlatform = ['x\n::error::y', 'x\n', 'x\r', 'a b', 'a|b', '`a`', '<b>']

/** The message of what is thrown, which has to be a FormatError. */
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
  test.each([OCI_MANIFEST, DOCKER_MANIFEST])('a manifest is read as %s', (mediaType) => {
    const annotations = { a: '1' }
    expect(parse({ ...manifest, mediaType, annotations }, mediaType)).toEqual({
      kind: 'manifest',
      mediaType,
      config,
      layers: [layer],
      annotations,
    })
  })

  test.each([OCI_INDEX, DOCKER_INDEX])('an index is read as %s', (mediaType) => {
    expect(parse({ ...index, mediaType }, mediaType)).toEqual({
      kind: 'index',
      mediaType,
      manifests: [child],
      annotations: {},
    })
  })

  test.each([
    ['the registry alone', manifest, OCI_MANIFEST],
    ['the registry, with a parameter and in upper case', manifest, `${OCI_MANIFEST.toUpperCase()}; charset=utf-8`],
    ['the document, where the registry says JSON', { ...manifest, mediaType: OCI_MANIFEST }, 'application/json'],
    ['the document, where the registry says nothing', { ...manifest, mediaType: OCI_MANIFEST }, ''],
  ])('the media type may come from %s', (_, document, sentAs) => {
    expect(parse(document, sentAs)).toMatchObject({ kind: 'manifest', mediaType: OCI_MANIFEST })
  })

  test.each([
    ['annotations that are null', { ...manifest, annotations: null }, OCI_MANIFEST],
    ['annotations of an entry that are null', { ...index, manifests: [{ ...child, annotations: null }] }, OCI_INDEX],
    ['a platform that is null', { ...index, manifests: [{ ...child, platform: null }] }, OCI_INDEX],
  ])('what programs in Go write for nothing is taken as nothing: %s', (_, document, sentAs) => {
    expect(parse(document, sentAs)).toMatchObject({ annotations: {} })
  })

  test.each([
    ['calls itself an index', { ...manifest, mediaType: OCI_INDEX }, OCI_MANIFEST],
    ['calls itself Docker’s', { ...manifest, mediaType: DOCKER_MANIFEST }, OCI_MANIFEST],
    ['calls itself a manifest', { ...index, mediaType: OCI_MANIFEST }, OCI_INDEX],
    // https://github.com/opencontainers/image-spec/security/advisories/GHSA-77vh-xpmg-72qh
    ['has the entries of an index', { ...manifest, ...index }, OCI_MANIFEST],
    ['has the layers of a manifest', { ...manifest, ...index }, OCI_INDEX],
  ])('one that %s and is sent as something else is refused', (_, document, sentAs) => {
    const message = refusal(() => parse(document, sentAs))
    expect(message).toContain('ghcr.io/owner/app:1')
    expect(message).toContain('contradicts itself')
  })

  test.each([
    ['no JSON', 'nonsense', OCI_MANIFEST, 'it is not JSON'],
    ['null', null, OCI_MANIFEST, 'ghcr.io/owner/app:1 is not a valid image manifest'],
    ['of another type', manifest, 'text/html', 'is not an image: its media type is "text/html"'],
    ['of an older type', { fsLayers: [] }, 'application/vnd.docker.distribution.manifest.v1+json', 'manifest.v1+json'],
    ['without a config', { layers: [layer] }, OCI_MANIFEST, 'config'],
    ['without layers', { config }, OCI_MANIFEST, 'layers'],
    ['without entries', {}, OCI_INDEX, 'is not a valid image index: manifests'],
    ['with a short digest', { config, layers: [{ ...layer, digest: 'sha256:12' }] }, OCI_MANIFEST, 'layers.0.digest'],
    ['with a negative size', { config: { ...config, size: -1 }, layers: [] }, OCI_MANIFEST, 'config.size'],
    ['with half a byte', { config: { ...config, size: 0.5 }, layers: [] }, OCI_MANIFEST, 'config.size'],
    ['with an annotation of no text', { ...manifest, annotations: { a: 1 } }, OCI_MANIFEST, 'annotations.a'],
  ])('one that is malformed is refused: %s', (_, document, sentAs, why) => {
    expect(refusal(() => parse(document, sentAs))).toContain(why)
  })

  test.each(['os', 'architecture', 'variant'])('a platform’s %s is a word, or the index is refused', (part) => {
    for (const word of wordsOfNoPlatform) {
      const platform = { ...child.platform, [part]: word }
      const message = refusal(() => parse({ ...index, manifests: [{ ...child, platform }] }, OCI_INDEX))
      expect(message).toMatch(new RegExp(`manifests\\.0\\.platform\\.${part}: has characters that no platform has$`))
    }
  })

  test.each(['os', 'architecture', 'variant'])('a platform’s %s has at most 64 characters', (part) => {
    const withWord = (length: number) =>
      parse(
        { ...index, manifests: [{ ...child, platform: { ...child.platform, [part]: 'x'.repeat(length) } }] },
        OCI_INDEX,
      )
    expect(withWord(64)).toMatchObject({ manifests: [{ platform: { [part]: 'x'.repeat(64) } }] })
    const message = refusal(() => withWord(65))
    expect(message).toMatch(new RegExp(`manifests\\.0\\.platform\\.${part}: is longer than 64 characters$`))
  })

  test('bytes that are no UTF-8 are refused', () => {
    const bytes = Buffer.from(JSON.stringify({ ...manifest, annotations: { a: 'é' } }), 'latin1')
    expect(refusal(() => parseManifest(bytes, OCI_MANIFEST, 'app'))).toContain('app is not a valid image manifest')
  })

  test.each([
    ['a media type', { mediaType: 'text/plain\n::error::x' }, ''],
    ['a value', { ...manifest, config: { ...config, size: '1\n::error::x' } }, OCI_MANIFEST],
    ['a key', { ...manifest, annotations: { '\n::error::x': 1 } }, OCI_MANIFEST],
  ])('%s can put no line of its own into the job’s log', (_, document, sentAs) => {
    expect(refusal(() => parse(document, sentAs))).not.toContain('\n')
  })
})

describe('image configs', () => {
  test('platform, diff IDs and labels are read, and nothing else', () => {
    const document = { ...imageConfig, variant: 'v7', config: { Labels: { a: '1' }, Env: ['A=1'] }, history: [] }
    expect(parseConfig(bytesOf(document), 'the config')).toEqual({
      os: 'linux',
      architecture: 'arm',
      variant: 'v7',
      diffIds: [digest],
      labels: { a: '1' },
    })
  })

  test.each([
    ['no config', {}],
    ['a config that is null', { config: null }],
    ['labels that are null', { config: { Labels: null } }],
    ['an empty variant', { variant: '' }],
  ])('%s means none', (_, more) => {
    expect(parseConfig(bytesOf({ ...imageConfig, ...more }), 'the config')).toEqual({
      os: 'linux',
      architecture: 'arm',
      diffIds: [digest],
      labels: {},
    })
  })

  test.each([
    ['no platform', { rootfs: imageConfig.rootfs }, 'the config is not a valid image config'],
    ['no layers', { os: 'linux', architecture: 'arm' }, 'rootfs'],
    ['a diff ID of another kind', { ...imageConfig, rootfs: { diff_ids: ['md5:1'] } }, 'rootfs.diff_ids.0'],
  ])('%s is refused', (_, document, why) => {
    expect(refusal(() => parseConfig(bytesOf(document), 'the config'))).toContain(why)
  })

  test.each(['os', 'architecture', 'variant'])('an %s that is no word is refused', (part) => {
    for (const word of wordsOfNoPlatform) {
      const message = refusal(() => parseConfig(bytesOf({ ...imageConfig, [part]: word }), 'the config'))
      expect(message).toBe(`the config is not a valid image config: ${part}: has characters that no platform has`)
    }
  })
})
