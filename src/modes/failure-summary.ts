import type { FailureParts } from '../errors.ts'
import { breakLines, code, codeBlock, formatText, joinLines } from '../markdown.ts'
import { formatReference } from '../oci/reference.ts'
import type { RegistryWrite } from '../registry/writes.ts'
import { formatDuration, lastLines } from '../text.ts'
import { type PhaseTime, totalTime } from './phases.ts'

/** A step that has failed. */
export interface FailedStep {
  /** The subject of the heading: `Build`. */
  readonly step: string
  /** The image that the step works on. Absent if the inputs are not valid. */
  readonly image?: string | undefined
  readonly platform?: string | undefined
  readonly failure: FailureParts
  /** All writes to registries, in their order. Absent for a step that never writes. */
  readonly writes?: readonly RegistryWrite[] | undefined
  /** The phases up to the failure. */
  readonly times: readonly PhaseTime[]
}

/** In lines. The log has the complete message. */
const LINES_SHOWN = 20

/** Returns the summary of a failed step as Markdown. The parts of the error may contain anything. */
export function summarizeFailure({ step, image, platform, failure, writes, times }: FailedStep): string {
  const { message, detail = '', hint = '' } = failure
  const state = writes && describeWrites(writes)
  const last = times.at(-1)
  const when = last && `Failed in the phase "${last.phase}", after ${formatDuration(totalTime(times))}.`
  const subject = [...(image ? [code(image)] : []), ...(platform ? [`for ${platform}`] : [])].join(' ')
  return joinLines(
    `### ${step} failed${subject === '' ? '' : `: ${subject}`}`,
    '',
    ...formatText(message),
    ...(detail.trim() === '' ? [] : codeBlock(breakLines(lastLines(detail, LINES_SHOWN)))),
    // The hint often begins with the state.
    ...formatText(state === undefined ? hint : hint.replace(`${state} `, '')),
    ...(state === undefined ? [] : [`**${state}**`, '']),
    ...(when === undefined ? [] : [when]),
  )
}

/** Says what a failed step has pushed. Never says that nothing was pushed if a write may have succeeded. */
export function describeWrites(writes: readonly RegistryWrite[]): string {
  if (writes.length === 0) return 'Nothing was pushed.'
  const tags = [...Map.groupBy(writes.filter(isTag), nameOf)].map(([name, own]) => ({ name, state: tagState(own) }))
  const parts = TAG_STATES.flatMap(([state, text]) => {
    const names = tags.flatMap((tag) => (tag.state === state ? code(tag.name) : []))
    return names.length === 0 ? [] : `${text}: ${names.toSorted().join(', ')}.`
  })
  if (parts.length > 0) return parts.join(' ')
  const wrote = (kind: RegistryWrite['kind'], state: RegistryWrite['state']) =>
    writes.some((write) => write.kind === kind && write.state === state)
  if (wrote('image', 'done')) return 'No tag has moved. Images were pushed by digest only.'
  if (wrote('image', 'started')) return 'No tag has moved. Images may have been pushed by digest.'
  return `No tag has moved, and no image was pushed${wrote('blob', 'done') ? ', only layers' : ''}.`
}

const TAG_STATES = [
  ['pushed', 'Pushed before the failure'],
  ['unconfirmed', 'The registry has not confirmed the push of'],
  ['restored', 'Pushed, and restored after the failure'],
] as const

/** Returns the state of a tag after all writes to it. */
function tagState(writes: readonly RegistryWrite[]): (typeof TAG_STATES)[number][0] {
  const [first] = writes
  const last = writes.findLast(({ state }) => state === 'done')
  if (last === undefined || writes.at(-1)?.state !== 'done') return 'unconfirmed'
  return last.deleted || !sameBytes(first?.bytes, last.bytes) ? 'restored' : 'pushed'
}

function sameBytes(one: Uint8Array = new Uint8Array(), other: Uint8Array = new Uint8Array()): boolean {
  return Buffer.compare(one, other) === 0
}

function isTag({ kind }: RegistryWrite): boolean {
  return kind === 'tag'
}

function nameOf({ repository, reference }: RegistryWrite): string {
  return formatReference({ repository, tag: reference })
}
