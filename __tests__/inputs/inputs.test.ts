import { readFileSync } from 'node:fs'
import { describe, expect, test } from '@jest/globals'
import { parse } from 'yaml'
import { InputError } from '../../src/errors.ts'
import type { BuildInputs } from '../../src/inputs/build.ts'
import { readInputs } from '../../src/inputs/inputs.ts'
import type { MergeInputs } from '../../src/inputs/merge.ts'
import type { PlanInputs } from '../../src/inputs/plan.ts'
import { fillTags } from '../../src/inputs/tags.ts'
import type { VerifyInputs } from '../../src/inputs/verify.ts'
import { formatReference, formatRepository } from '../../src/oci/reference.ts'

type Inputs = Readonly<Record<string, string>>

/** The environment as the runner makes it, with the defaults that action.yml has. */
function environment(inputs: Inputs, more: Inputs = {}): Inputs {
  const given = { image: 'ghcr.io/owner/app', tag: '{sha}-{system}', ...inputs }
  const named = Object.entries(given).map(([name, value]) => [`INPUT_${name.toUpperCase()}`, value])
  return {
    GITHUB_SHA: '0123456789abcdef',
    RUNNER_OS: 'Linux',
    RUNNER_ARCH: 'X64',
    ...Object.fromEntries(named),
    ...more,
  }
}

function readBuild(inputs: Inputs = {}, more: Inputs = {}): BuildInputs {
  const read = readInputs(environment({ mode: 'build', ...inputs }, more))
  if (read.mode !== 'build') throw new Error('not what was asked for')
  return read
}

function readMerge(inputs: Inputs = {}, more: Inputs = {}): MergeInputs {
  const read = readInputs(environment({ mode: 'merge', ...inputs }, more))
  if (read.mode !== 'merge') throw new Error('not what was asked for')
  return read
}

function readPlan(inputs: Inputs = {}): PlanInputs {
  const read = readInputs(environment({ mode: 'plan', ...inputs }))
  if (read.mode !== 'plan') throw new Error('not what was asked for')
  return read
}

function tagsOf({ tags }: MergeInputs): readonly string[] {
  return fillTags(tags, '0123456789abcdef0123456789abcdef01234567').map(
    ({ repository, tag }) => `${formatRepository(repository)}:${tag}`,
  )
}

function metadata(content: unknown): Inputs {
  return { DOCKER_METADATA_OUTPUT_JSON: JSON.stringify(content) }
}

test('a build needs no more than mode and image', () => {
  expect(readBuild()).toEqual({
    mode: 'build',
    images: [{ host: 'ghcr.io', path: 'owner/app' }],
    push: true,
    summary: true,
    notices: [],
    notes: [],
    system: 'x86_64-linux',
    flake: '.',
    attribute: 'containerImage',
    installable: '',
    file: '',
    rebuild: false,
    sbom: true,
    jobIndex: undefined,

    nixArgs: [],
    tag: '{sha}-{system}',
    variant: '',
    pushWith: 'registry',
    compression: { format: 'gzip', level: 4 },
    reuseFrom: [],
    labels: {},
    retentionDays: 1,
    test: '',
    jobTotal: undefined,
  })
})

test('a merge needs no more than mode and image', () => {
  const read = readMerge()
  expect(read).toMatchObject({ push: true, annotations: [], systems: [], digests: undefined, notices: [] })
  expect(tagsOf(read)).toEqual(['ghcr.io/owner/app:latest', 'ghcr.io/owner/app:0123456'])
})

describe('plan', () => {
  test('needs no more than mode and image', () => {
    expect(readPlan()).toEqual({
      mode: 'plan',
      images: [{ host: 'ghcr.io', path: 'owner/app' }],
      push: true,
      summary: true,
      notices: [],
      notes: [],
      flake: '.',
      attribute: 'containerImage',
      nixArgs: [],
      reuseFrom: [],
      format: 'gzip',
      labels: {},
      rebuild: false,
      sbom: true,
      runners: new Map(),
      systems: [],
    })
  })

  test('has a list of systems', () => {
    expect(readPlan({ systems: 'x86_64-linux, aarch64-linux\nx86_64-linux' }).systems).toEqual([
      'x86_64-linux',
      'aarch64-linux',
    ])
    expect(() => readPlan({ systems: 'x86_64' })).toThrow('The input `systems` is not valid')
  })

  test('takes what the builds take', () => {
    const read = readPlan({
      flake: './nix',
      attribute: 'images.app',
      'nix-args': '--impure',
      'reuse-from': 'latest',
      compression: 'zstd',
      labels: 'a=b',
      rebuild: 'true',
    })
    const repository = { host: 'ghcr.io', path: 'owner/app' }
    expect(read).toMatchObject({ flake: './nix', attribute: 'images.app', nixArgs: ['--impure'], rebuild: true })
    expect(read).toMatchObject({ reuseFrom: [{ repository, tag: 'latest' }], format: 'zstd', labels: { a: 'b' } })
    expect(readPlan({ 'push-with': 'docker' }).format).toBeUndefined()
  })

  test('has runners for systems', () => {
    const { runners } = readPlan({ runners: 'aarch64-linux=self-hosted-arm\n\n armv7l-linux = a board = of mine \n' })
    expect([...runners]).toEqual([
      ['aarch64-linux', 'self-hosted-arm'],
      ['armv7l-linux', 'a board = of mine'],
    ])
  })
})

describe('verify', () => {
  const readVerify = (inputs: Inputs = {}): VerifyInputs => {
    const read = readInputs(environment({ mode: 'verify', image: 'ghcr.io/owner/app:1.2.3', ...inputs }))
    if (read.mode !== 'verify') throw new Error('not what was asked for')
    return read
  }
  const repository = { host: 'ghcr.io', path: 'owner/app' }
  const digest = `sha256:${'a'.repeat(64)}`

  test('needs no more than mode and image', () => {
    expect(readVerify()).toEqual({
      mode: 'verify',
      reference: { repository, tag: '1.2.3' },
      system: 'x86_64-linux',
      flake: '.',
      attribute: 'containerImage',
      installable: '',
      file: '',
      nixArgs: [],
      summary: true,
      notices: [],
      notes: [],
    })
  })

  test('takes the inputs of the build that select the source', () => {
    const source = { flake: './nix', attribute: 'images.app', 'nix-args': '--impure', system: 'aarch64-linux' }
    expect(readVerify(source)).toMatchObject({ flake: './nix', attribute: 'images.app', nixArgs: ['--impure'] })
    expect(readVerify({ ...source, summary: 'false' })).toMatchObject({ system: 'aarch64-linux', summary: false })
    expect(readVerify({ file: 'default.nix', flake: './nix' })).toMatchObject({ file: 'default.nix', attribute: '' })
    expect(readVerify({ file: 'default.nix', flake: './nix' }).notices).toEqual(['Ignoring `flake`: `file` is set'])
  })

  test.each([
    [`ghcr.io/Owner/App:V1.2`, { repository, tag: 'V1.2' }],
    [`ghcr.io/owner/app@${digest}`, { repository, digest }],
    [`ghcr.io/owner/app:1.2.3@${digest}`, { repository, tag: '1.2.3', digest }],
  ])('verifies %s', (image, reference) => {
    expect(readVerify({ image }).reference).toEqual(reference)
  })

  test.each([
    ['', ['The input `image` is missing', 'image: ghcr.io/${{ github.repository }}:1.2.3']],
    ['ghcr.io/owner/app', ['is "ghcr.io/owner/app", which has no tag or digest', ':1.2.3']],
    ['ghcr.io/owner/app:1\nghcr.io/owner/app:2', ['names 2 images, but `mode: verify` verifies one']],
    ['ghcr.io/owner/app:-', ['The input `image` is not valid: ']],
  ])('refuses %j', (image, parts) => {
    expectMessage(() => readVerify({ image }), parts)
  })
})

describe('an input of another mode is reported', () => {
  const imageOf = (mode: string): Inputs => (mode === 'verify' ? { image: 'ghcr.io/owner/app:1.2.3' } : {})
  const MODES = ['build', 'plan', 'merge', 'verify']
  const action: { inputs: Record<string, { description: string; default?: string }> } = parse(
    readFileSync(new URL('../../action.yml', import.meta.url), 'utf8'),
  )
  // As action.yml says it: "build, plan: …".
  const partial = Object.entries(action.inputs).flatMap(([name, { description, default: usual = '' }]) => {
    const [, modes = ''] = /^((?:build|plan|merge|verify)(?:, (?:build|plan|merge|verify))*): /.exec(description) ?? []
    // A default that an expression gives has a value in every mode.
    return modes === '' || usual.startsWith('${{') ? [] : [{ name, modes: modes.split(', '), usual }]
  })
  const cases = partial.flatMap(({ name, modes, usual }) =>
    MODES.flatMap((mode) => (modes.includes(mode) ? [] : [{ name, mode, modes, usual }])),
  )

  test.each(cases)('$name with mode: $mode', ({ name, mode, modes, usual }) => {
    const told = (text: string) => {
      try {
        return readInputs(environment({ mode, ...imageOf(mode), tag: '', [name]: text })).notices.join()
      } catch (error) {
        return String(error)
      }
    }
    expect(told('2')).toContain(`The input \`${name}\` does not apply to \`mode: ${mode}\``)
    expect(told('2')).toContain(`It applies to ${modes.map((one) => `\`mode: ${one}\``).join(' and ')}.`)
    for (const text of ['', ` ${usual}\n`]) expect(told(text)).toBe('')
  })

  test('which are all that action.yml gives to some modes', () => {
    expect(partial.map(({ name }) => name)).toEqual(expect.arrayContaining(['flake', 'tag', 'tags', 'runners']))
  })

  test('and those in whose place another says what is built', () => {
    const told = (inputs: Inputs) => readInputs(environment({ mode: 'build', ...inputs })).notices
    expect(told({ installable: '.#app', flake: './apps/a', attribute: 'app' })).toEqual([
      'Ignoring `flake`: `installable` is set',
      'Ignoring `attribute`: `installable` is set',
    ])
    expect(told({ file: 'default.nix', flake: './apps/a', attribute: 'app' })).toEqual([
      'Ignoring `flake`: `file` is set',
    ])
    expect(told({ installable: '.#app', flake: '.', attribute: 'containerImage' })).toEqual([])
    expect(told({ flake: './apps/a', attribute: 'app' })).toEqual([])
  })

  test.each<[string, Inputs, string]>([
    [
      'merge',
      { tag: 'v1.2.3-rc1' },
      '`tag` does not apply to `mode: merge`\nIt applies to `mode: build`. Set the tags that merge publishes in `tags`.',
    ],
    ['build', { tags: 'v1' }, 'users pull in `tags` of a step with `mode: merge`, which may follow in the same job'],
    ['build', { systems: 'x86_64-linux' }, '`system`'],
    ['verify', { tag: '1.2.3' }, 'Name the image to verify in `image`, with its tag or digest.'],
    ['verify', { tags: '1.2.3' }, 'Name the image to verify in `image`, with its tag or digest.'],
    ['verify', { systems: 'x86_64-linux' }, 'verify verifies the image of one `system`.'],
  ])('%s: %j would do something else than is meant, and is refused', (mode, inputs, instead) => {
    expectMessage(() => readInputs(environment({ mode, ...inputs })), [instead])
  })

  test('what action.yml gives to every mode is no fault of the step', () => {
    const runner = { system: 'x86_64-linux', token: 'ghs_x', 'job-total': '2', 'job-index': '0' }
    for (const mode of MODES) expect(() => readInputs(environment({ mode, ...imageOf(mode), ...runner }))).not.toThrow()
  })
})

describe('image', () => {
  test.each([
    ['ghcr.io/owner/app', ['ghcr.io/owner/app']],
    ['owner/app', ['docker.io/owner/app']],
    ['docker.io/owner/app', ['docker.io/owner/app']],
    ['app', ['docker.io/library/app']],
    ['127.0.0.1:5000/app', ['127.0.0.1:5000/app']],
    ['localhost/app', ['localhost/app']],
    ['\n  ghcr.io/owner/app \r\n\n owner/app\n', ['ghcr.io/owner/app', 'docker.io/owner/app']],
    ['owner/app\ndocker.io/owner/app\nindex.docker.io/owner/app', ['docker.io/owner/app']],
  ])('%j', (image, expected) => {
    expect(readBuild({ image }).images.map(formatRepository)).toEqual(expected)
  })

  test('upper case, as github.repository may have it, is lowered with a line in the log', () => {
    const read = readBuild({ image: 'ghcr.io/Owner/App\nghcr.io/owner/other' })
    expect(read.images.map(formatRepository)).toEqual(['ghcr.io/owner/app', 'ghcr.io/owner/other'])
    expect(read.notices).toEqual([])
    expect(read.notes).toEqual(['Using "ghcr.io/owner/app" for "ghcr.io/Owner/App": image names are lowercase'])
  })
})

describe('push', () => {
  test.each([
    ['', true],
    ['true', true],
    ['True', true],
    ['false', false],
    [' FALSE ', false],
  ])('%j', (push, expected) => {
    expect(readBuild({ push }).push).toBe(expected)
    expect(readMerge({ push }).push).toBe(expected)
  })
})

describe('build', () => {
  test.each([
    ['the value of a file', { file: 'docker.nix', attribute: '' }, ''],
    ['the default of a flake', { attribute: '' }, 'containerImage'],
    ['what it is of a file', { file: 'docker.nix', attribute: 'image' }, 'image'],
  ])('an attribute that is empty or not is %s', (_, inputs, attribute) => {
    expect(readBuild(inputs).attribute).toBe(attribute)
  })

  test.each([
    ['Linux', 'X64', 'x86_64-linux'],
    ['Linux', 'ARM64', 'aarch64-linux'],
    ['Linux', 'ARM', 'armv7l-linux'],
    ['Linux', 'X86', 'i686-linux'],
    // Of Gitea's runner, on the host.
    ['linux', 'amd64', 'x86_64-linux'],
  ])('without a system, it is that of the runner: %s, %s', (os, arch, system) => {
    const read = readBuild({ system: '' }, { RUNNER_OS: os, RUNNER_ARCH: arch })
    expect(read).toMatchObject({ system, tag: '{sha}-{system}' })
  })

  test('all inputs are taken as they are given', () => {
    const read = readBuild({
      system: 'armv6l-linux',
      flake: 'github:owner/repo?dir=nix',
      attribute: 'images.app',
      installable: '.#x.{system}',
      'nix-args': '--override-input\n  nixpkgs\n  path:/x y \n\n-L',
      tag: 'v1_{system}-{sha}-{sha}',
      'push-with': 'docker',
      'retention-days': '90',
      'job-total': '2',
    })
    expect(read).toMatchObject({
      system: 'armv6l-linux',
      flake: 'github:owner/repo?dir=nix',
      attribute: 'images.app',
      installable: '.#x.{system}',
      nixArgs: ['--override-input', 'nixpkgs', 'path:/x y', '-L'],
      tag: 'v1_{system}-{sha}-{sha}',
      retentionDays: 90,
      jobTotal: 2,
    })
  })

  test('a variant is part of the default tag, and its own image is looked at first', () => {
    const read = readBuild({ variant: 'debug', 'reuse-from': 'latest' })
    expect(read).toMatchObject({ variant: 'debug', tag: '{sha}-{variant}-{system}' })
    expect(read.reuseFrom.map(({ tag }) => tag)).toEqual(['debug', 'latest'])
    expect(readBuild({ variant: 'debug', tag: 'v1-{system}', 'reuse-from': 'v0' })).toMatchObject({
      tag: 'v1-{system}',
      reuseFrom: [{ tag: 'v0' }],
    })
  })

  test('it does not look at what docker/metadata-action has left for merge', () => {
    expect(readBuild({}, { DOCKER_METADATA_OUTPUT_JSON: 'not for build' }).tag).toBe('{sha}-{system}')
  })
})

describe('tags', () => {
  const image = 'ghcr.io/owner/app\nowner/app'

  test.each([
    ['a bare tag goes to every image', 'v1', ['ghcr.io/owner/app:v1', 'docker.io/owner/app:v1']],
    [
      'a full reference goes to its own repository',
      'ghcr.io/owner/app:v1\nowner/app:v2',
      ['ghcr.io/owner/app:v1', 'docker.io/owner/app:v2'],
    ],
    [
      'tags may be separated by commas and lines',
      'owner/app:v1, owner/app:v2\nghcr.io/owner/app:v3,',
      ['docker.io/owner/app:v1', 'docker.io/owner/app:v2', 'ghcr.io/owner/app:v3'],
    ],
    [
      '{sha} is the short commit',
      'owner/app:git-{sha}\nghcr.io/owner/app:{sha}',
      ['docker.io/owner/app:git-0123456', 'ghcr.io/owner/app:0123456'],
    ],
    [
      'a tag keeps its upper case, a name is lowered',
      'Owner/App:V1\nghcr.io/Owner/App:V1',
      ['docker.io/owner/app:V1', 'ghcr.io/owner/app:V1'],
    ],
    ['what is named twice is one', 'v1\nowner/app:v1\nv1', ['ghcr.io/owner/app:v1', 'docker.io/owner/app:v1']],
  ])('%s', (_, tags, expected) => {
    expect(tagsOf(readMerge({ image, tags }))).toEqual(expected)
  })

  test('the tags of docker/metadata-action that are for these images are taken', () => {
    const tags = ['ghcr.io/owner/app:v1', 'ghcr.io/owner/app-api:v1', 'owner/app:v1']
    expect(tagsOf(readMerge({ image }, metadata({ tags })))).toEqual(['ghcr.io/owner/app:v1', 'docker.io/owner/app:v1'])
  })

  test('tags that are given win over those of docker/metadata-action', () => {
    const given = metadata({ tags: ['ghcr.io/owner/app:v1'], annotations: ['manifest:a=metadata'] })
    const read = readMerge({ tags: 'mine', annotations: 'a=mine' }, given)
    expect(tagsOf(read)).toEqual(['ghcr.io/owner/app:mine'])
    expect(read.annotations).toEqual([{ key: 'a', value: 'mine' }])
  })

  test.each(['pull_request', 'pull_request_target', 'merge_group'])(
    'where none are given, a run of %s does not move `latest`, and a notice says how it would',
    (event) => {
      const read = readMerge({}, { GITHUB_EVENT_NAME: event })
      expect(tagsOf(read)).toEqual(['ghcr.io/owner/app:0123456'])
      expect(read.notices).toEqual([
        expect.stringMatching(/^Not publishing the tag latest:.*not merged yet[\s\S]*\n {2}tags: latest$/),
      ])
    },
  )

  test('and where nothing is published, nothing is said', () => {
    const read = readMerge({ push: 'false' }, { GITHUB_EVENT_NAME: 'pull_request' })
    expect(tagsOf(read)).toEqual(['ghcr.io/owner/app:0123456'])
    expect(read.notices).toEqual([])
  })

  test('{sha} is not known if no commit is', () => {
    const { tags } = readMerge({ tags: 'v1-{sha}' })
    expectMessage(
      () => fillTags(tags, ''),
      ['The input `tags` contains {sha}, but the commit is unknown', 'Remove {sha}'],
    )
  })

  test('a variant has tags of its own where none are given, and {variant} in those that are', () => {
    expect(tagsOf(readMerge({ variant: 'debug' }))).toEqual([
      'ghcr.io/owner/app:debug',
      'ghcr.io/owner/app:0123456-debug',
    ])
    expect(tagsOf(readMerge({ variant: 'debug' }, { GITHUB_EVENT_NAME: 'merge_group' }))).toEqual([
      'ghcr.io/owner/app:0123456-debug',
    ])
    expect(tagsOf(readMerge({ variant: 'debug', tags: 'v1-{variant}' }))).toEqual(['ghcr.io/owner/app:v1-debug'])
  })

  test('what a pull request is given is published as it is', () => {
    const event = { GITHUB_EVENT_NAME: 'pull_request' }
    for (const read of [
      readMerge({ tags: 'latest' }, event),
      readMerge({}, { ...event, ...metadata({ tags: ['ghcr.io/owner/app:latest'] }) }),
    ]) {
      expect(tagsOf(read)).toEqual(['ghcr.io/owner/app:latest'])
      expect(read.notices).toEqual([])
    }
  })

  test('a push moves `latest`', () => {
    expect(tagsOf(readMerge({}, { GITHUB_EVENT_NAME: 'push' }))).toContain('ghcr.io/owner/app:latest')
  })

  test('without any tags in what docker/metadata-action has left, the defaults hold', () => {
    expect(tagsOf(readMerge({}, metadata({ labels: {} })))).toEqual([
      'ghcr.io/owner/app:latest',
      'ghcr.io/owner/app:0123456',
    ])
  })
})

describe('merge', () => {
  test('annotations are taken from docker/metadata-action, with their levels', () => {
    const read = readMerge(
      {},
      metadata({ tags: ['ghcr.io/owner/app:v1'], annotations: ['manifest:a=b=c', 'index:d='] }),
    )
    expect(read.annotations).toEqual([
      { level: 'manifest', key: 'a', value: 'b=c' },
      { level: 'index', key: 'd', value: '' },
    ])
  })

  test('systems and digests are lists', () => {
    const digest = `sha256:${'0'.repeat(64)}`
    const read = readMerge({
      systems: 'x86_64-linux, aarch64-linux\nx86_64-linux',
      digests: `\n${digest}\n{"schema": 1, "image": "a"}\n`,
    })
    expect(read.systems).toEqual(['x86_64-linux', 'aarch64-linux'])
    expect(read.digests).toEqual([digest, '{"schema": 1, "image": "a"}'])
  })
})

test('builds of a pull request, which push nothing, have no digests for a merge with push: false', () => {
  expect(readMerge({ digests: '\n\n', push: 'false' }).digests).toEqual([])
})

describe('an error names the input and says what to do', () => {
  test.each<[string, Inputs, Inputs, readonly (string | RegExp)[]]>([
    ['no mode', { mode: '' }, {}, ['The input `mode` is missing', /mode: build.*mode: merge/]],
    [
      'another mode',
      { mode: 'push' },
      {},
      ['The input `mode` is "push"; it must be `build`, `merge`, `plan` or `verify`', /mode: build.*mode: merge/],
    ],
    [
      'an installable to plan for',
      { mode: 'plan', installable: '.#x' },
      {},
      ['The input `installable` does not apply to `mode: plan`', '`attribute`'],
    ],
    [
      'a file to plan for, which has no systems to be looked for',
      { mode: 'plan', file: 'default.nix' },
      {},
      ['The input `file` does not apply to `mode: plan`', 'write the matrix by hand'],
    ],
    [
      'a flake to plan for that names an attribute',
      { mode: 'plan', flake: '.#x' },
      {},
      ['The input `flake` is ".#x", which also names an attribute'],
    ],
    [
      'an attribute to plan for that names its flake',
      { mode: 'plan', attribute: '.#x' },
      {},
      ['The input `attribute` is ".#x", which also names a flake'],
    ],
    [
      'a compression to plan for that Docker does not know',
      { mode: 'plan', compression: 'zstd', 'push-with': 'docker' },
      {},
      ['The input `compression` needs `push-with: registry`'],
    ],
    [
      'a runner for no system',
      { mode: 'plan', runners: 'self-hosted-arm' },
      {},
      [
        'The input `runners` contains "self-hosted-arm", which does not have the form system=label',
        'aarch64-linux=self-hosted-arm',
      ],
    ],
    [
      'two runners for a system',
      { mode: 'plan', runners: 'aarch64-linux=a\nx86_64-linux=b\naarch64-linux=c' },
      {},
      ['The input `runners` contains two runners for aarch64-linux', '    aarch64-linux=self-hosted-arm'],
    ],
    [
      'several systems on one line',
      { mode: 'plan', runners: 'aarch64-linux=a,x86_64-linux=b' },
      {},
      ['The input `runners` contains "aarch64-linux=a,x86_64-linux=b"', 'one system per line, with one label'],
    ],
    [
      'several labels for a runner',
      { mode: 'plan', runners: 'aarch64-linux=["self-hosted","arm"]' },
      {},
      ['one system per line, with one label'],
    ],
    [
      'a system without a runner',
      { mode: 'plan', runners: 'aarch64-linux=' },
      {},
      ['The input `runners` contains "aarch64-linux="'],
    ],
    [
      'a runner for a system of macOS',
      { mode: 'plan', runners: 'aarch64-darwin=macos-15' },
      {},
      ['The input `runners` is not valid', 'aarch64-darwin" is macOS'],
    ],
    ['no image', { image: ' \n' }, {}, ['The input `image` is missing', 'image: ghcr.io/${{ github.repository }}']],
    [
      'an image with a tag',
      { image: 'ghcr.io/Owner/app:v1' },
      {},
      ['The input `image` is "ghcr.io/Owner/app:v1", which has a tag', '`image: ghcr.io/owner/app`'],
    ],
    [
      'an image with a digest',
      { image: `app@sha256:${'0'.repeat(64)}` },
      {},
      ['which has a digest', '`image: docker.io/library/app`'],
    ],
    [
      'an image with a scheme',
      { image: 'https://ghcr.io/owner/app' },
      {},
      ['The input `image` is not valid', 'remove "https://"'],
    ],
    [
      'an image with nothing behind its host',
      { image: 'ghcr.io/' },
      {},
      ['The input `image` is not valid: "ghcr.io/"', 'there is nothing after the host'],
    ],
    [
      'a host in place of an image',
      { image: 'ghcr.io' },
      {},
      ['The input `image` is not valid: "ghcr.io"', 'there is nothing after the host', 'ghcr.io/owner/app'],
    ],
    [
      'two images on one line',
      { image: 'owner/a,owner/b' },
      {},
      ['The input `image` is not valid: "owner/a,owner/b" contains a comma', 'one name per line'],
    ],
    [
      'a comma behind an image, whose upper case is not the fault',
      { image: 'ghcr.io/Owner/a,\nghcr.io/Owner/b' },
      {},
      ['The input `image` is not valid: "ghcr.io/Owner/a," contains a comma', 'one name per line'],
    ],
    [
      'an image with odd characters',
      { image: 'owner/äpp' },
      {},
      ['The input `image` is not valid', 'it can\'t contain "ä"'],
    ],
    [
      'a host that is none',
      { image: 'ghcr_.io/app' },
      {},
      ['The input `image` is not valid', '"ghcr_.io" is not a host name'],
    ],
    [
      'a second image that is ill-formed',
      { image: 'owner/app\nowner//app' },
      {},
      ['The input `image` is not valid', '"owner//app"'],
    ],
    ['push of another kind', { push: 'yes' }, {}, ['The input `push` is "yes"', '`true` or `false`']],
    [
      'a system of macOS',
      { system: 'aarch64-darwin' },
      {},
      [
        'The input `system` (default: `matrix.system`) is not valid: ',
        'macOS',
        'ubuntu-24.04-arm',
        'system: aarch64-linux',
      ],
    ],
    [
      'a runner with macOS and no system',
      {},
      { RUNNER_OS: 'macOS', RUNNER_ARCH: 'ARM64' },
      [
        'The input `system` is empty, and the runner reports RUNNER_OS=macOS and RUNNER_ARCH=ARM64: ',
        '"aarch64-darwin"',
        'system: aarch64-linux',
      ],
    ],
    [
      'an unknown system',
      { system: 'linux/amd64' },
      {},
      ['The input `system` (default: `matrix.system`) is not valid: ', '"linux/amd64"', 'x86_64-linux, aarch64-linux'],
    ],
    [
      'a system with the name of an object’s property',
      { system: 'constructor' },
      {},
      ['The input `system` (default: `matrix.system`) is not valid: ', '"constructor"'],
    ],
    ...['installable', 'flake', 'attribute'].map((input): [string, Inputs, Inputs, readonly string[]] => [
      `an option in \`${input}\``,
      { [input]: '--version' },
      {},
      [`The input \`${input}\` is "--version", which Nix would read as an option`, '`nix-args`'],
    ]),
    [
      'a flake with an attribute',
      { flake: '.#app' },
      {},
      ['The input `flake` is ".#app"', '`attribute`', '`installable`'],
    ],
    [
      'an argument for Nix and its values on one line',
      { 'nix-args': '-L\n--override-input nixpkgs   path:/x' },
      {},
      [
        'The input `nix-args` contains "--override-input nixpkgs   path:/x" on one line, but each line is one argument',
        '\n  nix-args: |\n    --override-input\n    nixpkgs\n    path:/x',
      ],
    ],
    [
      'no tag for Docker',
      { tag: '', 'push-with': 'docker' },
      {},
      ['The input `tag` is empty', 'Remove `tag`', 'set `push-with: registry`'],
    ],
    [
      'a tag that breaks the grammar',
      { tag: 'a/b-{system}' },
      {},
      ['The input `tag` is not valid', '"a/b-x86_64-linux"', 'a tag consists of letters'],
    ],
    ...['v1,latest', 'v1\nlatest', 'v1 latest', 'ghcr.io/owner/app:v1'].map(
      (tag): [string, Inputs, Inputs, string[]] => [
        `tags in the place of one tag: ${JSON.stringify(tag)}`,
        { tag },
        {},
        [
          `The input \`tag\` is not valid: "${tag.replace('\n', ' ')}" is not a tag`,
          'one tag, `tag`. Set the tags that users pull in `tags` of a step with `mode: merge`, which may follow in the same job',
        ],
      ],
    ),
    [
      'an attribute with its flake',
      { attribute: '.#containerImage' },
      {},
      [
        'The input `attribute` is ".#containerImage", which also names a flake',
        '`installable`',
        /\n {2}attribute: containerImage$/,
      ],
    ],
    ['a tag with an unknown placeholder', { tag: '{branch}' }, {}, ['The input `tag` is not valid', '"{branch}"']],
    [
      'a tag that is too long',
      { tag: 'x'.repeat(129) },
      {},
      ['The input `tag` is not valid', '129 characters, at most 128'],
    ],
    [
      '{variant} without a variant',
      { tag: '{variant}-{system}' },
      {},
      ['The input `tag` contains {variant}, but the input `variant` is empty', 'Set `variant`'],
    ],
    ['a variant that no tag could have', { variant: 'De bug' }, {}, ['The input `variant` is "De bug"', 'lowercase']],
    ['another way to push', { 'push-with': 'podman' }, {}, ['The input `push-with` is "podman"', '`docker`']],
    ['no days', { 'retention-days': '0' }, {}, ['The input `retention-days` is "0"', 'from 1 to 90']],
    ['too many days', { 'retention-days': '91' }, {}, ['The input `retention-days` is "91"', 'from 1 to 90']],
    ['half a day', { 'retention-days': '1.5' }, {}, ['The input `retention-days` is "1.5"', 'from 1 to 90']],
    ['days in words', { 'retention-days': 'one' }, {}, ['The input `retention-days` is "one"', 'from 1 to 90']],
  ])('build: %s', (_, inputs, more, parts) => {
    expectMessage(() => readInputs(environment({ mode: 'build', ...inputs }, more)), parts)
  })

  test.each<[string, Inputs, Inputs, readonly (string | RegExp)[]]>([
    ['no image', { image: '' }, {}, ['The input `image` is missing']],
    ['a tag that breaks the grammar', { tags: 'v1\n-v2' }, {}, ['The input `tags` is not valid', '"-v2" is not a tag']],
    [
      'a reference whose tag breaks the grammar',
      { tags: 'ghcr.io/owner/app:-v2' },
      {},
      ['The input `tags` is not valid', '"-v2" is not a tag'],
    ],
    [
      'a reference without a tag',
      { tags: 'ghcr.io/owner/app' },
      {},
      ['The input `tags` is not valid: "ghcr.io/owner/app" is not a tag', '`name:tag`'],
    ],
    [
      'a reference with a port and without a tag',
      { tags: '127.0.0.1:5000/owner/app' },
      {},
      ['The input `tags` contains "127.0.0.1:5000/owner/app", which has no tag', '`name:tag`'],
    ],
    [
      'the name of a branch',
      { tags: 'latest\nfeature/login' },
      {},
      [
        'The input `tags` is not valid: "feature/login" is not a tag',
        'create tags from branch names, use docker/metadata-action',
      ],
    ],
    [
      'tags for one of two images',
      { image: 'ghcr.io/owner/app\nghcr.io/owner/api', tags: 'ghcr.io/owner/app:v1, ghcr.io/owner/app:v2' },
      {},
      ['No tag to publish for ghcr.io/owner/api', 'Write a tag without a name'],
    ],
    [
      'metadata that names one of two images',
      { image: 'ghcr.io/owner/app\nghcr.io/owner/api' },
      metadata({ tags: ['ghcr.io/owner/api:v1'] }),
      ['No tag to publish for ghcr.io/owner/app\n', 'add this image to `images` of docker/metadata-action'],
    ],
    [
      'a tag for another image',
      { tags: 'ghcr.io/owner/other:v1' },
      {},
      [
        'The input `tags` contains ghcr.io/owner/other:v1',
        'which is not in `image`',
        'Add ghcr.io/owner/other to `image`',
      ],
    ],
    [
      'digests of which only empty lines are left',
      { digests: '\n  \n' },
      {},
      [
        'The input `digests` contains only empty lines',
        'Check whether the builds failed',
        'contain a secret',
        '`vars` instead of `secrets`',
      ],
    ],
    [
      '{variant} without a variant',
      { tags: '{variant}' },
      {},
      ['The input `tags` contains {variant}', 'Set `variant`'],
    ],
    [
      'an annotation without a value',
      { annotations: 'key' },
      {},
      ['The input `annotations` is not valid', '"key" is not of the form key=value'],
    ],
    [
      'an unknown system among systems',
      { systems: 'x86_64-linux, riscv-linux' },
      {},
      ['The input `systems` is not valid', '"riscv-linux"', 'x86_64-linux'],
    ],
    [
      'a system of macOS among systems',
      { systems: 'x86_64-darwin' },
      {},
      ['The input `systems` is not valid', 'macOS', 'x86_64-linux'],
    ],
    [
      'metadata that is no JSON',
      {},
      { DOCKER_METADATA_OUTPUT_JSON: '{' },
      ['DOCKER_METADATA_OUTPUT_JSON', 'docker/metadata-action', /JSON/],
    ],
    [
      'metadata of another form',
      {},
      metadata({ tags: 'v1' }),
      ['DOCKER_METADATA_OUTPUT_JSON', 'docker/metadata-action', /[Aa]rray/],
    ],
    [
      'metadata without a tag',
      {},
      metadata({ tags: [] }),
      ['No tags to publish', 'it created no tags', 'docker/metadata-action', 'set `tags` in this step'],
    ],
    [
      'metadata for other images alone',
      {},
      metadata({ tags: ['ghcr.io/owner/app-api:v1'] }),
      ['No tags to publish', 'it created ghcr.io/owner/app-api:v1', 'Use the same repositories'],
    ],
  ])('merge: %s', (_, inputs, more, parts) => {
    expectMessage(() => readInputs(environment({ mode: 'merge', ...inputs }, more)), parts)
  })
})

function expectMessage(read: () => unknown, parts: readonly (string | RegExp)[]): void {
  expect(read).toThrow(InputError)
  for (const part of parts) expect(read).toThrow(part)
}

describe('pushing straight to the registry', () => {
  test.each([
    ['', '', { format: 'gzip', level: 4 }],
    ['gzip', '', { format: 'gzip', level: 4 }],
    ['gzip', '1', { format: 'gzip', level: 1 }],
    ['gzip', '9', { format: 'gzip', level: 9 }],
    ['zstd', '', { format: 'zstd', level: 3 }],
    ['zstd', '19', { format: 'zstd', level: 19 }],
  ])('compression %j at level %j', (compression, level, expected) => {
    expect(readBuild({ compression, 'compression-level': level }).compression).toEqual(expected)
  })

  test.each([
    ['gzip', '0', '"0"; for gzip, it must be a number from 1 to 9'],
    ['gzip', '10', '"10"; for gzip, it must be a number from 1 to 9'],
    ['zstd', '20', '"20"; for zstd, it must be a number from 1 to 19'],
    ['zstd', '-1', 'from 1 to 19'],
    ['gzip', '2.5', 'from 1 to 9'],
    ['gzip', 'best', 'from 1 to 9'],
  ])('compression %j has no level %j, and the message says which it has', (compression, level, message) => {
    const read = () => readBuild({ compression, 'compression-level': level })
    expect(read).toThrow(InputError)
    expect(read).toThrow(message)
  })

  test('a compression that there is not names those that there are', () => {
    expect(() => readBuild({ compression: 'xz' })).toThrow('"xz"; it must be `gzip` or `zstd`')
  })

  test.each([
    ['latest', ['ghcr.io/owner/app:latest', 'docker.io/owner/app:latest']],
    [
      'latest, v1\n\nghcr.io/owner/base:v2',
      [
        'ghcr.io/owner/app:latest',
        'docker.io/owner/app:latest',
        'ghcr.io/owner/app:v1',
        'docker.io/owner/app:v1',
        'ghcr.io/owner/base:v2',
      ],
    ],
    [`ghcr.io/owner/base@sha256:${'1'.repeat(64)}`, [`ghcr.io/owner/base@sha256:${'1'.repeat(64)}`]],
    ['127.0.0.1:5000/base:edge', ['127.0.0.1:5000/base:edge']],
    ['ghcr.io/Owner/App:Main', ['ghcr.io/owner/app:Main']],
    [`localhost:5000/Owner/App@sha256:${'1'.repeat(64)}`, [`localhost:5000/owner/app@sha256:${'1'.repeat(64)}`]],
    ['', []],
  ])('reuse-from %j: a tag alone is that of every image', (text, expected) => {
    const { reuseFrom } = readBuild({ image: 'ghcr.io/owner/app\nowner/app', 'reuse-from': text })
    expect(reuseFrom.map(formatReference)).toEqual(expected)
  })

  test('a reuse-from without a tag is refused, and the message says what to write', () => {
    const read = () => readBuild({ 'reuse-from': 'ghcr.io/owner/base' })
    expect(read).toThrow(InputError)
    expect(read).toThrow(/"ghcr\.io\/owner\/base", which has no tag[\s\S]*`name:tag`/)
  })

  test('a reuse-from that is no reference is refused by its name', () => {
    expect(() => readBuild({ 'reuse-from': 'Not/An/Image:x y' })).toThrow('The input `reuse-from` is not valid')
  })

  test('labels are taken as docker/metadata-action writes them', () => {
    const labels = [
      'org.opencontainers.image.title=app',
      'org.opencontainers.image.url=https://example.org/?a=b&c=d',
      'org.opencontainers.image.description=Says "hello", in many words',
      'empty=',
    ]
    expect(readBuild({ labels: labels.join('\n') }).labels).toEqual({
      'org.opencontainers.image.title': 'app',
      'org.opencontainers.image.url': 'https://example.org/?a=b&c=d',
      'org.opencontainers.image.description': 'Says "hello", in many words',
      empty: '',
    })
  })

  test.each(['no value', '=no key'])('labels have the form key=value: %j', (labels) => {
    expect(() => readBuild({ labels })).toThrow(`"${labels}", which does not have the form key=value`)
  })

  test('labels can’t be had with Docker, which the message says', () => {
    expect(() => readBuild({ labels: 'a=b', 'push-with': 'docker' })).toThrow('`labels` needs `push-with: registry`')
  })

  test.each([
    [{ compression: 'zstd' }, 'The input `compression` needs `push-with: registry`'],
    [{ 'compression-level': '9' }, 'The input `compression-level` needs `push-with: registry`'],
  ])('nor can %j', (inputs, message) => {
    expectMessage(() => readBuild({ ...inputs, 'push-with': 'docker' }), [message, /Remove .*`push-with`/])
    expect(readBuild({ compression: 'gzip', 'push-with': 'docker' }).pushWith).toBe('docker')
  })

  test('an empty tag means by digest alone, which Docker can’t', () => {
    expect(readBuild({ tag: '' }).tag).toBe('')
    expect(() => readBuild({ tag: '', 'push-with': 'docker' })).toThrow('Docker can push only with a tag')
  })
})

describe('test', () => {
  test('is a script of any form', () => {
    expect(readBuild({ test: 'one | two\n\nthree "$IMAGE"\n' }).test).toBe('one | two\n\nthree "$IMAGE"')
  })

  test('is refused with Docker, which pushes with a tag', () => {
    const read = () => readBuild({ test: 'true', 'push-with': 'docker' })
    expect(read).toThrow('The input `test` needs `push-with: registry`: Docker can push only with a tag')
    expect(read).toThrow(InputError)
  })

  test('is refused in a merge, which would publish untested images', () => {
    expect(() => readMerge({ test: 'true' })).toThrow('Set `test` on the builds')
  })
})

describe('immutable-tags', () => {
  test('are patterns, one per line', () => {
    expect(readMerge({ 'immutable-tags': 'v*\n\n  1.?.*\n*\n' }).immutableTags).toEqual(['v*', '1.?.*', '*'])
    expect(readMerge().immutableTags).toEqual([])
  })

  test.each(['v*,1.*', 'ghcr.io/owner/app:v*', '!v*', '{sha}', '.v*', 'v[0-9]', `v${'1'.repeat(128)}`])(
    'must be able to match a tag, unlike %s',
    (pattern) => {
      const read = () => readMerge({ 'immutable-tags': pattern })
      expect(read).toThrow(`The input \`immutable-tags\` contains "${pattern}", which matches no tag`)
      expect(read).toThrow('Write one pattern per line')
    },
  )
})
