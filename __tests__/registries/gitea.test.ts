import { startGiteaRegistry } from './gitea.ts'
import { describeRegistry } from './scenarios.ts'

describeRegistry('Gitea', startGiteaRegistry, {
  withLogin: true,
  readers: ['a user who does not own the packages', 'an access token that may only read packages'],
})
