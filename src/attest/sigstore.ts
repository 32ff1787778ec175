import { bundleToJSON } from '@sigstore/bundle'
import { DSSEBundleBuilder, FulcioSigner, RekorWitness, TSAWitness, type Witness } from '@sigstore/sign'

/** The services that sign, by their base URLs. At least one of the last two. */
export interface SigningServices {
  /** Issues a certificate for the job's identity. */
  readonly fulcio: string
  /** The transparency log. */
  readonly rekor?: string | undefined
  /** The timestamp authority. */
  readonly timestamp?: string | undefined
}

export interface SigningLimits {
  /** For each attempt, in milliseconds. */
  readonly timeout: number
  /** After how many failed attempts a service is asked again. */
  readonly retries: number
  /** The first pause between attempts, in milliseconds. It doubles each time. */
  readonly pause: number
}

/**
 * Signs a statement with a new key, whose certificate is for the identity of the token.
 * @returns Sigstore's bundle as JSON: https://docs.sigstore.dev/about/bundle/
 */
export async function createBundle(
  statement: string,
  token: string,
  { fulcio, rekor, timestamp }: SigningServices,
  { timeout, retries, pause }: SigningLimits,
): Promise<string> {
  const calls = { timeout, retry: { retries, minTimeout: pause, maxTimeout: 8 * pause } }
  const witnesses: Witness[] = [
    ...(rekor === undefined ? [] : [new RekorWitness({ rekorBaseURL: rekor, fetchOnConflict: true, ...calls })]),
    ...(timestamp === undefined ? [] : [new TSAWitness({ tsaBaseURL: timestamp, ...calls })]),
  ]
  const identityProvider = { getToken: async () => token }
  const signer = new FulcioSigner({ fulcioBaseURL: fulcio, identityProvider, ...calls })
  const builder = new DSSEBundleBuilder({ signer, witnesses })
  const bundle = await builder.create({ data: Buffer.from(statement), type: 'application/vnd.in-toto+json' })
  return JSON.stringify(bundleToJSON(bundle))
}
