import { execFileSync } from 'node:child_process'
import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import {
  type BaseImage,
  layeredConfig,
  parseBaseImage,
  RECIPE_VERSION,
  recipeDigest,
  storePathsInHistory,
} from '../../src/image/layered-config.ts'
import {
  descriptionInWrapper,
  type LayeredDescription,
  parseLayeredDescription,
} from '../../src/image/layered-description.ts'
import { digestOf } from '../../src/oci/reference.ts'

const HASH = '0c5b8vw40dy178xlpddw65q9gf1h2186'
const BASH = `/nix/store/${HASH}-bash-5.2p37`
const HELLO = '/nix/store/1q8w6gl1ll0mwfkqc3c2yx005s6wwfrl-hello-2.12.1'
const LAYER = `/nix/store/${HASH}-app-customisation-layer`

/** A description as nixpkgs has written it since 2024. */
const CURRENT = {
  architecture: 'amd64',
  config: { Cmd: ['/bin/hello'], Env: ['PATH=/bin'] } as object,
  os: 'linux',
  store_dir: '/nix/store',
  from_image: null as string | null,
  store_layers: [[BASH], [HELLO]],
  customisation_layer: LAYER,
  repo_tag: 'app:latest',
  created: '1970-01-01T00:00:01+00:00',
  mtime: '1970-01-01T00:00:01+00:00',
  uid: '0',
  gid: '0',
  uname: 'root',
  gname: 'root',
}

/** A description as older versions of nixpkgs write it. */
function older(): object {
  const { mtime, uid, gid, uname, gname, ...rest } = CURRENT
  return rest
}

function parse(description: object): LayeredDescription {
  const parsed = parseLayeredDescription(Buffer.from(JSON.stringify(description)))
  if (!parsed.ok) throw new Error(parsed.reason)
  return parsed.value
}

/** Returns the reason as the log line has it. */
function refusal(json: object | string | Buffer): string {
  const bytes = Buffer.isBuffer(json) ? json : Buffer.from(typeof json === 'string' ? json : JSON.stringify(json))
  const parsed = parseLayeredDescription(bytes)
  return parsed.ok ? 'accepted' : `because ${parsed.reason}`
}

/** Inserts JSON text as the value of the config's member `x`. */
function withConfigText(text: string): string {
  return JSON.stringify({ ...CURRENT, config: { x: 'HERE' } }).replace('"HERE"', text)
}

/** Runs Python on many cases at once: an expression for each `case` of a JSON list. */
function python(expression: string, cases: readonly unknown[], setup = ''): readonly string[] {
  const code = `
import json, sys
from datetime import datetime
${setup}
json.dump([${expression} for case in json.load(sys.stdin)], sys.stdout)
`
  return JSON.parse(
    execFileSync('python3', ['-c', code], { input: JSON.stringify(cases), maxBuffer: 2 ** 28, encoding: 'utf8' }),
  )
}

/** Builds a config in Python from its fields: a list of the description's text, layers, and a base or null. */
const CONFIG_IN_PYTHON = `
def merged(base, own):
    result = {}
    for entry in base + own:
        name = entry.partition('=')[0]
        result[name] = entry
    return [result[name] for name in result]

def config(text, layers, base):
    description = json.loads(text)
    at = datetime.fromisoformat(description['created']).isoformat()
    settings = description['config']
    if base:
        env = merged(base['env'], settings.get('Env', []))
        if len(env) > 0:
            settings['Env'] = env
        layers = base['layers'] + layers
    history = []
    for layer in layers:
        history.append({'created': at, 'comment': 'store paths: ' + repr(layer['paths'])})
    document = {'created': at, 'architecture': description['architecture'], 'os': 'linux', 'config': settings}
    document['rootfs'] = {'diff_ids': [layer['diffId'] for layer in layers], 'type': 'layers'}
    document['history'] = history
    return json.dumps(document, indent=4)
`

const LAYERS = [[BASH], [HELLO], [LAYER]].map((paths, at) => ({ diffId: digestOf(Buffer.from(`${at}`)), paths }))

/** Compares the configs of many descriptions with those that Python writes. */
function expectPythonsConfigs(cases: readonly { readonly description: object; readonly base?: BaseImage }[]): void {
  const texts = cases.map(({ description }) => JSON.stringify(description))
  const input = cases.map(({ base }, at) => [texts[at], LAYERS, base ?? null])
  const expected = python('config(*case)', input, CONFIG_IN_PYTHON)
  const actual = cases.map(({ base }, at) => {
    const parsed = parseLayeredDescription(Buffer.from(texts[at] ?? ''))
    return parsed.ok ? layeredConfig(parsed.value, LAYERS, base).toString('latin1') : parsed.reason
  })
  expect(actual).toEqual(expected)
}

function withConfig(config: object): { readonly description: object } {
  return { description: { ...CURRENT, config } }
}

describe('the config of an image is the one that Python writes for', () => {
  test('each kind of value', () => {
    expectPythonsConfigs(
      [
        {},
        { Env: [] },
        { a: {}, b: [], c: [[]], d: [{}], e: null, f: true, g: false },
        { Healthcheck: { Interval: 30_000_000_000, Retries: -3, StartPeriod: Number.MAX_SAFE_INTEGER, Test: [0] } },
        { text: 'ä ß € 日本語 😀 \u{10ffff} \u2028 \ufeff \uffff' },
        { text: String.fromCharCode(...Array.from({ length: 256 }, (_, code) => code)) },
        { 'schlüssel "😀"\n': 'value', '': '', '1a': 1, '01': 2, '-1': 3, toJSON: 'text', constructor: [] },
        { ExposedPorts: { '8080/tcp': {} }, Labels: { z: '1', a: '2' }, WorkingDir: '/', Volumes: {} },
        { Env: ['A=1', 'A=2'] },
      ].map(withConfig),
    )
  })

  test('keys with a meaning in JavaScript', () => {
    const text = withConfigText('{"__proto__": {"a": 1}, "b": 2, "b": {"__proto__": null}, "a": -0}')
    const [expected] = python('config(*case)', [[text, LAYERS, null]], CONFIG_IN_PYTHON)
    const parsed = parseLayeredDescription(Buffer.from(text))
    expect(parsed.ok && layeredConfig(parsed.value, LAYERS).toString()).toBe(expected)
  })

  test('any document', () => {
    const text = fc.string({ unit: 'binary', maxLength: 12 })
    const key = text.filter((one) => !/^\d+$/.test(one))
    const { value } = fc.letrec<{ value: unknown }>((tie) => ({
      value: fc.oneof(
        { depthSize: 'small', withCrossShrink: true },
        fc.oneof(text, fc.maxSafeInteger(), fc.boolean(), fc.constant(null)),
        fc.array(tie('value'), { maxLength: 4 }),
        fc.dictionary(key, tie('value'), { maxKeys: 4, noNullPrototype: true }),
      ),
    }))
    const config = fc.dictionary(key, value, { maxKeys: 6, noNullPrototype: true })
    // One start of Python for all documents of a run.
    const documents = fc.array(config, { minLength: 150, maxLength: 150 })
    fc.assert(
      fc.property(documents, (configs) => expectPythonsConfigs(configs.map(withConfig))),
      { numRuns: 4, endOnFailure: true },
    )
  })

  test('any date, and the time of the files is the same', () => {
    const cases = [
      '1970-01-01T00:00:00+00:00',
      '2024-02-29T23:59:59+05:30',
      '2242-03-16T12:56:31+00:00',
      '1970-01-01T00:00:00-12:00',
      '2000-12-31T12:00:00-00:01',
      '2026-06-30T00:00:00+23:59',
    ]
    expectPythonsConfigs(cases.map((created) => ({ description: { ...CURRENT, created, mtime: created } })))
    const seconds = python('int(datetime.fromisoformat(case).timestamp())', cases)
    expect(cases.map((mtime) => parse({ ...CURRENT, mtime }).mtime)).toEqual(seconds)
  })

  test('dates before the first file', () => {
    expectPythonsConfigs(
      ['0001-01-01T00:00:00+00:00', '1969-12-31T23:59:59+01:00', '9999-12-31T23:59:59+00:00'].map((created) => ({
        description: { ...CURRENT, created },
      })),
    )
  })

  test('a base image: its layers come first, and its variables are merged', () => {
    const layers = ['a/layer.tar', './b.tar', `it's "quoted" \\.tar`, "it's.tar", 'say "hi".tar'].map((path) => ({
      diffId: digestOf(Buffer.from(path)),
      paths: [path],
    }))
    const envs: readonly (readonly [readonly string[], readonly string[] | undefined])[] = [
      [[], undefined],
      [[], []],
      [['A=1'], undefined],
      [
        ['A=1', 'B=1'],
        ['C=1', 'A=2', 'D'],
      ],
      [
        ['A=1', 'A=2'],
        ['B=x=y', 'B=z', 'A'],
      ],
      [[], ['=', '', 'ü=ö', '__proto__=1', '1=2', '0=1']],
    ]
    expectPythonsConfigs(
      envs.flatMap(([env, own]) => {
        const description = { ...CURRENT, from_image: `${BASH}/image.tar`, config: { Cmd: [], Env: own, User: 'app' } }
        const last = { ...description, config: { User: 'app', Env: own } }
        return [
          { description, base: { env, layers } },
          { description: last, base: { env, layers: [] } },
        ]
      }),
    )
  })
})

describe('a description is read', () => {
  test('with all that a layer depends on', () => {
    const owner = { uid: '1000', gid: '4294967295', uname: 'üser', gname: '' }
    expect(parse({ ...CURRENT, ...owner, mtime: '2020-01-01T00:00:00+00:00', from_image: HELLO })).toEqual({
      architecture: 'amd64',
      config: CURRENT.config,
      created: '1970-01-01T00:00:01+00:00',
      mtime: 1_577_836_800,
      uid: 1000,
      gid: 4_294_967_295,
      uname: 'üser',
      gname: '',
      storeDir: '/nix/store',
      storeFolderMode: 0o755,
      repoTag: 'app:latest',
      fromImage: HELLO,
      storeLayers: [[BASH], [HELLO]],
      customisationLayer: LAYER,
    })
  })

  test('of an older version of nixpkgs, which had no owner and no time for files', () => {
    expect(parse({ ...older(), created: '2020-01-01T00:00:00+00:00' })).toMatchObject({
      created: '2020-01-01T00:00:00+00:00',
      mtime: 1_577_836_800,
      uid: 0,
      gid: 0,
      uname: 'root',
      gname: 'root',
      storeFolderMode: 0o555,
      fromImage: undefined,
    })
  })

  test('of a store in another folder', () => {
    const move = (path: string): string => path.replace('/nix/store', '/home/me/.nix')
    const moved = { store_dir: '/home/me/.nix', store_layers: [[move(BASH)], []], customisation_layer: move(LAYER) }
    expect(parse({ ...CURRENT, ...moved })).toMatchObject({
      storeDir: '/home/me/.nix',
      storeLayers: [[move(BASH)], []],
    })
  })
})

describe('a description is refused, and the log says why', () => {
  test.each<[string, object | string | Buffer]>([
    ['because its description is not JSON', 'no'],
    ['because its description is not JSON', withConfigText('NaN')],
    ['because its description is not JSON', Buffer.concat([Buffer.from([0xef, 0xbb, 0xbf]), Buffer.from('{}')])],
    ['because its description is not an object', '[]'],
    ['because its description is nested more than 100 levels deep', '['.repeat(101)],
    ['because its description has the unknown key `foo`', { ...CURRENT, foo: 1 }],
    ['because its description has the unknown key `base_layers`', { ...older(), base_layers: LAYER }],
    ['because its description has the unknown key `: :error::x`', { ...CURRENT, '\u001b[1m\n::error::x': 1 }],
    ['because its description has no key `architecture`', {}],
    ['because its description has no key `store_dir`', { ...CURRENT, store_dir: undefined }],
    ['because its description has no key `mtime`', { ...CURRENT, mtime: undefined }],
    ['because its description has no key `uid`', { ...CURRENT, uid: undefined }],
    ['because `architecture` in its description is not a string', { ...CURRENT, architecture: null }],
    ['because `architecture` in its description is empty', { ...CURRENT, architecture: '' }],
    ['because `os` in its description is not `linux`', { ...CURRENT, os: 'windows' }],
    ['because `config` in its description is not an object', { ...CURRENT, config: null }],
    ['because `config` in its description is not an object', { ...CURRENT, config: [] }],
    ['because `repo_tag` in its description is not a string', { ...CURRENT, repo_tag: 1 }],
    ['because `uid` in its description is not a user or group ID', { ...CURRENT, uid: '1_000' }],
    ['because `uid` in its description is not a user or group ID', { ...CURRENT, uid: -1 }],
    ['because `gid` in its description is not a user or group ID', { ...CURRENT, gid: '4294967296' }],
    ['because `gid` in its description is not a user or group ID', { ...CURRENT, gid: null }],
    ['because `uname` in its description has a control character', { ...CURRENT, uname: 'a\0' }],
    ['because `gname` in its description is not a string', { ...CURRENT, gname: 0 }],
  ])('%s', (reason, description) => {
    expect(refusal(description)).toBe(reason)
  })

  test.each([
    ['created', 'now', 'is `now`, which makes each image different'],
    ['mtime', 'now', 'is `now`, which makes each image different'],
    ['mtime', '1969-12-31T23:59:59+00:00', 'is not between the years 1970 and 2242'],
    ['mtime', '2242-03-16T12:56:32+00:00', 'is not between the years 1970 and 2242'],
    ...[
      '',
      '1970-01-01',
      '1970-01-01T00:00:01',
      '1970-01-01T00:00:01Z',
      '1970-01-01 00:00:01+00:00',
      '1970-01-01T00:00:01.5+00:00',
      '1970-01-01T00:00:01+0000',
      '1970-01-01T00:00:01-00:00',
      '1970-01-01T00:00:01+24:00',
      '1970-01-01T00:00:01+00:60',
      '1970-01-01T24:00:00+00:00',
      '1970-01-01T00:00:60+00:00',
      '2023-02-29T00:00:00+00:00',
      '2023-13-01T00:00:00+00:00',
      '0000-01-01T00:00:00+00:00',
      '+010000-01-01T00:00:00+00:00',
    ].map((date) => ['created', date, 'is not a date like 1970-01-01T00:00:01+00:00']),
  ])('because of %s: %s', (key, date, problem) => {
    expect(refusal({ ...CURRENT, [key]: date })).toBe(`because \`${key}\` in its description ${problem}`)
  })

  test('because the files of an old version would be from before 1970', () => {
    expect(refusal({ ...older(), created: '1969-01-01T00:00:00+00:00' })).toBe(
      'because `created` in its description is not between the years 1970 and 2242',
    )
  })

  test.each([
    ['1.5', '1.5'],
    ['1.0', '1.0'],
    ['[1e3]', '1e3'],
    ['{"a": 9007199254740992}', '9007199254740992'],
    ['"\\"", "y": -1E-7', '-1E-7'],
    [`1${'0'.repeat(400)}`, `1${'0'.repeat(29)}`],
  ])('because of a number that JavaScript writes in another way: %s', (text, number) => {
    expect(refusal(withConfigText(text))).toBe(
      `because its description has the number ${number}, which is not an integer that JavaScript represents exactly`,
    )
  })

  test.each(['0', '17', '4294967296'])('because of a key that JavaScript moves to the front: %s', (key) => {
    expect(refusal(withConfigText(`[{"b": 1, "${key}": 2}]`))).toBe(
      `because its description has the number \`${key}\` as a key`,
    )
  })

  test.each(['"\\ud800"', '{"\\udc00": 1}', '["a\\ude00\\ud83d"]'])(
    'because of text that is not Unicode: %s',
    (text) => {
      expect(refusal(withConfigText(text))).toBe('because its description has a text with half a surrogate pair')
    },
  )

  test.each<[string, object]>([
    ['`store_layers` in its description is not a list', { store_layers: {} }],
    ['`store_layers.0` in its description is not a list', { store_layers: [BASH] }],
    ['`store_layers.1.1` in its description is not a store path', { store_layers: [[], [BASH, `${BASH}/bin`]] }],
    ['`store_layers.0.0` in its description is not a store path', { store_layers: [[`/nix/store/${HASH}-it's`]] }],
    ['`store_layers.0.0` in its description is not a store path', { store_layers: [['/nix/store']] }],
    ['`customisation_layer` in its description is not a store path', { customisation_layer: '/etc' }],
    ['`customisation_layer` in its description is not a string', { customisation_layer: null }],
    [
      `its description has the path /gnu/store/${HASH}-a, which is not directly in /nix/store`,
      { store_layers: [[`/gnu/store/${HASH}-a`]] },
    ],
    [
      `its description has the path /nix/store/a/${HASH}-a, which is not directly in /nix/store`,
      { customisation_layer: `/nix/store/a/${HASH}-a` },
    ],
    ['`store_dir` in its description is not an absolute path', { store_dir: 'nix/store' }],
    ['`store_dir` in its description is not an absolute path', { store_dir: '/nix/./store' }],
    ['`store_dir` in its description is not an absolute path', { store_dir: '/' }],
    ['`from_image` in its description is not a string', { from_image: 1 }],
    ['`from_image` in its description is not in the Nix store', { from_image: '/home/me/image.tar' }],
    ['`from_image` in its description is not in the Nix store', { from_image: `${BASH}/../../../etc/image.tar` }],
    ['`from_image` in its description is not in the Nix store', { from_image: '/nix/store/image.tar' }],
    ['`config.Env` in its description is not a list of strings', { from_image: BASH, config: { Env: null } }],
    ['`config.Env` in its description is not a list of strings', { from_image: BASH, config: { Env: [1] } }],
  ])('because %s', (reason, fields) => {
    expect(refusal({ ...CURRENT, ...fields })).toBe(`because ${reason}`)
  })

  test('any damaged description is refused or read, without an error', () => {
    const bytes = Buffer.from(JSON.stringify(CURRENT))
    fc.assert(
      fc.property(fc.nat(bytes.length - 1), fc.nat(255), (at, byte) => {
        const damaged = Buffer.from(bytes)
        damaged[at] = byte
        expect(typeof parseLayeredDescription(damaged).ok).toBe('boolean')
      }),
      { numRuns: 2000 },
    )
  })
})

describe('the documents of a base image', () => {
  const diffId = digestOf(Buffer.from('a'))
  const manifest = [{ Config: 'c.json', RepoTags: null, Layers: ['a/layer.tar'] }]
  const config = { config: { Env: ['A=1'], Cmd: ['x'] }, rootfs: { type: 'layers', diff_ids: [diffId] } }

  function base(one: unknown, other: unknown) {
    return parseBaseImage(Buffer.from(JSON.stringify(one)), Buffer.from(JSON.stringify(other)))
  }

  test('give its layers and variables', () => {
    const layers = [{ diffId, paths: ['a/layer.tar'] }]
    expect(base(manifest, config)).toEqual({ ok: true, value: { layers, env: ['A=1'] } })
    expect(base(manifest, { ...config, config: {} })).toEqual({ ok: true, value: { layers, env: [] } })
  })

  test.each<[string, unknown, unknown]>([
    ['the `manifest.json` of its base image is not a list', {}, config],
    ['the `manifest.json` of its base image does not have exactly one image', [], config],
    ['the `manifest.json` of its base image does not have exactly one image', [...manifest, ...manifest], config],
    ['`0.Layers` in the `manifest.json` of its base image is not a list', [{ Layers: null }], config],
    ...['', 'a/', 'ä.tar', 'a\n', 'a\u007f'].map((name): [string, unknown, unknown] => [
      '`0.Layers.0` in the `manifest.json` of its base image is not a file name of printable ASCII characters',
      [{ Layers: [name] }],
      config,
    ]),
    ['the config of its base image is not an object', manifest, null],
    ['`config` in the config of its base image is not an object', manifest, { ...config, config: null }],
    ['`config.Env` in the config of its base image is not a list', manifest, { ...config, config: { Env: null } }],
    ['`config.Env.0` in the config of its base image is not a string', manifest, { ...config, config: { Env: [1] } }],
    [
      '`rootfs.diff_ids.0` in the config of its base image is not a sha256 digest',
      manifest,
      { ...config, rootfs: { diff_ids: ['md5:0'] } },
    ],
    ['its base image has 1 layers and 0 diff IDs', manifest, { ...config, rootfs: { diff_ids: [] } }],
  ])('are refused: %s', (reason, one, other) => {
    expect(base(one, other)).toEqual({ ok: false, reason })
  })
})

describe('a wrapper of streamLayeredImage', () => {
  const stream = `/nix/store/${HASH}-stream`
  const conf = `/nix/store/${HASH}-app-conf.json`

  test.each([
    ['of nixpkgs today', `#! ${BASH}/bin/bash -e\nexec "${stream}"  ${conf} "$@" \n`],
    [
      'with an empty array of flags',
      `#! ${BASH}/bin/bash -e\nexec "${stream}"  ${conf} "\${extraFlagsArray[@]}" "$@" \n`,
    ],
    ['with argv0', `#! ${BASH}/bin/bash -e\nexec -a "$0" "${stream}"  ${conf}  "$@" \n`],
    ['without -e', `#!/bin/sh\nexec "${stream}" ${conf} "$@"`],
  ])('names the description: %s', (_, script) => {
    expect(descriptionInWrapper(script)).toBe(conf)
  })

  test.each([
    ['a program', '\u007fELF'],
    ['an empty file', ''],
    ['another interpreter', `#! ${BASH}/bin/python3\nexec "${stream}"  ${conf} "$@"\n`],
    ['another command', `#! ${BASH}/bin/bash -e\nexport A=1\nexec "${stream}"  ${conf} "$@"\n`],
    ['a command after it', `#! ${BASH}/bin/bash -e\nexec "${stream}"  ${conf} "$@"\nexit 1\n`],
    ['another flag', `#! ${BASH}/bin/bash -e\nexec "${stream}"  ${conf} --repo_tag a:b "$@"\n`],
    ['no flag', `#! ${BASH}/bin/bash -e\nexec "${stream}" "$@"\n`],
    ['no arguments', `#! ${BASH}/bin/bash -e\nexec "${stream}" ${conf}\n`],
    ['a description outside of the store', `#! ${BASH}/bin/bash -e\nexec "${stream}"  /tmp/conf.json "$@"\n`],
    ['a description below a store path', `#! ${BASH}/bin/bash -e\nexec "${stream}"  ${BASH}/conf.json "$@"\n`],
    ['a program outside of the store', `#! ${BASH}/bin/bash -e\nexec "/bin/stream"  ${conf} "$@"\n`],
    ['a file that is not JSON', `#! ${BASH}/bin/bash -e\nexec "${stream}"  ${BASH} "$@"\n`],
  ])('does not name it: %s', (_, script) => {
    expect(descriptionInWrapper(script)).toBeUndefined()
  })
})

describe('the digest of a recipe', () => {
  const recipe = { ...parse(CURRENT), paths: [BASH, HELLO] }

  test('is the same in every version with the same bytes', () => {
    expect(RECIPE_VERSION).toBe(1)
    expect(recipeDigest(recipe)).toBe('sha256:eb61d9307a1e73a87e1df698fb3b68cc6fe18551ccb9806f769d6f075a6ceaad')
  })

  test('differs with everything that a layer depends on', () => {
    const recipes = [
      recipe,
      { ...recipe, paths: [HELLO, BASH] },
      { ...recipe, paths: [BASH] },
      { ...recipe, paths: [] },
      { ...recipe, paths: [`${BASH},${HELLO}`] },
      { ...recipe, mtime: 2 },
      { ...recipe, uid: 1 },
      { ...recipe, gid: 1 },
      { ...recipe, uname: 'user' },
      { ...recipe, gname: 'user' },
      { ...recipe, uname: 'root","root', gname: '' },
      { ...recipe, storeDir: '/gnu/store' },
      { ...recipe, storeFolderMode: 0o555 as const },
    ]
    expect(new Set(recipes.map(recipeDigest)).size).toBe(recipes.length)
  })

  test('does not depend on the rest of the image', () => {
    const other = { ...parse({ ...CURRENT, config: {}, architecture: 'arm64', repo_tag: 'b:c' }), paths: recipe.paths }
    expect(recipeDigest(other)).toBe(recipeDigest(recipe))
  })
})

describe('the history of an image', () => {
  test('gives the store paths of each layer of its config', () => {
    const lists = [[BASH], [HELLO, BASH], [], [LAYER]]
    const layers = lists.map((paths) => ({ diffId: digestOf(Buffer.from('a')), paths }))
    const { history } = JSON.parse(layeredConfig(parse(CURRENT), layers).toString())
    expect(history.map(({ comment }: { comment: string }) => storePathsInHistory(comment))).toEqual(lists)
  })

  test.each([
    '',
    'COPY . .',
    BASH,
    `['${BASH}']`,
    `store paths: '${BASH}'`,
    `store paths: ["${BASH}"]`,
    `store paths: [${BASH}]`,
    `store paths: ['${BASH}'] `,
    `store paths: ['${BASH}',]`,
    `store paths: ['${BASH}','${HELLO}']`,
    `store paths: ['${BASH}/bin']`,
    `store paths: ['${BASH}\n']`,
    `store paths: ['${BASH}', 'a/layer.tar']`,
    "store paths: ['a/layer.tar']",
    "store paths: ['']",
  ])('gives no store paths in another form: %j', (comment) => {
    expect(storePathsInHistory(comment)).toBeUndefined()
  })
})
