import { expect, test } from '@jest/globals'
import { observeLayer } from '../../src/sbom/store-paths.ts'
import { type TarMember, writeTar } from '../support/image.ts'
import { elfFile } from './elf-file.ts'

const STORE = '/nix/store'
const APP = `${STORE}/${'0'.repeat(32)}-app-1.0`
const GLIBC = `${STORE}/${'1'.repeat(32)}-glibc-2.40`
const FILE = `${STORE}/${'2'.repeat(32)}-init`
const ELF = elfFile([])

/** Returns what a layer with these entries contains. */
async function contentOf(members: readonly TarMember[]) {
  const programs: string[] = []
  const bytes = writeTar(members)
  async function* content() {
    yield bytes
  }
  const { tar, storePaths } = observeLayer(content(), (path) => void programs.push(path), STORE)
  for await (const _ of tar);
  return { storePaths: storePaths(), programs }
}

test('finds the store paths of a layer', async () => {
  const names = [
    './',
    './nix/',
    './nix/store/',
    `.${GLIBC}/lib/libc.so.6`,
    `.${GLIBC}/`,
    APP.slice(1),
    FILE,
    './nix/store/.links/x',
    './etc/passwd',
    `./nix/store/../store/${'3'.repeat(32)}-parent`,
    `./other/nix/store/${'4'.repeat(32)}-other`,
  ]
  expect((await contentOf(names.map((name) => ({ name })))).storePaths).toEqual([APP, GLIBC, FILE])
})

test('finds the programs of a layer by their content, and hard links to them', async () => {
  const { programs } = await contentOf([
    { name: `.${APP}/`, type: 'folder' },
    { name: `.${APP}/bin/app`, content: ELF },
    { name: `.${APP}/bin/script`, content: '#!/bin/sh' },
    { name: `.${APP}/bin/empty` },
    { name: `.${APP}/bin/short`, content: '\x7fE' },
    { name: `.${APP}/bin/soft`, type: 'symbolic-link', linkName: 'app' },
    { name: `.${APP}/bin/hard`, type: 'hard-link', linkName: `${APP}/bin/app` },
    { name: `${GLIBC.slice(1)}/lib/libc.so.6`, content: ELF },
    { name: FILE, content: ELF },
    { name: 'usr/bin/other', content: ELF },
    { name: `${'deep/'.repeat(30)}app`, content: ELF, header: 'pax' },
  ])
  expect(programs).toEqual([`${APP}/bin/app`, `${APP}/bin/hard`, `${GLIBC}/lib/libc.so.6`, FILE])
})
