import type { Platform } from '../oci/platform.ts'
import { NixError } from './nix-error.ts'

/** The systems that container images can be for, by the platforms that container runtimes call them. */
const PLATFORMS: ReadonlyMap<string, Platform> = new Map(
  Object.entries({
    'x86_64-linux': { os: 'linux', architecture: 'amd64' },
    'aarch64-linux': { os: 'linux', architecture: 'arm64' },
    'armv7l-linux': { os: 'linux', architecture: 'arm', variant: 'v7' },
    'armv6l-linux': { os: 'linux', architecture: 'arm', variant: 'v6' },
    'i686-linux': { os: 'linux', architecture: '386' },
    'powerpc64le-linux': { os: 'linux', architecture: 'ppc64le' },
    'riscv64-linux': { os: 'linux', architecture: 'riscv64' },
    's390x-linux': { os: 'linux', architecture: 's390x' },
  }),
)

/** All systems that container images can be for. */
export const SYSTEMS: readonly string[] = [...PLATFORMS.keys()]

/**
 * The platform of a Nix system.
 * @throws NixError for a system that no container image is for
 */
export function platformOf(system: string): Platform {
  const platform = PLATFORMS.get(system)
  if (platform !== undefined) return platform
  const linux = system.replace(/-darwin$/, '-linux')
  if (linux !== system)
    throw new NixError({
      message: `The system "${system}" is macOS's, and containers run Linux`,
      hint: `Build for ${linux} on a Linux runner:\n  runs-on: ${hostedRunner(linux) ?? ANY_RUNNER}\n  with:\n    system: ${linux}`,
    })
  throw new NixError({
    message: `"${system}" is not a system that images can be built for`,
    hint: `Use one of ${[...PLATFORMS.keys()].join(', ')}.`,
  })
}

/** The hosted runner that has all that emulation needs. */
export const ANY_RUNNER = 'ubuntu-24.04'

/** https://docs.github.com/en/actions/reference/runners/github-hosted-runners */
const HOSTED: ReadonlyMap<string, string> = new Map([
  ['x86_64-linux', ANY_RUNNER],
  // An x86 processor runs it as it is.
  ['i686-linux', ANY_RUNNER],
  ['aarch64-linux', 'ubuntu-24.04-arm'],
])

/** The label of GitHub's runner on which a system's programs run by themselves, where there is one. */
export function hostedRunner(system: string): string | undefined {
  return HOSTED.get(system)
}

/** The system whose images have this platform, where there is one. */
export function systemOf(platform: Platform): string | undefined {
  const { os, architecture, variant } = platform
  const candidates = [...PLATFORMS].filter(([, one]) => one.os === os && one.architecture === architecture)
  const exact = candidates.find(([, one]) => one.variant === variant)
  // An image that names no variant is the first of its architecture; one for which there is only one system, that.
  const [first] = candidates.filter(([, one]) => variant === undefined || one.variant === undefined)
  return (exact ?? first)?.[0]
}

/** Nix's names of processors, by GitHub's, Node's, Go's and Linux's: runners differ in which they report. */
const PROCESSORS: ReadonlyMap<string, string> = new Map([
  ...['x64', 'amd64', 'x86_64'].map((name) => [name, 'x86_64'] as const),
  ...['arm64', 'aarch64'].map((name) => [name, 'aarch64'] as const),
  ...['arm', 'armv7', 'armv7l'].map((name) => [name, 'armv7l'] as const),
  ...['armv6', 'armv6l'].map((name) => [name, 'armv6l'] as const),
  ...['x86', '386', 'i386', 'i686', 'ia32'].map((name) => [name, 'i686'] as const),
  ...['ppc64', 'ppc64le', 'powerpc64le'].map((name) => [name, 'powerpc64le'] as const),
  ['riscv64', 'riscv64'],
  ['s390x', 's390x'],
])

/**
 * Returns the runner's own system.
 * @param os as `RUNNER_OS` has it: `Linux`, `macOS`; in Gitea's runner `linux`, `darwin`
 * @param reported as `RUNNER_ARCH` has it: `X64`, `ARM64`; in Gitea's runner `amd64`
 * @param own the architecture of this process, as Node calls it. It counts if the runner reports none that is known
 */
export function runnerSystem(os: string, reported: string, own: string): string {
  const processor = PROCESSORS.get(reported.toLowerCase()) ?? PROCESSORS.get(own) ?? own
  return `${processor}-${os.toLowerCase().replace('macos', 'darwin')}`
}
