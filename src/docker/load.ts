import type { Writable } from 'node:stream'
import { DockerError } from '../errors.ts'
import { startActivity } from '../log.ts'
import { isBrokenPipe, type StreamingProgram, startStreaming } from '../process/stream.ts'
import { lastLines } from '../text.ts'
import { DOCKER_SILENCE, type DockerTiming, daemonHint, daemonStalled, dockerPath } from './docker.ts'

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
