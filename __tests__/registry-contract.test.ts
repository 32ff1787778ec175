import { startRegistry } from './support/registry.ts'
import {
  describeBasicAuthContract,
  describeRegistryContract,
  describeTokenAuthContract,
} from './support/registry-contract.ts'

const account = { user: 'octocat', password: 'correct horse: battery' }

describeRegistryContract('the stand-in', () => startRegistry())

describeRegistryContract(
  'the stand-in with a password',
  () => startRegistry({ auth: { kind: 'basic', ...account } }),
  account,
)

describeBasicAuthContract(
  'the stand-in without the password',
  () => startRegistry({ auth: { kind: 'basic', ...account } }),
  account,
)

describeTokenAuthContract(
  'the stand-in with tokens',
  () => startRegistry({ auth: { kind: 'bearer', ...account } }),
  account,
)
