import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals'
import { jobLog } from '../../src/actions/log.ts'
import { DockerError } from '../../src/errors.ts'
import { findSource } from '../../src/image/source.ts'
import { OCI_CONFIG } from '../../src/oci/manifest.ts'
import { pushWithDocker } from '../../src/push/with-docker.ts'
import type { RegistryWrite } from '../../src/registry/writes.ts'
import { connect, open } from '../registry/connect.ts'
import { makeArchive, writeTar } from '../support/image.ts'
import { noise } from '../support/layer-content.ts'
import { layoutOf, makeLayout, storeLayout } from '../support/layout.ts'
import { mediaTypes } from '../support/registry/manifests.ts'

const path = process.env.PATH
const silent = { ...jobLog, info: () => undefined }

const AMD64 = { os: 'linux', architecture: 'amd64' }
let folder: string

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'push-with-docker-'))
})
afterEach(async () => {
  jest.restoreAllMocks()
  process.env.PATH = path
  await rm(folder, { recursive: true })
})

const ignore = () => undefined

/** Returns the error of a push if `docker load` fails with this message. */
async function refusal(image: string, detail: string, reading = 'cat > /dev/null'): Promise<string> {
  const script = `#!/bin/sh\nif [ "$1" = load ]; then ${reading}; echo '${detail}' >&2; exit 1; fi\n`
  await writeFile(join(folder, 'docker'), script, { mode: 0o755 })
  process.env.PATH = `${folder}${delimiter}${path}`
  const client = open('registry.example')
  const source = await findSource(image)
  const pushing = { source, images: [client.repository], tag: 'v1', platform: AMD64, check: ignore, onWrite: ignore }
  const error = await pushWithDocker(pushing, client, silent).catch((thrown: unknown) => thrown)
  expect(error).toBeInstanceOf(DockerError)
  return (error as DockerError).message
}

async function storeArchive(): Promise<string> {
  const file = join(folder, 'archive')
  // Larger than the pipe to Docker.
  await writeFile(file, makeArchive({ layers: [writeTar([{ name: 'noise', content: noise(3_000_000) }])] }).bytes)
  return file
}

const storeOciArchive = async () => storeLayout(folder, makeLayout().files, 'tar')

test('an image that Docker has pushed may appear in the registry a moment later', async () => {
  const { server, client } = await connect()
  const archive = makeArchive()
  const config = { mediaType: OCI_CONFIG, digest: archive.configDigest, size: archive.config.length }
  await server.seedBlob('app', archive.config)
  const manifest = Buffer.from(JSON.stringify({ schemaVersion: 2, config, layers: [] }))
  const digest = server.seedManifest('app', manifest, mediaTypes.ociManifest)
  const docker = `#!/bin/sh\ncase $1 in load) cat;; push) echo 'v1: digest: ${digest} size: 1';; esac > "$0.out"; cat "$0.out"\n`
  await writeFile(join(folder, 'docker'), docker, { mode: 0o755 })
  process.env.PATH = `${folder}${delimiter}${path}`
  await writeFile(join(folder, 'archive'), archive.bytes)
  let reads = 0
  server.setFault(({ reference }) =>
    reference === digest && ++reads <= 2 ? { kind: 'status', status: 404 } : undefined,
  )
  const source = await findSource(join(folder, 'archive'))
  const writes: RegistryWrite[] = []
  const onWrite = (write: RegistryWrite) => void writes.push(write)
  const pushing = { source, images: [client.repository], tag: 'v1', platform: AMD64, check: ignore, onWrite }
  jest.spyOn(process.stdout, 'write').mockReturnValue(true)
  const { images } = await pushWithDocker(pushing, client, silent)
  expect(writes).toMatchObject([
    { kind: 'tag', reference: 'v1', state: 'started' },
    { kind: 'tag', reference: 'v1', state: 'done' },
  ])
  expect(images).toMatchObject([{ digest, configDigest: archive.configDigest }])
  expect(reads).toBe(3)
})

test('a layout of several platforms is not pushed with Docker, which would push all of them', async () => {
  const arm = makeLayout({ architecture: 'arm64' })
  const path = await storeLayout(folder, layoutOf([makeLayout(), arm]), 'tar')
  await writeFile(join(folder, 'docker'), '#!/bin/sh\n[ "$1" != load ] || cat > "$0.in"\necho "$1" >> "$0.calls"\n', {
    mode: 0o755,
  })
  process.env.PATH = `${folder}${delimiter}${process.env.PATH}`
  const { client, server } = await connect()
  const source = await findSource(path)
  const pushing = { source, images: [client.repository], tag: 'v1', platform: AMD64, check: ignore, onWrite: ignore }
  await expect(pushWithDocker(pushing, client, silent)).rejects.toThrow(
    `${path} has images for several platforms, and Docker can't push only one of them\nTo push without Docker, remove \`push-with: docker\`.`,
  )
  expect(await readFile(join(folder, 'docker.calls'), 'utf8')).not.toContain('push')
  expect(server.tags('app').size).toBe(0)
})

describe('an image that Docker can’t load', () => {
  test.each([
    // Docker 20.10.
    'open /var/lib/docker/tmp/docker-import-2028584121/blobs/json: no such file or directory',
    // Newer versions.
    'invalid archive: does not contain a manifest.json',
  ])('because it is an OCI layout is reported as such: %s', async (detail) => {
    expect(await refusal(await storeOciArchive(), detail)).toBe(
      `Docker could not load the image that Nix built\n  ${detail}\nIt is an OCI layout, which this version of Docker can't load. To push without Docker, remove \`push-with: docker\`.`,
    )
    expect(await refusal(await storeArchive(), detail)).toBe(
      `Docker could not load the image that Nix built\n  ${detail}`,
    )
  })

  test('for another reason gets no such hint', async () => {
    const detail = 'Error response from daemon: context canceled'
    expect(await refusal(await storeOciArchive(), detail)).toBe(
      `Docker could not load the image that Nix built\n  ${detail}`,
    )
  })

  test.each([
    ['after all of it', 'cat > /dev/null'],
    ['in the middle of it', 'head -c 100000 > /dev/null'],
  ])('because the disk is full %s is reported, with how to free space', async (_, reading) => {
    const detail = 'Error processing tar file(exit status 1): write /x/layer.tar: No space left on device'
    for (const image of [await storeOciArchive(), await storeArchive()])
      expect(await refusal(image, detail, reading)).toMatch(
        /^Docker could not load .*\n {2}Error processing .*\nThe disk on which Docker stores images is full\. To push without Docker, .* docker image prune --all .* larger runner/,
      )
  })
})
