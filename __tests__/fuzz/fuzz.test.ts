import { expect, test } from '@jest/globals'
import { formatFinding, runCampaign } from './campaign.ts'
import { TARGETS } from './targets.ts'

const { FUZZ_SEED = `${Date.now() % 1_000_000}`, FUZZ_SECONDS = '0.9' } = process.env
const seed = Number(FUZZ_SEED)
const seconds = Number(FUZZ_SECONDS)

// At once, and not as a part of the report: of a case that hangs there is none.
process.stderr.write(`Fuzzing with FUZZ_SEED=${seed}\n`)

test.each(TARGETS)(
  '$name: random input is read, or refused with a clear error',
  async (target) => {
    const { cases, finding } = await runCampaign(target, { seed, seconds })
    if (finding !== undefined) throw new Error(formatFinding(target, seed, finding))
    expect(cases).toBeGreaterThan(0)
  },
  (seconds + 60) * 1000,
)
