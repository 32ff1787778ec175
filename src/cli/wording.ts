import { adviceFor } from '../actions/advice.ts'
import type { Mode } from '../inputs/mode.ts'
import type { RegistryError } from '../registry/registry-error.ts'
import { PROGRAM } from './arguments.ts'
import type { Option } from './options.ts'

/** Returns what to do after a registry error: commands instead of the steps of a workflow. */
export function adviseOnRegistry(error: RegistryError, mode: Mode): string | undefined {
  const { host, problem } = error
  switch (problem) {
    case 'no-credentials':
      return `Log in first:\n${loginCommands(host)}`
    case 'wrong-credentials':
      return `Check the user name and the password or token, and log in again:\n${loginCommands(host)}`
    case 'refused-login':
    case 'denied':
    case 'refused-token':
      return `Check that the login has ${mode === 'verify' ? 'read' : 'write'} access to the repository${host === 'ghcr.io' ? ` (the token's scope "${mode === 'verify' ? 'read' : 'write'}:packages")` : ''}, or log in as another user:\n${loginCommands(host)}`
    case 'rate-limited':
      return `Log in first, because rate limits are higher for authenticated requests:\n${loginCommands(host)}\nOr try again later.`
    default:
      return adviceFor(error, mode)
  }
}

function loginCommands(host: string): string {
  const server = host === 'docker.io' ? '' : ` ${host}`
  return `  docker login${server}\nor without Docker:\n  skopeo login ${host}`
}

/** Phrases about jobs, and what they mean on the command line. Each occurs in a message of the action. */
export const PHRASES: readonly (readonly [string, string])[] = [
  ['Re-run this job', 'Run the command again'],
  ['re-run this job', 'run the command again'],
  ['Run this job again', 'Run the command again'],
  ['run this job again', 'run the command again'],
  ['in this step:', 'on the command line:'],
  ['in the build and the merge of an image', 'for the build and the merge of an image'],
  ['No build of this run has handed over a digest', 'There is no digest record'],
  [
    'Make this job wait for the build jobs (`needs: build`), and give both the same `image`. Builds',
    'Give the builds and the merge the same `image`. Builds',
  ],
  ['Use a `concurrency` group for the merge job so that its runs wait for each other', 'Run one merge at a time'],
]

/**
 * Returns a message of the action in terms of the command line: `push: false` becomes `--no-push`, an input an option, and
 * a line of YAML that sets an input a line with that option.
 */
export function inTermsOfOptions(message: string, options: readonly Option[]): string {
  const known = new Map(options.map((option) => [option.name, option]))
  const names = [...known.keys()].sort((a, b) => b.length - a.length).join('|')
  const phrased = PHRASES.reduce((text, [from, to]) => text.replaceAll(from, to), message)
  const setting = (name: string, value: string) => formatSetting(known.get(name), name, value)
  return withoutBlocks(phrased, names, setting)
    .replaceAll(new RegExp(`^( +)(${names}): (.+)$`, 'gm'), (_, indent, name, value) => indent + setting(name, value))
    .replaceAll(new RegExp(`\`(${names}): ([^\`]+)\``, 'g'), (_, name, value) => `\`${setting(name, value)}\``)
    .replaceAll(
      new RegExp(`\`(${names})\` is \`(true|false)\``, 'g'),
      (_, name, value) => `\`${setting(name, value)}\` is set`,
    )
    .replaceAll(new RegExp(`\`(${names})\``, 'g'), '`--$1`')
    .replaceAll(/(?:[Aa] step with )?`mode: (build|merge|plan|verify)`/g, `\`${PROGRAM} $1\``)
    .replaceAll(/\b([Tt]he|[Ii]ts) input(s?)(?= `--)/g, '$1 option$2')
}

function formatSetting(option: Option | undefined, name: string, value: string): string {
  if (option?.kind !== 'switch') return `--${name} ${value}`
  return value === 'false' ? `--no-${name}` : `--${name}`
}

/** Replaces a block of YAML lines, `nix-args: |`, with an option for each line. */
function withoutBlocks(text: string, names: string, setting: (name: string, value: string) => string): string {
  const block = new RegExp(`^( +)(${names}): \\|\\n((?:\\1 +.+(?:\\n|$))+)`, 'gm')
  return text.replaceAll(block, (_, indent: string, name: string, lines: string) => {
    const values = lines.trimEnd().split('\n')
    return `${values.map((line) => indent + setting(name, line.trim())).join('\n')}${lines.endsWith('\n') ? '\n' : ''}`
  })
}
