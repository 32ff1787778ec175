import type { Environment } from '../context.ts'
import { type BuildInputs, readBuildInputs } from './build.ts'
import { type MergeInputs, readMergeInputs } from './merge.ts'
import { type Mode, noticesOfOtherModes, readMode } from './mode.ts'
import { type PlanInputs, readPlanInputs } from './plan.ts'
import { readVerifyInputs, type VerifyInputs } from './verify.ts'

export type Inputs = BuildInputs | MergeInputs | PlanInputs | VerifyInputs

/**
 * Reads the inputs of the step from the runner's `INPUT_…` variables.
 * @throws InputError for the first invalid input
 */
export function readInputs(env: Environment): Inputs {
  const mode = readMode(env)
  const notices = noticesOfOtherModes(env, mode)
  const inputs = readInputsOf(env, mode)
  return { ...inputs, notices: [...notices, ...inputs.notices] }
}

function readInputsOf(env: Environment, mode: Mode): Inputs {
  switch (mode) {
    case 'build':
      return readBuildInputs(env)
    case 'merge':
      return readMergeInputs(env)
    case 'plan':
      return readPlanInputs(env)
    case 'verify':
      return readVerifyInputs(env)
  }
}
