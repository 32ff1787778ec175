/** The entry of an SBOM in an index, to compare with `toMatchObject`. */
export const SBOM_ENTRY = {
  platform: { os: 'unknown', architecture: 'unknown' },
  annotations: { 'vnd.docker.reference.type': 'attestation-manifest' },
}
