import { expect, test } from '@jest/globals'
import { requestIdentity, requireIdentity } from '../../src/attest/identity.ts'
import { type IdentitySource, readIdentitySource } from '../../src/context.ts'
import { CLAIMS, identityToken } from '../support/sigstore.ts'
import { openClient, openSigstore, refusalOf, secrets } from './attesting.ts'

const mask = (secret: string): void => void secrets.push(secret)

test('a job without an identity learns which permission to add', async () => {
  const message = await refusalOf((async () => requireIdentity(readIdentitySource({})))())
  expect(message).toContain('this job has no identity token')
  expect(message).toContain('Nothing was published.')
  expect(message).toContain('permissions:\n    contents: read\n    id-token: write')
})

test('the token is requested for Sigstore, with its claims', async () => {
  const sigstore = await openSigstore()
  const source = requireIdentity(readIdentitySource(sigstore.env))
  const { token, claims } = await requestIdentity(source, openClient().http, mask)
  expect(token).toBe(identityToken())
  expect(claims).toEqual(CLAIMS)
  expect(secrets).toEqual([token])
  expect(Object.fromEntries(sigstore.requests[0]?.query ?? [])).toEqual({ 'api-version': '2.0', audience: 'sigstore' })
})

test('a refused request for a token is explained', async () => {
  const sigstore = await openSigstore()
  const source: IdentitySource = { ...requireIdentity(readIdentitySource(sigstore.env)), token: 'wrong' }
  const message = await refusalOf(requestIdentity(source, openClient().http, mask))
  expect(message).toContain("Can't request the job's identity token: 127.0.0.1")
  expect(message).toContain('answered with status 401')
  expect(message).toContain('unauthorized')
})

test('a token of another server than GitHub is refused, and the missing claim named', async () => {
  const { job_workflow_ref: _, ...claims } = CLAIMS
  const sigstore = await openSigstore(claims)
  const message = await refusalOf(
    requestIdentity(requireIdentity(readIdentitySource(sigstore.env)), openClient().http, mask),
  )
  expect(message).toContain('job_workflow_ref')
  expect(message).toContain('`attest: false`')
})
