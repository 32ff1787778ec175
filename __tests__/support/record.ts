import type { DigestRecord } from '../../src/record/record.ts'

const RECORD: DigestRecord = {
  schema: 1,
  image: 'ghcr.io/owner/app',
  system: 'aarch64-linux',
  platform: { os: 'linux', architecture: 'arm64' },
  digest: `sha256:${'1'.repeat(64)}`,
  mediaType: 'application/vnd.oci.image.manifest.v1+json',
  size: 1234,
  storePath: '/nix/store/00000000000000000000000000000000-image.tar.gz',
  job: { id: 'build' },
  run: { id: '1', attempt: 1 },
}

/** Returns a valid digest record with these fields in addition to, or instead of, the default ones. */
export function makeRecord<const Fields extends object>(fields: Fields): Omit<DigestRecord, keyof Fields> & Fields {
  return { ...RECORD, ...fields }
}
