import * as v from 'valibot'
import { messageOf } from '../errors.ts'
import { readJson } from '../json.ts'
import { sanitizeLine } from '../text.ts'
import { AttestError, type Claims, type Identity } from './identity.ts'
import type { SigningLimits, SigningServices } from './sigstore.ts'

/** A signed statement. */
export interface SignedBundle {
  readonly bytes: Buffer
  /** The entry in the transparency log. Absent if the signature is not in one. */
  readonly logIndex?: string | undefined
}

/** At most about 90 s for each service. */
const LIMITS: SigningLimits = { timeout: 20_000, retries: 3, pause: 1000 }

/**
 * Returns the services that sign for a repository. Those for public repositories publish the name of the repository and
 * of the workflow in a log; GitHub has its own for other repositories.
 * Source: https://github.com/actions/toolkit/blob/main/packages/attest/src/endpoints.ts
 * @param server the URL of the Git host
 */
export function servicesFor({ repository_visibility: visibility }: Claims, server: string): SigningServices {
  if (visibility === 'public') return { fulcio: 'https://fulcio.sigstore.dev', rekor: 'https://rekor.sigstore.dev' }
  const { hostname } = new URL(server)
  const host = hostname === 'github.com' ? 'githubapp.com' : hostname
  return { fulcio: `https://fulcio.${host}`, timestamp: `https://timestamp.${host}` }
}

/**
 * Signs an in-toto statement with the identity of the job.
 * @throws AttestError
 */
export async function signStatement(
  statement: string,
  { token }: Identity,
  services: SigningServices,
  limits: SigningLimits = LIMITS,
): Promise<SignedBundle> {
  // Loaded only here: Sigstore's client would make every run slower to start.
  const { createBundle } = await import('./sigstore.ts')
  try {
    const bytes = Buffer.from(await createBundle(statement, token, services, limits))
    return { bytes, logIndex: readLogIndex(bytes) }
  } catch (error) {
    throw signingError(error, services)
  }
}

const LOGGED = v.object({
  verificationMaterial: v.object({ tlogEntries: v.array(v.object({ logIndex: v.string() })) }),
})

function readLogIndex(bundle: Buffer): string | undefined {
  const read = readJson(LOGGED, bundle)
  return read.ok ? read.value.verificationMaterial.tlogEntries[0]?.logIndex : undefined
}

/** What each service does, by the codes of the errors of @sigstore/sign. */
const STEPS: Readonly<Record<string, readonly [keyof SigningServices, string]>> = {
  CA_CREATE_SIGNING_CERTIFICATE_ERROR: ['fulcio', 'issue a certificate'],
  TLOG_CREATE_ENTRY_ERROR: ['rekor', 'log the signature'],
  TLOG_FETCH_ENTRY_ERROR: ['rekor', 'log the signature'],
  TSA_CREATE_TIMESTAMP_ERROR: ['timestamp', 'issue a timestamp'],
}

interface LibraryError {
  readonly code?: unknown
  readonly cause?: unknown
  readonly statusCode?: unknown
}

function signingError(error: unknown, services: SigningServices): AttestError {
  const { code, cause } = toLibraryError(error)
  const step = STEPS[String(code)]
  const { statusCode: status } = toLibraryError(cause)
  // Not the library's own message, which quotes a token that it can't parse.
  const detail = sanitizeLine(messageOf(cause ?? error))
  if (step === undefined)
    return new AttestError({
      message: "Can't sign the provenance",
      detail,
      hint: 'No tag has moved. Run the job again.',
      cause: error,
    })
  const [service, action] = step
  const host = new URL(services[service] ?? services.fulcio).host
  const refused = typeof status === 'number' && status >= 400 && status < 500 && status !== 408 && status !== 429
  const why = typeof status === 'number' ? `answered with status ${status}` : 'could not be reached'
  return new AttestError({
    message: `Can't sign the provenance: ${host}, which should ${action}, ${why}`,
    detail,
    hint: refused
      ? 'No tag has moved. Check that the clock of the runner is right, and that the job runs on GitHub Actions. To publish without a signature, set `attest: false`.'
      : `No tag has moved. Run the job again. If it fails again, check that the runner can reach https://${host}, and see https://status.sigstore.dev and https://www.githubstatus.com.`,
    cause: error,
  })
}

function toLibraryError(error: unknown): LibraryError {
  return typeof error === 'object' && error !== null ? error : {}
}
