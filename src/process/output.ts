import { EOL } from 'node:os'
import { StringDecoder } from 'node:string_decoder'
import { withoutSecrets } from '../secrets.ts'

/** Always ends with a line break, so that the next workflow command starts a line. */
let writeLine = (line: string): void => void process.stdout.write(`${line}${EOL}`)

/** Sends the output of programs to `write` instead of the standard output. */
export function redirectLines(write: (line: string) => void): void {
  writeLine = write
}

/**
 * Prints a line of a program's output to the job's log. Removes secrets here, because the runner masks only those that
 * were registered before workflow commands were stopped.
 */
export function printLine(line: string): void {
  writeLine(withoutSecrets(line))
}

/** Collects a program's output. */
export interface OutputCollector {
  /** Whether there was more output than the limit. */
  readonly full: boolean
  /** Returns false once there is more output than the limit. */
  readonly add: (chunk: Buffer) => boolean
  readonly read: () => Buffer
}

/** Collects output up to a number of bytes. */
export function collectOutput(limit: number): OutputCollector {
  // One growing buffer: a program that writes single bytes would otherwise leave millions of chunks.
  let kept = Buffer.alloc(1024)
  let size = 0
  return {
    get full() {
      return size > limit
    },
    add(chunk) {
      const start = size
      size += chunk.length
      if (size > limit) return false
      if (size > kept.length) kept = Buffer.concat([kept], Math.max(size, 2 * kept.length))
      chunk.copy(kept, start)
      return true
    },
    read: () => kept.subarray(0, Math.min(size, limit, kept.length)),
  }
}

/** Keeps the last bytes of a program's output, up to a limit. */
export function keepTail(limit: number): { readonly add: (chunk: Buffer) => void; readonly read: () => Buffer } {
  // One buffer of twice the size, so that bytes move only when it is full: a program may write single bytes.
  const kept = Buffer.alloc(2 * limit)
  let size = 0
  return {
    add(chunk) {
      const end = chunk.subarray(-limit)
      if (size + end.length > kept.length) {
        kept.copyWithin(0, size - limit, size)
        size = limit
      }
      size += end.copy(kept, size)
    },
    read: () => Buffer.from(kept.subarray(Math.max(0, size - limit), size)),
  }
}

/** The longest line that is passed on as a whole, in characters. Longer lines are split. */
const LINE_LIMIT = 256 * 1024

/** Calls `onLine` for each line of output that arrives in chunks, which may end within a character. */
export function splitLines(onLine: (line: string) => void): {
  readonly write: (chunk: Buffer) => void
  readonly end: () => void
} {
  const decoder = new StringDecoder('utf8')
  let rest = ''
  const add = (text: string) => {
    const [first = '', ...more] = text.split('\n')
    const lines = [rest + first, ...more]
    rest = lines.pop() ?? ''
    for (const line of lines) onLine(line)
    if (rest.length <= LINE_LIMIT) return
    onLine(rest)
    rest = ''
  }
  return {
    write: (chunk) => add(decoder.write(chunk)),
    end: () => {
      add(decoder.end())
      if (rest !== '') onLine(rest)
    },
  }
}
