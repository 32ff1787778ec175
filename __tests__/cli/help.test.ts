import { beforeAll, expect, test } from '@jest/globals'
import { formatHelp } from '../../src/cli/help.ts'
import { type ActionMetadata, readActionMetadata } from '../../src/cli/options.ts'
import { MODES } from '../../src/inputs/mode.ts'

let action: ActionMetadata
beforeAll(async () => {
  action = await readActionMetadata()
})

test('the help names each mode with its description in action.yml', () => {
  const help = formatHelp(undefined, action, 80)
  expect(help).toContain('Usage: nix-image-action <mode> [options]\n')
  expect(help).toContain("\n  build   Build and push one system's image.\n")
  expect(help).toContain('\n  verify  Check that a published image is what the source builds.\n')
  expect(help).toContain('GITHUB_TOKEN')
})

test('the help of a mode describes its options', () => {
  const help = formatHelp('build', action, 100)
  expect(help).toContain('Usage: nix-image-action build --image <value>... [options]\n')
  expect(help).toMatch(/^ {2}--image <value>\.\.\. +The name of the image without tag or digest, such as$/m)
  expect(help).toMatch(/^ {2}--\[no-\]push +With `--no-push`: build and check everything, but publish nothing\./m)
  expect(help).toMatch(/^ {2}--rebuild +Also builds images that are already published and unchanged\.$/m)
  expect(help).toMatch(/^ {2}--compression <value> +The compression of layers(?:\n|.)*?\. Default:\s+`gzip`\.$/m)
  expect(help).toMatch(/^ {2}--records <folder> +The folder to write the digest record to/m)
  expect(formatHelp('plan', action, 100)).not.toContain('--records')
})

test('a change of action.yml changes the help', () => {
  const input = { description: 'build: how to greet. `hello` or `bye`.', default: 'hello' }
  const help = formatHelp('build', { ...action, inputs: { ...action.inputs, greeting: input } }, 100)
  expect(help).toMatch(/^ {2}--greeting <value> +How to greet\. `hello` or `bye`\. Default: `hello`\.$/m)
})

test.each(MODES)('the help of %s speaks of options, not of workflows', (mode) => {
  const help = formatHelp(mode, action, 100)
  expect(help).not.toMatch(/\$\{\{|matrix\.|github\.|per line|docker\/metadata-action|\w: (true|false)`|artifact/)
})

test.each([20, 60, 80, 250])('on a terminal of %d characters, no line is longer than the text needs', (width) => {
  const most = Math.min(Math.max(width, 40), 100)
  const words = (line: string) => line.trim().split(/\s{2,}/)
  const long = formatHelp('merge', action, width)
    .split('\n')
    .filter(
      (line) =>
        line.length > most &&
        !words(line)
          .at(-1)
          ?.match(/^(\S+|Usage:.*|Repeat.*)$/),
    )
  expect(long).toEqual([])
})
