import { availableParallelism } from 'node:os'
import { setFlagsFromString } from 'node:v8'
import { endOnSignals, isCancelled } from './actions/cancel.ts'
import { run } from './run.ts'

// Compression goes to libuv's threads, of which there are four however many cores there are. More than one for each core
// would keep this thread, which feeds them, from its turn. It counts only until the first of them has work.
process.env.UV_THREADPOOL_SIZE ??= String(availableParallelism())

// An image goes by in buffers, and little else is in memory: V8 collects after every few of them, which takes a tenth of
// the time that pushing a streamed image does. So that it waits for six times what is in use, not for one and a half.
setFlagsFromString('--heap-growing-percent=500')

// Deprecated calls in dependencies are this project's concern, not that of who reads the log.
process.noDeprecation = true

endOnSignals()
const exitCode = await run(process.env)
// At once: a registry that does not end its answer, or a program that does not end, must not keep the step from ending.
// A cancelled step ends once its programs have ended.
if (!isCancelled()) process.exit(exitCode)
