import { gzipSync } from 'node:zlib'
import { describe, expect, test } from '@jest/globals'
import { ActionError } from '../../src/errors.ts'
import { findSource } from '../../src/image/source.ts'
import { checkImage } from '../../src/push/check.ts'
import { connect } from '../registry/connect.ts'
import { digestOf } from '../support/digest.ts'
import { writeTar } from '../support/image.ts'
import { noise } from '../support/layer-content.ts'
import { blobName, indexOf, type LayoutFile, makeLayout, storeLayout, withFiles } from '../support/layout.ts'
import {
  expectNothingPublished,
  folder,
  LAYERS,
  type Listed,
  made,
  packed,
  pushLayout,
  setUpFolder,
} from './pushing.ts'

setUpFolder()

describe('a damaged OCI layout publishes nothing and fails its check:', () => {
  const { layers, configDigest } = packed
  const [, second, third] = layers
  const blobOf = (digest = '') => blobName(digest)
  const changed = (bytes: Buffer | undefined, at: number): Buffer => {
    const copy = Buffer.from(bytes ?? '')
    const place = at < 0 ? copy.length + at : at
    copy.writeUInt8(copy.readUInt8(place) ^ 0x55, place)
    return copy
  }
  const cut = (bytes: Buffer | undefined) => bytes?.subarray(0, -1)
  const replaced = (name: string | undefined, file: LayoutFile | undefined) => withFiles(packed, { [name ?? '']: file })
  /** Replaces fields of the manifest, whose digest and name are updated. */
  const listing = (manifest: Readonly<Record<string, unknown>>) =>
    makeLayout({ layers: LAYERS, packings: ['gzip', 'zstd', 'gzip', 'zstd'], manifest }).files
  const { layers: listed, config: listedConfig }: Readonly<Listed> = JSON.parse(packed.manifest.toString())
  const withEntries = (...manifests: readonly unknown[]) => replaced('index.json', indexOf(manifests))
  const other = makeLayout({ layers: ['other'] })
  const fake = { mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip' }
  const noGzip = Buffer.concat([Buffer.from('1f8b0800', 'hex'), noise(5000)])
  const climbing = { ...packed.entry, digest: 'sha256:../../etc/passwd' }

  test.each<[string, ReadonlyMap<string, LayoutFile>, RegExp]>([
    ['a layer is missing', replaced(third?.name, undefined), /its layer sha256:\w+ is missing/],
    [
      'a layer has another first byte',
      replaced(third?.name, changed(third?.blob, 0)),
      /does not match its (config|name)/,
    ],
    [
      'a layer has another last byte',
      replaced(third?.name, changed(third?.blob, -1)),
      /is damaged: it can't be decomp/,
    ],
    [
      'a layer in zstd has another byte',
      replaced(second?.name, changed(second?.blob, 100_000)),
      /another content|not the one|is damaged/,
    ],
    [
      'a layer is truncated',
      replaced(third?.name, cut(third?.blob)),
      /has \d+ bytes, and its manifest says \d+|is damaged/,
    ],
    [
      'a layer has the same content but another gzip header',
      replaced(third?.name, changed(third?.blob, 9)),
      /does not match its (name|digest)/,
    ],
    [
      'a zstd layer is listed as gzip',
      listing({ layers: listed.map((layer) => ({ ...layer, ...fake })) }),
      /its layer blobs\S+ is zstd, but its manifest lists gzip/,
    ],
    [
      'an uncompressed layer is listed as gzip',
      makeLayout({
        layers: ['lower'],
        packings: ['plain'],
        manifest: { layers: [{ ...fake, digest: made.layers[0]?.diffId, size: made.layers[0]?.bytes.length }] },
      }).files,
      /does not match its name|its manifest lists gzip/,
    ],
    ['a layer is empty', replaced(third?.name, Buffer.alloc(0)), /has 0 bytes, and its manifest says/],
    [
      'a layer has another size than its manifest says',
      listing({ layers: listed.map((layer) => ({ ...layer, size: Number(layer['size']) + 1 })) }),
      /has \d+ bytes, and its manifest says \d+/,
    ],
    [
      'a layer is replaced by another layer',
      replaced(third?.name, layers[3]?.blob),
      /has \d+ bytes, and its manifest says \d+|does not match its (name|config)/,
    ],
    [
      'a layer only begins like gzip',
      new Map([
        ...listing({
          layers: listed.map((layer, at) =>
            at === 2 ? { ...fake, digest: digestOf(noGzip), size: noGzip.length } : layer,
          ),
        }),
        [blobName(digestOf(noGzip)), noGzip] as const,
      ]),
      /is damaged: it can't be decompressed/,
    ],
    ['its manifest is missing', replaced(blobOf(packed.manifestDigest), undefined), /sha256:\w+ is missing/],
    [
      'its manifest has another byte',
      replaced(blobOf(packed.manifestDigest), changed(packed.manifest, -3)),
      /does not match its (name|digest)/,
    ],
    [
      'its manifest is not JSON',
      new Map([...withEntries({ ...packed.entry, digest: digestOf(Buffer.from('{x')), size: 2 })]).set(
        blobName(digestOf(Buffer.from('{x'))),
        Buffer.from('{x'),
      ),
      /its manifest sha256:\w+ is not a valid image manifest: it is not JSON/,
    ],
    [
      'its manifest has another size than its index says',
      withEntries({ ...packed.entry, size: packed.manifest.length + 1 }),
      /has \d+ bytes instead of \d+/,
    ],
    [
      'its config has another size than its manifest says, which clients would refuse',
      listing({ config: { ...listedConfig, size: packed.config.length + 1 } }),
      /has \d+ bytes instead of \d+/,
    ],
    ['its config is missing', replaced(blobOf(configDigest), undefined), /sha256:\w+ is missing/],
    [
      'its config has another byte',
      replaced(blobOf(configDigest), changed(packed.config, -3)),
      /does not match its (name|digest)/,
    ],
    ['its index.json is no JSON', replaced('index.json', Buffer.from('{"manifests')), /index\.json .*it is not JSON/],
    ['its index.json is a manifest', replaced('index.json', packed.manifest), /index\.json contradicts itself/],
    ['its index.json lists nothing', withEntries(), /its index\.json lists no image/],
    [
      'its index.json lists only an attestation',
      withEntries({ ...packed.entry, platform: { os: 'unknown', architecture: 'unknown' } }),
      /its index\.json lists no image/,
    ],
    [
      'it has two images',
      new Map([...other.files, ...withEntries(packed.entry, other.entry)]),
      /has 2 images( for linux\/amd64)?, and only one can be pushed/,
    ],
    ['its indexes are nested too deeply', makeLayout({ nested: 40 }).files, /its indexes are nested too deeply/],
    ['its index.json points outside the layout', withEntries(climbing), /manifests\.0\.digest: is not a sha256 digest/],
    [
      'its config lists one layer fewer',
      listing({ layers: [...listed, listed[0]] }),
      /has 5 layers, .* config lists 4/,
    ],
    ['its config lists one layer more', listing({ layers: listed.slice(1) }), /has 3 layers, .* config lists 4/],
    ['its layers are in another order', listing({ layers: listed.toReversed() }), /does not match its config/],
    [
      'its config lists other layers',
      makeLayout({
        layers: LAYERS,
        config: { rootfs: { type: 'layers', diff_ids: made.layers.map(() => digestOf(Buffer.from('none'))) } },
      }).files,
      /does not match its config/,
    ],
    [
      'its config lists other layers, and its layers are uncompressed',
      makeLayout({
        layers: ['lower'],
        packings: ['plain'],
        config: { rootfs: { type: 'layers', diff_ids: [digestOf(Buffer.from('none'))] } },
      }).files,
      /does not match its config/,
    ],
    [
      'a layer is a symbolic link to a file of the runner',
      replaced(third?.name, { linkName: '/etc/passwd' }),
      /is a link that leads out of|its layer sha256:\w+ is missing/,
    ],
    [
      'a layer is a symbolic link to a device',
      replaced(third?.name, { linkName: '/dev/zero' }),
      /is a link that leads out of|its layer sha256:\w+ is missing/,
    ],
    [
      'its config is a symbolic link that leads nowhere',
      replaced(blobOf(configDigest), { linkName: 'absent' }),
      /sha256:\w+ is missing/,
    ],
  ])('%s', async (_, files, message) => {
    for (const as of ['folder', 'tar', 'gzip'] as const) {
      const { server, client } = await connect()
      // Twice, because the first push has left blobs at the registry.
      for (const _attempt of [1, 2]) {
        const pushing = pushLayout({ files }, client, { as })
        await expect(pushing).rejects.toThrow(message)
        await expect(pushing).rejects.toBeInstanceOf(ActionError)
        expectNothingPublished(server)
      }
      const checking = checkImage(await findSource(await storeLayout(folder, files, as)))
      await expect(checking).rejects.toThrow(message)
      await expect(checking).rejects.toBeInstanceOf(ActionError)
    }
  })

  test.each(['folder', 'tar', 'gzip'] as const)(
    'a layer of its %s has other content, which is not uploaded',
    async (as) => {
      const { server, client } = await connect()
      // An intact layer that differs from the listed one only in its digest.
      const secret = gzipSync(writeTar([{ name: 'secret', content: 'hunter2' }]))
      const files = new Map([
        ...listing({ layers: listed.map((layer, at) => (at === 2 ? { ...layer, size: secret.length } : layer)) }),
        [third?.name ?? '', secret] as const,
      ])
      await expect(pushLayout({ files }, client, { as })).rejects.toThrow(/does not match its (config|name)/)
      expectNothingPublished(server)
      expect(await server.blob('app', digestOf(secret))).toBeUndefined()
    },
  )

  test.each(['tar', 'gzip'] as const)('a member of its %s is outside the archive', async (as) => {
    const { server, client } = await connect()
    const files = replaced('blobs/sha256/../../../../etc/passwd', Buffer.from('x'))
    await expect(pushLayout({ files }, client, { as })).rejects.toThrow(/points outside the archive/)
    expectNothingPublished(server)
  })

  test.each(['tar', 'gzip'] as const)('its %s has no index.json', async (as) => {
    const { server, client } = await connect()
    const files = replaced('index.json', undefined)
    await expect(pushLayout({ files }, client, { as })).rejects.toThrow(/has neither manifest\.json nor index\.json/)
    expectNothingPublished(server)
  })
})
