import { cp, mkdtemp, readFile, realpath, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type ArtifactService, startArtifactService } from './artifact-service.ts'
import { type Distribution, type DistributionOptions, startDistribution } from './distribution.ts'
import { nixEnvironment, removeNixFolder } from './nix.ts'
import { type ActionCall, type ActionRun, runAction } from './runner.ts'

/** One workflow run with all that it talks to: real Nix, a real registry, and the artifacts of the run. */
export interface Lab {
  readonly registry: LabRegistry
  readonly artifacts: ArtifactService
  /** What Nix needs to work in this lab's folder. */
  readonly nix: Readonly<Record<string, string>>
  /** A folder for whatever a test needs; it goes with the lab. */
  readonly folder: string
  /** A copy of examples/hello, outside of any Git repository. */
  readonly hello: string
  /** A copy of the flake whose builds fail. */
  readonly broken: string
  /** Runs dist/index.js as a step that builds; `matrix.system` is the system. */
  build(system: string, call?: Partial<ActionCall>): Promise<ActionRun>
  /** Runs dist/index.js as a step that merges. */
  merge(call?: Partial<ActionCall>): Promise<ActionRun>
  close(): Promise<void>
}

/** A registry by the name that images have there. */
export type LabRegistry = Pick<Distribution, 'host' | 'close'>

export interface LabOptions {
  /** What reaches a Docker daemon; absent: there is none, and none is needed. */
  readonly docker?: Readonly<Record<string, string | undefined>>
  /** The repository's path in the registry. */
  readonly path?: string
  /** How Docker Distribution is to be run. */
  readonly registry?: DistributionOptions
  /** A registry in place of Docker Distribution. */
  readonly startRegistry?: (folder: string) => Promise<LabRegistry>
}

export async function startLab({ docker, path = 'owner/hello', ...options }: LabOptions = {}): Promise<Lab> {
  // Nix takes no flake from below a symbolic link, which a folder for temporary files is on some systems.
  const folder = await mkdtemp(join(await realpath(tmpdir()), 'nix-image-lab-'))
  const [registry, artifacts, nix] = await Promise.all([
    options.startRegistry?.(folder) ?? startDistribution(options.registry),
    startArtifactService(),
    nixEnvironment(join(folder, 'nix')),
  ])
  const hello = join(folder, 'hello')
  const broken = join(folder, 'broken')
  await cp(checkout('examples/hello'), hello, { recursive: true })
  await cp(checkout('__tests__/fixtures/broken'), broken, { recursive: true })
  await cp(checkout('examples/hello'), join(broken, 'hello'), { recursive: true })

  const image = `${registry.host}/${path}`
  const env = { ...nix, ...docker }
  return {
    registry,
    artifacts,
    nix,
    folder,
    hello,
    broken,
    build: (system, call = {}) =>
      runAction({
        cwd: hello,
        artifacts,
        matrix: { system },
        jobTotal: 2,
        ...call,
        env: { ...env, ...call.env },
        inputs: { mode: 'build', image, ...call.inputs },
      }),
    // Merge has neither Nix nor Docker: an empty PATH shows that it needs none.
    merge: (call = {}) =>
      runAction({
        artifacts,
        job: 'merge',
        ...call,
        env: { DOCKER_CONFIG: docker?.DOCKER_CONFIG, PATH: '', ...call.env },
        inputs: { mode: 'merge', image, ...call.inputs },
      }),
    close: async () => {
      await Promise.all([registry.close(), artifacts.close()])
      await removeNixFolder(folder)
    },
  }
}

/**
 * Copies examples/hello, its image under another name than "hello:nix": Docker's daemon may be shared with tests that
 * run at the same time, and a name is whoever's loaded it last.
 */
export async function copyExample(to: string, imageName: string): Promise<void> {
  await cp(checkout('examples/hello'), to, { recursive: true })
  const script = join(to, 'make-image.sh')
  await writeFile(script, (await readFile(script, 'utf8')).replace('hello:nix', imageName))
}

/**
 * Makes a flake of an image that is at hand.
 * @param image the docker archive, or the script that writes one
 * @returns the folder of the flake, which is new; its `containerImage` for x86_64-linux is a copy of the image
 */
export async function wrapImage(lab: Lab, image: Buffer | string): Promise<string> {
  const folder = await mkdtemp(join(lab.folder, 'wrapped-'))
  await writeFile(join(folder, 'image'), image, { mode: 0o755 })
  const builder = 'builder = "/bin/sh"; PATH = "/usr/bin:/bin"; args = [ "-euc" "cp ${./image} $out" ];'
  const built = `derivation { name = "image"; system = "x86_64-linux"; ${builder} }`
  await writeFile(join(folder, 'flake.nix'), `{ outputs = _: { packages.x86_64-linux.containerImage = ${built}; }; }\n`)
  return folder
}

function checkout(path: string): string {
  return fileURLToPath(new URL(`../../${path}`, import.meta.url))
}
