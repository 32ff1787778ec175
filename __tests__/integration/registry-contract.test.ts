import { startDistribution } from '../support/distribution.ts'
import {
  describeBasicAuthContract,
  describeRegistryContract,
  describeTokenAuthContract,
} from '../support/registry-contract.ts'

const account = { user: 'octocat', password: 'correct horse: battery' }

describeRegistryContract('Docker Distribution', () => startDistribution())

describeRegistryContract(
  'Docker Distribution with a password',
  () => startDistribution({ auth: { kind: 'basic', ...account } }),
  account,
)

describeBasicAuthContract(
  'Docker Distribution without the password',
  () => startDistribution({ auth: { kind: 'basic', ...account } }),
  account,
)

describeTokenAuthContract(
  'Docker Distribution with tokens',
  () => startDistribution({ auth: { kind: 'token', ...account } }),
  account,
)
