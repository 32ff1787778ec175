import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import * as v from 'valibot'
import { readErrorAnswer } from '../../../src/http/http-error.ts'
import { readJson } from '../../../src/json.ts'
import { parseConfig, parseManifest } from '../../../src/oci/manifest.ts'
import { isDigest } from '../../../src/oci/reference.ts'
import { parseRecord, serializeRecord } from '../../../src/record/record.ts'
import { credentialsFrom } from '../../../src/registry/credentials.ts'
import { makeArchive } from '../../support/image.ts'
import { indexOf, makeLayout } from '../../support/layout.ts'
import { makeRecord } from '../../support/record.ts'
import { type Json, mutateBytes, mutateJson, mutateText } from '../mutate.ts'
import type { Random } from '../random.ts'
import { check, defineTarget, outcomeOf } from '../target.ts'
import { MEDIA_TYPES } from './layouts.ts'

/** Rarely allows large documents, because the time is proportional to the size. */
const limitsOf = (random: Random) => ({ most: random.oneIn(100) ? 2_000_000 : 10_000 })

/** Digest records, which must not change when they are serialized and read again. */
export const records = defineTarget(
  'record',
  (random) => mutateJson(random, RECORD, RECORD_WORDS, limitsOf(random)),
  (text) => {
    const printed = serializeRecord(parseRecord(text, 'a file'))
    check(!printed.includes('\n'), 'A record has more than one line', printed)
    check(
      serializeRecord(parseRecord(printed, 'a file')) === printed,
      'A record changes when it is read again',
      printed,
    )
  },
)

const RECORD: Json = JSON.parse(
  JSON.stringify(
    makeRecord({
      labels: ['org.opencontainers.image.title'],
      compression: 'zstd',
      job: { id: 'build', total: 2, index: 0 },
    }),
  ),
)
const RECORD_WORDS = ['x86_64-linux', 'x86_64-darwin', 'armv7l-linux', 'v7', 'v8', 'gzip', 'schema', 'variant', 'app:1']

/** Manifests, indexes and configs from a registry. */
export const documents = defineTarget(
  'document',
  (random) => {
    const text = mutateJson(
      random,
      random.pick(DOCUMENTS),
      [...MEDIA_TYPES, 'mediaType', 'annotations'],
      limitsOf(random),
    )
    const bytes = Buffer.from(text)
    const type = random.pick(MEDIA_TYPES)
    return {
      bytes: random.oneIn(8) ? mutateBytes(random, bytes) : bytes,
      mediaType: random.oneIn(4) ? mutateText(random, type, MEDIA_TYPES) : type,
    }
  },
  async ({ bytes, mediaType }) => {
    readJson(v.unknown(), bytes)
    const manifest = await outcomeOf(() => parseManifest(bytes, mediaType, 'a manifest'))
    if ('result' in manifest) {
      const { result } = manifest
      const listed = result.kind === 'index' ? result.manifests : [result.config, ...result.layers]
      check(
        listed.every(({ digest, size }) => isDigest(digest) && size >= 0),
        'A descriptor is not one',
        listed,
      )
    }
    const { diffIds, os, architecture } = parseConfig(bytes, 'a config')
    check(diffIds.every(isDigest), 'A diff ID is not a digest', diffIds)
    check(/^[\w.-]*$/.test(os + architecture), 'A platform has invalid characters', os, architecture)
  },
)

const DOCUMENTS: readonly Json[] = [
  ...[makeLayout().manifest, indexOf([makeLayout().entry]), makeArchive().config].map(
    (bytes): Json => JSON.parse(bytes.toString()),
  ),
]

/** The client reads at most 64 KiB of an error and 1 MiB of the answer to a token request. */
const answerLimits = (random: Random) => ({ most: random.oneIn(20) ? 1024 * 1024 : 10_000 })

/** Error answers of registries and proxies. */
export const errorAnswers = defineTarget(
  'error-answer',
  (random) =>
    random.oneIn(3)
      ? mutateText(random, HTML, ['<style>', '</style>', '<script', '</script>', '<', '>'], answerLimits(random))
      : mutateJson(
          random,
          random.pick(ANSWERS),
          ['errors', 'code', 'message', 'detail', 'error'],
          answerLimits(random),
        ),
  (body) => {
    const { detail } = readErrorAnswer(body)
    check(detail.split('\n').length <= 5, 'The detail has too many lines', detail)
    check(detail.length <= 5 * 502, 'The detail is too long', detail)
    check(!/[^\P{Cc}\n]|^::|##\[/mu.test(detail), 'The detail has a control character or a command', detail)
  },
)

const HTML = '<html><style>p { color: red }</style><body><p>502 Bad Gateway</p></body></html>'
const ANSWERS: readonly Json[] = [
  { errors: [{ code: 'DENIED', message: 'requested access is denied', detail: { name: 'owner/app' } }] },
  { error: 'invalid_grant', error_description: 'no such user' },
  { details: 'unauthorized' },
  { message: 'not found' },
]

const SECRET = 'hunter2-hunter2'

/** Docker's config.json, whose secrets must not appear in errors. */
export const credentials = defineTarget(
  'credentials',
  (random) => ({
    text: mutateJson(random, CONFIG, ['auths', 'auth', 'credHelpers', 'credsStore', 'ghcr.io'], limitsOf(random)),
    host: random.pick(['ghcr.io', 'docker.io', 'localhost', 'localhost:5000']),
  }),
  async ({ text, host }, folder) => {
    const docker = join(folder, 'config.json')
    await writeFile(docker, text)
    const masked: string[] = []
    const look = credentialsFrom({ docker, podman: [] }, (secret) => masked.push(secret))
    const found = await outcomeOf(() => look({ host, path: 'owner/app' }))
    await rm(docker)
    if ('failure' in found) check(!found.failure.includes(SECRET), 'An error contains a secret', found.failure)
    else if (found.result !== undefined)
      check(
        masked.includes(found.result.kind === 'password' ? found.result.password : found.result.token),
        'A secret is not masked',
        found.result,
      )
  },
)

const CONFIG: Json = {
  auths: {
    'ghcr.io': { auth: Buffer.from(`user:${SECRET}`).toString('base64') },
    'https://index.docker.io/v1/': { username: 'user', password: SECRET },
    'localhost:5000': { identitytoken: SECRET },
  },
  credHelpers: { 'registry.example': 'there-is-no-such-helper' },
}
