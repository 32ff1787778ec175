import { appendFile, readFile } from 'node:fs/promises'
import * as v from 'valibot'
import type { Environment } from '../context.ts'
import { firstLine } from '../errors.ts'
import { readJson } from '../json.ts'

/** https://github.com/actions/runner/blob/main/src/Runner.Worker/ArtifactsListFileCommand.cs */
const LIST = v.object({ subjects: v.array(v.object({ name: v.string() })) })

/**
 * Declares published images to the runner, where a later step of the job, such as actions/attest, finds them. Does nothing
 * on runners without `$GITHUB_ARTIFACTS`. Skips a name that an earlier step has declared: the runner fails a step that
 * declares it with another digest.
 * Source: https://github.com/actions/runner/blob/main/src/Runner.Worker/CreateArtifactsFileCommand.cs
 * @param references names or tags with a digest
 * @returns warnings
 */
export async function declareArtifacts(
  references: readonly string[],
  { GITHUB_ARTIFACTS: file, GITHUB_ARTIFACTS_LIST: list }: Environment,
): Promise<readonly string[]> {
  if (!file || references.length === 0) return []
  const declared = await readDeclared(list)
  const fresh = references.filter((reference) => !declared.has(reference.replace(/@.*$/, '')))
  try {
    await appendFile(file, fresh.map((reference) => `oci://${reference}\n`).join(''))
    return []
  } catch (error) {
    return [`Can't declare the published image in ${file}: ${firstLine(error)}. The step has succeeded.`]
  }
}

/** Returns the names that earlier steps of the job have declared. */
async function readDeclared(list: string | undefined): Promise<ReadonlySet<string>> {
  const text = list ? await readFile(list).catch(() => Buffer.alloc(0)) : Buffer.alloc(0)
  const read = readJson(LIST, text)
  return new Set(read.ok ? read.value.subjects.map(({ name }) => name) : [])
}
