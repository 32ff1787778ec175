import { describe, expect, test } from '@jest/globals'
import { FormatError } from '../../src/errors.ts'
import { parseAnnotation, placeAnnotations } from '../../src/oci/annotation.ts'

const arm64 = { os: 'linux', architecture: 'arm64' }
const amd64 = { os: 'linux', architecture: 'amd64' }

function place(...texts: readonly string[]) {
  return placeAnnotations(texts.flatMap(parseAnnotation), [amd64, arm64])
}

describe('an annotation in the format of docker/metadata-action and buildx', () => {
  test.each([
    ['key=value', [{ key: 'key', value: 'value' }]],
    ['key=', [{ key: 'key', value: '' }]],
    ['key=a=b:c', [{ key: 'key', value: 'a=b:c' }]],
    ['manifest:key=value', [{ level: 'manifest', key: 'key', value: 'value' }]],
    ['index:key=value', [{ level: 'index', key: 'key', value: 'value' }]],
    ['manifest-descriptor:key=value', [{ level: 'manifest-descriptor', key: 'key', value: 'value' }]],
    ['index-descriptor:key=value', [{ level: 'index-descriptor', key: 'key', value: 'value' }]],
    ['manifest[linux/arm/v7]:key=v', [{ level: 'manifest', platform: 'linux/arm/v7', key: 'key', value: 'v' }]],
    [
      'index,manifest-descriptor[linux/arm64]:key=value',
      [
        { level: 'index', key: 'key', value: 'value' },
        { level: 'manifest-descriptor', platform: 'linux/arm64', key: 'key', value: 'value' },
      ],
    ],
    ['index:urn:key=value', [{ level: 'index', key: 'urn:key', value: 'value' }]],
    ['urn:key=value', [{ key: 'urn:key', value: 'value' }]],
    ['index,urn:key=value', [{ key: 'index,urn:key', value: 'value' }]],
    ['Index:key=value', [{ key: 'Index:key', value: 'value' }]],
    ['key=https://example.com', [{ key: 'key', value: 'https://example.com' }]],
    ['key=two\nlines', [{ key: 'key', value: 'two\nlines' }]],
  ])('%p', (text, expected) => {
    expect(parseAnnotation(text)).toEqual(expected)
  })

  test.each([
    ['key', 'is not of the form key=value'],
    ['=value', 'is not of the form key=value'],
    ['', 'is not of the form key=value'],
    ['index:=value', 'has no key'],
  ])('%p is refused', (text, why) => {
    expect(() => parseAnnotation(text)).toThrow(FormatError)
    expect(() => parseAnnotation(text)).toThrow(why)
  })
})

describe('annotations are placed', () => {
  test('on the index: those without a level, with `manifest:` (the default of docker/metadata-action), and with `index:`', () => {
    expect(place('a=1', 'manifest:b=2', 'index:c=3').index).toEqual({ a: '1', b: '2', c: '3' })
  })

  test.each([
    ['the later of two', ['a=1', 'manifest:a=2'], '2'],
    ['the one for the index, if it comes last', ['manifest:a=1', 'index:a=2'], '2'],
    ['the one for the index, if it comes first', ['index:a=2', 'manifest:a=1', 'a=1'], '2'],
  ])('once for each key: %s', (_, texts, expected) => {
    expect(place(...texts).index).toEqual({ a: expected })
  })

  test('on the entries of all platforms, or of one platform', () => {
    const { index, descriptor, unsupported } = place('manifest-descriptor:a=1', 'manifest-descriptor[linux/arm64]:b=2')
    expect({ index, unsupported }).toEqual({ index: {}, unsupported: [] })
    expect(descriptor(arm64)).toEqual({ a: '1', b: '2' })
    expect(descriptor(amd64)).toEqual({ a: '1' })
  })

  test('on the entry of an equal platform: arm64 is arm64/v8', () => {
    const { descriptor } = place('manifest-descriptor[linux/arm64]:a=1')
    expect(descriptor({ ...arm64, variant: 'v8' })).toEqual({ a: '1' })
    expect(place('manifest-descriptor[linux/arm64/v8]:a=1').descriptor(arm64)).toEqual({ a: '1' })
  })

  test('on an entry: the one for its platform wins over the one for all, in any order', () => {
    const { descriptor } = place('manifest-descriptor[linux/arm64]:a=own', 'manifest-descriptor:a=all')
    expect(descriptor(arm64)).toEqual({ a: 'own' })
    expect(descriptor(amd64)).toEqual({ a: 'all' })
  })

  test('nowhere, and returned as written, if an index has no place for them', () => {
    const texts = [
      'index-descriptor:a=1',
      'manifest[linux/arm64]:b=2',
      'index[linux/arm64]:c=3',
      'manifest-descriptor[linux/riscv64]:d=4',
    ]
    const { index, unsupported } = place(...texts)
    expect(index).toEqual({})
    expect(unsupported).toEqual(texts)
  })
})
