import { styleText } from 'node:util'
import type { JobLog } from '../log.ts'
import { addSecret, withoutSecrets } from '../secrets.ts'
import { sanitize, withoutEscapes } from '../text.ts'

/** The log of a command in a terminal or a file. */
export interface TerminalLog extends JobLog {
  /** Prints a line of the output of another program. */
  toolLine(line: string): void
}

/** Where a log goes, and how. */
export interface TerminalLogSettings {
  readonly stream: NodeJS.WritableStream & { readonly hasColors?: () => boolean }
  readonly verbose: boolean
  /** Rewords messages of the action. */
  readonly reword: (message: string) => string
  /** Receives the title of each phase. */
  readonly onPhase: (title: string) => void
}

/** Creates a log of plain lines. Colours only labels, and only on a terminal that shows colours; Node heeds `NO_COLOR`. */
export function createTerminalLog({ stream, verbose, reword, onPhase }: TerminalLogSettings): TerminalLog {
  const colours = stream.hasColors?.() === true
  const print = (text: string) => void stream.write(`${text}\n`)
  const styled = (style: 'bold' | 'cyan' | 'yellow' | 'red' | 'dim', text: string) =>
    colours ? styleText(style, text, { validateStream: false }) : text
  const safe = (message: string) => sanitize(withoutSecrets(message))
  const inPhase = async <Result>(title: string, work: () => Promise<Result>): Promise<Result> => {
    const name = safe(title)
    print(styled('bold', name))
    onPhase(name)
    try {
      return await work()
    } finally {
      onPhase('')
    }
  }
  return {
    info: (message) => print(safe(reword(message))),
    notice: (message) => print(`${styled('cyan', 'note:')} ${safe(reword(message))}`),
    warning: (message) => print(`${styled('yellow', 'warning:')} ${safe(reword(message))}`),
    error: (message) => print(`${styled('red', 'error:')} ${safe(reword(message))}`),
    debug: (message) => verbose && print(styled('dim', safe(message))),
    mask: (secret) => void addSecret(secret),
    group: inPhase,
    groupToolOutput: inPhase,
    // Lines of Nix have its colours.
    toolLine: (line) => print((colours ? line : withoutEscapes(line)).replace(/^\[command\]/, '$ ')),
  }
}
