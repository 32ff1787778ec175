import { readdir, readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, test } from '@jest/globals'
import { type Option, optionsOf, readActionMetadata } from '../../src/cli/options.ts'
import { adviseOnRegistry, inTermsOfOptions, PHRASES } from '../../src/cli/wording.ts'
import { RegistryError } from '../../src/registry/registry-error.ts'

let options: readonly Option[]
beforeAll(async () => {
  const action = await readActionMetadata()
  options = [...optionsOf('build', action), ...optionsOf('merge', action)]
})

describe('messages speak of options', () => {
  test.each([
    ['The input `tag` is empty', 'The option `--tag` is empty'],
    ['The inputs `file` and `installable` are both set', 'The options `--file` and `--installable` are both set'],
    ['Set `allow-older: true` to move it anyway.', 'Set `--allow-older` to move it anyway.'],
    ['Builds with `push: false` push nothing', 'Builds with `--no-push` push nothing'],
    ['Not pushing the image: `push` is `false`', 'Not pushing the image: `--no-push` is set'],
    ['or set `push-with: registry`.', 'or set `--push-with registry`.'],
    ['own name:\n  variant: debug\nIf', 'own name:\n  --variant debug\nIf'],
    [
      'on its own line:\n  nix-args: |\n    --option\n    cores\n    4',
      'on its own line:\n  --nix-args --option\n  --nix-args cores\n  --nix-args 4',
    ],
    ['A step with `mode: merge` publishes', '`nix-image-action merge` publishes'],
    ['Run this job again later.', 'Run the command again later.'],
    ['"architecture": "amd64"', '"architecture": "amd64"'],
    ['  detail: of Nix', '  detail: of Nix'],
  ])('%j', (message, expected) => {
    expect(inTermsOfOptions(message, options)).toBe(expected)
  })

  test('and phrases about jobs are still those of the messages', async () => {
    const folder = fileURLToPath(new URL('../../src', import.meta.url))
    const files = await readdir(folder, { recursive: true })
    const sources = files.filter((name) => name.endsWith('.ts') && !name.startsWith('cli'))
    const text = (await Promise.all(sources.map((name) => readFile(`${folder}/${name}`, 'utf8')))).join('\n')
    const plain = text.replaceAll('\\`', '`')
    expect(PHRASES.map(([from]) => from).filter((from) => !plain.includes(from))).toEqual([])
  })
})

test.each([
  ['no-credentials', 'ghcr.io', 'Log in first:\n  docker login ghcr.io\nor without Docker:\n  skopeo login ghcr.io'],
  ['no-credentials', 'docker.io', 'Log in first:\n  docker login\nor without Docker:\n  skopeo login docker.io'],
  ['wrong-credentials', 'quay.io', 'log in again:\n  docker login quay.io'],
  ['denied', 'ghcr.io', 'has write access to the repository (the token\'s scope "write:packages"), or log in'],
  ['rate-limited', 'docker.io', 'Log in first, because rate limits'],
] as const)('a registry error, %s at %s, says what to run', (problem, host, expected) => {
  const error = new RegistryError({ host, problem, message: 'refused' })
  expect(adviseOnRegistry(error, 'build')).toContain(expected)
  expect(adviseOnRegistry(error, 'build')).not.toMatch(/uses:|step/)
})
