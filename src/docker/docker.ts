import type { Writable } from 'node:stream'
import { which } from '@actions/io'
import { DockerError } from '../errors.ts'
import { startActivity } from '../log.ts'
import { type Digest, isReference } from '../oci/reference.ts'
import { type CommandOptions, type CommandResult, runCommand } from '../process/command.ts'
import { isBrokenPipe, type StreamingProgram, startStreaming } from '../process/stream.ts'
import { lastLines } from '../text.ts'

/** The hint for failures that only concern Docker and not the registry. */
export const PUSH_WITHOUT_DOCKER = 'To push without Docker, remove `push-with: docker`.'

/** Replaced by tests. */
export interface DockerTiming {
  /** Waits for a number of milliseconds. */
  readonly wait?: (milliseconds: number) => Promise<unknown>
  /** How long Docker may take to make progress, in milliseconds. */
  readonly silence?: number
}

/** The default of `DockerTiming.silence`. */
export const DOCKER_SILENCE = 60_000

/** Checks that Docker is running. @throws DockerError if Docker is missing or its daemon does not respond */
export async function checkDocker({ silence }: DockerTiming = {}): Promise<void> {
  const { exitCode, log } = await runDocker(['version', '--format', '{{.Server.Version}}'], silence)
  if (exitCode === 0) return
  throw new DockerError({
    message: 'Docker is not running on this runner',
    detail: lastLines(log, 5),
    hint: DOCKER_RUNNERS,
  })
}

/**
 * Returns whether the daemon uses the containerd image store, which pushes layers as they were loaded. Layers that Nix
 * builds are uncompressed (https://github.com/NixOS/nix/issues/15246).
 */
export async function keepsLayersUncompressed(): Promise<boolean> {
  const { exitCode, stdout } = await runDocker(['info', '--format', '{{json .DriverStatus}}'])
  return exitCode === 0 && stdout.includes('io.containerd.snapshotter.v1')
}

/**
 * Returns a name by which Docker knows an image that it has loaded. Prefers the image ID, because another job on the same
 * daemon can't replace it. The containerd image store uses other IDs; there, it is a name from the archive.
 * @throws DockerError if Docker knows none of the names
 */
export async function loadedImage(configDigest: Digest, names: readonly string[]): Promise<string> {
  // Names in the archive are untrusted. One that begins with "-" would be an option.
  const candidates = [configDigest, ...names.filter(isReference).slice(0, NAMES_LIMIT)]
  for (const name of candidates) {
    const { exitCode, log } = await runDocker(['image', 'inspect', '--format', '{{.Id}}', name])
    if (exitCode === 0) return name
    if (daemonHint(log) !== undefined) throw dockerFailed('Docker could not inspect the image that it has loaded', log)
  }
  throw new DockerError({
    message: `Docker loaded the image, but can't find it as ${candidates.join(' or ')}`,
    hint: names.length > 0 ? undefined : 'Set `name` and `tag` of the image in Nix, so that Docker can find it.',
  })
}

/** An archive can have any number of names. Docker knows the image by all of them, so a few are enough. */
const NAMES_LIMIT = 8

/** Gives a loaded image another name. @throws DockerError */
export async function tagImage(image: string, reference: string): Promise<void> {
  const { exitCode, log } = await runDocker(['tag', image, reference])
  if (exitCode !== 0) throw dockerFailed(`Docker could not tag the image as ${reference}`, log)
}

/** Runs a Docker command. @throws DockerError if Docker is missing, or if a command that is not shown stalls */
export async function runDocker(
  args: readonly string[],
  silenceMs = DOCKER_SILENCE,
  options: Pick<CommandOptions, 'shown' | 'onOutput'> = {},
): Promise<CommandResult> {
  const result = await runCommand('docker', args, { trust: 'everything', silenceMs, ...options })
  if (result === undefined) throw dockerMissing()
  const [command = ''] = args
  if (result.stalled && !options.shown)
    throw daemonStalled(`Can't run docker ${command}`, formatSilence(`docker ${command}`, silenceMs))
  return result
}

/** Returns the path of Docker's command-line client. @throws DockerError if it is missing */
export async function dockerPath(): Promise<string> {
  const path = await which('docker')
  if (path === '') throw dockerMissing()
  return path
}

function dockerMissing(): DockerError {
  return new DockerError({ message: 'Docker is not installed on this runner', hint: DOCKER_RUNNERS })
}

const DOCKER_RUNNERS =
  "Use a runner that has Docker, such as the hosted Linux runners (ubuntu-24.04, ubuntu-24.04-arm). Hosted macOS runners do not have Docker. On a self-hosted runner, start Docker and give the runner's user access to it. To check this, run:\n  docker version"

/** Returns the error of a Docker command that failed. */
export function dockerFailed(message: string, log: string, hint?: string): DockerError {
  return new DockerError({ message, detail: lastLines(log, 5), hint: daemonHint(log) ?? hint })
}

/** Returns the error of a Docker command that was killed because it made no progress. */
export function daemonStalled(message: string, detail: string): DockerError {
  return new DockerError({ message: `${message}: the Docker daemon does not respond`, detail, hint: RESTART_DOCKER })
}

/** Describes a Docker command that was killed because it wrote nothing. @param limit in milliseconds */
export function formatSilence(command: string, limit: number): string {
  return `${command} wrote nothing for ${Math.round(limit / 1000)} s`
}

/** Returns the hint for a log of Docker that says that the daemon is not available. */
export function daemonHint(log: string): string | undefined {
  return isDaemonGone(log) ? `The Docker daemon has stopped or can't be reached. ${RESTART_DOCKER}` : undefined
}

/** Returns whether a log of Docker says that the daemon is not available. */
export function isDaemonGone(log: string): boolean {
  return /cannot connect to the docker daemon|is the docker daemon running|error during connect|docker\.sock: connect/i.test(
    log,
  )
}

const RESTART_DOCKER = `Restart Docker on the runner, check that its disk is not full, and re-run this job. ${PUSH_WITHOUT_DOCKER}`

/**
 * Loads an image into Docker (`docker load`).
 * @param feed writes the archive to Docker's standard input, and ends it
 * @param hintFor returns a hint for the output of Docker if Docker can't load the image
 * @returns the result of `feed`
 * @throws DockerError if Docker can't load the image; otherwise the error of `feed`
 */
export async function loadImage<Result>(
  feed: (stdin: Writable) => Promise<Result>,
  hintFor: (detail: string) => string | undefined = () => undefined,
  { silence = DOCKER_SILENCE }: DockerTiming = {},
): Promise<Result> {
  const docker = startStreaming(await dockerPath(), ['load'], { trust: 'everything', reads: true })
  const progress = watchLoad(docker, silence)
  try {
    const [fed] = await Promise.allSettled([feed(docker.input)])
    // After a broken pipe, Docker's own error is the cause.
    if (fed.status === 'rejected' && !isBrokenPipe(fed.reason) && progress.stalled() === undefined) throw fed.reason
    const loading = startActivity('docker load')
    const { failure, log } = await docker.ended.finally(loading.end)
    if (fed.status === 'fulfilled' && failure === undefined) return fed.value
    const detail = lastLines(log || (failure ?? ''), 10)
    const message = 'Docker could not load the image that Nix built'
    if (progress.stalled() !== undefined) throw daemonStalled(message, `docker load ${progress.stalled()}`)
    throw new DockerError({ message, detail, hint: hintFor(detail) ?? daemonHint(detail) })
  } finally {
    progress.end()
    docker.end()
    // The killed process may read from its input until it has exited.
    await docker.ended
  }
}

/**
 * Kills `docker load` if it stops reading, or if it is silent for too long after it has read everything. Docker unpacks
 * what it has read, which takes time in proportion to the size.
 */
function watchLoad(
  docker: StreamingProgram,
  silence: number,
): { readonly stalled: () => string | undefined; readonly end: () => void } {
  let stalled: string | undefined
  let lastProgress = performance.now()
  let seen = 0
  const written = () => Number((docker.input as { readonly bytesWritten?: number }).bytesWritten ?? 0)
  const timer = setInterval(() => {
    const { input } = docker
    const isWaiting = input.writableLength > 0 || input.writableFinished
    if (!isWaiting || written() !== seen) lastProgress = performance.now()
    seen = written()
    const limit = silence + (input.writableFinished ? seen / LOAD_SPEED : 0)
    if (performance.now() - lastProgress < limit) return
    stalled = input.writableFinished
      ? `wrote nothing for ${Math.round(limit / 1000)} s after it had read the image`
      : `read nothing for ${Math.round(limit / 1000)} s`
    docker.end()
  }, silence / 12)
  const drainOutput = async () => {
    // Docker prints each tag of the image, and blocks if nothing reads them.
    for await (const _ of docker.output) lastProgress = performance.now()
  }
  drainOutput().catch(() => undefined)
  return { stalled: () => stalled, end: () => clearInterval(timer) }
}

/** The lowest speed at which Docker is expected to unpack layers, in bytes per millisecond. */
const LOAD_SPEED = 10_000
