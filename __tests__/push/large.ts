import { type ArchiveOptions, makeArchive, writeTar } from '../support/image.ts'
import { noise } from '../support/layer-content.ts'
import { makeLayout } from '../support/layout.ts'

// Images for the few tests in which the size matters: compressing and reading them takes most of a test's time.

/** Layers that are larger than the blocks in which they are read and compressed. */
const layers: ArchiveOptions['layers'] = [
  'lower',
  writeTar([{ name: 'usr/share/noise', content: noise(2_500_000) }]),
  writeTar([{ name: 'usr/share/words', content: 'many words, again and again\n'.repeat(90_000) }]),
  'upper',
]
export const large = makeArchive({ layers })
export const largeLayout = makeLayout({ layers, packings: ['gzip', 'zstd', 'plain', 'zstd'] })

/** A layer that is too large for memory even compressed. */
export const spillingLayer = writeTar([{ name: 'noise', content: noise(17_000_000) }])
export const spilling = makeArchive({ layers: ['lower', spillingLayer, 'upper'] })
