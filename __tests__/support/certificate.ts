import { generateKeyPairSync, type KeyObject, sign, X509Certificate } from 'node:crypto'

/** In PEM format. */
export interface Certified {
  readonly key: string
  readonly cert: string
}

/** When a certificate is valid, in days from now. */
export interface Days {
  readonly from: number
  readonly to: number
}

/**
 * Creates a key and a self-signed certificate for `127.0.0.1` and a host (RFC 5280, section 4.1). It is encoded by
 * hand, because node:crypto can read certificates but not create them.
 */
export function selfSigned(host = 'localhost', days: Days = { from: -1, to: 1 }, address = [127, 0, 0, 1]): Certified {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const toBeSigned = certificateOf(publicKey, host, days, address)
  const signature = der(0x03, Buffer.of(0), sign('sha256', toBeSigned, privateKey))
  const certificate = new X509Certificate(der(sequence, toBeSigned, ecdsaWithSha256, signature))
  return { key: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(), cert: certificate.toString() }
}

const sequence = 0x30
const ecdsaWithSha256 = der(sequence, objectId('2a8648ce3d040302'))

function certificateOf(publicKey: KeyObject, host: string, days: Days, address: readonly number[]): Buffer {
  const version3 = der(0xa0, der(0x02, Buffer.of(2)))
  const serial = der(0x02, Buffer.of(1))
  const name = der(sequence, der(0x31, der(sequence, objectId('550403'), der(0x0c, Buffer.from(host)))))
  const validity = der(sequence, utcTime(days.from), utcTime(days.to))
  const key = publicKey.export({ type: 'spki', format: 'der' })
  const names = der(sequence, der(0x82, Buffer.from(host)), der(0x87, Buffer.from(address)))
  const extensions = der(0xa3, der(sequence, der(sequence, objectId('551d11'), der(0x04, names))))
  return der(sequence, version3, serial, ecdsaWithSha256, name, validity, name, key, extensions)
}

function objectId(hex: string): Buffer {
  return der(0x06, Buffer.from(hex, 'hex'))
}

function utcTime(daysFromNow: number): Buffer {
  const time = new Date(Date.now() + daysFromNow * 86_400_000).toISOString()
  return der(0x17, Buffer.from(`${time.replace(/\D/g, '').slice(2, 14)}Z`))
}

/** Tag, length, value. */
function der(tag: number, ...parts: readonly Buffer[]): Buffer {
  const value = Buffer.concat(parts)
  const { length } = value
  const bytes = length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff]
  return Buffer.concat([Buffer.of(tag, ...bytes), value])
}
