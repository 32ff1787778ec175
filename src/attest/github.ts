import * as v from 'valibot'
import type { Http } from '../http/client.ts'
import { readErrorAnswer } from '../http/http-error.ts'
import { readJson } from '../json.ts'
import { sanitizeLine } from '../text.ts'
import { AttestError } from './identity.ts'

/** Where GitHub stores attestations. */
export interface AttestationStore {
  /** `$GITHUB_API_URL` */
  readonly api: string
  /** `owner/name` */
  readonly repository: string
  /** May be empty. */
  readonly token: string
}

/** The result of storing a bundle with GitHub. */
export type StoreResult =
  | { readonly stored: true; readonly id?: string | undefined }
  /** The token lacks the permission, or GitHub offers no attestations for this repository. */
  | { readonly stored: false; readonly notice: string }

const ANSWER = v.object({ id: v.optional(v.union([v.string(), v.number()])) })
/** In bytes. */
const ANSWER_LIMIT = 1024 * 1024

/**
 * Stores a bundle with GitHub, where `gh attestation verify` finds it.
 * Source: https://docs.github.com/en/rest/repos/attestations#create-an-attestation
 * @throws AttestError, HttpError unless it is stored or not granted
 */
export async function storeWithGitHub(
  { api, repository, token }: AttestationStore,
  bundle: Buffer,
  http: Http,
): Promise<StoreResult> {
  if (token === '') return notGranted(repository, 'the input `token` is empty')
  const url = new URL(`${api.replace(/\/$/, '')}/repos/${repository}/attestations`)
  const operation = `store the attestation with ${repository} on GitHub`
  const headers = {
    accept: 'application/vnd.github+json',
    authorization: `Bearer ${token}`,
    'content-type': 'application/json',
    'x-github-api-version': '2022-11-28',
  }
  // Not parsed and written again: the bundle must stay the same.
  const body = Buffer.concat([Buffer.from('{"bundle":'), bundle, Buffer.from('}')])
  const reply = await http.send({ method: 'POST', url, headers, body, operation, limit: ANSWER_LIMIT })
  if (reply.ok) {
    const answer = readJson(ANSWER, reply.content ?? '')
    return { stored: true, id: answer.ok ? answer.value.id?.toString() : undefined }
  }
  const { detail } = readErrorAnswer(reply.text)
  const why = `${url.host} answered with status ${reply.status}${detail === '' ? '' : ` (${sanitizeLine(detail)})`}`
  if (reply.status === 403 || reply.status === 404) return notGranted(repository, why)
  const tries = reply.tries === undefined ? '' : ` (${reply.tries})`
  throw new AttestError({
    message: `Can't ${operation}: ${url.host} answered with status ${reply.status}${tries}`,
    detail,
    hint: 'No tag has moved. Run the job again.',
  })
}

function notGranted(repository: string, why: string): StoreResult {
  return {
    stored: false,
    notice: `The attestation is only in the registry, not in ${repository} on GitHub: ${why}. \`gh attestation verify\` finds it only with \`--bundle-from-oci\`, also after this job runs again: it signs nothing twice. To store later attestations on GitHub as well, add to the job:
  permissions:
    attestations: write
For private repositories, this also needs GitHub Enterprise Cloud.`,
  }
}
