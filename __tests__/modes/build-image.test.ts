import { mkdir, mkdtemp, readFile, realpath, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { openImage } from '../../src/image/open-image.ts'
import type { LayeredImage } from '../../src/image/source.ts'
import { findImageInStore } from '../../src/modes/build-image.ts'
import { digestOf } from '../../src/oci/reference.ts'
import { writeFixtureStore } from '../image/nix2container-store.ts'
import { makeArchive, readLayerFiles, writeTar } from '../support/image.ts'

let root: string
beforeEach(async () => {
  root = await mkdtemp(join(await realpath(tmpdir()), 'build-image-'))
})
afterEach(() => rm(root, { recursive: true }))

function storePath(digit: string, name: string): string {
  return `/nix/store/${digit.repeat(32)}-${name}`
}

/** Writes a file of the store below `root`. */
async function write(path: string, content: string | Buffer): Promise<void> {
  await mkdir(dirname(join(root, path)), { recursive: true })
  await writeFile(join(root, path), content)
}

/** Returns the layers of an image whose store is below `root`. */
async function findLayers(path: string): Promise<LayeredImage> {
  const ignore = () => undefined
  const run = <Result>(_title: string, work: () => Promise<Result>) => work()
  const log = {
    ...{ info: ignore, debug: ignore, notice: ignore, warning: ignore, error: ignore, mask: ignore },
    ...{ group: run, groupToolOutput: run },
  }
  const store = { name: '/nix/store', place: join(root, 'nix/store') }
  const { layered } = (await findImageInStore(path, store, true, log)).source
  if (layered === undefined) throw new Error('the description of the image was not read')
  return layered
}

describe('an image in a store below another root', () => {
  test('of dockerTools has the layers that its script names, above those of its base', async () => {
    const [script, conf] = [storePath('0', 'stream-app'), storePath('1', 'app-conf.json')]
    const [archive, app, own] = [storePath('2', 'base.tar'), storePath('3', 'app'), storePath('4', 'own-layer')]
    const layer = writeTar([{ name: 'etc/hostname', content: 'text of the root folder' }])
    await write(`${app}/share/greeting`, 'text of a store path')
    await write(`${own}/layer.tar`, layer)
    await write(`${own}/checksum`, digestOf(layer).slice('sha256:'.length))
    await write(archive, makeArchive({ layers: [writeTar([{ name: 'base', content: 'text of the base' }])] }).bytes)
    const description = {
      ...{ architecture: 'amd64', os: 'linux', config: {}, store_dir: '/nix/store', repo_tag: 'app:latest' },
      ...{ from_image: archive, store_layers: [[app]], customisation_layer: own },
      ...{ created: '1970-01-01T00:00:01+00:00', mtime: '1970-01-01T00:00:01+00:00' },
      ...{ uid: '0', gid: '0', uname: 'root', gname: 'root' },
    }
    await write(conf, JSON.stringify(description))
    await write(script, `#! /bin/sh -e\nexec "${storePath('5', 'stream')}"  ${conf} "$@" \n`)

    const { base, layers } = await findLayers(script)
    if (base === undefined) throw new Error('the image has no base')
    const below = (await readLayerFiles(openImage(base))).map(([, content]) => content)
    const above = await Promise.all(layers.map(({ content }) => bytesOf(content())))
    const texts = [...below, ...above].map((content) => /text of [a-z ]+/.exec(content.toString('latin1'))?.[0])
    expect(texts).toEqual(['text of the base', 'text of a store path', 'text of the root folder'])
  })

  test('of nix2container has the layers that its JSON describes', async () => {
    const json = storePath('0', 'image-app.json')
    await write(json, await readFile(new URL('../fixtures/nix2container/image.json', import.meta.url)))
    await writeFixtureStore(join(root, 'nix/store'))
    // The first layer is of a base image, whose file is not there.
    const [, layer] = (await findLayers(json)).layers
    if (layer === undefined) throw new Error('the image has one layer')
    expect(digestOf(await bytesOf(layer.content()))).toBe(layer.diffId)
  })
})

/** Copies the chunks, each of which is valid until the next one is read. */
async function bytesOf(chunks: AsyncIterable<Buffer>): Promise<Buffer> {
  const copies: Buffer[] = []
  for await (const chunk of chunks) copies.push(Buffer.from(chunk))
  return Buffer.concat(copies)
}
