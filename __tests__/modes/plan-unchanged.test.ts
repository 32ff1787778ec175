import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { expect, test } from '@jest/globals'
import { readWorkflow } from '../../src/context.ts'
import { readInputs } from '../../src/inputs/inputs.ts'
import { startPhases } from '../../src/modes/phases.ts'
import { plan } from '../../src/modes/plan.ts'
import type { Registry } from '../../src/registry/registry.ts'
import { afterwards, connect } from '../registry/connect.ts'
import { prepareRunner } from '../support/runner.ts'
import { OCI_MANIFEST, seedImage, seedIndex } from '../support/seed.ts'

const PATH = `/nix/store/${'0'.repeat(32)}-image.tar.gz`
const ANNOTATIONS = { 'io.github.nix-image-action.store-path': PATH }

/** Puts a program first on the PATH that evaluates the images of two systems as Nix does, to one store path. */
async function installNix(): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'plan-'))
  const before = process.env.PATH
  afterwards(async () => {
    process.env.PATH = before
    await rm(folder, { recursive: true })
  })
  const systems = JSON.stringify(['aarch64-linux', 'x86_64-linux'])
  const image = JSON.stringify({ names: ['containerImage'], type: 'derivation', storePath: PATH })
  const script = `#!/bin/sh\ncase "$*" in *.outPath*) echo '${image}';; *) echo '${systems}';; esac\n`
  await writeFile(join(folder, 'nix'), script, { mode: 0o755 })
  process.env.PATH = `${folder}${delimiter}${before}`
}

/** Publishes images of two systems with the same layer, and returns what a plan for them needs. */
async function publishImages() {
  await installNix()
  const { server, client } = await connect()
  const content = Buffer.from('a layer of scripts')
  const layer = await server.seedBlob('app', content)
  const entries = await Promise.all(
    ['arm64', 'amd64'].map(async (architecture) => {
      const platform = { os: 'linux', architecture }
      const { digest } = await seedImage(server, 'app', platform)
      const manifest = JSON.parse(String(server.manifest('app', digest)?.bytes))
      const layers = [{ mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', digest: layer, size: content.length }]
      const bytes = Buffer.from(JSON.stringify({ ...manifest, layers, annotations: ANNOTATIONS }))
      const image = {
        digest: server.seedManifest('app', bytes, OCI_MANIFEST),
        mediaType: OCI_MANIFEST,
        size: bytes.length,
      }
      return { ...image, platform, annotations: ANNOTATIONS }
    }),
  )
  seedIndex(server, 'app', entries, 'latest')
  const runner = await prepareRunner({ inputs: { mode: 'plan', image: `${server.host}/app` } })
  afterwards(runner.close)
  const inputs = readInputs(runner.env)
  if (inputs.mode !== 'plan') throw new Error('not a plan')
  const lines: string[] = []
  const ignore = () => undefined
  const log = {
    ...{ info: (line: string) => void lines.push(line), debug: ignore, notice: ignore, warning: ignore },
    ...{ error: ignore, mask: ignore },
    group: <Result>(_title: string, work: () => Promise<Result>) => work(),
    groupToolOutput: <Result>(_title: string, work: () => Promise<Result>) => work(),
  }
  const run = (registry: Registry) =>
    plan(inputs, readWorkflow(runner.env), {
      ...{ http: client.http, registry, log },
      ...{ phases: startPhases(), onWrite: ignore },
    })
  return { server, client, layer, digests: entries.map(({ digest }) => digest), lines, run }
}

test('a layer that images of several systems have is looked for once', async () => {
  const { server, client, layer, run } = await publishImages()
  const { outputs } = await run(client)
  expect(JSON.parse(outputs.matrix ?? '').include).toMatchObject([{ unchanged: true }, { unchanged: true }])
  expect(server.requests.filter(({ reference }) => reference === layer)).toHaveLength(1)
})

test('the images of all systems are looked for at the same time, and the log is in the order of the systems', async () => {
  const { client, digests, lines, run } = await publishImages()
  let active = 0
  let most = 0
  const answered: string[] = []
  const registry: Registry = {
    ...client,
    async getManifest(repository, reference, options) {
      if (!digests.includes(reference)) return client.getManifest(repository, reference, options)
      most = Math.max(most, ++active)
      // The image of the first system is answered last.
      for (let turn = 0; turn < (reference === digests[0] ? 50 : 5); turn++) await setImmediate()
      active--
      answered.push(reference)
      return undefined
    },
  }
  await run(registry)
  expect(most).toBe(2)
  expect(answered).toEqual(digests.toReversed())
  const missing = lines.filter((line) => line.includes('missing from the registry'))
  expect(missing).toEqual([expect.stringContaining('for linux/arm64'), expect.stringContaining('for linux/amd64')])
})
