import { createHash } from 'node:crypto'
import type { BuildInfo } from '../cache/build-info.ts'
import type { Workflow } from '../context.ts'
import type { BuildInputs } from '../inputs/build.ts'
import type { JobLog } from '../log.ts'
import type { Platform } from '../oci/platform.ts'
import { type Digest, formatRepository } from '../oci/reference.ts'
import { settleAll } from '../promises.ts'
import { NoArtifactService } from '../record/artifact-client.ts'
import { writeJobRecord } from '../record/collect.ts'
import { writeRecordFile } from '../record/folder.ts'
import type { DigestRecord } from '../record/record.ts'
import { writeRecord } from '../record/write-artifact.ts'
import type { ImageManifest } from '../registry/image.ts'

/** What identifies a build: its commit, its tag and its run. */
export interface BuildIdentity {
  /** Empty if the commit is unknown. */
  readonly revision: string
  /** The URL of the commit's repository, if known. */
  readonly source?: string | undefined
  /** Empty if the image is pushed by digest only. */
  readonly tag: string
  readonly workflow: Workflow
  /** How the image was evaluated, if known. */
  readonly evaluated: Pick<DigestRecord, 'derivation' | 'inputs'>
}

/**
 * Returns the digest record of a pushed image.
 * @param info from the image's manifest; absent if Docker wrote it
 */
export function recordOf(
  { repository, digest, mediaType, size, platform }: ImageManifest,
  { os, architecture, variant: cpuVariant = platform.variant }: Platform,
  storePath: string,
  info: BuildInfo | undefined,
  inputs: BuildInputs,
  sbom: Digest | undefined,
  { revision, source, workflow: { run, job }, evaluated: { derivation, inputs: locked } }: BuildIdentity,
): DigestRecord {
  const { system, variant, jobTotal, jobIndex } = inputs
  return {
    schema: 1,
    image: formatRepository(repository),
    system,
    platform: { os, architecture, ...(cpuVariant !== undefined && { variant: cpuVariant }) },
    digest,
    mediaType,
    size,
    storePath,
    ...(info && { labels: info.labels }),
    ...(info?.compression && { compression: info.compression }),
    ...(variant !== '' && { variant }),
    ...(sbom && { sbom }),
    ...(revision !== '' && { revision }),
    ...(source !== undefined && { source }),
    ...(derivation !== undefined && { derivation }),
    ...(locked && { inputs: locked }),
    job: {
      id: job,
      inputs: hashInputs(inputs),
      ...(jobTotal !== undefined && { total: jobTotal }),
      ...(jobIndex !== undefined && { index: jobIndex }),
    },
    run,
  }
}

/**
 * Returns a hash of the inputs that determine what is built. Excludes the values of labels, which may differ between the
 * attempts of a job.
 */
function hashInputs({ flake, attribute, installable, file, nixArgs, tag, labels }: BuildInputs): string {
  const text = JSON.stringify([flake, attribute, installable, file, nixArgs, tag, Object.keys(labels)])
  return createHash('sha256').update(text).digest('hex').slice(0, 16)
}

/** Hands records over to merge: in a folder, or as artifacts and as files for a merge in the same job. */
export async function handOver(
  records: readonly DigestRecord[],
  retentionDays: number,
  { tempFolder, recordFolder }: Pick<Workflow, 'tempFolder' | 'recordFolder'>,
  log: JobLog,
): Promise<void> {
  if (recordFolder !== undefined) {
    for (const record of records) log.info(`Wrote the digest record to ${await writeRecordFile(record, recordFolder)}`)
    return
  }
  await settleAll(records.map((record) => writeJobRecord(record, tempFolder)))
  try {
    await log.group('Hand over the digest', async () => {
      await settleAll(records.map((record) => writeRecord(record, retentionDays, { tempFolder, log })))
    })
  } catch (error) {
    if (!(error instanceof NoArtifactService)) throw error
    const { detail, hint } = error.parts
    log.info(
      `This runner has no artifact service (${detail}). A merge in the same job finds the digest without it. For a merge in another job: ${hint}`,
    )
  }
}
