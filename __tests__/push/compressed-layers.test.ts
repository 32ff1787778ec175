import { gzipSync, zstdCompressSync } from 'node:zlib'
import { describe, expect, test } from '@jest/globals'
import { ImageError } from '../../src/errors.ts'
import { findSource } from '../../src/image/source.ts'
import { checkImage } from '../../src/push/check.ts'
import { connect } from '../registry/connect.ts'
import { digestOf } from '../support/digest.ts'
import { writeTar } from '../support/image.ts'
import { noise } from '../support/layer-content.ts'
import { packWithXz } from '../support/layout.ts'
import { expectNothingPublished, expectWhole, FORMS, made, push, setUpFolder, store } from './pushing.ts'

setUpFolder()

describe('a docker archive whose layers are already compressed', () => {
  // As crane names files: layers and the config by the digests of their blobs.
  // https://github.com/google/go-containerregistry/blob/main/pkg/v1/tarball/write.go
  const blobs = made.layers.map(({ bytes }) => gzipSync(bytes, { level: 1 }))
  const names = blobs.map((blob) => `${digestOf(blob).slice('sha256:'.length)}.tar.gz`)
  const archive = (contents: readonly Buffer[], layers = names) =>
    writeTar([
      { name: made.configDigest, content: made.config },
      ...contents.map((content, at) => ({ name: layers[at] ?? '', content })),
      {
        name: 'manifest.json',
        content: JSON.stringify([{ ...made.manifest, Config: made.configDigest, Layers: layers }]),
      },
    ])

  test.each(FORMS)('is pushed with its layers unchanged: %s', async (form) => {
    const { server, client } = await connect()
    const { layers } = await push({ bytes: archive(blobs) }, client, { form })
    await expectWhole(server, 'v1', made)
    expect(layers.map(({ digest }) => digest)).toEqual(blobs.map(digestOf))
    const checked = await checkImage(await findSource(await store(archive(blobs), form)))
    expect(checked.configDigest).toBe(made.configDigest)
  })

  test.each(['.tar', '/layer.tar', '.tgz', ''])(
    'is pushed with its layers unchanged, whatever the extension of their files: x%s',
    async (end) => {
      const called = blobs.map((_, at) => `${at}${end}`)
      for (const packed of [blobs, made.layers.map(({ bytes }) => zstdCompressSync(bytes))]) {
        expect(packed.some(({ length }) => length % 512 !== 0)).toBe(true)
        const { server, client } = await connect()
        for (const form of FORMS) {
          const { layers } = await push({ bytes: archive(packed, called) }, client, { form })
          expect(layers.map(({ digest }) => digest)).toEqual(packed.map(digestOf))
        }
        await expectWhole(server, 'v1', made)
      }
    },
  )

  test.each(FORMS)('keeps gzip layers when `compression` is zstd: %s', async (form) => {
    const { server, client } = await connect()
    const { layers } = await push({ bytes: archive(blobs) }, client, {
      form,
      compression: { format: 'zstd', level: 3 },
    })
    await expectWhole(server, 'v1', made)
    expect(layers.map(({ format }) => format)).toEqual(made.layers.map(() => 'gzip'))
  })

  test.each(FORMS)('has xz layers recompressed, which registries do not accept: %s', async (form) => {
    const bytes = archive(await Promise.all(made.layers.map((layer) => packWithXz(layer.bytes))))
    const { server, client } = await connect()
    await push({ bytes }, client, { form })
    await expectWhole(server, 'v1', made)
    await checkImage(await findSource(await store(bytes, form)))
  })

  test.each(FORMS)('publishes nothing if a layer is damaged: %s', async (form) => {
    const [first = Buffer.alloc(0), ...more] = blobs
    for (const bytes of [archive([first.subarray(0, -1), ...more]), archive([noise(1000), ...more])]) {
      const { server, client } = await connect()
      await expect(push({ bytes }, client, { form })).rejects.toBeInstanceOf(ImageError)
      expectNothingPublished(server)
      await expect(checkImage(await findSource(await store(bytes, form)))).rejects.toBeInstanceOf(ImageError)
    }
  })
})
