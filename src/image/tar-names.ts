import { BLOCK, readTarHeader, textField } from './tar.ts'

/** Passes the bytes of a tar through, and reports the name of each entry. Never throws because a tar is damaged. */
export async function* observeTarNames(
  content: AsyncIterable<Buffer>,
  onName: (name: string) => void,
): AsyncGenerator<Buffer> {
  const read = createNameReader(onName)
  for await (const chunk of content) {
    read(chunk)
    yield chunk
  }
}

/** The limit of the content of a header that describes the next entry, in bytes. Larger ones are ignored. */
const EXTENSION_LIMIT = 256 * 1024

const END = Buffer.alloc(BLOCK)

/** The fields of the next entry that headers before it override. */
interface Extension {
  readonly name?: string | undefined
  readonly size?: number | undefined
}

/** Returns a function that reads the next bytes of a tar. */
function createNameReader(onName: (name: string) => void): (chunk: Buffer) => void {
  const block = Buffer.alloc(BLOCK)
  let kept: { readonly type: string; readonly content: Buffer } | undefined
  let buffer = block
  let filled = 0
  let skip = 0
  let extension: Extension = {}
  let ended = false

  function onHeader(): void {
    const { flag: type, size: listed, name } = readTarHeader(block)
    const size = Number.isNaN(listed) ? 0 : listed
    ended = block.equals(END)
    if ('xL'.includes(type) && size > 0 && size <= EXTENSION_LIMIT) {
      buffer = Buffer.alloc(paddedSize(size))
      kept = { type, content: buffer.subarray(0, size) }
    } else if ('xgLK'.includes(type)) skip = paddedSize(size)
    else if (!ended) onEntry(type, name, size)
  }

  function onEntry(type: string, name: string, size: number): void {
    onName(extension.name ?? name)
    // Links, devices and folders have no content, whatever their size says.
    skip = '123456'.includes(type) ? 0 : paddedSize(extension.size ?? size)
    extension = {}
  }

  function onFilled(): void {
    filled = 0
    if (kept === undefined) {
      onHeader()
      return
    }
    extension = {
      ...extension,
      ...(kept.type === 'L' ? { name: textField(kept.content, 0, kept.content.length) } : paxFields(kept.content)),
    }
    kept = undefined
    buffer = block
  }

  return (chunk) => {
    for (let at = 0; at < chunk.length && !ended; ) {
      const skipped = Math.min(skip, chunk.length - at)
      skip -= skipped
      at += skipped
      const copied = chunk.copy(buffer, filled, at)
      at += copied
      filled += copied
      if (filled === buffer.length) onFilled()
    }
  }
}

function paddedSize(size: number): number {
  return Math.ceil(size / BLOCK) * BLOCK
}

/** https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html#tag_20_94_13_03 */
function paxFields(content: Buffer): Extension {
  let fields: Extension = {}
  for (let at = 0; at < content.length; ) {
    const space = content.indexOf(0x20, at)
    const length = Number(content.toString('latin1', at, Math.max(at, space)))
    if (!Number.isInteger(length) || length < 1) break
    const [, key, value = ''] = /^([^=]*)=(.*)$/s.exec(content.toString('utf8', space + 1, at + length - 1)) ?? []
    if (key === 'path') fields = { ...fields, name: value }
    if (key === 'size' && /^\d+$/.test(value)) fields = { ...fields, size: Number(value) }
    at += length
  }
  return fields
}
