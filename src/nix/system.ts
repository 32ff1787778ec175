import { NixError } from '../errors.ts'
import type { Platform } from '../oci/platform.ts'

/** The Nix systems that container images can be built for, with the OCI platform of each. */
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

/** The systems that container images can be built for. */
export const SYSTEMS: readonly string[] = [...PLATFORMS.keys()]

/**
 * Returns the OCI platform of a Nix system.
 * @throws NixError if container images can't be built for the system
 */
export function platformOf(system: string): Platform {
  const platform = PLATFORMS.get(system)
  if (platform !== undefined) return platform
  const linux = system.replace(/-darwin$/, '-linux')
  if (linux !== system)
    throw new NixError({
      message: `The system "${system}" is macOS, but containers run Linux`,
      hint: `Build for ${linux} on a Linux runner:\n  runs-on: ${hostedRunner(linux) ?? ANY_RUNNER}\n  with:\n    system: ${linux}`,
    })
  throw new NixError({
    message: `Images can't be built for the system "${system}"`,
    hint: `Use one of ${[...PLATFORMS.keys()].join(', ')}.`,
  })
}

/** The hosted runner that is used for emulated systems. */
export const ANY_RUNNER = 'ubuntu-24.04'

/** https://docs.github.com/en/actions/reference/runners/github-hosted-runners */
const HOSTED: ReadonlyMap<string, string> = new Map([
  ['x86_64-linux', ANY_RUNNER],
  // 64-bit x86 processors run 32-bit programs.
  ['i686-linux', ANY_RUNNER],
  ['aarch64-linux', 'ubuntu-24.04-arm'],
])

/** Returns the label of the hosted runner that runs programs for a system without emulation. */
export function hostedRunner(system: string): string | undefined {
  return HOSTED.get(system)
}

/** Returns the Nix system for an OCI platform. */
export function systemOf(platform: Platform): string | undefined {
  const { os, architecture, variant } = platform
  const candidates = [...PLATFORMS].filter(([, one]) => one.os === os && one.architecture === architecture)
  const exact = candidates.find(([, one]) => one.variant === variant)
  // Without a variant: the first system of the architecture. With an unlisted variant: a system that has no variant.
  const [first] = candidates.filter(([, one]) => variant === undefined || one.variant === undefined)
  return (exact ?? first)?.[0]
}

/** The processor names of Nix for those of GitHub, Node, Go and Linux, all of which runners report. */
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
 * Returns the system of the runner.
 * @param os the value of `RUNNER_OS`: `Linux`, `macOS`; with Gitea's runner `linux`, `darwin`
 * @param reported the value of `RUNNER_ARCH`: `X64`, `ARM64`; with Gitea's runner `amd64`
 * @param own the architecture of this process in Node's terms, used if `reported` is unknown
 */
export function runnerSystem(os: string, reported: string, own: string): string {
  const processor = PROCESSORS.get(reported.toLowerCase()) ?? PROCESSORS.get(own) ?? own
  return `${processor}-${os.toLowerCase().replace('macos', 'darwin')}`
}
