import type { Writable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { which } from '@actions/io'
import { startActivity } from '../activity.ts'
import { lastLines, sanitizeLine } from '../errors.ts'
import { createClock } from '../http/clock.ts'
import { retryDelay } from '../http/retry.ts'
import type { Log } from '../log.ts'
import { type Digest, isDigest } from '../oci/digest.ts'
import { isReference } from '../oci/reference.ts'
import { type CommandOptions, type CommandResult, runCommand } from '../process/command.ts'
import { type StreamingProgram, startStreaming } from '../process/stream.ts'
import { DockerError } from './docker-error.ts'

/** What helps where Docker fails, and the registry does not. */
export const PUSH_STRAIGHT =
  'Leave `push-with: docker` out: without it, the image is pushed straight from what Nix built.'

/** Replaced by tests. */
export interface DockerTiming {
  /** Waits for so many milliseconds. */
  readonly wait?: (milliseconds: number) => Promise<unknown>
  /** How long Docker may take to make progress, in milliseconds. */
  readonly silence?: number
}

/** Makes sure that Docker runs. @throws DockerError where there is none, or its daemon does not answer */
export async function checkDocker({ silence }: DockerTiming = {}): Promise<void> {
  const { exitCode, log } = await docker(['version', '--format', '{{.Server.Version}}'], silence)
  if (exitCode === 0) return
  throw new DockerError({
    message: 'Docker is not running on this runner',
    detail: lastLines(log, 5),
    hint: WHERE_DOCKER_IS,
  })
}

/**
 * Whether the daemon keeps images in containerd's store, which pushes layers as they were loaded: Nix's are not
 * compressed (https://github.com/NixOS/nix/issues/15246).
 */
export async function keepsLayersUncompressed(): Promise<boolean> {
  const { exitCode, stdout } = await docker(['info', '--format', '{{json .DriverStatus}}'])
  return exitCode === 0 && stdout.includes('io.containerd.snapshotter.v1')
}

/**
 * Has Docker load an image while `feed` writes it.
 * @param feed writes the archive to Docker's standard input, and ends it
 * @param advise what helps, by Docker's words on why it can't load it
 * @returns what `feed` returns
 * @throws DockerError where Docker can't load it, or what `feed` throws
 */
export async function loadImage<Result>(
  feed: (stdin: Writable) => Promise<Result>,
  advise: (detail: string) => string | undefined = () => undefined,
  { silence = SILENCE }: DockerTiming = {},
): Promise<Result> {
  const docker = startStreaming(await dockerPath(), ['load'], { trust: 'everything', reads: true })
  const progress = watchLoad(docker, silence)
  try {
    // Docker ends early if it does not like what it reads. Its own words tell more than the broken pipe.
    const [fed] = await Promise.allSettled([feed(docker.input)])
    const brokenPipe = fed.status === 'rejected' && PIPE_ERRORS.has(String((fed.reason as NodeJS.ErrnoException).code))
    if (fed.status === 'rejected' && !brokenPipe && progress.stalled() === undefined) throw fed.reason
    const loading = startActivity('docker load')
    const { failure, log } = await docker.ended.finally(loading.end)
    if (fed.status === 'fulfilled' && failure === undefined) return fed.value
    const said = lastLines(log || (failure ?? ''), 10)
    const message = 'Docker could not load the image that Nix built'
    if (progress.stalled() !== undefined) throw noAnswer(message, `docker load ${progress.stalled()}`)
    throw new DockerError({ message, detail: said, hint: advise(said) ?? adviceOnDaemon(said) })
  } finally {
    progress.end()
    docker.end()
    // It is ended by a signal, and may still read for a moment.
    await docker.ended
  }
}

/**
 * Ends `docker load` if it stops reading, or if it has read everything and goes on in silence. Docker needs time in
 * proportion to what it has read, to unpack it.
 */
function watchLoad(
  docker: StreamingProgram,
  silence: number,
): { readonly stalled: () => string | undefined; readonly end: () => void } {
  let stalled: string | undefined
  let last = performance.now()
  let seen = 0
  const written = () => Number((docker.input as { readonly bytesWritten?: number }).bytesWritten ?? 0)
  const timer = setInterval(() => {
    const { input } = docker
    const waits = input.writableLength > 0 || input.writableFinished
    if (!waits || written() !== seen) last = performance.now()
    seen = written()
    const limit = silence + (input.writableFinished ? seen / LOAD_SPEED : 0)
    if (performance.now() - last < limit) return
    stalled = input.writableFinished
      ? `wrote nothing for ${Math.round(limit / 1000)} s after it had read the image`
      : `read nothing for ${Math.round(limit / 1000)} s`
    docker.end()
  }, silence / 12)
  const reading = async () => {
    // It must not wait for somebody to read what it writes: it names each tag of the image.
    for await (const _ of docker.output) last = performance.now()
  }
  reading().catch(() => undefined)
  return { stalled: () => stalled, end: () => clearInterval(timer) }
}

/** How long Docker may take without a sign of progress, in milliseconds. */
const SILENCE = 60_000
/** What Docker unpacks at least, in bytes per millisecond. */
const LOAD_SPEED = 10_000
/** What Docker pushes at least, in bytes per millisecond: without a terminal, it says nothing while it sends a layer. */
const PUSH_SPEED = 1_000
/** How long after its first failure a push is tried again, in milliseconds. */
const BUDGET = 120_000
/** What an attempt to push may take at least, in milliseconds. */
const SHORTEST_ATTEMPT = 10_000

/**
 * The name by which Docker knows an image that it has loaded: its ID, which no other job on the same daemon can take
 * over. The containerd image store knows images by another hash; there it is the name in the archive.
 * @throws DockerError where it knows neither
 */
export async function loadedImage(configDigest: Digest, names: readonly string[]): Promise<string> {
  // The archive's names are anybody's: one that begins with "-" would be an option.
  const candidates = [configDigest, ...names.filter(isReference).slice(0, NAMES_LIMIT)]
  for (const name of candidates) {
    const { exitCode, log } = await docker(['image', 'inspect', '--format', '{{.Id}}', name])
    if (exitCode === 0) return name
    if (adviceOnDaemon(log) !== undefined) throw failed('Docker could not look up the image that it has loaded', log)
  }
  throw new DockerError({
    message: `Docker loaded the image, but can't find it as ${candidates.join(' or ')}`,
    hint: names.length > 0 ? undefined : 'Give the image a name and a tag in Nix, so that Docker can find it.',
  })
}

/** Docker gives an image all names that its archive has, which may be any number: one of them is enough. */
const NAMES_LIMIT = 8

/** Gives an image that Docker has another name. @throws DockerError */
export async function tagImage(image: string, reference: string): Promise<void> {
  const { exitCode, log } = await docker(['tag', image, reference])
  if (exitCode !== 0) throw failed(`Docker could not tag the image as ${reference}`, log)
}

/** A tag to push. */
export interface TagPush {
  readonly reference: string
  /** Of all layers, uncompressed, in bytes. */
  readonly size: number
  readonly loginHelp: string
  /** What the tag points to, if it exists. */
  readonly existing?: Digest | undefined
}

/**
 * Pushes a tag, Docker's progress shown. Pushes it again after failures that may pass, for two minutes.
 * @returns the digest that the registry has it by
 * @throws DockerError with Docker's and the registry's words
 */
export async function pushTag(
  push: TagPush,
  log: Pick<Log, 'info'>,
  { wait = sleep, silence = SILENCE }: DockerTiming = {},
): Promise<Digest> {
  const { reference, size } = push
  const clock = createClock(() => performance.now(), wait)
  const start = clock.now()
  let failing: number | undefined
  for (let count = 1; ; count++) {
    const left = failing === undefined ? silence : Math.max(failing + BUDGET - clock.now(), SHORTEST_ATTEMPT)
    const limit = Math.min(silence, left) + size / PUSH_SPEED
    const onOutput = (text: string): void => {
      if (failing !== undefined && /: Pushed$/m.test(text)) failing = clock.now()
    }
    const result = await docker(['push', reference], limit, { shown: true, onOutput })
    if (result.exitCode === 0) return digestIn(result.stdout, reference)
    failing ??= result.stalled ? clock.now() - limit : clock.now()
    const delay = retryDelay(count, undefined, Date.now(), Math.random())
    if (!mayPass(result) || clock.now() + delay > failing + BUDGET) {
      const tries = count === 1 ? '' : ` (${count} attempts in ${Math.round((clock.now() - start) / 1000)} s)`
      throw pushError(`Docker could not push ${reference}${tries}`, result, limit, push)
    }
    const why = result.stalled ? silentFor('docker push', limit) : sanitizeLine(lastLines(result.log, 1))
    log.info(`docker push ${reference}: ${why}; retrying in ${(delay / 1000).toFixed(1)} s`)
    await clock.wait(delay)
  }
}

function digestIn(stdout: string, reference: string): Digest {
  // The last line, of both image stores: "tag: digest: sha256:… size: 1234".
  const digest = [...stdout.matchAll(/digest: (sha256:[0-9a-f]{64}) size: \d+/g)].at(-1)?.[1]
  if (digest !== undefined && isDigest(digest)) return digest
  throw new DockerError({
    message: `Docker has pushed ${reference}, but did not say its digest`,
    detail: lastLines(stdout, 5),
  })
}

/** Reports whether the same push may succeed a moment later. */
function mayPass({ stalled, log }: CommandResult): boolean {
  if (stalled || /secondary rate limit/i.test(log)) return true
  return !REFUSED.test(log) && (DAEMON_GONE.test(log) || PASSING.test(log))
}

const REFUSED = /denied|unauthorized|authentication required|no basic auth/i

const PASSING = new RegExp(
  [
    'toomanyrequests|too many requests',
    String.raw`(status|code|HTTP)[^\n]{0,30}\b(408|429|50[0234]|52[0-7])\b`,
    'internal server error|bad gateway|service unavailable|gateway time-?out',
    'connection (was )?(reset|refused|aborted)|broken pipe|use of closed network connection',
    String.raw`\bEOF\b|TLS handshake|time-?out|timed out|deadline exceeded|server misbehaving|no such host`,
    'temporary failure|network is unreachable|no route to host',
    'blob upload (unknown|invalid)|blob unknown',
  ].join('|'),
  'i',
)

function pushError(
  message: string,
  { stalled, log }: CommandResult,
  limit: number,
  { loginHelp, existing }: TagPush,
): DockerError {
  if (stalled) return noAnswer(message, silentFor('docker push', limit))
  const detail = lastLines(log, 5)
  const refused = REFUSED.test(log)
  if (IMMUTABLE.test(log) || (refused && existing !== undefined))
    return new DockerError({
      message: `${message}${existing === undefined ? '' : `: the tag exists and points to ${existing}`}`,
      detail,
      hint: OTHER_TAG,
    })
  if (refused) return new DockerError({ message, detail, hint: loginHelp })
  if (UNSUPPORTED.test(log)) return new DockerError({ message, detail, hint: PUSH_OCI })
  return failed(message, log, mayPass({ exitCode: 1, stdout: '', stalled, log }) ? LATER : undefined)
}

const IMMUTABLE = /immutable|overwrit/i

const OTHER_TAG = `The tag may be immutable. Set a \`tag\` that is different for each run:
  tag: "{sha}-{system}-\${{ github.run_id }}-\${{ github.run_attempt }}"
Or push by digest alone, without Docker:
  push-with: registry
  tag: ""`

/** zot answers 415 with the code MANIFEST_INVALID to Docker's manifests. */
const UNSUPPORTED = /manifest invalid: manifest invalid|unsupported media type|\b415\b/i

const PUSH_OCI =
  "The registry may not support Docker's manifests. Push OCI manifests: remove `push-with: docker`, or set:\n  push-with: registry"

const LATER = 'The registry, or the network between it and the Docker daemon, has a fault. Re-run this job later.'

function silentFor(command: string, limit: number): string {
  return `${command} wrote nothing for ${Math.round(limit / 1000)} s`
}

/** Returns the error of a command that failed with these words. */
function failed(message: string, log: string, hint?: string): DockerError {
  return new DockerError({ message, detail: lastLines(log, 5), hint: adviceOnDaemon(log) ?? hint })
}

/** Returns the error of a command that was ended because it made no progress. */
function noAnswer(message: string, detail: string): DockerError {
  return new DockerError({ message: `${message}: the Docker daemon does not answer`, detail, hint: RESTART })
}

/** Returns what helps if Docker's words say that its daemon is gone. */
function adviceOnDaemon(detail: string): string | undefined {
  return DAEMON_GONE.test(detail) ? `The Docker daemon has ended, or can't be reached. ${RESTART}` : undefined
}

const DAEMON_GONE =
  /cannot connect to the docker daemon|is the docker daemon running|error during connect|docker\.sock: connect/i

const RESTART = `Restart Docker on the runner, check that its disk is not full, and re-run this job. ${PUSH_STRAIGHT}`

/** What writing to a program fails with that has gone away. */
const PIPE_ERRORS = new Set(['EPIPE', 'ECONNRESET', 'ERR_STREAM_DESTROYED', 'ERR_STREAM_PREMATURE_CLOSE'])

const WHERE_DOCKER_IS =
  'Use a runner with Docker: the hosted Linux runners (ubuntu-24.04, ubuntu-24.04-arm) have it, those with macOS have not. On a self-hosted one, start it and let the runner\'s user reach it ("docker version" shows whether it does).'

/** Runs a command of Docker's. @throws DockerError if there is no Docker, or a command that is not shown stalls */
async function docker(
  args: readonly string[],
  silenceMs = SILENCE,
  options: Pick<CommandOptions, 'shown' | 'onOutput'> = {},
): Promise<CommandResult> {
  const result = await runCommand('docker', args, { trust: 'everything', silenceMs, ...options })
  if (result === undefined) throw missing()
  const [command = ''] = args
  if (result.stalled && !options.shown)
    throw noAnswer(`Can't run docker ${command}`, silentFor(`docker ${command}`, silenceMs))
  return result
}

async function dockerPath(): Promise<string> {
  const path = await which('docker')
  if (path === '') throw missing()
  return path
}

function missing(): DockerError {
  return new DockerError({ message: 'Docker is not installed on this runner', hint: WHERE_DOCKER_IS })
}
