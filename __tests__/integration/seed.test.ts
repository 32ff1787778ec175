import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { afterEach, beforeEach, expect, test } from '@jest/globals'
import { copyExample, type Lab, startLab } from '../support/lab.ts'

// Compares the action with the shell script that it replaces, on the same images.

const { DOCKER_HOST, DOCKER_CONFIG } = process.env
const docker = { DOCKER_HOST, DOCKER_CONFIG }
const run = promisify(execFile)

const BUILD = `
  nix build --extra-experimental-features 'nix-command flakes' --option extra-platforms "$SYSTEM" \\
    --out-link result ".#packages.$SYSTEM.containerImage"
  label=$SHA-$SYSTEM
  docker load < result
  docker tag hello-of-shell:nix "$IMAGE:$label"
  docker push "$IMAGE:$label"
  docker pull "$IMAGE:$label"
  full=$(docker image inspect "$IMAGE:$label" --format '{{range .RepoDigests}}{{println .}}{{end}}' | grep "^$IMAGE@")
  digest=\${full#$IMAGE@}
  mkdir -p digests
  touch "digests/\${digest#sha256:}"
`

const MERGE_WITH_BUILDX = `
  cd digests
  for tag in latest "$SHA"; do
    docker buildx imagetools create -t "$IMAGE:$tag" $(printf "$IMAGE@sha256:%s " *)
  done
`

// Docker's older command, for systems without buildx such as Debian 12.
const MERGE_WITH_DOCKER = `
  cd digests
  for tag in latest "$SHA"; do
    docker manifest create --insecure "$IMAGE:$tag" $(printf "$IMAGE@sha256:%s " *)
    docker manifest push --insecure "$IMAGE:$tag"
  done
`

let lab: Lab
beforeEach(async () => {
  lab = await startLab({ docker })
  await copyExample(lab.hello, 'hello-of-shell:nix')
})
afterEach(() => lab.close())

test('two steps of the action publish the same tags and platforms as the shell script', async () => {
  const byShell = `${lab.registry.host}/seed/hello`
  for (const system of ['aarch64-linux', 'x86_64-linux']) await shell(BUILD, byShell, { SYSTEM: system })
  const hasBuildx = await run('docker', ['buildx', 'version'], { env: { ...process.env, ...docker } }).then(
    () => true,
    () => false,
  )
  await shell(hasBuildx ? MERGE_WITH_BUILDX : MERGE_WITH_DOCKER, byShell, {})

  for (const system of ['aarch64-linux', 'x86_64-linux']) {
    expect((await lab.build(system, { inputs: { 'push-with': 'docker' } })).exitCode).toBe(0)
  }
  expect((await lab.merge()).exitCode).toBe(0)

  expect(await tagsOf('owner/hello')).toEqual(await tagsOf('seed/hello'))
  for (const tag of ['latest', '0123456']) {
    const platforms = await platformsOf('owner/hello', tag)
    expect(platforms).toEqual(await platformsOf('seed/hello', tag))
    expect(Object.keys(platforms)).toEqual(['linux/amd64', 'linux/arm64'])
  }
})

async function shell(script: string, image: string, variables: Record<string, string>): Promise<void> {
  const env = { ...process.env, ...lab.nix, ...docker, IMAGE: image, SHA: '0123456', ...variables }
  await run('bash', ['-euc', script], { cwd: lab.hello, env })
}

async function tagsOf(repository: string): Promise<readonly string[]> {
  const response = await fetch(`http://${lab.registry.host}/v2/${repository}/tags/list`)
  const { tags } = (await response.json()) as { readonly tags: readonly string[] }
  return [...tags].sort()
}

/** Platform → digest, as skopeo reads the index. */
async function platformsOf(repository: string, tag: string): Promise<Readonly<Record<string, string>>> {
  const reference = `docker://${lab.registry.host}/${repository}:${tag}`
  const { stdout } = await run('skopeo', ['inspect', '--raw', '--tls-verify=false', reference])
  const index = JSON.parse(stdout) as { readonly manifests: readonly Entry[] }
  const entries = index.manifests.map(({ platform, digest }) => [`${platform.os}/${platform.architecture}`, digest])
  return Object.fromEntries(entries.sort())
}

interface Entry {
  readonly platform: { readonly os: string; readonly architecture: string }
  readonly digest: string
}
