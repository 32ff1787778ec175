import { createHash, type KeyPairKeyObjectResult } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { bundleFromJSON } from '@sigstore/bundle'
// Not the whole package, which replaces node:http in this process.
import { fulcioHandler, initializeCA, initializeCTLog } from '@sigstore/mock/dist/fulcio/index.js'
import { initializeTLog, rekorHandler } from '@sigstore/mock/dist/rekor/index.js'
import type { HandlerFn } from '@sigstore/mock/dist/shared.types.js'
import { initializeTSA, tsaHandler } from '@sigstore/mock/dist/timestamp/index.js'
import { generateKeyPair } from '@sigstore/mock/dist/util/key.js'
import { HashAlgorithm, PublicKeyDetails, TrustedRoot } from '@sigstore/protobuf-specs'
import { type Signer, toSignedEntity, toTrustMaterial, Verifier } from '@sigstore/verify'
import type { Claims } from '../../src/attest/identity.ts'
import type { SigningServices } from '../../src/attest/sigstore.ts'

type Fault = number | 'reset' | (() => void)
type Service = 'fulcio' | 'rekor' | 'timestamp' | 'identity'

export interface SigstoreRequest {
  readonly service: Service
  /** Without the query. */
  readonly path: string
  readonly query: URLSearchParams
  readonly authorization: string | undefined
  readonly body: string
}

export interface Sigstore {
  /** Services for public repositories, which use a log, and for others, which use a timestamp authority. */
  readonly services: { readonly public: SigningServices; readonly private: SigningServices }
  /** The environment of a job that may request identity tokens. */
  readonly env: Readonly<Record<string, string>>
  readonly requests: readonly SigstoreRequest[]
  /**
   * Answers requests for a service with this status, breaks the connection, or calls a function and does not answer. Without
   * a fault, it works again.
   */
  readonly setFault: (service: Service, fault: Fault | undefined) => void
  /** Sigstore's trusted root as JSON, for `cosign --trusted-root`. */
  readonly trustedRoot: string
  /** Verifies a bundle like `cosign` and `gh` do. Throws if it is not valid. */
  readonly verify: (bundle: Buffer, kind: 'public' | 'private') => Signer
  readonly close: () => Promise<void>
}

/** The name of the log in what it signs. */
const REKOR = 'https://rekor.sigstore.dev'

/** The bearer token for requests of identity tokens. */
export const REQUEST_TOKEN = 'request-token-not-to-be-seen'

export const CLAIMS: Claims = {
  repository: 'Owner/App',
  repository_id: '1234',
  repository_owner_id: '56',
  repository_visibility: 'public',
  ref: 'refs/heads/main',
  sha: '0123456789abcdef0123456789abcdef01234567',
  event_name: 'push',
  workflow_ref: 'Owner/App/.github/workflows/release.yml@refs/heads/main',
  job_workflow_ref: 'Owner/App/.github/workflows/release.yml@refs/heads/main',
  run_id: '42',
  run_attempt: '1',
  runner_environment: 'github-hosted',
}

/** The subject of the certificates. */
export const SUBJECT = `https://github.com/${CLAIMS.job_workflow_ref}`

/** Returns an identity token. Nothing here verifies its signature. */
export function identityToken(claims: Partial<Claims> = CLAIMS): string {
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url')
  // Fulcio makes the subject of the certificate from the claim, its stand-in takes it from `sub`.
  const sub = `https://github.com/${claims.job_workflow_ref}`
  const iss = 'https://token.actions.githubusercontent.com'
  return `${part({ alg: 'RS256' })}.${part({ sub, iss, ...claims })}.signature`
}

/**
 * Starts a certificate authority, a log and a timestamp authority of Sigstore, and GitHub's service for identity tokens, on
 * a free port of 127.0.0.1.
 * @param claims those of the identity tokens
 */
export async function startSigstore(claims: Partial<Claims> = CLAIMS): Promise<Sigstore> {
  const requests: SigstoreRequest[] = []
  const faults = new Map<Service, Fault>()
  const { handlers, root } = await createServices()
  const server = createServer((request, response) => void serve(request, response))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`

  async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', origin)
    const [, service = '', ...path] = url.pathname.split('/')
    const body = await readText(request)
    const seen = { path: `/${path.join('/')}`, query: url.searchParams, authorization: request.headers.authorization }
    requests.push({ service: service as Service, body, ...seen })
    const fault = faults.get(service as Service)
    if (fault === 'reset') return void request.socket.resetAndDestroy()
    if (typeof fault === 'function') return fault()
    if (fault !== undefined) {
      response.writeHead(fault, { 'content-type': 'application/json' }).end('{"message":"out of order"}')
      return
    }
    if (service === 'identity') return answerTokenRequest(seen.authorization, claims, response)
    const handler = handlers[service as keyof typeof handlers]
    const { statusCode, response: answer, contentType } = await handler(body)
    response.writeHead(statusCode, { 'content-type': contentType ?? 'text/plain' })
    response.end(typeof answer === 'string' ? answer : Buffer.from(answer.buffer, answer.byteOffset, answer.byteLength))
  }

  return {
    services: {
      public: { fulcio: `${origin}/fulcio`, rekor: `${origin}/rekor` },
      private: { fulcio: `${origin}/fulcio`, timestamp: `${origin}/timestamp` },
    },
    env: {
      ACTIONS_ID_TOKEN_REQUEST_URL: `${origin}/identity/token?api-version=2.0`,
      ACTIONS_ID_TOKEN_REQUEST_TOKEN: REQUEST_TOKEN,
    },
    requests,
    setFault: (service, fault) => void (fault === undefined ? faults.delete(service) : faults.set(service, fault)),
    trustedRoot: JSON.stringify(TrustedRoot.toJSON(root)),
    verify(bundle, kind) {
      const thresholds = kind === 'public' ? {} : { tlogThreshold: 0 }
      return new Verifier(toTrustMaterial(root), { ctlogThreshold: 1, ...thresholds }).verify(
        toSignedEntity(bundleFromJSON(JSON.parse(bundle.toString()))),
      )
    },
    close: async () => {
      server.close()
      server.closeAllConnections()
      await once(server, 'close')
    },
  }
}

function answerTokenRequest(
  authorization: string | undefined,
  claims: Partial<Claims>,
  response: ServerResponse,
): void {
  const granted = authorization === `Bearer ${REQUEST_TOKEN}`
  response.writeHead(granted ? 200 : 401, { 'content-type': 'application/json' })
  response.end(JSON.stringify(granted ? { value: identityToken(claims) } : { message: 'unauthorized' }))
}

async function createServices() {
  const key = () => generateKeyPair('prime256v1')
  const keys = { fulcio: key(), rekor: key(), timestamp: key(), certificates: key() }
  const certificates = await initializeCTLog(keys.certificates)
  const authority = await initializeCA(keys.fulcio, certificates)
  const log = await initializeTLog(REKOR, keys.rekor)
  // Without milliseconds: some can't be parsed again.
  const now = new Date(Math.ceil(Date.now() / 1000) * 1000)
  const timestamps = await initializeTSA(keys.timestamp, now)
  const chain = (...all: readonly ArrayBufferView<ArrayBuffer>[]) => ({
    certificates: all.map((one) => ({ rawBytes: Buffer.from(one.buffer, one.byteOffset, one.byteLength) })),
  })
  const handlers = {
    fulcio: fulcioHandler(authority).fn,
    rekor: withCanonicalEntries(rekorHandler(log).fn),
    timestamp: tsaHandler(timestamps).fn,
  }
  const authorityOf = (certChain: ReturnType<typeof chain>) => ({
    subject: { commonName: 'mock', organization: 'mock' },
    uri: '',
    certChain,
    validFor: { start: new Date(0) },
    operator: '',
  })
  const logOf = (baseUrl: string, logId: Buffer, publicKey: KeyPairKeyObjectResult['publicKey']) => ({
    baseUrl,
    hashAlgorithm: HashAlgorithm.SHA2_256,
    publicKey: {
      rawBytes: publicKey.export({ type: 'spki', format: 'der' }),
      keyDetails: PublicKeyDetails.PKIX_ECDSA_P256_SHA_256,
      validFor: { start: new Date(0) },
    },
    logId: { keyId: logId },
    checkpointKeyId: undefined,
    operator: '',
  })
  const spkiHash = ({ publicKey }: KeyPairKeyObjectResult) =>
    createHash('sha256')
      .update(publicKey.export({ type: 'spki', format: 'der' }))
      .digest()
  const root: TrustedRoot = {
    mediaType: 'application/vnd.dev.sigstore.trustedroot+json;version=0.1',
    certificateAuthorities: [authorityOf(chain(authority.rootCertificate))],
    timestampAuthorities: [authorityOf(chain(timestamps.intCertificate, timestamps.rootCertificate))],
    tlogs: [logOf(REKOR, spkiHash(keys.rekor), keys.rekor.publicKey)],
    ctlogs: [logOf('', spkiHash(keys.certificates), keys.certificates.publicKey)],
  }
  return { handlers, root }
}

/** Logs entries of the type `dsse` as Rekor does: only the hashes and signatures of the envelope. */
function withCanonicalEntries(log: HandlerFn): HandlerFn {
  return (body) => {
    const { apiVersion, kind, spec } = JSON.parse(body)
    const { envelope, verifiers } = spec.proposedContent
    const { payload, signatures } = JSON.parse(envelope)
    const hash = (bytes: Buffer) => ({ algorithm: 'sha256', value: createHash('sha256').update(bytes).digest('hex') })
    const entry = {
      apiVersion,
      kind,
      spec: {
        envelopeHash: hash(Buffer.from(envelope)),
        payloadHash: hash(Buffer.from(payload, 'base64')),
        signatures: signatures.map(({ sig }: { readonly sig: string }) => ({ signature: sig, verifier: verifiers[0] })),
      },
    }
    return log(JSON.stringify(entry))
  }
}

async function readText(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk)
  return Buffer.concat(chunks).toString()
}
