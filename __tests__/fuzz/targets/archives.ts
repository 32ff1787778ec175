import { open, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { readArchive } from '../../../src/image/archive.ts'
import { type ByteReader, fileReader, streamReader } from '../../../src/image/byte-reader.ts'
import { type OpenImage, openImageReader, type SourceImage } from '../../../src/image/source-image.ts'
import { tarEntries } from '../../../src/image/tar.ts'
import { type ArchiveOptions, makeArchive, type TarMember, writeTar } from '../../support/image.ts'
import { chunksOf, type Json, mutateBytes, mutateJson, mutateText, ODD_TEXTS } from '../mutate.ts'
import { fewOf, lengthOf, type Random } from '../random.ts'
import { check, checkSame, defineTarget, outcomeOf } from '../target.ts'

/** Tars. Their members must be the same for any size of chunks, and for a file. */
export const tars = defineTarget('tar', makeTar, async ({ bytes, chunks, halfRead }, folder) => {
  const list = (reader: ByteReader) => outcomeOf(() => listMembers(reader, halfRead))
  const whole = await list(streamReader(Readable.from([bytes])))
  checkSame(await list(streamReader(Readable.from(chunks))), whole, 'The members depend on the chunks')
  const path = join(folder, 'tar')
  await writeFile(path, bytes)
  const reader = fileReader(await open(path), bytes.length)
  try {
    checkSame(await list(reader), whole, 'A file gives other members than a stream')
  } finally {
    await reader.close()
  }
})

/** Damaged Docker archives, in the formats of `docker save` and dockerTools. */
export const dockerArchives = defineTarget('docker-archive', makeDockerArchive, async ({ chunks }) => {
  checkImage(await readHalf(openImageReader(readArchive(streamReader(Readable.from(chunks)), '/nix/store/image'))))
})

/** Checks the properties of every valid image. */
export function checkImage({ layerNames, config, configBytes, names }: SourceImage): void {
  check(layerNames.length === config.diffIds.length, 'The numbers of layers and diff IDs differ')
  check(
    layerNames.every((name) => name !== '' && !name.split('/').includes('..')),
    'A layer is outside the image',
    layerNames,
  )
  check(configBytes.length > 0, 'The config is empty')
  check(
    names.every((name) => typeof name === 'string'),
    'A name is not a text',
    names,
  )
}

/** Reads the first chunk of each layer and skips the rest. */
export async function readHalf({ layers, image }: OpenImage): Promise<SourceImage> {
  for await (const { content } of layers) {
    for await (const chunk of content()) {
      check(chunk.length > 0, 'A chunk is empty')
      break
    }
  }
  return image()
}

async function listMembers(reader: ByteReader, halfRead: boolean): Promise<readonly unknown[]> {
  const members: unknown[] = []
  for await (const { name, type, linkName, size, content } of tarEntries(reader, '/nix/store/tar')) {
    check(Number.isSafeInteger(size) && size >= 0, 'A size is not a valid number of bytes', name, size)
    members.push([name, type, linkName, size])
    if (halfRead && members.length % 2 === 0) continue
    let read = 0
    for await (const chunk of content()) read += chunk.length
    check(read === size, 'The size of a member differs from its header', name, size, read)
  }
  return members
}

function makeTar(random: Random) {
  const members = Array.from({ length: fewOf(random, 12) }, () => makeMember(random))
  const tar = writeTar(members, random.oneIn(6) ? random.upTo(20) : 2)
  const bytes = random.oneIn(3) ? mutateBytes(random, tar) : tar
  return { bytes, chunks: chunksOf(random, bytes), halfRead: random.oneIn(2) }
}

const HEADERS = ['ustar', 'pax', 'gnu'] as const
const TYPES = ['file', 'file', 'file', 'hard-link', 'symbolic-link', 'folder', 'character-device'] as const
const SIZES = [
  '0',
  '1',
  '511',
  '512',
  '513',
  '8589934592',
  '9007199254740991',
  '9007199254740992',
  '-1',
  '1e3',
  '0x9',
  '',
]

function makeMember(random: Random): TarMember {
  const header = random.pick(HEADERS)
  const name = makeName(random)
  const content = random.bytes(lengthOf(random, 3000))
  return {
    // A value that is too long for its field needs an extra header.
    name: header === 'ustar' ? name.slice(0, 30) : name,
    header,
    content,
    type: random.pick(TYPES),
    ...(random.oneIn(3) && { linkName: makeName(random).slice(0, 90) }),
    ...(random.oneIn(4) && { base256: true }),
    ...(random.oneIn(4) && { pax: makePax(random, content.length) }),
    ...(random.oneIn(4) && { alter: (block: Buffer) => alterHeader(random, block) }),
  }
}

function makeName(random: Random): string {
  const name = random.pick(['etc/motd', './a', 'layer.tar', 'blobs/sha256/x', 'b'])
  return random.oneIn(3) ? mutateText(random, name, [], { most: 5000 }) : name
}

function makePax(random: Random, size: number): Readonly<Record<string, string>> {
  return {
    [random.pick(['size', 'size', 'path', 'linkpath', 'comment', ...ODD_TEXTS])]: random.pick([
      ...SIZES,
      `${size}`,
      `${size + 1}`,
      makeName(random),
    ]),
  }
}

/** Changes fields of a header, and updates its checksum. */
function alterHeader(random: Random, block: Buffer): void {
  random.pick([
    () => block.write(random.pick(SIZES).padEnd(12, random.pick([' ', '\0', '7'])), 124, 12, 'latin1'),
    () => block.fill(random.pick([0x80, 0xff, 0xc0]), 124, 124 + 1 + random.upTo(11)),
    () => block.write(random.pick(['x', 'g', 'L', 'K', 'S', 'D', 'V', 'M', '\0', '7', '9', '\u00ff']), 156, 'latin1'),
    () => block.fill(random.upTo(255), random.upTo(511)),
    () => random.bytes(8).copy(block, random.upTo(511)),
    () => block.fill(0x41, 0, 100),
    () => block.write(random.pick(ODD_TEXTS), 257),
  ])()
}

function makeDockerArchive(random: Random) {
  const options = makeOptions(random)
  const base = makeArchive(options)
  const manifest: Json = JSON.parse(JSON.stringify([base.manifest]))
  const config: Json = JSON.parse(base.config.toString())
  const tokens = [base.configName, 'manifest.json', ...base.layers.map(({ name, diffId }) => `${name} ${diffId}`)]
  const limits = { most: random.oneIn(50) ? 4_000_000 : 20_000 }
  const members = base.members.map((member): TarMember => {
    if (random.oneIn(2)) return member
    if (member.name.endsWith('manifest.json'))
      return { ...member, content: mutateJson(random, manifest, tokens, limits) }
    if (member.name.endsWith(base.configName)) return { ...member, content: mutateJson(random, config, tokens, limits) }
    return random.oneIn(4) ? changeMember(random, member, base.members) : member
  })
  const tar = writeTar(shuffled(random, members))
  const bytes = random.oneIn(4) ? mutateBytes(random, tar) : tar
  return { chunks: chunksOf(random, bytes) }
}

function makeOptions(random: Random): ArchiveOptions {
  const layers = Array.from({ length: fewOf(random, 8) }, () =>
    random.oneIn(3) ? random.bytes(lengthOf(random, 2000)) : random.pick(['lower', 'upper', 'same']),
  )
  return {
    layers,
    manifestFirst: random.oneIn(2),
    ...(random.oneIn(4) && { links: random.pick(['hard-link', 'symbolic-link'] as const) }),
    ...(random.oneIn(4) && { prefix: './' }),
    ...(random.oneIn(4) && { header: random.pick(HEADERS) }),
    ...(random.oneIn(4) && { repoTags: random.pick([null, [], ['app:1', 'app:2']]) }),
  }
}

function changeMember(random: Random, member: TarMember, others: readonly TarMember[]): TarMember {
  const other = random.pick(others).name
  return random.pick<() => TarMember>([
    () => ({ ...member, name: other }),
    () => ({
      ...member,
      name: mutateText(random, member.name, [], { most: 5000 }),
      header: random.pick(['pax', 'gnu']),
    }),
    () => ({ ...member, type: 'symbolic-link', linkName: other.slice(0, 90), content: '' }),
    () => ({
      ...member,
      type: 'symbolic-link',
      linkName: random.pick(['..', './', '/', '../x', 'x/../x']),
      content: '',
    }),
    () => ({ ...member, type: 'hard-link', linkName: member.name.slice(0, 90), content: '' }),
    () => ({ ...member, type: 'folder', content: '' }),
    () => ({ ...member, content: mutateBytes(random, Buffer.from(member.content ?? '')) }),
  ])()
}

function shuffled(random: Random, members: readonly TarMember[]): readonly TarMember[] {
  if (random.oneIn(2)) return members
  const at = random.upTo(Math.max(0, members.length - 1))
  const moved = [...members.slice(at), ...members.slice(0, at)]
  return random.oneIn(2) ? moved : moved.toSpliced(random.upTo(moved.length), random.upTo(2))
}
