import { expect, test } from '@jest/globals'
import { formatNearest } from '../../src/nix/packages.ts'

const others = Array.from({ length: 40 }, (_, at) => `package-${String(at).padStart(2, '0')}`)

test('lists all of a few names', () => {
  expect(formatNearest([], 'image')).toBe('')
  expect(formatNearest(['app', 'image'], 'imgae')).toBe('app, image')
})

test.each([
  ['imgae', 'image'],
  ['containerImage', 'container-image'],
  ['containerImage', 'containerImages'],
  ['container-image', 'Container-Image'],
])('of many names, lists those that are most similar to %s: first %s', (wanted, name) => {
  const [first, ...more] = formatNearest([...others, name], wanted).split(', ')
  expect(first).toBe(name)
  expect(more).toHaveLength(19)
  expect(more.at(-1)).toMatch(/^package-\d\d and 21 more$/)
})
