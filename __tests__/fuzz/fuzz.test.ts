import { expect, test } from '@jest/globals'
import { formatFinding, runCampaign } from './campaign.ts'
import { TARGETS } from './targets.ts'

const { FUZZ_SEED = `${Date.now() % 1_000_000}`, FUZZ_SECONDS = '0.4' } = process.env
const seed = Number(FUZZ_SEED)
const seconds = Number(FUZZ_SECONDS)

// Printed immediately, because there is no report if a case hangs.
process.stderr.write(`Fuzzing with FUZZ_SEED=${seed}\n`)

test.each(TARGETS)(
  '$name: random input is either read or refused with a clear error',
  async (target) => {
    const { cases, finding } = await runCampaign(target, { seed, seconds })
    if (finding !== undefined) throw new Error(formatFinding(target, seed, finding))
    expect(cases).toBeGreaterThan(0)
  },
  (seconds + 60) * 1000,
)
