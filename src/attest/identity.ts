import * as v from 'valibot'
import type { IdentitySource } from '../context.ts'
import { ActionError } from '../errors.ts'
import type { Http } from '../http/client.ts'
import { readErrorAnswer } from '../http/http-error.ts'
import { readJson } from '../json.ts'
import { sanitizeLine } from '../text.ts'

/** An image that can't be attested. No tag has moved. */
export class AttestError extends ActionError {
  override readonly name = 'AttestError'
}

/** The identity of the job, for Sigstore. */
export interface Identity {
  /** Proves the identity to Sigstore for some minutes. Secret. */
  readonly token: string
  readonly claims: Claims
}

/** https://docs.github.com/en/actions/reference/security/oidc#oidc-token-claims */
const CLAIMS = v.object({
  repository: v.string(),
  repository_id: v.string(),
  repository_owner_id: v.string(),
  repository_visibility: v.optional(v.string()),
  ref: v.string(),
  sha: v.string(),
  event_name: v.string(),
  workflow_ref: v.string(),
  job_workflow_ref: v.string(),
  run_id: v.string(),
  run_attempt: v.string(),
  runner_environment: v.string(),
})
export type Claims = v.InferOutput<typeof CLAIMS>

/** The job that a certificate of Sigstore was issued for. */
export interface Signer {
  /** The URL of its workflow file with the branch or tag; with a reusable workflow, of the reusable one. */
  readonly workflow: string
  /** The URL of the repository that the run belongs to. */
  readonly repository: string
  /** The branch or tag of the run. */
  readonly ref: string
}

/**
 * Returns the signer in the certificates that Sigstore issues for an identity.
 * @param server the URL of the Git host, without a slash at the end
 */
export function signerOf({ job_workflow_ref, repository, ref }: Claims, server: string): Signer {
  return { workflow: `${server}/${job_workflow_ref}`, repository: `${server}/${repository}`, ref }
}

/** Reports whether policies that accept one of two signers accept the other one as well. */
export function isSameSigner(one: Signer, other: Signer): boolean {
  return one.workflow === other.workflow && one.repository === other.repository && one.ref === other.ref
}

/** @throws AttestError if the job has no identity. Call this before anything is published */
export function requireIdentity(source: IdentitySource | undefined): IdentitySource {
  if (source !== undefined) return source
  throw new AttestError({
    message: "Can't sign the provenance: this job has no identity token",
    hint: `Nothing was published. Allow the job to request one:
  permissions:
    contents: read
    id-token: write
    attestations: write
    packages: write
A job that calls a reusable workflow needs the same permissions. For pull requests from forks, GitHub provides no identity token: set \`attest: false\` there.`,
  })
}

/** In bytes. Tokens have about 2 KiB. */
const TOKEN_LIMIT = 256 * 1024
/** The audience that Sigstore's certificate authorities expect. */
const AUDIENCE = 'sigstore'

/**
 * Requests an identity token. Does not verify it: it comes from the runner's service, and Sigstore verifies it.
 * @param mask hides a secret in the log
 * @throws AttestError, HttpError
 */
export async function requestIdentity(
  { url, token }: IdentitySource,
  http: Http,
  mask: (secret: string) => void,
): Promise<Identity> {
  const address = new URL(url)
  address.searchParams.set('audience', AUDIENCE)
  const headers = { accept: 'application/json', authorization: `Bearer ${token}` }
  const operation = "request the job's identity token"
  const reply = await http.send({ method: 'GET', url: address, headers, operation, limit: TOKEN_LIMIT })
  if (!reply.ok) {
    const { detail } = readErrorAnswer(reply.text)
    const tries = reply.tries === undefined ? '' : ` (${reply.tries})`
    throw new AttestError({
      message: `Can't ${operation}: ${address.host} answered with status ${reply.status}${tries}`,
      detail,
      hint: 'No tag has moved. Run the job again.',
    })
  }
  const answer = readJson(v.object({ value: v.string() }), reply.content ?? '')
  if (!answer.ok) throw invalidToken(`the answer of ${address.host} has no token`)
  mask(answer.value.value)
  return { token: answer.value.value, claims: readClaims(answer.value.value) }
}

/** Reads the payload of a JSON web token: https://www.rfc-editor.org/rfc/rfc7519#section-3 */
function readClaims(token: string): Claims {
  const payload = Buffer.from(token.split('.')[1] ?? '', 'base64url')
  const claims = readJson(CLAIMS, payload)
  if (claims.ok) return claims.value
  const problem = claims.place === undefined ? claims.problem : `${claims.place}: ${claims.problem}`
  throw invalidToken(`the claims of the token are not those of a GitHub Actions job: ${sanitizeLine(problem)}`)
}

function invalidToken(detail: string): AttestError {
  return new AttestError({
    message: "Can't read the job's identity token",
    detail,
    hint: 'No tag has moved. Sigstore signs for jobs of GitHub Actions. On other servers, set `attest: false`.',
  })
}
