import { code, lines } from '../markdown.ts'
import type { PlannedBuild } from './plan.ts'

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
