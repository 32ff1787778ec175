import { messageOf } from '../failure.ts'
import { printReference, type Repository } from '../oci/reference.ts'
import type { Registry, StoredManifest } from '../registry/registry.ts'
import { MergeError } from './merge-error.ts'

/** A tag, and the index that it is to point to, which its repository holds already. */
export interface TagMove {
  readonly repository: Repository
  readonly tag: string
  readonly index: StoredManifest
}

/**
 * Moves tags one by one, in the order given; those that point to their index already are left alone. Where one can't
 * be moved, those moved before are put back, as far as the registry allows.
 * @throws MergeError that says which tags are where
 */
export async function moveTags(registry: Registry, moves: readonly TagMove[]): Promise<void> {
  const before = await Promise.all(moves.map(({ repository, tag }) => registry.getManifest(repository, tag)))
  const steps = moves.map((move, at) => ({ move, before: before[at] }))
  const needed = steps.filter((step) => step.before?.digest !== step.move.index.digest)
  for (const [at, { move }] of needed.entries()) {
    const { repository, tag, index } = move
    try {
      await registry.putManifest(repository, tag, index.mediaType, index.bytes)
    } catch (error) {
      // The one that failed too: an answer that was lost may have followed a tag that was moved.
      throw stopped(move, error, await putBack(registry, needed.slice(0, at + 1).reverse()))
    }
  }
}

interface Step {
  readonly move: TagMove
  readonly before: StoredManifest | undefined
}

/** Returns the tags that could not be put back, and why. */
async function putBack(registry: Registry, steps: readonly Step[]): Promise<readonly string[]> {
  const left: string[] = []
  for (const step of steps) {
    const problem = await putBackOne(registry, step).catch(messageOf)
    if (problem !== undefined) left.push(`${printReference(step.move)}: ${problem}`)
  }
  return left
}

async function putBackOne(registry: Registry, { move, before }: Step): Promise<string | undefined> {
  const { repository, tag, index } = move
  const now = await registry.getManifest(repository, tag)
  // Whatever else it points to by now is the work of another run.
  if (now?.digest !== index.digest) return undefined
  if (before !== undefined) {
    await registry.putManifest(repository, tag, before.mediaType, before.bytes)
    return undefined
  }
  if (await registry.deleteTag(repository, tag)) return undefined
  return `is new and points to ${index.digest}; ${repository.host} can't delete tags`
}

function stopped(move: TagMove, error: unknown, left: readonly string[]): MergeError {
  const where =
    left.length === 0
      ? 'All tags are as they were.'
      : `All tags are as they were, but these:\n${left.map((line) => `  ${line}`).join('\n')}`
  return new MergeError({
    what: `The tag ${printReference(move)} could not be moved to ${move.index.digest}`,
    words: messageOf(error),
    help: `${where}\nThe index is in the registry: once the cause is mended, running the job again finishes it.`,
    cause: error,
  })
}
