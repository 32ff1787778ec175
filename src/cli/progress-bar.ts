import type { EventEmitter } from 'node:events'
import yoctoSpinner from 'yocto-spinner'
import { currentProgress, type Progress } from '../progress.ts'

/** The bar below the log of a terminal. Writing to the terminal moves it down. */
export interface ProgressBar {
  /** Names what is going on while nothing is counted. */
  setPhase(text: string): void
  stop(): void
}

/** In milliseconds. */
const INTERVAL = 100

/**
 * Shows a progress bar on a terminal.
 * @param exits emits `exit` when the process ends: a signal must not leave the terminal without its cursor
 * @returns undefined if the stream is not a terminal, or in CI
 */
export function startProgressBar(
  stream: NodeJS.WriteStream,
  exits: Pick<EventEmitter, 'once' | 'off'> = process,
): ProgressBar | undefined {
  // As the spinner decides; where it can't animate, it would print each change as a line.
  if (!stream.isTTY || process.env.TERM === 'dumb' || 'CI' in process.env) return undefined
  let phase = ''
  const started = performance.now()
  const spinner = yoctoSpinner({ stream, handleSignals: false }).start()
  const update = () => {
    const seconds = (performance.now() - started) / 1000
    // One column for the spinner, one for a space, and one so that the line never wraps.
    spinner.text = formatProgressBar(currentProgress(), phase, seconds, (stream.columns || 80) - 3)
  }
  const timer = setInterval(update, INTERVAL)
  timer.unref()
  const stop = () => {
    clearInterval(timer)
    exits.off('exit', stop)
    spinner.stop()
  }
  exits.once('exit', stop)
  return {
    setPhase(text) {
      phase = text
      update()
    },
    stop,
  }
}

const BAR_WIDTH = 24

/**
 * Formats the state of the work as one line: a bar if it is counted, the phase otherwise.
 * @param width in characters
 */
export function formatProgressBar(
  progress: Progress | undefined,
  phase: string,
  seconds: number,
  width: number,
): string {
  const time =
    seconds < 60 ? `${Math.floor(seconds)} s` : `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`
  const text = progress === undefined ? phase : formatBar(progress)
  return `${text}${text === '' ? '' : ' · '}${time}`.slice(0, Math.max(width, 1))
}

function formatBar({ work, unit, done, total }: Progress): string {
  const filled = Math.min(BAR_WIDTH, Math.floor((done / total) * BAR_WIDTH))
  return `${work} ${'█'.repeat(filled)}${'░'.repeat(BAR_WIDTH - filled)} ${done} of ${total} ${unit}`
}
