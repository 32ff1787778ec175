import { startOlareg } from './olareg.ts'
import { describeRegistry } from './scenarios.ts'

describeRegistry('olareg', startOlareg, { withLogin: true, readers: ['a user who may only read'] })
