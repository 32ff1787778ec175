import { X509Certificate } from '@sigstore/core'
import type { Signer } from './identity.ts'

/** https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md */
const BUILD_SIGNER_URI = '1.3.6.1.4.1.57264.1.9'
const SOURCE_REPOSITORY_URI = '1.3.6.1.4.1.57264.1.12'
const SOURCE_REPOSITORY_REF = '1.3.6.1.4.1.57264.1.14'

/**
 * Returns the job that Fulcio issued a certificate for. Verifies nothing.
 * @param base64 the certificate, in DER. Untrusted
 * @returns undefined if it is not a certificate for a job
 */
export function readSigner(base64: string): Signer | undefined {
  try {
    const certificate = X509Certificate.parse(Buffer.from(base64, 'base64'))
    const read = (oid: string): string | undefined =>
      certificate.extension(oid)?.valueObj.subs[0]?.value.toString('utf8')
    const [workflow, repository, ref] = [BUILD_SIGNER_URI, SOURCE_REPOSITORY_URI, SOURCE_REPOSITORY_REF].map(read)
    if (workflow === undefined || repository === undefined || ref === undefined) return undefined
    return { workflow, repository, ref }
  } catch {
    // The parser throws different errors for bytes that are not a certificate.
    return undefined
  }
}
