import { cp, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, expect, test } from '@jest/globals'
import { type Lab, startLab } from '../support/lab.ts'
import { passed } from '../support/runner.ts'

// The changes that a new commit makes in a layered image, with real Nix and a real registry.

let lab: Lab
beforeEach(async () => {
  lab = await startLab()
  await cp(fileURLToPath(new URL('../../examples/layered', import.meta.url)), lab.hello, { recursive: true })
})
afterEach(() => lab.close())

/** Writes a flake with an image of these packages. */
async function writePackages(...names: readonly string[]): Promise<void> {
  const contents = names.map((name) => `"${name}" = "${names}";`).join(' ')
  const image = `import ./image.nix { system = "x86_64-linux"; architecture = "amd64"; contents = { ${contents} }; }`
  const flake = `{ outputs = _: { packages.x86_64-linux.containerImage = ${image}; }; }\n`
  await writeFile(join(lab.hello, 'flake.nix'), flake)
}

const CHANGES = [
  '| change | package |',
  '|---|---|',
  '| updated | `glibc 2.40-36 → 2.40-66` |',
  '| added | `curl 8.16.0` |',
  '| removed | `zlib 1.3` |',
].join('\n')

test('a pull request shows what it would change, and the merge shows what has changed', async () => {
  await writePackages('glibc-2.40-36', 'zlib-1.3', 'bash-5.2')
  const first = passed(await lab.build('x86_64-linux', { inputs: { push: 'false' }, jobTotal: 1 }))
  expect(first.summary).not.toContain('What changed')
  passed(await lab.build('x86_64-linux', { jobTotal: 1 }))
  expect(passed(await lab.merge()).outputs.changes).toBe('[]')

  await writePackages('glibc-2.40-66', 'curl-8.16.0', 'bash-5.2')
  const rehearsed = passed(await lab.build('x86_64-linux', { inputs: { push: 'false' }, jobTotal: 1 }))
  expect(rehearsed.summary).toContain(`Compared with \`${lab.registry.host}/owner/hello:latest\`:\n`)
  expect(rehearsed.summary).toContain('\n| linux/amd64 | 1 | 1 | 1 | 1 |\n')
  expect(rehearsed.summary).toContain(CHANGES)
  expect(rehearsed.log).toContain('(glibc 2.40-36 → 2.40-66, curl 8.16.0 added, zlib 1.3 removed)')
  const silent = passed(await lab.build('x86_64-linux', { inputs: { push: 'false', summary: 'false' }, jobTotal: 1 }))
  expect(silent.summary).toBe('')

  const built = passed(await lab.build('x86_64-linux', { jobTotal: 1, runAttempt: 2 }))
  expect(built.outputs).toMatchObject({ name: `${lab.registry.host}/owner/hello` })
  const merged = passed(await lab.merge({ runAttempt: 2 }))
  expect(merged.summary).toContain(CHANGES)
  expect(JSON.parse(merged.outputs.changes ?? '')).toEqual([
    {
      system: 'x86_64-linux',
      platform: 'linux/amd64',
      added: [{ name: 'curl', version: '8.16.0' }],
      removed: [{ name: 'zlib', version: '1.3' }],
      updated: [{ name: 'glibc', from: '2.40-36', to: '2.40-66' }],
      rebuilt: 1,
      size: { before: expect.any(Number), after: expect.any(Number) },
    },
  ])
}, 120_000)

test('a registry that needs a login does not fail the build of a pull request', async () => {
  await lab.close()
  lab = await startLab({ registry: { auth: { kind: 'basic', user: 'someone', password: 'p4ssw0rd-of-someone' } } })
  const { log, warnings } = passed(await lab.build('x86_64-linux', { inputs: { push: 'false' } }))
  expect(log).toMatch(/^Can't compare the image with .*\/owner\/hello:latest: .*authentication required/m)
  expect(warnings).toEqual([])
}, 120_000)
