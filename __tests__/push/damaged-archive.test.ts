import { chmod, writeFile } from 'node:fs/promises'
import { describe, expect, test } from '@jest/globals'
import { ImageError } from '../../src/errors.ts'
import { findSource } from '../../src/image/source.ts'
import { checkImage } from '../../src/push/check.ts'
import { connect } from '../registry/connect.ts'
import { makeArchive, writeTar } from '../support/image.ts'
import { noise } from '../support/layer-content.ts'
import { expectNothingPublished, FORMS, made, OPTIONS, push, setUpFolder, store } from './pushing.ts'

setUpFolder()

describe('a damaged docker archive publishes nothing, and the error says why:', () => {
  const other = (content: string) => writeTar([{ name: 'etc/motd', content }])
  const replaced = (name: string | undefined, content: Buffer) =>
    writeTar(made.members.map((member) => (member.name === name ? { ...member, content } : member)))

  test.each<[string, Buffer, RegExp]>([
    ['cut short in a layer', made.bytes.subarray(0, 100_000), /is damaged: it ends in the middle of/],
    [
      'a layer with other content',
      replaced(made.layers[0]?.name, other('another')),
      /does not match its config[\s\S]*the diff ID is/,
    ],
    [
      'the last layer with other content',
      replaced(made.layers[3]?.name, other('another')),
      /does not match its config/,
    ],
    [
      'a layer is missing',
      writeTar(made.members.filter(({ name }) => name !== made.layers[1]?.name)),
      /layers are missing/,
    ],
    [
      'a layer is not a tar',
      replaced(made.layers[0]?.name, Buffer.from('not a tar')),
      /does not match its config|layers? .*(missing|not a tar)/,
    ],
    [
      'a layer is empty',
      replaced(made.layers[0]?.name, Buffer.alloc(0)),
      /does not match its config|layers? .*(missing|empty|is not a tar)/,
    ],
    [
      'two images',
      writeTar(
        made.members.map((one) =>
          one.name === 'manifest.json' ? { ...one, content: JSON.stringify([made.manifest, made.manifest]) } : one,
        ),
      ),
      /has 2 images/,
    ],
    [
      'a path outside the archive',
      writeTar([...made.members, { name: '../../etc/passwd', content: 'x' }]),
      /points outside the archive/,
    ],
    [
      'one layer fewer than the config lists',
      makeArchive({ ...OPTIONS, manifest: { Layers: [made.layers[0]?.name] } }).bytes,
      /it has 1 layers, and its config lists 4/,
    ],
  ])('%s', async (_, bytes, message) => {
    for (const form of FORMS) {
      const { server, client } = await connect()
      const pushing = push({ bytes }, client, { form })
      await expect(pushing).rejects.toThrow(message)
      await expect(pushing).rejects.toBeInstanceOf(ImageError)
      expectNothingPublished(server)
    }
  })

  test.each(['not a tar', ''].flatMap((content) => FORMS.map((form) => [content, form] as const)))(
    'a layer that is not a tar, also with `push: false`: %j, %s',
    async (content, form) => {
      const { server, client } = await connect()
      const { name = '' } = made.layers[1] ?? {}
      const bytes = replaced(name, Buffer.from(content))
      const check = async () => checkImage(await findSource(await store(bytes, form)))
      for (const attempt of [() => push({ bytes }, client, { form }), check]) {
        const refused = attempt()
        await expect(refused).rejects.toThrow(`is damaged: its layer ${name} is not a tar`)
        await expect(refused).rejects.toBeInstanceOf(ImageError)
      }
      expectNothingPublished(server)
    },
  )

  test('a script that fails after writing the image', async () => {
    const { server, client } = await connect()
    const path = await store(made.bytes, 'script')
    await chmod(path, 0o755)
    await writeFile(path, `#!/bin/sh\ncat '${path.replace(/\.sh$/, '')}'\necho late >&2; exit 7\n`)
    await expect(push(made, client, { path })).rejects.toThrow(/it ended with status 7\n {2}late/)
    expectNothingPublished(server)
  })

  test.each(FORMS)('truncated in a layer that is too large for memory: %s', async (form) => {
    const { server, client } = await connect()
    const large = makeArchive({ layers: [writeTar([{ name: 'noise', content: noise(18_000_000) }])] })
    await expect(push({ bytes: large.bytes.subarray(0, 17_500_000) }, client, { form })).rejects.toThrow(ImageError)
    expectNothingPublished(server)
  })

  test.each(FORMS)('an image that the check refuses, such as one for another platform: %s', async (form) => {
    const { server, client } = await connect()
    const check = () => {
      throw new ImageError({ message: 'The image is for linux/arm64' })
    }
    await expect(push(made, client, { form, check })).rejects.toThrow('The image is for linux/arm64')
    expectNothingPublished(server)
  })
})
