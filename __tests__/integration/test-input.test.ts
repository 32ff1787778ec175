import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from '@jest/globals'
import { type Lab, startLab } from '../support/lab.ts'
import { passed } from '../support/runner.ts'

// The script in `test`, with real Nix and a real registry.

let lab: Lab
beforeEach(async () => {
  lab = await startLab()
})
afterEach(() => lab.close())

const TAG = '0123456-x86_64-linux'

async function statusOf(reference: string): Promise<number> {
  const accept = 'application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json'
  const url = `http://${lab.registry.host}/v2/owner/hello/manifests/${reference}`
  return (await fetch(url, { headers: { accept } })).status
}

/** Reads the image as a program without a daemon does, and writes to a file what it has seen. */
const READ = `
host=\${IMAGE%%/*}
path=\${IMAGE#*/}
accept='Accept: application/vnd.oci.image.manifest.v1+json'
curl -sS --fail -o /dev/null -H "$accept" "http://$host/v2/\${path%@*}/manifests/\${path#*@}"
tag=$(curl -sS -o /dev/null -w '%{http_code}' -H "$accept" "http://$host/v2/\${path%@*}/manifests/${TAG}")
echo "$IMAGE $SYSTEM $STORE_PATH $tag" > seen
echo "\${INPUT_TEST-no inputs}, \${ACTIONS_RUNTIME_TOKEN-no tokens}"
`

test('an image is tested by digest, before its tag and its digest record exist', async () => {
  const call = { inputs: { test: READ }, jobTotal: 1 }
  const { outputs, log } = passed(await lab.build('x86_64-linux', call))
  const seen = await readFile(join(lab.hello, 'seen'), 'utf8')
  expect(seen).toBe(`${outputs.image} x86_64-linux ${outputs['store-path']} 404\n`)
  expect(log).toContain(`##[group]Test ${outputs.image}\n`)
  expect(log).toContain('\nno inputs, no tokens\n')
  expect(await statusOf(TAG)).toBe(200)
  passed(await lab.merge())
}, 120_000)

test('an image that fails its test gets no tag, and merge has nothing to publish', async () => {
  const call = { inputs: { test: 'echo "the answer is wrong"\nexit 4' }, jobTotal: 1 }
  const { exitCode, errors, outputs, tempLeft } = await lab.build('x86_64-linux', call)
  expect([exitCode, outputs, tempLeft]).toEqual([1, {}, []])
  expect(errors).toEqual([
    expect.stringMatching(/^The test of .*@sha256:\S+ for x86_64-linux failed with exit code 4\n/),
  ])
  expect(errors[0]).toContain('\n  the answer is wrong\n')
  expect(await statusOf(TAG)).toBe(404)
  const merged = await lab.merge()
  expect(merged.errors.join()).toContain('No build of this run has handed over a digest')
}, 120_000)

test('an unchanged image is tested before it is handed over again', async () => {
  passed(await lab.build('x86_64-linux', { jobTotal: 1 }))
  passed(await lab.merge())
  const call = { jobTotal: 1, runAttempt: 2, sha: '1'.repeat(40) }
  const failed = await lab.build('x86_64-linux', { ...call, inputs: { test: 'echo "$STORE_PATH" > seen; false' } })
  expect(failed.errors.join()).toContain('failed with exit code 1')
  expect(await readFile(join(lab.hello, 'seen'), 'utf8')).toMatch(/^\/\S+\/store\/\S+\n$/)
  expect(await statusOf('1111111-x86_64-linux')).toBe(404)
  const { outputs } = passed(await lab.build('x86_64-linux', { ...call, inputs: { test: 'true' } }))
  expect(outputs.unchanged).toBe('true')
  expect(await statusOf('1111111-x86_64-linux')).toBe(200)
}, 120_000)

test('nothing is tested with `push: false`', async () => {
  await writeFile(join(lab.hello, 'seen'), '')
  const { log } = passed(await lab.build('x86_64-linux', { inputs: { push: 'false', test: 'echo ran > seen' } }))
  expect(log).toContain('Not running `test`: it needs a pushed image')
  expect(await readFile(join(lab.hello, 'seen'), 'utf8')).toBe('')
}, 120_000)
