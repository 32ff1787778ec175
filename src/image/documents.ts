import { formatBytes } from '../units.ts'
import { type Contents, damaged } from './source-image.ts'

/** Of one document in bytes, and of all that are kept together: an archive can hold any number. */
export const DOCUMENT_LIMIT = 4 * 1024 * 1024
export const DOCUMENTS_LIMIT = 64 * 1024 * 1024

/**
 * Whether a file is kept as what may be a document of the image. Most formats leave it to the image how its documents
 * are called, so that all JSON is; what they name themselves is one whatever it holds.
 */
export function isDocument(name: string, bytes: Buffer): boolean {
  if (name === 'manifest.json' || name === 'index.json') return bytes.length > 0
  const first = bytes.find((byte) => !isSpace(byte))
  return first === 0x7b || first === 0x5b
}

/**
 * A document without which there is no image.
 * @param what it is, for errors: "its index.json"
 * @throws ImageError that says why there is none to read
 */
export async function documentCalled(name: string, contents: Contents, message: string, path: string): Promise<Buffer> {
  const bytes = await contents.document(name)
  if (bytes !== undefined) return bytes
  const member = await contents.member(name)
  if (member?.type !== 'file') throw damaged(path, `${message} is missing`)
  if (member.size === 0) throw damaged(path, `${message} is empty`)
  if (member.size > DOCUMENT_LIMIT)
    throw damaged(path, `${message} is too large (${formatBytes(member.size)}, at most ${formatBytes(DOCUMENT_LIMIT)})`)
  throw damaged(path, `${message} is not JSON`)
}

/** Between the parts of JSON: https://www.rfc-editor.org/rfc/rfc8259#section-2 */
function isSpace(byte: number): boolean {
  return byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09
}
