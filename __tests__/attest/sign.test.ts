import { afterEach, beforeEach, expect, test } from '@jest/globals'
import { AttestError, type Identity } from '../../src/attest/identity.ts'
import { servicesFor, signStatement } from '../../src/attest/sign.ts'
import { CLAIMS, identityToken, type Sigstore, SUBJECT, startSigstore } from '../support/sigstore.ts'

const identity: Identity = { token: identityToken(), claims: CLAIMS }
const statement = JSON.stringify({ _type: 'https://in-toto.io/Statement/v1', subject: [], predicateType: 'a', a: 'é' })
const limits = { timeout: 5000, retries: 2, pause: 1 }

let sigstore: Sigstore

beforeEach(async () => {
  sigstore = await startSigstore()
})

afterEach(() => sigstore.close())

test.each(['public', 'private'] as const)(
  'a statement is signed with the services for %s repositories',
  async (kind) => {
    const { bytes, logIndex } = await signStatement(statement, identity, sigstore.services[kind], limits)
    const { identity: signer } = sigstore.verify(bytes, kind)
    expect(signer?.subjectAlternativeName).toBe(SUBJECT)
    const bundle = JSON.parse(bytes.toString())
    expect(bundle.mediaType).toBe('application/vnd.dev.sigstore.bundle.v0.3+json')
    expect(bundle.dsseEnvelope.payloadType).toBe('application/vnd.in-toto+json')
    expect(Buffer.from(bundle.dsseEnvelope.payload, 'base64').toString()).toBe(statement)
    expect(logIndex === undefined).toBe(kind === 'private')
    expect(sigstore.requests.map(({ service }) => service)).toEqual([
      'fulcio',
      kind === 'public' ? 'rekor' : 'timestamp',
    ])
  },
)

test('a changed statement fails verification', async () => {
  const { bytes } = await signStatement(statement, identity, sigstore.services.public, limits)
  const bundle = JSON.parse(bytes.toString())
  const payload = Buffer.from(statement.replace('é', 'e')).toString('base64')
  const changed = { ...bundle, dsseEnvelope: { ...bundle.dsseEnvelope, payload } }
  expect(() => sigstore.verify(Buffer.from(JSON.stringify(changed)), 'public')).toThrow()
})

test.each([
  ['fulcio', 'public', 'issue a certificate'],
  ['rekor', 'public', 'log the signature'],
  ['timestamp', 'private', 'issue a timestamp'],
] as const)('if %s is out of order, the error says so after some attempts', async (service, kind, action) => {
  sigstore.setFault(service, 503)
  const error = await failureOf(signStatement(statement, identity, sigstore.services[kind], limits))
  expect(error.message).toContain(`127.0.0.1`)
  expect(error.message).toContain(`which should ${action}, answered with status 503`)
  expect(error.message).toContain('out of order')
  expect(error.message).toContain('No tag has moved. Run the job again.')
  expect(sigstore.requests.filter((one) => one.service === service)).toHaveLength(3)
})

test('a service that works again is asked again', async () => {
  sigstore.setFault('fulcio', 'reset')
  const signing = signStatement(statement, identity, sigstore.services.public, { ...limits, pause: 100 })
  while (sigstore.requests.length === 0) await new Promise(setImmediate)
  sigstore.setFault('fulcio', undefined)
  sigstore.verify((await signing).bytes, 'public')
})

test('an unreachable service is named', async () => {
  sigstore.setFault('rekor', 'reset')
  const error = await failureOf(signStatement(statement, identity, sigstore.services.public, limits))
  expect(error.message).toContain('which should log the signature, could not be reached')
})

test('a service that refuses the identity is asked once', async () => {
  sigstore.setFault('fulcio', 400)
  const error = await failureOf(signStatement(statement, identity, sigstore.services.public, limits))
  expect(error.message).toContain('answered with status 400')
  expect(error.message).toContain('`attest: false`')
  expect(sigstore.requests).toHaveLength(1)
})

test('a token that is not valid is not quoted', async () => {
  const token = 'not.a-valid.token-of-a-job'
  const error = await failureOf(signStatement(statement, { ...identity, token }, sigstore.services.public, limits))
  expect(error.message).toContain("Can't sign the provenance")
  expect(error.message).not.toContain(token)
})

test.each([
  ['public', 'https://github.com', { fulcio: 'https://fulcio.sigstore.dev', rekor: 'https://rekor.sigstore.dev' }],
  [
    'private',
    'https://github.com',
    { fulcio: 'https://fulcio.githubapp.com', timestamp: 'https://timestamp.githubapp.com' },
  ],
  [
    'internal',
    'https://octo.ghe.com',
    { fulcio: 'https://fulcio.octo.ghe.com', timestamp: 'https://timestamp.octo.ghe.com' },
  ],
])('a %s repository of %s uses the services for it', (visibility, server, services) => {
  expect(servicesFor({ ...CLAIMS, repository_visibility: visibility }, server)).toEqual(services)
})

async function failureOf(work: Promise<unknown>): Promise<AttestError> {
  const error = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  if (error instanceof AttestError) return error
  throw new Error('No AttestError was thrown', { cause: error })
}
