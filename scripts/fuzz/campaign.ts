// Runs cases of one target in a process that may hang, crash or run out of memory. scripts/fuzz.ts watches it.
import { openSync, writeSync } from 'node:fs'
import { runCampaign } from '../../__tests__/fuzz/campaign.ts'
import { TARGETS } from '../../__tests__/fuzz/targets.ts'

const [name, seed, first, count, seconds, file = ''] = process.argv.slice(2)
const target = TARGETS.find((one) => one.name === name)
if (target === undefined) throw new Error(`Unknown target ${name}`)
const progress = openSync(file, 'w')
const campaign = await runCampaign(target, {
  seed: Number(seed),
  first: Number(first),
  count: Number(count),
  seconds: Number(seconds),
  // Synchronous, because a case that hangs would block an asynchronous write.
  onCase: (number) => writeSync(progress, `${number}\n`.padStart(16), 0),
})
const memory = process.resourceUsage().maxRSS * 1024
// The last line of the output; the code under test may write other lines before.
process.stdout.write(`\n${JSON.stringify({ ...campaign, memory })}`)
