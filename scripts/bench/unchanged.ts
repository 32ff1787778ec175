import { startLab } from '../../__tests__/support/lab.ts'
import { prepareRunner } from '../../__tests__/support/runner.ts'
import type { Run } from './figures.ts'
import { measure } from './measure.ts'

/** A commit that does not change a published image. */
export interface UnchangedCommit {
  /** Runs the action, which must skip the build. */
  readonly build: () => Promise<Run>
  /** Runs only Nix's evaluation. */
  readonly evaluate: () => Promise<Run>
  readonly close: () => Promise<void>
}

const SYSTEM = 'x86_64-linux'

/** Builds and merges the example image with real Nix and a real registry. */
export async function publishExample(): Promise<UnchangedCommit> {
  const lab = await startLab()
  const built = await lab.build(SYSTEM, { jobTotal: 1 })
  const merged = await lab.merge()
  if (built.exitCode !== 0 || merged.exitCode !== 0) throw new Error(`${built.log}\n${merged.log}`)
  const nix = ['--extra-experimental-features', 'nix-command flakes', 'eval', '--raw']
  return {
    async build() {
      const runner = await prepareRunner({
        cwd: lab.hello,
        artifacts: lab.artifacts,
        matrix: { system: SYSTEM },
        jobTotal: 1,
        env: lab.nix,
        inputs: { mode: 'build', image: `${lab.registry.host}/owner/hello` },
      })
      try {
        // Like a step, runs in the checkout. Uses env, because a shell drops variables with hyphens in their names.
        const inFolder = [`--chdir=${runner.cwd}`, process.execPath, runner.main]
        const measured = await measure('env', inFolder, runner.env)
        const { unchanged } = await runner.readOutputs()
        if (unchanged !== 'true') throw new Error(`The image was built although it is unchanged:\n${measured.output}`)
        return measured
      } finally {
        await runner.close()
      }
    },
    evaluate() {
      const installable = `path:${lab.hello}#packages.${SYSTEM}.containerImage.outPath`
      return measure('nix', [...nix, installable], { ...process.env, ...lab.nix })
    },
    close: () => lab.close(),
  }
}
