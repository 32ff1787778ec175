import { promisify } from 'node:util'
import { inflate } from 'node:zlib'
import * as v from 'valibot'
import { readJson } from '../json.ts'
import { type ElfSection, type RandomAccessFile, readElfSection } from './elf.ts'
import type { BinaryModule } from './purl.ts'

/**
 * Returns the crates that a Rust program or library was built from with `cargo auditable`, as nixpkgs does. Crates that
 * only build scripts and procedural macros use are not part of it.
 * Format: https://github.com/rust-secure-code/cargo-auditable/blob/master/PARSING.md
 * @returns undefined if the file has no list of crates
 */
export async function rustCratesIn(
  file: RandomAccessFile,
  sections: readonly ElfSection[],
): Promise<readonly BinaryModule[] | undefined> {
  const compressed = await readElfSection(file, sections, '.dep-v0', SECTION_LIMIT)
  const json = compressed && (await inflateUpTo(compressed, JSON_LIMIT))
  const list = json && readJson(CRATES, json)
  if (!list?.ok) return undefined
  return list.value.packages
    .filter(({ kind }) => kind !== 'build')
    .map(({ name, version }): BinaryModule => ({ type: 'cargo', name, version }))
}

/** In bytes. A list of 1000 crates has about 20 kB. */
const SECTION_LIMIT = 1024 * 1024
/** In bytes. The limit that cargo-auditable recommends. */
const JSON_LIMIT = 8 * 1024 * 1024

const CRATES = v.object({
  packages: v.array(
    v.object({
      name: v.pipe(v.string(), v.regex(/^[A-Za-z0-9_-]{1,200}$/)),
      version: v.pipe(v.string(), v.regex(/^\d[A-Za-z0-9.+-]{0,199}$/)),
      kind: v.optional(v.string()),
    }),
  ),
})

async function inflateUpTo(compressed: Buffer, limit: number): Promise<Buffer | undefined> {
  try {
    return await promisify(inflate)(compressed, { maxOutputLength: limit })
  } catch {
    // Damaged, or larger than the limit.
    return undefined
  }
}
