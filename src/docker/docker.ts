import type { Writable } from 'node:stream'
import { which } from '@actions/io'
import { startActivity } from '../activity.ts'
import { lastLines } from '../failure.ts'
import { type Digest, isDigest } from '../oci/digest.ts'
import { isReference } from '../oci/reference.ts'
import { type CommandResult, runCommand } from '../process/command.ts'
import { startStreaming } from '../process/stream.ts'
import { DockerError } from './docker-error.ts'

/** Makes sure that Docker runs. @throws DockerError where there is none, or its daemon does not answer */
export async function checkDocker(): Promise<void> {
  const { exitCode, log } = await docker(['version', '--format', '{{.Server.Version}}'])
  if (exitCode === 0) return
  throw new DockerError({
    what: 'Docker is not running on this runner',
    words: lastLines(log, 5),
    help: WHERE_DOCKER_IS,
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
  advise: (words: string) => string | undefined = () => undefined,
): Promise<Result> {
  const docker = startStreaming(await dockerPath(), ['load'], { trust: 'everything', reads: true })
  try {
    // Its output is not of use, but it must not wait for somebody to read it: it names each tag of the image.
    discard(docker.output)
    // Docker ends early if it does not like what it reads. Its own words tell more than the broken pipe.
    const [fed] = await Promise.allSettled([feed(docker.input)])
    const brokenPipe = fed.status === 'rejected' && PIPE_ERRORS.has(String((fed.reason as NodeJS.ErrnoException).code))
    if (fed.status === 'rejected' && !brokenPipe) throw fed.reason
    const loading = startActivity('docker load')
    const { failure, log } = await docker.ended.finally(loading.end)
    if (fed.status === 'fulfilled' && failure === undefined) return fed.value
    const said = lastLines(log || (failure ?? ''), 10)
    throw new DockerError({ what: 'Docker could not load the image that Nix built', words: said, help: advise(said) })
  } finally {
    docker.end()
    // It is ended by a signal, and may still read for a moment.
    await docker.ended
  }
}

/**
 * The name by which Docker knows an image that it has loaded: its ID, which no other job on the same daemon can take
 * over. The containerd image store knows images by another hash; there it is the name in the archive.
 * @throws DockerError where it knows neither
 */
export async function loadedImage(configDigest: Digest, names: readonly string[]): Promise<string> {
  // The archive's names are anybody's: one that begins with "-" would be an option.
  const candidates = [configDigest, ...names.filter(isReference).slice(0, NAMES_LIMIT)]
  for (const name of candidates) {
    const { exitCode } = await docker(['image', 'inspect', '--format', '{{.Id}}', name])
    if (exitCode === 0) return name
  }
  throw new DockerError({
    what: `Docker has loaded the image, but knows neither ${candidates.join(' nor ')}`,
    help: names.length > 0 ? undefined : 'Give the image a name and a tag in Nix, so that Docker can find it.',
  })
}

/** Docker gives an image all names that its archive has, which may be any number: one of them is enough. */
const NAMES_LIMIT = 8

/** Gives an image that Docker has another name. @throws DockerError */
export async function tagImage(image: string, reference: string): Promise<void> {
  const { exitCode, log } = await docker(['tag', image, reference])
  if (exitCode !== 0)
    throw new DockerError({ what: `Docker could not tag the image as ${reference}`, words: lastLines(log, 5) })
}

/**
 * Pushes a tag, Docker's progress shown.
 * @returns the digest that the registry has it by
 * @throws DockerError with Docker's and the registry's words
 */
export async function pushTag(reference: string, loginHelp: string): Promise<Digest> {
  const { exitCode, stdout, log } = await docker(['push', reference], true)
  if (exitCode !== 0) {
    const help = /denied|unauthorized|authentication required|no basic auth/i.test(log) ? loginHelp : undefined
    throw new DockerError({ what: `Docker could not push ${reference}`, words: lastLines(log, 5), help })
  }
  // The last line, of both image stores: "tag: digest: sha256:… size: 1234".
  const digest = [...stdout.matchAll(/digest: (sha256:[0-9a-f]{64}) size: \d+/g)].at(-1)?.[1]
  if (digest !== undefined && isDigest(digest)) return digest
  throw new DockerError({
    what: `Docker has pushed ${reference}, but did not say its digest`,
    words: lastLines(stdout, 5),
  })
}

/** Reads what a program writes and drops it; how the program ends is known elsewhere. */
function discard(output: AsyncIterable<Buffer>): void {
  const reading = async () => {
    for await (const _ of output);
  }
  reading().catch(() => undefined)
}

/** What writing to a program fails with that has gone away. */
const PIPE_ERRORS = new Set(['EPIPE', 'ECONNRESET', 'ERR_STREAM_DESTROYED', 'ERR_STREAM_PREMATURE_CLOSE'])

const WHERE_DOCKER_IS =
  'Use a runner with Docker: the hosted Linux runners (ubuntu-24.04, ubuntu-24.04-arm) have it, those with macOS have not. On a self-hosted one, start it and let the runner\'s user reach it ("docker version" shows whether it does).'

async function docker(args: readonly string[], shown = false): Promise<CommandResult> {
  const result = await runCommand('docker', args, { trust: 'everything', shown })
  if (result === undefined) throw missing()
  return result
}

async function dockerPath(): Promise<string> {
  const path = await which('docker')
  if (path === '') throw missing()
  return path
}

function missing(): DockerError {
  return new DockerError({ what: 'Docker is not installed on this runner', help: WHERE_DOCKER_IS })
}
