import { describe, expect, test } from '@jest/globals'
import {
  compareWithPublished,
  type Difference,
  differentStorePaths,
  serializeDifferences,
} from '../../src/changes/verification.ts'
import { withLabels } from '../../src/push/manifest.ts'

interface Layer {
  readonly content: string
  readonly paths?: readonly string[]
}

interface Config {
  readonly layers?: readonly Layer[]
  readonly created?: string
  readonly config?: object
}

function diffId(content: string): string {
  return `sha256:${Buffer.from(content).toString('hex').padEnd(64, '0')}`
}

function path(name: string): string {
  return `/nix/store/${'0'.repeat(32)}-${name}`
}

const GLIBC = { content: 'glibc', paths: [path('glibc-2.40-36')] }
const BASH = { content: 'bash', paths: [path('bash-5.2')] }
const NEW_GLIBC = { content: 'new glibc', paths: [path('glibc-2.40-66')] }

/** Returns the config of an image like that of dockerTools. */
function configOf({ layers = [GLIBC, BASH], created = '1970-01-01T00:00:01+00:00', config = {} }: Config = {}): Buffer {
  const history = layers.map(({ paths = [] }) => {
    const comment = `store paths: [${paths.map((one) => `'${one}'`).join(', ')}]`
    return { created, ...(paths.length > 0 && { comment }) }
  })
  const rootfs = { diff_ids: layers.map(({ content }) => diffId(content)), type: 'layers' }
  return Buffer.from(
    JSON.stringify({ created, architecture: 'amd64', os: 'linux', config, rootfs, history }, undefined, 4),
  )
}

function compare(published: Config | Buffer, built: Config = {}, added: readonly string[] = []): readonly Difference[] {
  const bytes = Buffer.isBuffer(published) ? published : configOf(published)
  return compareWithPublished(bytes, configOf(built), added).differences
}

function side(number: number, { content, paths }: Layer): object {
  return { number, diffId: diffId(content), ...(paths && { storePaths: paths }) }
}

test('equal configs have no differences', () => {
  expect(compare({})).toEqual([])
})

describe('labels', () => {
  const OWN = { config: { Labels: { title: 'app', version: '1' } } }

  test('that were added at publication are not compared, in any order', () => {
    const published = withLabels(configOf(OWN), { revision: 'abc', created: 'today', version: '2' })
    const added = ['created', 'revision', 'version']
    expect(compareWithPublished(published, configOf(OWN), added)).toEqual({
      differences: [],
      addedLabels: { version: '2', revision: 'abc', created: 'today' },
    })
    expect(compareWithPublished(published, configOf(OWN), ['created', 'revision', 'unknown']).differences).toEqual([
      { part: 'config', field: 'config.Labels.version' },
    ])
  })

  test('of the image itself are compared', () => {
    expect(compare({ config: { Labels: { title: 'other', more: '' } } }, OWN)).toEqual(
      ['more', 'title', 'version'].map((key) => ({ part: 'config', field: `config.Labels.${key}` })),
    )
  })
})

describe('the config', () => {
  test('differs only in `created` if only times differ', () => {
    expect(compare({ created: '2026-01-01T00:00:00Z' })).toEqual([{ part: 'config', field: 'created' }])
  })

  test('differs in the settings that an image adds, removes or changes', () => {
    const published = { config: { Env: ['A=1'], User: 'root', Cmd: ['/a'] } }
    expect(compare(published, { config: { Env: ['A=2'], WorkingDir: '/', Cmd: ['/a'] } })).toEqual(
      ['config.Env', 'config.User', 'config.WorkingDir'].map((field) => ({ part: 'config', field })),
    )
  })

  test('differs in its encoding if another tool has written the same content', () => {
    const parsed: object = JSON.parse(configOf().toString())
    const rewritten = Buffer.from(JSON.stringify(Object.fromEntries(Object.entries(parsed).reverse())))
    expect(compare(rewritten)).toEqual([{ part: 'config', field: 'encoding' }])
  })

  test('differs in its history if that names other store paths for the same layers', () => {
    expect(compare({ layers: [GLIBC, { ...BASH, paths: [path('other')] }] })).toEqual([
      { part: 'config', field: 'history' },
    ])
  })

  test('has names of fields that are safe to print', () => {
    const config = { config: { Labels: { '\n::error::x': '1' } } }
    expect(compare(config)).toEqual([{ part: 'config', field: 'config.Labels. ::error::x' }])
  })
})

describe('layers', () => {
  test('that both images have do not differ if others are inserted below them', () => {
    const differences = compare({ layers: [GLIBC, BASH] }, { layers: [NEW_GLIBC, GLIBC, BASH] })
    expect(differences).toEqual([{ part: 'layer', built: side(1, NEW_GLIBC) }])
    expect(compare({ layers: [GLIBC, NEW_GLIBC, BASH] })).toEqual([{ part: 'layer', published: side(2, NEW_GLIBC) }])
  })

  test('of another version have other store paths', () => {
    const differences = compare({ layers: [GLIBC, BASH] }, { layers: [NEW_GLIBC, BASH] })
    expect(differences).toEqual([{ part: 'layer', published: side(1, GLIBC), built: side(1, NEW_GLIBC) }])
    expect(differentStorePaths(differences)).toEqual({
      onlyPublished: GLIBC.paths,
      onlyBuilt: NEW_GLIBC.paths,
      otherContent: [],
    })
  })

  test('of a build that is not reproducible have the same store paths with other content', () => {
    const again = { content: 'bash again', paths: BASH.paths }
    const differences = compare({ layers: [GLIBC, BASH] }, { layers: [NEW_GLIBC, GLIBC, again] })
    expect(differences).toEqual([
      { part: 'layer', built: side(1, NEW_GLIBC) },
      { part: 'layer', published: side(2, BASH), built: side(3, again) },
    ])
    expect(differentStorePaths(differences)).toEqual({
      onlyPublished: [],
      onlyBuilt: NEW_GLIBC.paths,
      otherContent: BASH.paths,
    })
  })

  test('that combine the same store paths differently do not differ in store paths', () => {
    const both = { content: 'both', paths: [...GLIBC.paths, ...BASH.paths] }
    const differences = compare({ layers: [both] }, { layers: [GLIBC, BASH] })
    expect(differences).toHaveLength(2)
    expect(differentStorePaths(differences)).toEqual({ onlyPublished: [], onlyBuilt: [], otherContent: [] })
  })

  test('in another order differ by their place', () => {
    expect(compare({ layers: [GLIBC, BASH] }, { layers: [BASH, GLIBC] })).toEqual([
      { part: 'layer', published: side(1, GLIBC), built: side(1, BASH) },
      { part: 'layer', published: side(2, BASH), built: side(2, GLIBC) },
    ])
  })

  test('that occur twice in one image differ', () => {
    expect(compare({ layers: [GLIBC, GLIBC] }, { layers: [GLIBC] })).toEqual([
      { part: 'layer', published: side(2, GLIBC) },
    ])
  })

  test('without names of store paths are named by their digests', () => {
    const [one, other] = [{ content: 'one' }, { content: 'other' }]
    expect(compare({ layers: [one] }, { layers: [other] })).toEqual([
      { part: 'layer', published: side(1, one), built: side(1, other) },
    ])
  })
})

describe('the output', () => {
  test('is an empty list without differences', () => {
    expect(serializeDifferences([])).toBe('[]')
  })

  test('fits into a variable, and is never empty for images that differ', () => {
    const many = Array.from({ length: 900 }, (_, at) => ({
      content: `${at}`,
      paths: [path(`${'p'.repeat(180)}-${at}`)],
    }))
    const one = { content: 'one', paths: many.flatMap(({ paths }) => paths) }
    for (const layers of [many, [one]]) {
      const json = serializeDifferences(compare({ layers }))
      expect(json.length).toBeLessThanOrEqual(100_000)
      expect(JSON.parse(json).length).toBeGreaterThan(0)
    }
  })

  test('marks store paths and differences that are left out', () => {
    const paths = Array.from({ length: 2000 }, (_, at) => path(`${'p'.repeat(180)}-${at}`))
    const [layer] = JSON.parse(serializeDifferences(compare({ layers: [{ content: 'one', paths }] })))
    const { storePaths, truncated } = layer.published ?? layer.built
    expect({ complete: storePaths.length === paths.length, truncated }).toEqual({ complete: false, truncated: true })
    const many = Array.from({ length: 5000 }, (_, at) => ({ part: 'config', field: `config.Labels.${at}` }) as const)
    const listed = JSON.parse(serializeDifferences(many))
    expect(listed.at(-1)).toEqual({ part: 'truncated', omitted: 5000 - (listed.length - 1) })
    expect(listed.length).toBeGreaterThan(1000)
    const few = serializeDifferences(compare({ layers: [{ content: 'one', paths: paths.slice(0, 100) }] }))
    expect(few).not.toContain('truncated')
  })
})
