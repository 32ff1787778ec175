import { expect, test } from '@jest/globals'
import { adviceFor } from '../../src/actions/advice.ts'
import { RegistryError, type RegistryProblem } from '../../src/registry/registry-error.ts'

function adviceOf(problem: RegistryProblem, host: string, mode: string): string | undefined {
  return adviceFor(new RegistryError({ host, problem, message: 'failed' }), mode)
}

test.each<RegistryProblem>(['no-credentials', 'refused-login', 'denied'])(
  'a verification that is refused with %s needs no access to write',
  (problem) => {
    expect(adviceOf(problem, 'ghcr.io', 'verify')).toContain('packages: read')
    expect(adviceOf(problem, 'ghcr.io', 'verify')).not.toMatch(/write|push/i)
    expect(adviceOf(problem, 'ghcr.io', 'build')).toContain('packages: write')
  },
)

test('a verification needs read access to any other registry', () => {
  expect(adviceOf('denied', 'quay.io', 'verify')).toBe('Give the login read access to the repository.')
  expect(adviceOf('denied', 'quay.io', 'build')).toBe('Give the login write access to the repository.')
})
