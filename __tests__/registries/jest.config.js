import { fileURLToPath } from 'node:url'
import { shared } from '../../jest.config.js'

// Separate from jest.config.js, so that `npm test` omits these tests. Their programs take minutes to build.
export default {
  ...shared,
  rootDir: fileURLToPath(new URL('../..', import.meta.url)),
  displayName: 'registries',
  testMatch: ['<rootDir>/__tests__/registries/**/*.test.ts'],
  testTimeout: 180_000,
}
