import { code, joinLines } from '../actions/markdown.ts'

/** A job of the build matrix. */
export interface PlannedBuild {
  readonly system: string
  /** A label for `runs-on`. */
  readonly runner: string
  /** Set if its image is already published. */
  readonly unchanged?: true
}

/** Returns the summary of a plan as Markdown. */
export function summarizePlan(builds: readonly PlannedBuild[]): string {
  return joinLines(
    '# Planned',
    '',
    '| system | runner | image |',
    '|---|---|---|',
    ...builds.map(
      ({ system, runner, unchanged }) => `| ${system} | ${code(runner)} | ${unchanged ? 'unchanged' : 'to be built'} |`,
    ),
  )
}
