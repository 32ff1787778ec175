import { cp, mkdtemp, readFile, realpath, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type ArtifactService, startArtifactService } from './artifact-service.ts'
import { type Distribution, type DistributionOptions, startDistribution } from './distribution.ts'
import { nixEnvironment, removeNixFolder } from './nix.ts'
import { type ActionCall, type ActionRun, runAction } from './runner.ts'

/** One workflow run and the services it uses: real Nix, a real registry, and the run's artifacts. */
export interface Lab {
  readonly registry: LabRegistry
  readonly artifacts: ArtifactService
  /** The environment in which Nix works in this lab's folder. */
  readonly nix: Readonly<Record<string, string>>
  /** A folder for the files of a test. It is removed with the lab. */
  readonly folder: string
  /** A copy of examples/hello, outside any Git repository. */
  readonly hello: string
  /** A copy of the flake whose builds fail. */
  readonly broken: string
  /** Runs dist/index.js as a build step. `matrix.system` is the system. */
  build(system: string, call?: Partial<ActionCall>): Promise<ActionRun>
  /** Runs dist/index.js as a merge step. */
  merge(call?: Partial<ActionCall>): Promise<ActionRun>
  close(): Promise<void>
}

/** A registry, by its host in image names. */
export type LabRegistry = Pick<Distribution, 'host' | 'close'>

export interface LabOptions {
  /** The environment to reach a Docker daemon. Without it, no Docker is available. */
  readonly docker?: Readonly<Record<string, string | undefined>>
  /** The repository's path in the registry. */
  readonly path?: string
  /** The options of Docker Distribution. */
  readonly registry?: DistributionOptions
  /** A registry to use instead of Docker Distribution. */
  readonly startRegistry?: (folder: string) => Promise<LabRegistry>
}

export async function startLab({ docker, path = 'owner/hello', ...options }: LabOptions = {}): Promise<Lab> {
  // Nix refuses flakes below a symbolic link, which the temporary folder is on some systems.
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
    // A merge needs neither Nix nor Docker, as the empty PATH shows.
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
 * Copies examples/hello under a different image name than "hello:nix", because tests that run at the same time may
 * share a Docker daemon, in which a name refers to the image that was loaded last.
 */
export async function copyExample(to: string, imageName: string): Promise<void> {
  await cp(checkout('examples/hello'), to, { recursive: true })
  const script = join(to, 'make-image.sh')
  await writeFile(script, (await readFile(script, 'utf8')).replace('hello:nix', imageName))
}

/**
 * Creates a flake for an existing image.
 * @param image the Docker archive, or the script that streams one
 * @returns the new folder of the flake, whose `containerImage` for x86_64-linux is a copy of the image
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
