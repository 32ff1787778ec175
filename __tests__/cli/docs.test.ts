import { readFile } from 'node:fs/promises'
import { beforeAll, describe, expect, test } from '@jest/globals'
import { readCommand } from '../../src/cli/arguments.ts'
import { type ActionMetadata, readActionMetadata } from '../../src/cli/options.ts'

let action: ActionMetadata
beforeAll(async () => {
  action = await readActionMetadata()
})

const read = (path: string) => readFile(new URL(`../../${path}`, import.meta.url), 'utf8')

/** The commands in the code of a document: `npx nix-image-action …` and `nix run … -- …`. */
async function commandsIn(path: string): Promise<readonly string[]> {
  const blocks = (await read(path)).match(/^```(?:sh|console|yaml)\n.*?^```$/gms) ?? []
  const lines = blocks
    .join('\n')
    .replaceAll(/\n {6}(?=--)/g, ' ')
    .split('\n')
  return lines.flatMap(
    (line) =>
      /(?:npx nix-image-action|nix run \S+ --) ((?:build|merge|plan|verify)[^|>]*?)(?: 2?[|>]|$)/.exec(line)?.[1] ?? [],
  )
}

describe.each(['docs/cli.md', 'docs/gitlab.md'])('%s', (path) => {
  test('has commands with options that exist', async () => {
    const commands = await commandsIn(path)
    expect(commands.length).toBeGreaterThanOrEqual(2)
    for (const command of commands) {
      const args = command
        .trim()
        .split(/\s+/)
        .map((word) => word.replaceAll('"', '').replace('$PUSH', '--no-push'))
      expect(readCommand(args, action)).toMatchObject({ kind: 'run' })
    }
  })
})

test('docs/gitlab.md has the pipeline that is tested', async () => {
  const [, code] =
    /<!-- examples\/gitlab\/\.gitlab-ci\.yml -->\n```yaml\n(.*?)```/s.exec(await read('docs/gitlab.md')) ?? []
  expect(code).toBe((await read('examples/gitlab/.gitlab-ci.yml')).replace(/^(#.*\n)+/, ''))
})
