import { describe, expect, test } from '@jest/globals'
import { FormatError } from '../../src/errors.ts'
import { parseConfig } from '../../src/oci/manifest.ts'
import { digestOf } from '../../src/oci/reference.ts'

const digest = digestOf(Buffer.from('content'))
const imageConfig = { os: 'linux', architecture: 'arm', rootfs: { type: 'layers', diff_ids: [digest] } }

function parse(document: object) {
  return parseConfig(Buffer.from(JSON.stringify(document)), 'the config')
}

describe('an image config', () => {
  test('is parsed into platform, diff IDs, labels and the comments of layers', () => {
    const history = [{ comment: 'first' }, { comment: 'only a variable', empty_layer: true }, {}]
    const document = { ...imageConfig, variant: 'v7', config: { Labels: { a: '1' }, Env: ['A=1'] }, history }
    expect(parse(document)).toEqual({
      os: 'linux',
      architecture: 'arm',
      variant: 'v7',
      diffIds: [digest],
      labels: { a: '1' },
      comments: ['first', undefined],
    })
  })

  test.each([
    ['no config', {}],
    ['a config that is null', { config: null }],
    ['labels that are null', { config: { Labels: null } }],
    ['an empty variant', { variant: '' }],
    ['a history in another form', { history: 'made by hand' }],
  ])('may have %s', (_, more) => {
    expect(parse({ ...imageConfig, ...more })).toEqual({
      os: 'linux',
      architecture: 'arm',
      diffIds: [digest],
      labels: {},
      comments: [],
    })
  })

  test.each([
    ['no platform', { rootfs: imageConfig.rootfs }, 'the config is not a valid image config'],
    ['no layers', { os: 'linux', architecture: 'arm' }, 'rootfs'],
    ['a diff ID of another kind', { ...imageConfig, rootfs: { diff_ids: ['md5:1'] } }, 'rootfs.diff_ids.0'],
  ])('can’t have %s', (_, document, why) => {
    expect(() => parse(document)).toThrow(FormatError)
    expect(() => parse(document)).toThrow(why)
  })

  test.each(['os', 'architecture', 'variant'])('can’t have an invalid %s', (part) => {
    for (const word of ['x\n::error::y', 'a b', 'a|b', '<b>'])
      expect(() => parse({ ...imageConfig, [part]: word })).toThrow(
        `the config is not a valid image config: ${part}: has characters that no platform has`,
      )
  })
})
