import { readFile } from 'node:fs/promises'
import { afterEach, expect, test } from '@jest/globals'
import { startGitHubRegistry } from '../support/ghcr.ts'
import { runCaller } from './act.ts'
import { readIndex, statusOfTag } from './contents.ts'
import { startDistributionWithTokens } from './distribution.ts'

// Runs .github/workflows/publish.yml under act, with real Nix and this checkout's dist/. act can't check permissions.

const cleanups: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

const example = await readFile(new URL('../../examples/workflows/reusable.yml', import.meta.url), 'utf8')

async function openGitHub() {
  const registry = await startGitHubRegistry({ user: 'octocat', password: 'ghs_TheTokenOfTheJob' })
  cleanups.push(registry.close)
  const call = {
    secrets: { GITHUB_TOKEN: 'ghs_TheTokenOfTheJob' },
    env: registry.env,
    certificate: registry.certificate,
  }
  return { registry, call }
}

test('reusable.yml publishes the image of all systems of the flake to ghcr.io, without a login', async () => {
  const { registry, call } = await openGitHub()
  const { succeeded, log } = await runCaller({ ...call, workflow: example })
  if (!succeeded) throw new Error(log)
  const tags = registry.tags('octocat/app')
  const index = registry.manifest('octocat/app', 'latest')
  const { manifests } = JSON.parse(String(index?.bytes))
  const platforms = manifests.map(({ platform }: { platform: { architecture: string } }) => platform.architecture)
  expect(new Set(platforms)).toEqual(new Set(['amd64', 'arm', 'arm64', 'unknown']))
  expect([...tags.values()].filter((digest) => digest === index?.digest)).toHaveLength(2)
  // Only armv7l-linux has no runner.
  expect(log.match(/ \| Emulating$/gm)).toHaveLength(1)
  expect(log).toMatch(/ \| nix .*, with extra-platforms = armv7l-linux$/m)
})

test('reusable.yml publishes nothing for a pull request', async () => {
  const { registry, call } = await openGitHub()
  const { succeeded, log } = await runCaller({ ...call, workflow: example, event: 'pull_request' })
  if (!succeeded) throw new Error(log)
  expect(log).toContain('Nothing to check: ')
  expect(registry.tags('octocat/app').size).toBe(0)
  expect(registry.requests.filter(({ method }) => /PUT|PATCH/.test(method))).toEqual([])
})

test('a caller publishes to another registry with its login, after its test', async () => {
  const registry = await startDistributionWithTokens()
  cleanups.push(registry.close)
  const { user = '', password = '' } = registry.login ?? {}
  const secrets = { REGISTRY_USER: user, REGISTRY_PASSWORD: password, GITHUB_TOKEN: 'ghs_TheTokenOfTheJob' }
  const callerWith = (test: string) => `name: Image
on: push
jobs:
  image:
    uses: nix-image-action/nix-image-action/.github/workflows/publish.yml@v1
    with:
      image: ${registry.host}/owner/app
      registry: ${registry.host}
      systems: x86_64-linux, aarch64-linux
      tags: v1, {sha}
      test: ${test}
    secrets:
      username: \${{ secrets.REGISTRY_USER }}
      password: \${{ secrets.REGISTRY_PASSWORD }}
      nix-config: "max-jobs = 1"
  after:
    needs: image
    runs-on: ubuntu-24.04
    steps:
      - env: { DIGEST: "\${{ needs.image.outputs.digest }}" }
        run: echo "Published $DIGEST"
`
  const failed = await runCaller({ secrets, workflow: callerWith('test "$SYSTEM" = x86_64-linux') })
  expect(failed.succeeded).toBe(false)
  expect(failed.log).toContain('for aarch64-linux failed with exit code 1')
  expect(await statusOfTag(registry, 'owner/app', 'v1')).toBe(404)

  const { succeeded, log } = await runCaller({ secrets, workflow: callerWith('test "${IMAGE#*@}" != "$IMAGE"') })
  if (!succeeded) throw new Error(log)
  const index = await readIndex(registry, 'owner/app', 'v1')
  expect([...index.images.keys()]).toEqual(['amd64', 'arm64'])
  expect(log).toContain(`Published ${index.digest}`)
  expect(log).toMatch(/ \| nix .*, with max-jobs = 1$/m)
})
