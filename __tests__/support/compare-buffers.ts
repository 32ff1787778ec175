import { expect } from '@jest/globals'

// Jest compares buffers byte by byte, as objects: a second for a megabyte. Set up by jest.config.js.
expect.addEqualityTesters([
  (one, other) => (Buffer.isBuffer(one) && Buffer.isBuffer(other) ? one.equals(other) : undefined),
])
