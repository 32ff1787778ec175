import { UNKNOWN_SBOM, withBuildInfo } from '../cache/build-info.ts'
import { type Annotation, CREATED, placeAnnotations, REVISION } from '../oci/annotation.ts'
import {
  composeDockerList,
  composeIndex,
  type Descriptor,
  DOCKER_INDEX,
  DOCKER_MANIFEST,
  type Index,
  type IndexEntry,
  OCI_INDEX,
  parseManifest,
} from '../oci/manifest.ts'
import { NO_PLATFORM, platformKey } from '../oci/platform.ts'
import { digestOf } from '../oci/reference.ts'
import type { StoredManifest } from '../registry/registry.ts'
import { sanitizeLine } from '../text.ts'
import type { PublishedTag } from './published.ts'
import type { Member } from './verify.ts'

export interface ComposedIndex extends StoredManifest {
  /** Annotations and labels that the index could not include, one sentence each. */
  readonly warnings: readonly string[]
  /** The same images, for registries that refuse an OCI index of Docker manifests. Absent unless all are Docker manifests. */
  readonly dockerList?: DockerList
}

/** A Docker manifest list, which has no annotations. */
export interface DockerList extends StoredManifest {
  /** The annotations of the index that are not labels of every image. */
  readonly lost: readonly string[]
}

type Annotations = Readonly<Record<string, string>>

/**
 * Composes the index of all members and their attestations. Its annotations are the user's, then the commit and repository
 * of the run, then the labels that all images share: GHCR shows only the description of the index. The entry of each image
 * contains its build info, so that later builds can find unchanged images.
 * @param origin annotations for the commit and its repository
 */
export function compose(
  members: readonly Member[],
  annotations: readonly Annotation[],
  origin: Annotations,
): ComposedIndex {
  const platforms = members.map(({ platform }) => platform)
  const placed = placeAnnotations(annotations, platforms)
  const given = { ...origin, ...placed.index }
  const labels = commonLabels(members, given)
  const entries = members.flatMap(({ platform, image, info, record }) => [
    {
      ...image.own.descriptor,
      platform,
      annotations: {
        ...withBuildInfo(placed.descriptor(platform), info),
        ...(info && !record && image.attestations.length === 0 && UNKNOWN_SBOM),
      },
    },
    ...image.attestations.map(({ descriptor }) => ({ ...descriptor, platform: NO_PLATFORM })),
  ])
  const ofIndex = { ...labels.same, ...given }
  const bytes = Buffer.from(composeIndex(entries, ofIndex))
  const warnings = [
    ...placed.unsupported.map(
      (text) => `Skipping the annotation ${text}: it is not for the index, and the images are already pushed`,
    ),
    ...labels.different.map(
      (key) => `Not adding the label ${sanitizeLine(key)} to the index: its value differs between the images`,
    ),
  ]
  const dockerList = entries.every(({ mediaType }) => mediaType === DOCKER_MANIFEST)
    ? { ...dockerListOf(entries), lost: lostBy(members, entries, ofIndex) }
    : undefined
  return { bytes, digest: digestOf(bytes), mediaType: OCI_INDEX, warnings, ...(dockerList && { dockerList }) }
}

function dockerListOf(entries: readonly IndexEntry[]): StoredManifest {
  const bytes = Buffer.from(composeDockerList(entries))
  return { bytes, digest: digestOf(bytes), mediaType: DOCKER_INDEX }
}

function lostBy(
  members: readonly Member[],
  entries: readonly Pick<IndexEntry, 'annotations'>[],
  ofIndex: Annotations,
): readonly string[] {
  // Each image has its own creation time.
  const isLabel = (key: string, value: string) =>
    members.every(({ image: { labels } }) => (key === CREATED ? labels[key] !== undefined : labels[key] === value))
  const lost = Object.entries(ofIndex).flatMap(([key, value]) => (isLabel(key, value) ? [] : [key]))
  return [...new Set([...lost, ...entries.flatMap(({ annotations = {} }) => Object.keys(annotations))])]
}

interface CommonLabels {
  readonly same: Annotations
  readonly different: readonly string[]
}

/** Returns the predefined labels that are not annotations, by whether the images agree on their values. */
function commonLabels(members: readonly Member[], given: Annotations): CommonLabels {
  const labels = members.flatMap(({ image }) => Object.entries(image.labels))
  const wanted = labels.filter(([key]) => key.startsWith('org.opencontainers.image.') && given[key] === undefined)
  const values = [...Map.groupBy(wanted, ([key]) => key)].map(
    ([key, all]) => [key, [...new Set(all.map(([, value]) => value))]] as const,
  )
  return {
    same: Object.fromEntries(values.flatMap(([key, [value = '', ...more]]) => (more.length > 0 ? [] : [[key, value]]))),
    different: values.filter(([, { length }]) => length > 1).map(([key]) => key),
  }
}

/**
 * Finds a published index that differs from the new one only in its creation time and commit. It is used in place of the
 * new one, so that deployments by digest see no change.
 */
export function findSameIndex(
  { dockerList, ...index }: StoredManifest & Pick<ComposedIndex, 'dockerList'>,
  published: readonly PublishedTag[],
): StoredManifest | undefined {
  const wanted = parseManifest(index.bytes, index.mediaType, 'the new index')
  if (wanted.kind === 'manifest') throw new Error('a composed index is an index')
  const same = published.find(
    (one) => one.index?.mediaType === wanted.mediaType && comparableForm(one.index) === comparableForm(wanted),
  )
  if (same !== undefined || dockerList === undefined || dockerList.lost.length > 0) return same?.stored
  const { lost: _, ...list } = dockerList
  return findSameIndex(list, published)
}

const VOLATILE = new Set([REVISION, CREATED])

/** Returns the same text for indexes that differ only in volatile annotations. */
function comparableForm({ manifests, annotations }: Index): string {
  return JSON.stringify([manifests.map(comparableEntry).sort(), stableAnnotations(annotations)])
}

function comparableEntry({ digest, platform, annotations = {} }: Descriptor): string {
  return JSON.stringify([digest, platform && platformKey(platform), stableAnnotations(annotations)])
}

function stableAnnotations(annotations: Annotations): readonly (readonly [string, string])[] {
  return Object.entries(annotations)
    .filter(([key]) => !VOLATILE.has(key))
    .sort(([one], [other]) => (one < other ? -1 : 1))
}
