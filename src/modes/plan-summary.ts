import { code, lines } from '../actions/markdown.ts'

/** One job of the matrix that builds. */
export interface PlannedBuild {
  readonly system: string
  /** What `runs-on` takes. */
  readonly runner: string
  /** Whether its image is published already; absent where it is to be built. */
  readonly unchanged?: true
}

/** The summary of a plan, as Markdown. */
export function summarizePlan(builds: readonly PlannedBuild[]): string {
  return lines(
    '# Planned',
    '',
    '| system | runner | image |',
    '|---|---|---|',
    ...builds.map(
      ({ system, runner, unchanged }) => `| ${system} | ${code(runner)} | ${unchanged ? 'unchanged' : 'to be built'} |`,
    ),
  )
}
