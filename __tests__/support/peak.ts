import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

/** The most memory that this action uses for any input, in bytes. */
export const MEMORY_LIMIT = 350_000_000

/** The result of code that ran in a separate process. */
export interface Measured {
  /** The value that it returned, as JSON. */
  readonly value?: unknown
  /** The error that it threw. */
  readonly error?: { readonly name: string; readonly message: string }
  /** The peak memory of the process, in bytes. */
  readonly peak: number
}

/**
 * Runs code in a separate process, and measures its memory.
 * @param code of an async function. `load('json.ts')` imports a module of `src`, `args` are the arguments
 */
export async function measure(code: string, ...args: readonly string[]): Promise<Measured> {
  const source = new URL('../../src/', import.meta.url)
  const script = `
    import { readFileSync, writeSync } from 'node:fs'
    const load = (name) => import(new URL(name, ${JSON.stringify(source.href)}))
    const work = async (...args) => {${code}}
    const result = await work(...process.argv.slice(1)).then(
      (value) => ({ value }),
      ({ name, message }) => ({ error: { name, message } }),
    )
    const [, peak] = /^VmHWM:\\s+(\\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))
    writeSync(1, '\\n' + JSON.stringify({ ...result, peak: peak * 1024 }))`
  // The same settings as in index.ts.
  const node = ['--heap-growing-percent=400', '--input-type=module', '--eval', script, ...args]
  const { stdout } = await promisify(execFile)(process.execPath, node, { maxBuffer: 64 * 1024 * 1024 })
  return JSON.parse(stdout.slice(stdout.lastIndexOf('\n')))
}
