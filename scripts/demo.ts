// Demonstrates the action on this machine: builds the example flake for two systems, pushes the images to a registry, and
// merges them into one multi-platform image. Needs only Nix, and leaves no files behind.
//
//   npm run demo              prints what the jobs log, their summaries, and the index
//   npm run demo -- --keep    keeps the registry running, to pull the image from it
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { distributionProgram, startDistribution } from '../__tests__/support/distribution.ts'
import { type Lab, type LabRegistry, startLab } from '../__tests__/support/lab.ts'
import { startRegistry } from '../__tests__/support/registry.ts'
import type { ActionRun } from '../__tests__/support/runner.ts'

const { values } = parseArgs({ options: { keep: { type: 'boolean', default: false } } })

const SYSTEMS = ['x86_64-linux', 'aarch64-linux']

await demonstrate()

async function demonstrate(): Promise<void> {
  heading('Starting a registry and the runner’s services')
  const lab = await startLab({ startRegistry: startSomeRegistry })
  try {
    await publish(lab)
    await show(lab)
    if (values.keep) await keep(lab.registry)
  } finally {
    await lab.close()
  }
  heading('Done')
  say('The registry has been stopped. No files are left behind.')
  if (!values.keep) say('To keep the registry running and pull the image from it: npm run demo -- --keep')
}

/** Waits until the user stops the demo. */
async function keep({ host }: LabRegistry): Promise<void> {
  heading('The registry keeps running')
  say(`To pull the image, or list its platforms, in another terminal:

docker pull ${host}/owner/hello
skopeo inspect --raw --tls-verify=false docker://${host}/owner/hello

Press Ctrl+C to stop the registry.`)
  await new Promise<void>((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.once(signal, () => resolve())
  })
}

/** Starts Docker Distribution if it is installed, and the tests' in-process registry otherwise. */
async function startSomeRegistry(folder: string): Promise<LabRegistry> {
  const blobs = join(folder, 'blobs')
  await mkdir(blobs)
  const distribution = hasDistribution()
  const registry = distribution ? await startDistribution() : await startRegistry({ folder: blobs })
  say(`${distribution ? 'Docker Distribution' : 'The in-process registry'} listens on ${registry.host}`)
  return registry
}

function hasDistribution(): boolean {
  try {
    return distributionProgram() !== ''
  } catch {
    return false
  }
}

async function publish(lab: Lab): Promise<void> {
  for (const system of SYSTEMS) {
    heading(`mode: build, system: ${system}`)
    const built = finished(await lab.build(system, { onLog: say }))
    say(`\nThe job's summary:\n\n${built.summary}`)
  }
  heading('mode: merge')
  const merged = finished(await lab.merge({ onLog: say }))
  say(`\nThe job's summary:\n\n${merged.summary}`)
}

async function show(lab: Lab): Promise<void> {
  const { host } = lab.registry
  heading('The index in the registry')
  const accept = 'application/vnd.oci.image.index.v1+json'
  const response = await fetch(`http://${host}/v2/owner/hello/manifests/latest`, { headers: { accept } })
  say(`${response.headers.get('docker-content-digest')}\n${await response.text()}`)
}

function finished(step: ActionRun): ActionRun {
  if (step.exitCode === 0) return step
  throw new Error(`The step failed with exit code ${step.exitCode}; see its log above.`)
}

function heading(text: string): void {
  process.stdout.write(`\n\u001b[1m${text}\u001b[0m\n`)
}

function say(text: string): void {
  process.stdout.write(`${text.trimEnd().replace(/^/gm, '  ')}\n`)
}
