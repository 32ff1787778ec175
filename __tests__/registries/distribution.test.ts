import { startDistributionWithPasswords, startDistributionWithTokens, startOpenDistribution } from './distribution.ts'
import { describeRegistry } from './scenarios.ts'

describeRegistry('Distribution, open', startOpenDistribution, { withLogin: false })
describeRegistry('Distribution with passwords, over https', startDistributionWithPasswords, {
  withLogin: true,
  https: true,
})
describeRegistry('Distribution with a token service', startDistributionWithTokens, {
  withLogin: true,
  readers: ['a token that may only pull'],
})
