import * as v from 'valibot'
import { readJson } from '../json.ts'
import { DIGEST, type Digest } from '../oci/reference.ts'
import { goRegExp } from './go-regexp.ts'

/** An image as the JSON of nix2container's `buildImage` describes it. */
export interface Nix2containerImage {
  readonly os: 'linux'
  readonly architecture: string
  /** As Go formats it. Older versions of nix2container write none. */
  readonly created: string | undefined
  /** The fields of the image config's `config`, by their names. */
  readonly config: Nix2containerSettings
  /** Lowest layer first. At least one. */
  readonly layers: readonly Nix2containerLayer[]
}

export interface Nix2containerLayer {
  readonly diffId: Digest
  /** The digest of the bytes that `readNix2containerLayer` should yield. It differs from the diff ID if they are compressed. */
  readonly digest: Digest
  readonly mediaType: string
  /** A file is preferred if there are both. */
  readonly content: Nix2containerContent
  readonly history: v.InferOutput<typeof HISTORY>
}

/** A tar to make from store paths, or a file that has it already, for example a layer of a base image. */
export type Nix2containerContent =
  | { readonly kind: 'store-paths'; readonly paths: readonly Nix2containerPath[] }
  | { readonly kind: 'file'; readonly path: string }

/** A store path, and how the names and permissions of its files change in the image. */
export interface Nix2containerPath {
  readonly path: string
  readonly rewrite: { readonly regex: string; readonly repl: string } | undefined
  /** In their order: of those that match a file, the last one wins. */
  readonly perms: readonly Nix2containerPerm[]
}

export type Nix2containerPerm = v.InferOutput<typeof PERM>

/** A description, or why its image has to be written by nix2container's own program. */
export type ParsedNix2container =
  | { readonly ok: true; readonly value: Nix2containerImage }
  | { readonly ok: false; readonly reason: string }

/**
 * Parses nix2container's JSON. Refuses everything that it does not know: other versions write other images.
 * Source: https://github.com/nlewo/nix2container/blob/master/types/types.go
 * @param store the folder that must have all files of the image: the store as the JSON names it
 */
export function parseNix2containerImage(json: Buffer, store: string): ParsedNix2container {
  const read = readJson(IMAGE, json)
  if (!read.ok) return { ok: false, reason: read.place === undefined ? read.problem : `${read.place}: ${read.problem}` }
  const { arch, created, layers, 'image-config': config } = read.value
  if (!layers.every((layer) => isInStore(layer, store)))
    return { ok: false, reason: `a file of its layers is not in ${store}` }
  const value = {
    os: 'linux',
    architecture: arch,
    created: created ?? undefined,
    config,
    layers: layers.map(layerOf),
  } as const
  return { ok: true, value }
}

/**
 * Returns the image config that nix2container's own program writes, byte for byte.
 * Source: https://github.com/nlewo/nix2container/blob/master/nix/image.go (GetConfigBlob)
 */
export function nix2containerConfig({ os, architecture, created, config, layers }: Nix2containerImage): Buffer {
  const { User, ExposedPorts, Env, Entrypoint, Cmd, Volumes, WorkingDir, Labels, StopSignal, ArgsEscaped } = config
  // The order of the fields is that of Image in https://github.com/opencontainers/image-spec/blob/main/specs-go/v1/config.go
  const image = {
    created,
    architecture,
    os,
    config: withoutEmpty({
      User,
      ExposedPorts: sorted(ExposedPorts),
      Env,
      Entrypoint,
      Cmd,
      Volumes: sorted(Volumes),
      WorkingDir,
      Labels: sorted(Labels),
      StopSignal,
      ArgsEscaped,
    }),
    rootfs: { type: 'layers', diff_ids: layers.map(({ diffId }) => diffId) },
    history: layers.map(({ history }) => {
      const { created, created_by, author, comment, empty_layer } = history
      return withoutEmpty({ created, created_by, author, comment, empty_layer })
    }),
  }
  return Buffer.from(goJson(image))
}

/** The only version so far. */
const VERSION = 1

/** Texts that all versions of Go format alike. Those before 1.22 escape some control characters differently. */
const TEXT = v.pipe(
  v.string(),
  v.check((text) => text.isWellFormed() && !/[\0\b\f]/.test(text), 'has an unusual character'),
)
/** As Go formats a time: UTC is `Z`, and a fraction ends in no zero. */
const TIME = v.pipe(
  v.string(),
  v.regex(
    /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{0,8}[1-9])?(?:Z|(?![+-]00:00)[+-]\d\d:\d\d)$/,
    'is not a time as Go formats it',
  ),
)
const ID = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(0xffffffff))
const REGEX = v.pipe(
  TEXT,
  v.check((source) => goRegExp(source) !== undefined, 'is a regular expression that only Go understands'),
)

/** Not `v.record`, which drops keys such as `constructor`. */
function mapOf<Value>(schema: v.GenericSchema<Value>) {
  return v.pipe(
    v.custom<Readonly<Record<string, Value>>>(
      (value) => isObject(value) && Object.entries(value).every(([key, one]) => v.is(TEXT, key) && v.is(schema, one)),
      'is not an object with such values',
    ),
    v.transform((value): ReadonlyMap<string, Value> => new Map(Object.entries(value))),
  )
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

const SETTINGS = v.strictObject({
  User: v.optional(TEXT),
  ExposedPorts: v.optional(mapOf(v.strictObject({}))),
  Env: v.optional(v.array(TEXT)),
  Entrypoint: v.optional(v.array(TEXT)),
  Cmd: v.optional(v.array(TEXT)),
  Volumes: v.optional(mapOf(v.strictObject({}))),
  WorkingDir: v.optional(TEXT),
  Labels: v.optional(mapOf(TEXT)),
  StopSignal: v.optional(TEXT),
  ArgsEscaped: v.optional(v.boolean()),
})

export type Nix2containerSettings = v.InferOutput<typeof SETTINGS>

const HISTORY = v.strictObject({
  created: v.optional(TIME),
  created_by: v.optional(TEXT),
  author: v.optional(TEXT),
  comment: v.optional(TEXT),
  empty_layer: v.optional(v.boolean()),
})

const PERM = v.strictObject({
  regex: REGEX,
  /** In octal digits. Empty for the file's own. */
  mode: v.pipe(v.string(), v.regex(/^[0-7]{0,7}$/, 'is not a mode')),
  uid: ID,
  gid: ID,
  /** Empty for root. */
  uname: TEXT,
  gname: TEXT,
})

const PATH = v.strictObject({
  path: TEXT,
  options: v.optional(
    v.strictObject({
      rewrite: v.strictObject({
        regex: REGEX,
        repl: v.pipe(
          TEXT,
          v.check((text) => !text.includes('$'), 'refers to groups'),
        ),
      }),
      perms: v.optional(v.pipe(v.array(PERM), v.minLength(1))),
    }),
  ),
})

const TAR = 'application/vnd.oci.image.layer.v1.tar'

const LAYER = v.pipe(
  v.strictObject({
    digest: DIGEST,
    size: v.pipe(v.number(), v.safeInteger(), v.minValue(0)),
    diff_ids: DIGEST,
    paths: v.optional(v.pipe(v.array(PATH), v.minLength(1))),
    mediatype: v.picklist([TAR, `${TAR}+gzip`, `${TAR}+zstd`]),
    'layer-path': v.optional(v.pipe(TEXT, v.minLength(1))),
    // Absent in versions before August 2024, whose layers have other times.
    History: HISTORY,
  }),
  v.check((layer) => layer.paths !== undefined || layer['layer-path'] !== undefined, 'has no content'),
  v.check(({ digest, diff_ids, mediatype }) => mediatype !== TAR || digest === diff_ids, 'has two digests'),
  v.check((layer) => layer.mediatype === TAR || layer['layer-path'] !== undefined, 'is compressed, but has no file'),
)

const IMAGE = v.strictObject({
  version: v.literal(VERSION),
  'image-config': SETTINGS,
  layers: v.pipe(v.array(LAYER), v.minLength(1)),
  arch: v.pipe(TEXT, v.minLength(1)),
  created: v.nullish(TIME),
})

type LayerJson = v.InferOutput<typeof LAYER>

function layerOf({
  digest,
  diff_ids,
  paths = [],
  mediatype,
  'layer-path': file,
  History,
}: LayerJson): Nix2containerLayer {
  return {
    diffId: diff_ids,
    digest,
    mediaType: mediatype,
    content:
      file === undefined
        ? {
            kind: 'store-paths',
            paths: paths.map(({ path, options }) => ({
              path,
              rewrite: options?.rewrite.regex ? options.rewrite : undefined,
              perms: options?.perms ?? [],
            })),
          }
        : { kind: 'file', path: file },
    history: History,
  }
}

/** Store paths must be directly in the store: a folder inside of one may be a link that leads anywhere. */
function isInStore({ paths = [], 'layer-path': file }: LayerJson, store: string): boolean {
  const isBelow = (path: string) => path.startsWith(`${store}/`) && !/\/(?:\.{0,2}\/|\.{0,2}$)/.test(path)
  if (file !== undefined) return isBelow(file)
  return paths.every(({ path }) => isBelow(path) && !path.includes('/', store.length + 1))
}

/** Leaves out the fields that Go's `omitempty` leaves out. Like in Go, the order is that of the fields. */
function withoutEmpty(fields: object): object {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => !isEmpty(value)))
}

function isEmpty(value: unknown): boolean {
  if (value instanceof Map) return value.size === 0
  return Array.isArray(value) ? value.length === 0 : !value
}

/** Sorts the keys by their bytes in UTF-8, like Go. */
function sorted<Value>(map: ReadonlyMap<string, Value> | undefined): ReadonlyMap<string, Value> {
  return new Map([...(map ?? [])].sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b))))
}

/** Formats JSON like Go, which escapes what HTML or JavaScript could misread: https://pkg.go.dev/encoding/json#Marshal */
function goJson(value: unknown): string {
  return formatJson(value).replace(
    /[<>&\u2028\u2029]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}

/** Not just `JSON.stringify`: an object would sort keys such as `80` before all others. */
function formatJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(formatJson).join(',')}]`
  if (!isObject(value)) return JSON.stringify(value)
  const entries = value instanceof Map ? [...value] : Object.entries(value)
  const fields = entries.filter(([, one]) => one !== undefined)
  return `{${fields.map(([key, one]) => `${JSON.stringify(key)}:${formatJson(one)}`).join(',')}}`
}
