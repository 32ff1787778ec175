import { describe, expect, test } from '@jest/globals'
import { fits, formatPlatform, type Platform, platformKey, samePlatform } from '../../src/oci/platform.ts'

function platform(text: string): Platform {
  const [os = '', architecture = '', variant] = text.split('/')
  return { os, architecture, ...(variant !== undefined && { variant }) }
}

test.each([
  [{ os: 'linux', architecture: 'amd64' }, 'linux/amd64'],
  [{ os: 'linux', architecture: 'arm', variant: 'v7' }, 'linux/arm/v7'],
  [{ os: 'linux', architecture: 'arm64', variant: '' }, 'linux/arm64'],
])('%p is formatted as %s', (one, text) => {
  expect(formatPlatform(one)).toBe(text)
})

describe('equal platforms, in either order', () => {
  test.each([
    ['linux/arm64', 'linux/arm64/v8', true],
    ['linux/arm', 'linux/arm/v7', true],
    ['linux/amd64', 'linux/amd64/v1', true],
    ['linux/arm', 'linux/arm/v6', false],
    ['linux/amd64', 'linux/amd64/v3', false],
    ['linux/arm64', 'linux/arm/v8', false],
    ['linux/arm64', 'darwin/arm64', false],
    ['linux/riscv64', 'linux/riscv64', true],
  ])('%s and %s: %p', (one, other, same) => {
    expect(samePlatform(platform(one), platform(other))).toBe(same)
    expect(samePlatform(platform(other), platform(one))).toBe(same)
  })
})

test.each(['constructor', '__proto__', 'toString'])('an architecture called %s has no implied variant', (name) => {
  expect(platformKey({ os: 'linux', architecture: name })).toBe(`linux/${name}`)
})

describe('an image fits a platform, unless both have different variants', () => {
  test.each([
    ['linux/arm64', 'linux/arm64/v8', true],
    ['linux/arm64/v8', 'linux/arm64', true],
    ['linux/arm', 'linux/arm/v6', true],
    ['linux/arm/v7', 'linux/arm/v7', true],
    ['linux/arm/v7', 'linux/arm/v6', false],
    ['linux/amd64', 'linux/arm64', false],
    ['darwin/amd64', 'linux/amd64', false],
  ])('%s for %s: %p', (actual, wanted, expected) => {
    expect(fits(platform(actual), platform(wanted))).toBe(expected)
  })
})
