import { expect } from '@jest/globals'
import { digestOf } from '../digest.ts'
import { mediaTypes } from './manifests.ts'

export interface Answer {
  readonly status: number
  readonly headers: Headers
  readonly body: Buffer
  /** The code of the errors in the body, if it contains any. */
  readonly codes: readonly string[]
  readonly details: readonly unknown[]
}

export interface Login {
  readonly user: string
  readonly password: string
}

interface RequestParts {
  readonly headers?: Readonly<Record<string, string>> | Headers
  readonly body?: Uint8Array<ArrayBuffer>
}

export interface Pushed {
  readonly bytes: Buffer
  readonly digest: string
  readonly mediaType: string
}

export interface Client {
  /** A path of the registry, or a URL that it returned. */
  readonly request: (method: string, target: string, parts?: RequestParts) => Promise<Answer>
  readonly startUpload: (repository: string) => Promise<string>
  readonly finishUpload: (location: string, bytes: Buffer, digest?: string) => Promise<Answer>
  /** Uploads a blob; returns its digest. */
  readonly push: (repository: string, bytes: Buffer) => Promise<string>
  readonly putManifest: (repository: string, reference: string, bytes: Buffer, mediaType: string) => Promise<Answer>
  /** Pushes an image of one layer, by digest if there is no tag. */
  readonly pushImage: (repository: string, mediaType: string, tag?: string) => Promise<Pushed>
}

/** Speaks the protocol in plain requests, independently of the client under test. */
export function createClient(origin: () => string, always: Readonly<Record<string, string>> = {}): Client {
  const request: Client['request'] = async (method, target, { headers, body } = {}) => {
    const init = { method, headers: { ...always, ...Object.fromEntries(new Headers(headers)) }, body: body ?? null }
    return await answerOf(await fetch(new URL(target, origin()), { ...init, redirect: 'manual' }))
  }
  const startUpload: Client['startUpload'] = async (repository) =>
    locationOf(await request('POST', `/v2/${repository}/blobs/uploads/`))
  const finishUpload: Client['finishUpload'] = async (location, bytes, digest = digestOf(bytes)) =>
    await request('PUT', `${location}&digest=${digest}`, octets(bytes))
  const push: Client['push'] = async (repository, bytes) => {
    expect(await finishUpload(await startUpload(repository), bytes)).toMatchObject({ status: 201 })
    return digestOf(bytes)
  }
  const putManifest: Client['putManifest'] = async (repository, reference, bytes, mediaType) => {
    const headers = { 'content-type': mediaType }
    return await request('PUT', `/v2/${repository}/manifests/${reference}`, { headers, body: new Uint8Array(bytes) })
  }
  const pushImage: Client['pushImage'] = async (repository, mediaType, tag) => {
    await push(repository, config)
    await push(repository, layer)
    const bytes = manifest(mediaType)
    const digest = digestOf(bytes)
    expect(await putManifest(repository, tag ?? digest, bytes, mediaType)).toMatchObject({ status: 201 })
    return { bytes, digest, mediaType }
  }
  return { request, startUpload, finishUpload, push, putManifest, pushImage }
}

async function answerOf(response: Response): Promise<Answer> {
  const body = Buffer.from(await response.arrayBuffer())
  const isJson = response.headers.get('content-type')?.startsWith('application/json') && body.length > 0
  const { errors = [] }: Errors = isJson ? JSON.parse(body.toString()) : {}
  const codes = errors.map(({ code }) => code)
  return {
    status: response.status,
    headers: response.headers,
    body,
    codes,
    details: errors.map(({ detail }) => detail),
  }
}

interface Errors {
  readonly errors?: readonly { readonly code: string; readonly detail?: unknown }[]
}

/** Compares all bytes; `toMatchObject` would accept a body that only begins with the right ones. */
export function expectBody({ status, body }: Answer, expectedStatus: number, bytes: Buffer): void {
  expect({ status, body }).toEqual({ status: expectedStatus, body: bytes })
}

export const layer = Buffer.from('what a layer would hold, as far as a registry cares')
export const config = Buffer.from(
  JSON.stringify({ architecture: 'amd64', os: 'linux', rootfs: { type: 'layers', diff_ids: [] } }),
)
export const absent = digestOf(Buffer.from('never pushed'))
export const acceptAll = { headers: { accept: Object.values(mediaTypes).join(', ') } }

export function manifest(mediaType: string, changes: Readonly<Record<string, unknown>> = {}): Buffer {
  const isDocker = mediaType === mediaTypes.dockerManifest
  const configType = isDocker
    ? 'application/vnd.docker.container.image.v1+json'
    : 'application/vnd.oci.image.config.v1+json'
  const layerType = isDocker
    ? 'application/vnd.docker.image.rootfs.diff.tar.gzip'
    : 'application/vnd.oci.image.layer.v1.tar+gzip'
  const document = {
    schemaVersion: 2,
    mediaType,
    config: { mediaType: configType, digest: digestOf(config), size: config.length },
    layers: [{ mediaType: layerType, digest: digestOf(layer), size: layer.length }],
  }
  return Buffer.from(JSON.stringify({ ...document, ...changes }))
}

export function index(
  mediaType: string,
  manifests: readonly unknown[],
  changes: Readonly<Record<string, unknown>> = {},
): Buffer {
  return Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType, manifests, ...changes }))
}

export function descriptor({ bytes, digest, mediaType }: Pushed, architecture: string): unknown {
  return { mediaType, digest, size: bytes.length, platform: { os: 'linux', architecture } }
}

export function octets(bytes: Buffer): RequestParts & { readonly headers: Readonly<Record<string, string>> } {
  return { headers: { 'content-type': 'application/octet-stream' }, body: new Uint8Array(bytes) }
}

export function basic({ user, password }: Login): string {
  return `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`
}

export function locationOf({ headers }: Answer): string {
  return headers.get('location') ?? ''
}
