import { parseAnnotation, placeAnnotations } from '../../../src/oci/annotation.ts'
import { composeIndex, OCI_MANIFEST } from '../../../src/oci/manifest.ts'
import { type Platform, platformKey } from '../../../src/oci/platform.ts'
import { formatReference, parseReference } from '../../../src/oci/reference.ts'
import { parseChallenge } from '../../../src/registry/challenge.ts'
import { mutateText, ODD_TEXTS } from '../mutate.ts'
import { fewOf, type Random } from '../random.ts'
import { check, checkSame, defineTarget } from '../target.ts'

const DIGEST = `sha256:${'0'.repeat(64)}`

/** References to images, which must not change when they are formatted and read again. */
export const references = defineTarget(
  'reference',
  (random) => sentence(random, REFERENCE_WORDS, REFERENCES),
  (text) => {
    const reference = parseReference(text)
    const printed = formatReference(reference)
    checkSame(parseReference(printed), reference, 'A reference changes when it is read again')
    check(
      formatReference(parseReference(printed)) === printed,
      'A reference changes when it is formatted again',
      printed,
    )
    check(/^[\x21-\x7e]+$/.test(printed), 'A reference has invalid characters', printed)
    const { host, path } = reference.repository
    const url = new URL(`https://${host}/v2/${path}/`)
    check(url.pathname === `/v2/${path}/`, 'A URL changes the path', url.pathname)
  },
)

const REFERENCES = [
  'app',
  'app:1',
  'owner/app',
  'ghcr.io/owner/app:latest',
  'localhost/app',
  'localhost:5000/a/b/c',
  '[::1]:5000/app',
  `ghcr.io/owner/app:v1@${DIGEST}`,
  `docker.io/library/app@${DIGEST}`,
]
const REFERENCE_WORDS = [
  ...[
    'docker.io',
    'index.docker.io',
    'localhost',
    'ghcr.io',
    '[::1]',
    '127.1',
    '0x7f.1',
    'xn--a',
    ':5000',
    ':0',
    ':99999',
  ],
  ...['library', 'app', 'a', '/', ':', '@', '__', '--', '-', '.', DIGEST, 'sha256:', 'sha512:', 'https://', 'A', 'a.b'],
]

/** Challenges, the headers with which registries require credentials. */
export const challenges = defineTarget(
  'challenge',
  (random) => sentence(random, CHALLENGE_WORDS, CHALLENGES, random.oneIn(30) ? 500_000 : 20_000),
  (header) => {
    const challenge = parseChallenge(header)
    if (challenge?.scheme === 'bearer') check(challenge.realm !== '', 'A challenge has an empty realm')
  },
)

const CHALLENGES = [
  'Bearer realm="https://auth.example/token",service="registry",scope="repository:app:pull,push"',
  'Basic realm="x", Bearer realm="https://auth.example/token"',
  'Bearer service="a \\"quoted\\" one" , realm = plain',
]
const CHALLENGE_WORDS = ['Bearer', 'Basic', 'Negotiate', 'realm', 'service', '="', '=', '"', '\\', '\\"', ',', ' ', 'x']

/** Annotations from inputs, and the index that they are added to. */
export const annotations = defineTarget(
  'annotation',
  (random) => ({
    texts: Array.from({ length: 1 + fewOf(random, 30) }, () => sentence(random, ANNOTATION_WORDS, ANNOTATIONS)),
    platforms: Array.from({ length: fewOf(random, 5) }, () => ({
      os: random.pick(PLATFORM_WORDS),
      architecture: random.pick(PLATFORM_WORDS),
      variant: random.pick(PLATFORM_WORDS),
    })),
  }),
  ({ texts, platforms }) => {
    for (const platform of platforms)
      check(/^[\w./-]*$/.test(platformKey(platform)), 'A platform has invalid characters', platformKey(platform))
    const placed = placeAnnotations(texts.flatMap(parseAnnotation), platforms)
    const entries = platforms.map((platform: Platform) => ({
      ...{ mediaType: OCI_MANIFEST, digest: `sha256:${'0'.repeat(64)}` as const, size: 1, platform },
      annotations: placed.descriptor(platform),
    }))
    const index = JSON.parse(Buffer.from(composeIndex(entries, placed.index)).toString())
    checkSame(sorted(index.annotations), sorted(placed.index), 'The index has the wrong annotations')
    const written = index.manifests.map((one: { readonly annotations?: object }) =>
      JSON.stringify(sorted(one.annotations)),
    )
    const meant = entries.map((one) => JSON.stringify(sorted(one.annotations)))
    checkSame(written.sort(), meant.sort(), 'An entry of the index has the wrong annotations')
  },
)

const ANNOTATIONS = [
  'key=value',
  'index:key=value',
  'manifest[linux/arm64]:org.opencontainers.image.title=app',
  'index,manifest-descriptor[linux/arm/v7]:key=a=b',
  'index-descriptor:key=',
]
const ANNOTATION_WORDS = [
  ...['index', 'manifest', 'manifest-descriptor', 'index-descriptor', '[linux/amd64]', '[', ']', ':', ',', '=', 'key'],
]
const PLATFORM_WORDS = ['linux', 'amd64', 'arm', 'arm64', 'v7', 'v8', '', 'constructor', '__proto__', 'toString', '386']

function sorted(annotations: object = {}): readonly (readonly [string, unknown])[] {
  return Object.entries(annotations).sort(([one], [other]) => (one < other ? -1 : 1))
}

/** Returns words of a grammar in any order, or a mutated text of it. */
function sentence(random: Random, detail: readonly string[], texts: readonly string[], most = 20_000): string {
  if (random.oneIn(3))
    return Array.from({ length: fewOf(random, 20) }, () =>
      random.oneIn(8) ? random.pick(ODD_TEXTS) : random.pick(detail),
    ).join('')
  return random.oneIn(20) ? random.pick(texts) : mutateText(random, random.pick(texts), detail, { most })
}
