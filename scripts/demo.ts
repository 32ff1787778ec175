// The whole way on this machine: the example flake is built for two systems, pushed to a registry, merged into one
// image by the action that users run, and pulled. Leaves nothing behind.
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { startDocker } from '../__tests__/support/docker.ts'
import { type Lab, startLab } from '../__tests__/support/lab.ts'
import type { ActionRun } from '../__tests__/support/runner.ts'

const SYSTEMS = ['x86_64-linux', 'aarch64-linux']
const run = promisify(execFile)

await demonstrate()

async function demonstrate(): Promise<void> {
  heading('Starting a Docker daemon (unless one is running), a registry, and what the runner has')
  const docker = await startDocker()
  try {
    const lab = await startLab({ docker: docker.env })
    try {
      say(`Docker ${docker.own ? 'of this demo' : 'of this machine'}; registry at ${lab.registry.host}`)
      await publish(lab)
      await show(lab, docker.env)
    } finally {
      heading('Cleaning up')
      await lab.close()
    }
  } finally {
    await docker.close()
  }
  say('Done. Nothing is left running.')
}

async function publish(lab: Lab): Promise<void> {
  for (const system of SYSTEMS) {
    heading(`mode: build, system: ${system}`)
    finished(await lab.build(system, { onLog: say }))
  }
  heading('mode: merge')
  const merged = finished(await lab.merge({ onLog: say }))
  heading("The job's summary")
  say(merged.summary)
}

/** What others make of it: skopeo reads the index, Docker pulls an image by it. */
async function show(lab: Lab, env: Readonly<Record<string, string>>): Promise<void> {
  const reference = `${lab.registry.host}/owner/hello:latest`
  heading('The index, as skopeo reads it from the registry')
  const inspected = await run('skopeo', ['inspect', '--raw', '--tls-verify=false', `docker://${reference}`])
  say(inspected.stdout)
  heading('To pull it')
  say(`$ docker pull ${reference}`)
  const pulled = await run('docker', ['pull', reference], { env: { ...process.env, ...env } })
  say(pulled.stdout)
}

function finished(step: ActionRun): ActionRun {
  if (step.exitCode === 0) return step
  throw new Error(`The step failed with exit code ${step.exitCode}; its log above says why.`)
}

function heading(text: string): void {
  process.stdout.write(`\n\u001b[1m${text}\u001b[0m\n`)
}

function say(text: string): void {
  process.stdout.write(`${text.trimEnd().replace(/^/gm, '  ')}\n`)
}
