import { expect, test } from '@jest/globals'
import { passed } from '../support/runner.ts'
import { type Bench, describeRegistry } from './scenarios.ts'
import { failDelay, startZot } from './zot.ts'

describeRegistry('zot', startZot, { withLogin: true, readers: ['a user who may only read'], more: describeDelay })

function describeDelay(bench: () => Bench): void {
  test('a build does not wait until a request to delete is refused', async () => {
    const { build, image } = bench()
    const flake = await bench().flake(['base'])
    const started = performance.now()
    passed(await build('x86_64-linux', flake, { image: image('undeletable') }))
    expect(performance.now() - started).toBeLessThan(failDelay * 1000)
  })
}
