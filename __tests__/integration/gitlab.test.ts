import { execFile } from 'node:child_process'
import { cp, mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, expect, test } from '@jest/globals'
import * as v from 'valibot'
import { parse } from 'yaml'
import { CLI } from '../support/cli.ts'
import { type Lab, startLab } from '../support/lab.ts'

// Runs the scripts of examples/gitlab as GitLab does, with real Nix and a real registry that requires a login. Only
// `nix run` of the command line is replaced, with this checkout.

const LOGIN = { user: 'gitlab-ci-token', password: 'a password: with "quotes"?' }

const SCRIPT = v.array(v.string())
const PIPELINE = v.object({
  variables: v.record(v.string(), v.string()),
  default: v.object({ before_script: SCRIPT }),
  build: v.object({
    parallel: v.object({ matrix: v.array(v.record(v.string(), v.string())) }),
    rules: v.array(v.object({ if: v.string(), variables: v.record(v.string(), v.string()) })),
    script: SCRIPT,
    artifacts: v.object({ paths: v.tuple([v.string()]) }),
  }),
  publish: v.object({ script: SCRIPT }),
})

let lab: Lab
let pipeline: v.InferOutput<typeof PIPELINE>
beforeEach(async () => {
  lab = await startLab({ registry: { auth: { kind: 'basic', ...LOGIN } } })
  pipeline = v.parse(
    PIPELINE,
    parse(await readFile(new URL('../../examples/gitlab/.gitlab-ci.yml', import.meta.url), 'utf8')),
  )
  await git(lab.hello, 'init', '--quiet')
  await git(lab.hello, 'add', '.')
  await git(lab.hello, 'commit', '--quiet', '--message', 'Example')
  await mkdir(join(lab.folder, 'bin'))
  const nix = `#!/bin/sh\nif [ "$1" = run ]; then shift 3; exec '${process.execPath}' '${CLI}' "$@"; fi\nPATH=$\{PATH#*:} exec nix "$@"\n`
  await writeFile(join(lab.folder, 'bin/nix'), nix, { mode: 0o755 })
})
afterEach(() => lab.close())

async function git(cwd: string, ...args: readonly string[]): Promise<string> {
  const options = ['-c', 'user.name=A', '-c', 'user.email=a@example.com']
  return (await promisify(execFile)('git', [...options, ...args], { cwd })).stdout.trim()
}

/** Runs a job in a new clone of the project. */
async function runJob(
  name: string,
  script: readonly string[],
  variables: Readonly<Record<string, string>>,
  records = '',
) {
  const project = join(lab.folder, name)
  await git(lab.folder, 'clone', '--quiet', lab.hello, project)
  const [path] = pipeline.build.artifacts.paths
  if (records !== '') await cp(records, join(project, path), { recursive: true })
  const env = {
    ...lab.nix,
    PATH: `${join(lab.folder, 'bin')}:${process.env.PATH}`,
    CI: 'true',
    CI_REGISTRY: lab.registry.host,
    CI_REGISTRY_IMAGE: `${lab.registry.host}/group/app`,
    CI_REGISTRY_USER: LOGIN.user,
    CI_REGISTRY_PASSWORD: LOGIN.password,
    CI_COMMIT_SHORT_SHA: (await git(project, 'rev-parse', 'HEAD')).slice(0, 8),
    // NIX_CONFIG would replace the configuration of the lab.
    NIX_IMAGE_ACTION: pipeline.variables.NIX_IMAGE_ACTION,
    ...variables,
  }
  const lines = [...pipeline.default.before_script, ...script].join('\n')
  const { stdout } = await promisify(execFile)('bash', ['-eo', 'pipefail', '-c', lines], { cwd: project, env })
  return { stdout, records: join(project, path) }
}

test('a pipeline of the default branch publishes the images of its matrix', async () => {
  const records = join(lab.folder, 'artifacts')
  const [main] = pipeline.build.rules
  for (const entry of pipeline.build.parallel.matrix) {
    const job = await runJob(`build-${entry.SYSTEM}`, pipeline.build.script, { ...entry, ...main?.variables })
    await cp(job.records, records, { recursive: true })
  }
  const { stdout } = await runJob('publish', pipeline.publish.script, {}, records)
  expect(stdout).toContain(`tags       ${lab.registry.host}/group/app:latest\n`)
  const reference = `docker://${lab.registry.host}/group/app:latest`
  const login = ['--creds', `${LOGIN.user}:${LOGIN.password}`, '--tls-verify=false']
  const inspected = await promisify(execFile)('skopeo', ['inspect', '--raw', ...login, reference])
  const platforms = JSON.parse(inspected.stdout).manifests.map(
    (one: { platform: { architecture: string } }) => one.platform.architecture,
  )
  expect(platforms.slice(0, 2)).toEqual(['amd64', 'arm64'])
}, 120_000)

test('a pipeline of a merge request builds, and publishes nothing', async () => {
  const [, mergeRequest] = pipeline.build.rules
  const [entry] = pipeline.build.parallel.matrix
  expect(mergeRequest?.if).toContain('merge_request_event')
  const { stdout } = await runJob('build', pipeline.build.script, { ...entry, ...mergeRequest?.variables })
  expect(stdout).toMatch(/^store-path +\S+\n$/)
}, 60_000)
