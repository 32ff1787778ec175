import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'

export const shared = {
  setupFilesAfterEnv: [fileURLToPath(new URL('__tests__/support/compare-buffers.ts', import.meta.url))],
  extensionsToTreatAsEsm: ['.ts'],
  transform: { '^.+\\.ts$': ['@swc/jest', { jsc: { target: 'es2024', parser: { syntax: 'typescript' } } }] },
}

/** Unit tests that take long: parts of the names of their files. Without them, the others take less than two minutes. */
const SLOW = [
  ...['/faults/', '/fuzz/', '/image/hostile', '/image/source\\.', '/image/store-layer', '/nix/hostile'],
  ...['/compress/compress\\.', '/push/damaged', '/push/truncated', '/record/artifacts'],
]
const ELSEWHERE = ['<rootDir>/__tests__/integration/', '<rootDir>/__tests__/registries/']

export default {
  // For slow machines: what hangs ends here, and nothing else does.
  testTimeout: 60_000,
  // Jest would leave a core free, and many tests wait for other programs.
  maxWorkers: availableParallelism() + 1,
  // Replaces a worker that has grown. Jest keeps the modules of past test files, and collecting garbage takes longer and
  // longer: without this, most of the time went into it.
  workerIdleMemoryLimit: '400MB',
  projects: [
    {
      ...shared,
      displayName: 'unit',
      testMatch: ['<rootDir>/__tests__/**/*.test.ts'],
      testPathIgnorePatterns: [...ELSEWHERE, ...SLOW],
    },
    {
      ...shared,
      displayName: 'slow',
      testRegex: SLOW.map((part) => `${part}.*test\\.ts$`),
      testPathIgnorePatterns: ELSEWHERE,
    },
    {
      ...shared,
      displayName: 'integration',
      testMatch: ['<rootDir>/__tests__/integration/**/*.test.ts'],
      globalSetup: '<rootDir>/__tests__/integration/global-setup.ts',
      globalTeardown: '<rootDir>/__tests__/integration/global-teardown.ts',
    },
  ],
}
