import { deleteBlob, deleteUpload, getBlob, getUpload, patchUpload, putUpload, startUpload } from './blobs.ts'
import type { Handler } from './call.ts'
import { deleteManifest, getManifest, listReferrers, listTags, putManifest } from './manifests.ts'
import { contentOf, refuse, replyText, replyWith } from './reply.ts'

export type RouteName = 'base' | 'token' | 'uploads' | 'upload' | 'blob' | 'manifest' | 'referrers' | 'tags' | 'other'

export interface Route {
  readonly name: RouteName
  readonly repository: string
  readonly reference: string
}

/** The route of a path, `other` if there is none. */
export function routeOf(path: string): Route {
  for (const [name, pattern] of patterns) {
    const groups = pattern.exec(path)?.groups
    if (groups !== undefined) return { name, repository: groups['name'] ?? '', reference: groups['reference'] ?? '' }
  }
  return { name: 'other', repository: '', reference: '' }
}

/**
 * Returns the handler of a method on a route. For unsupported methods, it returns an answer with the supported ones.
 */
export function handlerOf(route: RouteName, method: string): Handler {
  const methods: Readonly<Record<string, Handler>> = handlers[route]
  const handler = methods[method]
  if (handler !== undefined) return withName(handler)
  return () => replyText(405, 'Method not allowed', { allow: Object.keys(methods).sort().join(', ') })
}

function withName(handler: Handler): Handler {
  return (call) => (call.repository.length > 255 ? refuse(400, { code: 'NAME_INVALID' }) : handler(call))
}

// The grammar of distribution/reference without its optional host name, which allows some upper case.
const part = '[a-z0-9]+(?:(?:[_.]|__|-+)[a-z0-9]+)*'
const name = `(?<name>${part}(?:/${part})*)`
const tag = '[\\w][\\w.-]{0,127}'
const digest = '[\\w+.-]+:[\\w+.=-]+'

const patterns: readonly (readonly [RouteName, RegExp])[] = [
  ['base', /^(?<path>\/v2\/)$/],
  ['token', /^(?<path>\/token)$/],
  ['uploads', new RegExp(`^/v2/${name}/blobs/uploads/$`)],
  ['upload', new RegExp(`^/v2/${name}/blobs/uploads/(?<reference>[\\w.=-]+)$`)],
  ['blob', new RegExp(`^/v2/${name}/blobs/(?<reference>${digest})$`)],
  ['manifest', new RegExp(`^/v2/${name}/manifests/(?<reference>${tag}|${digest})$`)],
  ['referrers', new RegExp(`^/v2/${name}/referrers/(?<reference>${digest})$`)],
  ['tags', new RegExp(`^/v2/${name}/tags/list$`)],
]

const base: Handler = () =>
  replyWith(200, contentOf(Buffer.from('{}')), { 'content-type': 'application/json; charset=utf-8' })

const handlers = {
  base: { GET: base, HEAD: base },
  token: {},
  uploads: { POST: startUpload },
  upload: { DELETE: deleteUpload, GET: getUpload, HEAD: getUpload, PATCH: patchUpload, PUT: putUpload },
  blob: { DELETE: deleteBlob, GET: getBlob, HEAD: getBlob },
  manifest: { DELETE: deleteManifest, GET: getManifest, HEAD: getManifest, PUT: putManifest },
  referrers: { GET: listReferrers },
  tags: { GET: listTags },
  other: {},
} as const satisfies Readonly<Record<RouteName, Readonly<Record<string, Handler>>>>
