import { chmod, link, mkdir, symlink, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'

/** The folder that the fixture names as its store. */
export const FIXTURE_STORE = '/nix/store'

/** Names of store paths: 32 characters of a hash, and a name. */
export const STORE_PATHS = {
  files: '00000000000000000000000000000001-files',
  link: '00000000000000000000000000000002-link',
  file: '00000000000000000000000000000003-file',
  root: '00000000000000000000000000000004-root-2.0',
  overlay: '00000000000000000000000000000005-overlay',
  owned: '00000000000000000000000000000006-owned',
  unreproducible: '00000000000000000000000000000007-layers.json',
  base: '00000000000000000000000000000008-docker-image-base',
} as const

type Content =
  | { readonly file: Buffer; readonly mode?: number }
  | { readonly link: string | Buffer }
  | { readonly hardLink: string }
  | { readonly folder: true }

/** Writes the store paths that nix2container made the layers of the fixture from. */
export async function writeFixtureStore(store: string): Promise<void> {
  const folders = new Set<string>()
  for (const [name, content] of FILES) {
    const path = bytePath(store, name)
    const folder = 'folder' in content ? name : dirname(name)
    await mkdir(bytePath(store, folder), { recursive: true })
    for (let at = folder; at !== '.'; at = dirname(at)) folders.add(at)
    if ('link' in content) await symlink(content.link, path)
    else if ('hardLink' in content) await link(bytePath(store, content.hardLink), path)
    else if ('file' in content) {
      await writeFile(path, content.file)
      await chmod(path, content.mode ?? 0o444)
    }
  }
  // Not what the umask gives.
  for (const folder of folders) await chmod(bytePath(store, folder), FOLDER_MODES.get(folder) ?? 0o755)
}

function bytePath(store: string, name: string): Buffer {
  return Buffer.concat([Buffer.from(`${store}/`), Buffer.from(name, 'latin1')])
}

/** Returns content that is not the same in any two blocks. */
function contentOfSize(size: number): Buffer {
  const content = Buffer.alloc(size)
  for (let at = 0; at < size; at++) content[at] = (at * 31 + (at >> 9) * 7) & 0xff
  return content
}

function bytes(text: string): string {
  return Buffer.from(text).toString('latin1')
}

const { files, link: linkPath, file, root, overlay, owned } = STORE_PATHS
const LONG = 'long-'.repeat(20)
const EXECUTABLE = { file: Buffer.from('#!/bin/sh\n'), mode: 0o555 } as const
const EMPTY = { file: Buffer.alloc(0) } as const

/** The names have one character per byte. Sizes are at the limits of blocks and of how files are read. */
const FILES: readonly (readonly [name: string, content: Content])[] = [
  [`${files}/bin/tool`, EXECUTABLE],
  [`${files}/bin/tool-link`, { link: 'tool' }],
  [`${files}/bin/absolute`, { link: `/nix/store/${file}` }],
  [`${files}/bin/dangling`, { link: 'nothing' }],
  [`${files}/bin/long-link`, { link: `../${LONG}${LONG}` }],
  [`${files}/bin/link-of-100`, { link: 'l'.repeat(100) }],
  [`${files}/bin/foreign-link`, { link: 'zürich' }],
  [`${files}/bin/bytes-link`, { link: Buffer.from('\xff', 'latin1') }],
  [`${files}/empty`, EMPTY],
  [`${files}/empty-folder`, { folder: true }],
  [`${files}/hard-link`, { hardLink: `${files}/bin/tool` }],
  // A folder comes before its files, and these before a name that sorts between them as text.
  [`${files}/order/a/b`, EMPTY],
  [`${files}/order/a-b`, EMPTY],
  [`${files}/order/a.b`, EMPTY],
  [`${files}/order/B`, EMPTY],
  [`${files}/sizes/1`, { file: contentOfSize(1) }],
  [`${files}/sizes/511`, { file: contentOfSize(511) }],
  [`${files}/sizes/512`, { file: contentOfSize(512) }],
  [`${files}/sizes/513`, { file: contentOfSize(513) }],
  [`${files}/sizes/128-KiB`, { file: contentOfSize(128 * 1024) }],
  [`${files}/sizes/128-KiB-and-1`, { file: contentOfSize(128 * 1024 + 1) }],
  [`${files}/sizes/3-MiB`, { file: contentOfSize(3 * 1024 * 1024 + 5) }],
  // With /nix/store/ and the store path, 100 and 101 bytes.
  [`${files}/${'n'.repeat(50)}`, EMPTY],
  [`${files}/${'n'.repeat(51)}`, EMPTY],
  // A last part of 100 and of 101 bytes: the first can be split, the second not.
  [`${files}/${'p'.repeat(100)}`, EMPTY],
  [`${files}/${'p'.repeat(101)}`, EMPTY],
  // A first part of 155 and of 156 bytes.
  [`${files}/${'q'.repeat(105)}/q`, EMPTY],
  [`${files}/${'q'.repeat(106)}/q`, EMPTY],
  [`${files}/${LONG}/${LONG}/${LONG}/end`, EXECUTABLE],
  // Without the ü, 100 bytes of these names end in a slash and in two.
  [bytes(`${files}/${'s'.repeat(49)}/ü-${'s'.repeat(20)}`), EMPTY],
  [bytes(`${files}/${'s'.repeat(48)}/ü/${'s'.repeat(20)}`), EMPTY],
  [bytes(`${files}/zürich/straße`), { file: Buffer.from('ß') }],
  [bytes(`${files}/日本語`), { folder: true }],
  [`${files}/bytes-\xff\xc3`, EMPTY],
  [`${files}/line\nbreak "quoted" \\`, EMPTY],
  [linkPath, { link: `/nix/store/${files}/bin` }],
  [file, { file: contentOfSize(1000) }],
  [`${root}/bin/sh`, { link: `/nix/store/${files}/bin/tool` }],
  [`${root}/etc/passwd`, { file: Buffer.from('root:x:0:0::/root:/bin/sh\n') }],
  [bytes(`${root}/etc/zürich`), EMPTY],
  [`${root}/share/doc`, { folder: true }],
  // The same file in two store paths that share a root.
  [`${overlay}/etc/passwd`, { file: Buffer.from('user:x:1:1::/user:/bin/sh\n') }],
  [`${overlay}/etc/group`, EMPTY],
  [`${owned}/home/user/.profile`, { file: Buffer.from('umask 022\n') }],
  [`${owned}/home/user/bin/run`, EXECUTABLE],
  [`${owned}/home/user/link`, { link: 'bin/run' }],
  [`${owned}/tmp`, { folder: true }],
  [`${owned}/wide`, EMPTY],
]

const FOLDER_MODES: ReadonlyMap<string, number> = new Map([
  [`${files}/empty-folder`, 0o555],
  [`${files}/order`, 0o700],
])
