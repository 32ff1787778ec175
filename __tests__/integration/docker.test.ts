import { mkdtemp, writeFile } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import { which } from '@actions/io'
import { afterAll, beforeAll, expect, test } from '@jest/globals'
import { type Lab, startLab } from '../support/lab.ts'

// The messages of `push-with: docker` about the daemon.

const { DOCKER_HOST, DOCKER_CONFIG } = process.env

let lab: Lab

beforeAll(async () => {
  lab = await startLab({ docker: { DOCKER_HOST, DOCKER_CONFIG } })
})
afterAll(() => lab.close())

/** A PATH on which `docker info` returns the given answer, and all other Docker commands are real. */
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

test('a daemon with the containerd image store causes a warning, with the sizes with and without compression', async () => {
  const [warning, ...more] = await warningsWhereInfoIs('[["driver-type","io.containerd.snapshotter.v1"]]')
  expect(more).toEqual([])
  expect(warning).toMatch(
    /^This Docker uses containerd's image store, which pushes layers uncompressed: [\d.]+ k?B instead of about [\d.]+ k?B\. Remove `push-with: docker` to push them compressed\.$/,
  )
})

test('a daemon with its own image store causes no warning', async () => {
  expect(await warningsWhereInfoIs('[["Backing Filesystem","extfs"],["Supports d_type","true"]]')).toEqual([])
})
