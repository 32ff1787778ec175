import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import type { SigningServices } from '../../src/attest/sigstore.ts'
import { selfSigned } from './certificate.ts'
import { startProxy } from './proxy.ts'

/** Sigstore under the names of its public hosts. */
export interface SigstoreHosts {
  /** The environment of processes that reach it: a proxy for HTTPS, except for requests to this machine. */
  readonly env: Readonly<Record<string, string>>
  readonly close: () => Promise<void>
}

/**
 * Serves a certificate authority and a log as https://fulcio.sigstore.dev and https://rekor.sigstore.dev, for processes
 * whose services can't be replaced.
 * @param certificate of another authority that the processes trust, in PEM format
 */
export async function serveSigstoreHosts({ fulcio, rekor }: SigningServices, certificate = ''): Promise<SigstoreHosts> {
  const bases = new Map([
    ['fulcio.sigstore.dev', fulcio],
    ['rekor.sigstore.dev', rekor],
  ])
  const forward = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const { host = '', 'content-type': type = '' } = request.headers
    const body = await buffer(request)
    const answer = await fetch(`${bases.get(host)}${request.url}`, {
      method: request.method ?? 'GET',
      headers: { 'content-type': type },
      ...(body.length > 0 && { body }),
    })
    response.writeHead(answer.status, { 'content-type': answer.headers.get('content-type') ?? '' })
    response.end(Buffer.from(await answer.arrayBuffer()))
  }
  const { key, cert } = selfSigned('*.sigstore.dev')
  const server = createServer({ key, cert }, (request, response) => {
    forward(request, response).catch(() => response.destroy())
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const proxy = await startProxy(`127.0.0.1:${(server.address() as AddressInfo).port}`, () => 'tunnel')
  const folder = await mkdtemp(join(tmpdir(), 'sigstore-'))
  const file = join(folder, 'authorities.pem')
  await writeFile(file, `${cert}\n${certificate}`)
  return {
    env: { HTTPS_PROXY: `http://${proxy.host}`, NO_PROXY: '127.0.0.1,localhost', NODE_EXTRA_CA_CERTS: file },
    close: async () => {
      await proxy.close()
      server.close()
      server.closeAllConnections()
      await once(server, 'close')
      await rm(folder, { recursive: true })
    },
  }
}
