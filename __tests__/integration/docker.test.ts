import { mkdtemp, writeFile } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import { which } from '@actions/io'
import { afterAll, beforeAll, expect, test } from '@jest/globals'
import { type Lab, startLab } from '../support/lab.ts'

// What `push-with: docker` has to say of the daemon that it pushes with.

const { DOCKER_HOST, DOCKER_CONFIG } = process.env

let lab: Lab

beforeAll(async () => {
  lab = await startLab({ docker: { DOCKER_HOST, DOCKER_CONFIG } })
})
afterAll(() => lab.close())

/** A PATH on which Docker answers `docker info` as told, and everything else as it is. */
async function pathWhereInfoIs(driverStatus: string): Promise<string> {
  const folder = await mkdtemp(join(lab.folder, 'bin-'))
  const script = `#!/bin/sh\nif [ "$1" = info ]; then echo '${driverStatus}'; else exec '${await which('docker', true)}' "$@"; fi\n`
  await writeFile(join(folder, 'docker'), script, { mode: 0o755 })
  return `${folder}${delimiter}${process.env.PATH}`
}

async function warningsWhereInfoIs(driverStatus: string): Promise<readonly string[]> {
  const step = await lab.build('x86_64-linux', {
    env: { PATH: await pathWhereInfoIs(driverStatus) },
    inputs: { attribute: 'layeredImage', 'push-with': 'docker' },
  })
  expect(step.errors).toEqual([])
  return step.warnings
}

test('a daemon with the containerd image store is warned of, with the size with and without compression', async () => {
  const [warning, ...more] = await warningsWhereInfoIs('[["driver-type","io.containerd.snapshotter.v1"]]')
  expect(more).toEqual([])
  expect(warning).toMatch(
    /^This Docker keeps images in containerd's store, and pushes layers as Nix made them: [\d.]+ k?B in place of about [\d.]+ k?B\. Leave `push-with: docker` out/,
  )
})

test('one with a store of its own is not', async () => {
  expect(await warningsWhereInfoIs('[["Backing Filesystem","extfs"],["Supports d_type","true"]]')).toEqual([])
})
