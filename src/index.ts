import { availableParallelism } from 'node:os'
import { setFlagsFromString } from 'node:v8'
import { endOnSignals, isCancelled } from './actions/cancel.ts'
import { jobLog } from './actions/log.ts'
import { run } from './run.ts'

// libuv's threads compress. By default there are four of them, however many cores there are; more threads than cores
// would take time from this thread, which feeds them. Has an effect only before the first thread has work.
process.env.UV_THREADPOOL_SIZE ??= String(availableParallelism())

// Images pass through short-lived buffers, which make V8 collect garbage very often. Lets the heap grow by 400 % before
// the next collection: pushing an image of 600 MB then takes 12 % (gzip) or 9 % (zstd) less CPU time, and up to 40 MB
// more memory. The flag is internal to V8: a test fails if Node drops it.
setFlagsFromString('--heap-growing-percent=400')

// Warnings about deprecated calls in dependencies are of no use to readers of the log.
process.noDeprecation = true

const exitCode = await start(process.argv.slice(2))
// Exit immediately: open connections and programs that don't exit must not delay the end of the step. A cancelled step
// exits when its programs have exited.
if (!isCancelled()) process.exit(exitCode)

/** Runs a step of a job. With arguments, which only bin/main.js passes, runs the command line. */
async function start(args: readonly string[]): Promise<number> {
  if (args.length > 0) return (await import('./cli.ts')).runCli(args, process.env)
  endOnSignals(jobLog)
  return run(process.env)
}
