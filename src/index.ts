import { availableParallelism } from 'node:os'
import { run } from './run.ts'

// Compression goes to libuv's threads, of which there are four however many cores there are. More than one for each core
// would keep this thread, which feeds them, from its turn. It counts only until the first of them has work.
process.env.UV_THREADPOOL_SIZE ??= String(availableParallelism())

// Deprecated calls in dependencies are this project's concern, not that of who reads the log.
process.noDeprecation = true

await run(process.env)
