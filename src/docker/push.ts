import { setTimeout as sleep } from 'node:timers/promises'
import { DockerError } from '../errors.ts'
import { createClock, retryDelay } from '../http/retry.ts'
import type { Log } from '../log.ts'
import { type Digest, isDigest } from '../oci/reference.ts'
import type { CommandResult } from '../process/command.ts'
import { lastLines, sanitizeLine } from '../text.ts'
import {
  DOCKER_SILENCE,
  type DockerTiming,
  daemonStalled,
  dockerFailed,
  formatSilence,
  isDaemonGone,
  runDocker,
} from './docker.ts'

/** A tag to push. */
export interface TagPush {
  readonly reference: string
  /** The size of all uncompressed layers, in bytes. */
  readonly size: number
  /** What to do if the registry denies access, or refuses to replace the tag. */
  readonly hints: { readonly denied: string; readonly immutable: string }
  /** The digest that the tag points to, if the tag exists. */
  readonly existing?: Digest | undefined
}

/**
 * Pushes a tag with Docker, and prints Docker's progress. Retries transient failures for two minutes.
 * @returns the digest of the manifest at the registry
 * @throws DockerError with the output of Docker, which includes the registry's answer
 */
export async function pushTag(
  push: TagPush,
  log: Pick<Log, 'info'>,
  { wait = sleep, silence = DOCKER_SILENCE }: DockerTiming = {},
): Promise<Digest> {
  const { reference, size } = push
  const clock = createClock(() => performance.now(), wait)
  const start = clock.now()
  let failing: number | undefined
  for (let count = 1; ; count++) {
    const left = failing === undefined ? silence : Math.max(failing + RETRY_BUDGET - clock.now(), SHORTEST_ATTEMPT)
    const limit = Math.min(silence, left) + size / PUSH_SPEED
    const onOutput = (text: string): void => {
      if (failing !== undefined && /: Pushed$/m.test(text)) failing = clock.now()
    }
    const result = await runDocker(['push', reference], limit, { shown: true, onOutput })
    if (result.exitCode === 0) return pushedDigest(result.stdout, reference)
    failing ??= result.stalled ? clock.now() - limit : clock.now()
    const delay = retryDelay(count, undefined, Date.now(), Math.random())
    if (!isTransient(result) || clock.now() + delay > failing + RETRY_BUDGET) {
      const tries = count === 1 ? '' : ` (${count} attempts in ${Math.round((clock.now() - start) / 1000)} s)`
      throw pushFailed(`Docker could not push ${reference}${tries}`, result, limit, push)
    }
    const reason = result.stalled ? formatSilence('docker push', limit) : sanitizeLine(lastLines(result.log, 1))
    log.info(`docker push ${reference}: ${reason}; retrying in ${(delay / 1000).toFixed(1)} s`)
    await clock.wait(delay)
  }
}

/**
 * The lowest speed at which Docker is expected to push, in bytes per millisecond. Without a terminal, Docker prints
 * nothing while it sends a layer.
 */
const PUSH_SPEED = 1_000
/** How long a push is retried after its first failure, in milliseconds. */
const RETRY_BUDGET = 120_000
/** The shortest time limit of an attempt, in milliseconds. */
const SHORTEST_ATTEMPT = 10_000

function pushedDigest(stdout: string, reference: string): Digest {
  // The last line, with both image stores: "tag: digest: sha256:… size: 1234".
  const digest = [...stdout.matchAll(/digest: (sha256:[0-9a-f]{64}) size: \d+/g)].at(-1)?.[1]
  if (digest !== undefined && isDigest(digest)) return digest
  throw new DockerError({
    message: `Docker pushed ${reference}, but did not print its digest`,
    detail: lastLines(stdout, 5),
  })
}

/** Returns whether the same push may succeed a moment later. */
function isTransient({ stalled, log }: CommandResult): boolean {
  if (stalled || /secondary rate limit/i.test(log)) return true
  return !ACCESS_DENIED.test(log) && (isDaemonGone(log) || TRANSIENT.test(log))
}

const ACCESS_DENIED = /denied|unauthorized|authentication required|no basic auth/i

const TRANSIENT = new RegExp(
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

function pushFailed(message: string, result: CommandResult, limit: number, { hints, existing }: TagPush): DockerError {
  const { stalled, log } = result
  if (stalled) return daemonStalled(message, formatSilence('docker push', limit))
  const detail = lastLines(log, 5)
  const denied = ACCESS_DENIED.test(log)
  if (IMMUTABLE.test(log) || (denied && existing !== undefined))
    return new DockerError({
      message: `${message}${existing === undefined ? '' : `: the tag exists and points to ${existing}`}`,
      detail,
      hint: hints.immutable,
    })
  if (denied) return new DockerError({ message, detail, hint: hints.denied })
  if (UNSUPPORTED.test(log)) return new DockerError({ message, detail, hint: PUSH_OCI })
  return dockerFailed(message, log, isTransient(result) ? RERUN_LATER : undefined)
}

const IMMUTABLE = /immutable|overwrit/i

/** zot answers 415 with the code MANIFEST_INVALID to Docker's manifests. */
const UNSUPPORTED = /manifest invalid: manifest invalid|unsupported media type|\b415\b/i

const PUSH_OCI =
  "The registry may not support Docker's manifests. Push OCI manifests: remove `push-with: docker`, or set:\n  push-with: registry"

const RERUN_LATER = 'The registry, or the network between it and the Docker daemon, has a fault. Re-run this job later.'
