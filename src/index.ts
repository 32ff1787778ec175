import { run } from './run.ts'

// Deprecated calls in dependencies are this project's concern, not that of who reads the log.
process.noDeprecation = true

await run(process.env)
