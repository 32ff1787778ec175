import { withBuildInfo } from '../cache/build-info.ts'
import { sanitizeLine } from '../errors.ts'
import { type Annotation, CREATED, placeAnnotations, REVISION } from '../oci/annotation.ts'
import { digestOf } from '../oci/digest.ts'
import { type Descriptor, type Index, parseManifest } from '../oci/document.ts'
import { composeDockerList, composeIndex, type IndexEntry } from '../oci/image-index.ts'
import { DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX } from '../oci/media-type.ts'
import { NO_PLATFORM, platformKey } from '../oci/platform.ts'
import type { StoredManifest } from '../registry/registry.ts'
import type { PublishedTag } from './published.ts'
import type { Member } from './verify.ts'

export interface ComposedIndex extends StoredManifest {
  /** What could not be put into it, a sentence each. */
  readonly warnings: readonly string[]
  /** The same images for registries that refuse an OCI index of Docker manifests. Absent unless all are Docker manifests. */
  readonly dockerList?: DockerList
}

/** A Docker manifest list, and the annotations of the index that it would lose: those that are not labels of every image. */
export interface DockerList extends StoredManifest {
  readonly lost: readonly string[]
}

type Annotations = Readonly<Record<string, string>>

/**
 * The index of all members with what BuildKit attests about them. Its annotations are the user's; where they say
 * nothing, the run's own commit and repository; and where neither does, what the labels of all images say, for GHCR
 * shows the description of the index alone. The entry of an image has the build info of
 * its manifest, which tells later builds that it may be unchanged.
 * @param origin the annotations that tell where the run's commit is from
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
  const entries = members.flatMap(({ platform, image, info }) => [
    {
      ...image.own.descriptor,
      platform,
      annotations: withBuildInfo(placed.descriptor(platform), info),
    },
    ...image.attestations.map(({ descriptor }) => ({ ...descriptor, platform: NO_PLATFORM })),
  ])
  const ofIndex = { ...labels.same, ...given }
  const bytes = Buffer.from(composeIndex(entries, ofIndex))
  const warnings = [
    ...placed.unsupported.map(
      (text) => `The annotation ${text} has no place in an index, whose images are pushed already; it is left out`,
    ),
    ...labels.different.map(
      (key) =>
        `The label ${sanitizeLine(key)} differs between the images; the index, which all of them share, is without it`,
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
  // An image was created at a time of its own.
  const isLabel = (key: string, value: string) =>
    members.every(({ image: { labels } }) => (key === CREATED ? labels[key] !== undefined : labels[key] === value))
  const lost = Object.entries(ofIndex).flatMap(([key, value]) => (isLabel(key, value) ? [] : [key]))
  return [...new Set([...lost, ...entries.flatMap(({ annotations = {} }) => Object.keys(annotations))])]
}

interface CommonLabels {
  readonly same: Annotations
  readonly different: readonly string[]
}

/** The predefined labels that annotations don't give, by whether all images that have them agree. */
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
 * The index that tags point to already and that says the same as the new one, but for when and of which commit it was
 * made. It is the result then: whoever deploys by digest should see no change where there is none.
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

/** One text for all indexes that differ in nothing that matters. */
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
