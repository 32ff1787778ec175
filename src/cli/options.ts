import { readFile } from 'node:fs/promises'
import * as v from 'valibot'
import { parse } from 'yaml'
import type { Mode } from '../inputs/mode.ts'

/** What `action.yml` says about the action. */
export interface ActionMetadata {
  readonly description: string
  /** By name, in the order of the file. */
  readonly inputs: Readonly<Record<string, InputMetadata>>
}

interface InputMetadata {
  readonly description: string
  readonly default: string
}

/** An input as an option of the command line. */
export interface Option {
  /** The input's name: the option `--push` sets the input `push`. */
  readonly name: string
  /** `switch`: `--push` or `--no-push`; `text`: one value; `list`: may be repeated, each value is a line of the input. */
  readonly kind: 'switch' | 'text' | 'list'
  readonly required: boolean
  readonly default: string
  readonly description: string
}

const METADATA = v.object({
  description: v.string(),
  inputs: v.record(v.string(), v.object({ description: v.string(), default: v.optional(v.string(), '') })),
})

/** Reads `action.yml`, from which the bundler takes a copy into dist/. */
export async function readActionMetadata(): Promise<ActionMetadata> {
  const text = await readFile(new URL('../../action.yml', import.meta.url), 'utf8')
  // Like the runner, reads every scalar as text.
  return v.parse(METADATA, parse(text, { schema: 'failsafe' }))
}

/** Inputs that have a meaning only in a job of GitHub Actions. `mode` is the command's first argument. */
const ONLY_IN_JOBS: ReadonlySet<string> = new Set([
  'mode',
  'summary',
  'retention-days',
  'artifact-pattern',
  'attest',
  // A secret: read from the environment.
  'token',
  'job-total',
  'job-index',
])

/** What applies on the command line, instead of sentences about several modes or about jobs. By input, or mode and input. */
const OWN_DESCRIPTIONS: Readonly<Record<string, string>> = {
  'verify image': 'The published image with its tag or digest, such as `ghcr.io/owner/app:1.2.3`.',
  image: 'The name of the image without tag or digest, such as `ghcr.io/owner/app`.',
  system: 'The Nix system to build for, such as `aarch64-linux`. Default: the system of this machine.',
  push: 'With `push: false`: build and check everything, but publish nothing.',
  labels: 'Labels to add to the image, `key=value`.',
  tags: 'Tags to publish, separated by commas. A bare tag applies to every `image`, a full reference to its own repository. Default: `latest` and `{sha}` (with a variant `{variant}` and `{sha}-{variant}`).',
  digests:
    'Digest records as text: the output `record` of a build, or a bare `sha256:…`. Default: the files in the folder of records.',
  annotations: 'Annotations of the published index, `key=value`. The key may have a level: `manifest:key`.',
}

/** Inputs that a mode ignores without saying so in `action.yml`. */
const IGNORED: Readonly<Partial<Record<Mode, readonly string[]>>> = { verify: ['push'] }

/** The modes in the first words of a description: `build, merge: a name…`. */
const MODES_PREFIX = /^((?:build|merge|plan|verify)(?:, (?:build|merge|plan|verify))*): /

/** What descriptions of lists say. An option is repeated instead. */
const LIST = /, one (?:\S+ )?per line|separated by lines or commas/
const LIST_WORDS: Readonly<Record<string, string>> = { 'separated by lines or commas': 'separated by commas' }

/** Returns the options of a mode. */
export function optionsOf(mode: Mode, { inputs }: ActionMetadata): readonly Option[] {
  return Object.entries(inputs).flatMap(([name, input]) => {
    const [, modes] = MODES_PREFIX.exec(input.description) ?? []
    if (ONLY_IN_JOBS.has(name) || IGNORED[mode]?.includes(name)) return []
    return modes === undefined || modes.split(', ').includes(mode) ? [optionOf(name, input, mode)] : []
  })
}

function optionOf(name: string, input: InputMetadata, mode: Mode): Option {
  const usual = input.default.includes('${{') ? '' : input.default
  const isSwitch = ['true', 'false'].includes(usual)
  const isList = LIST.test(input.description)
  const own = OWN_DESCRIPTIONS[`${mode} ${name}`] ?? OWN_DESCRIPTIONS[name]
  const description =
    own ?? input.description.replace(MODES_PREFIX, '').replace(LIST, (lines) => LIST_WORDS[lines] ?? '')
  return {
    name,
    kind: isSwitch ? 'switch' : isList ? 'list' : 'text',
    required: name === 'image',
    default: usual,
    description: description.charAt(0).toUpperCase() + description.slice(1),
  }
}
