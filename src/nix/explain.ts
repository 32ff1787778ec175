import { MORE_SPACE } from '../advice.ts'
import { type BuildContext, SOURCE_SYMPTOMS, type Symptom } from './explain-sources.ts'
import { hostedRunner } from './system.ts'

/**
 * Returns a hint for a failed build, based on the messages in its log. If several symptoms match, the first one in the
 * table wins: causes come before their consequences.
 * @returns undefined if no message is known
 */
export function explainBuildFailure(log: string, context: BuildContext): string | undefined {
  // Match line by line, and only the start of a long line: builds print anything, and matching takes time.
  const lines = log.split('\n').map((line) => line.slice(0, LINE_LENGTH))
  for (const { pattern, hint } of SYMPTOMS) {
    for (const line of lines) {
      const match = pattern.exec(line)
      if (match !== null) return hint(context, match)
    }
  }
  return undefined
}

/** Longer than every message in the table, in characters. */
const LINE_LENGTH = 2000

/**
 * Matches the features that a build requires: "a 'x86_64-linux' with features {kvm} is required to build" in Nix 2.8 to
 * 2.26, "Required features: {kvm}" in 2.34, "Required system: 'x86_64-linux' with features {kvm}" in between.
 */
const REQUIRED =
  "(?:[Aa] '[^']{1,100}' with features \\{(?=[^}]{0,300}\\} is required to build)|[Rr]equired (?:system: '[^']{1,100}' with )?features:? \\{)[^}]{0,300}"

/** The hint for a build that requires the feature `kvm`. */
export const ALLOW_KVM = `Use a runner that has /dev/kvm, and add the feature to Nix:
  - uses: cachix/install-nix-action@v31
    with:
      extra_nix_config: extra-system-features = kvm`

const SYMPTOMS: readonly Symptom[] = [
  {
    // Programs in Go, such as skopeo, print system errors in lower case.
    pattern: /No space left on device/i,
    hint: ({ space }) => `The disk is full${space === undefined ? '' : ` (now ${space})`}. ${MORE_SPACE}`,
  },
  {
    pattern: new RegExp(`${REQUIRED}\\bkvm\\b`),
    hint: () => `The build needs a virtual machine (for \`runAsRoot\` or a VM test). ${ALLOW_KVM}`,
  },
  {
    // Nix 2.34 reports "platform mismatch" and "missing system features" separately. Older versions do not.
    pattern:
      /[Aa] '([^']{1,100})' with features \{[^}]{0,300}\} is required to build|[Rr]equired system: '([^']{1,100})'|[Rr]equired features: \{/,
    hint: ({ runnerSystem, system: wanted = runnerSystem, hasBuilder }, match) => {
      const system = match[1] ?? match[2] ?? runnerSystem
      // Linux can't emulate macOS, and images never contain macOS programs.
      if (system.endsWith('-darwin') && system !== runnerSystem)
        return `A dependency of the image is built for macOS (${system}), but images run Linux. In packages.${wanted}, use the \`pkgs\` of ${wanted}, and packages.${wanted} of the flake's inputs.`
      if (system === runnerSystem)
        return 'This runner lacks a system feature that the build requires. If the runner supports it, add it to `extra-system-features` in `extra_nix_config` of cachix/install-nix-action.'
      if (hasBuilder && system === wanted)
        return `No remote builder can build this for ${system} now. Check that Nix's log above shows no error of the builder, that this runner can connect to it, and that it has the required features.`
      return `This runner is ${runnerSystem}, and Nix can't build for ${system} on it. Use a runner for ${system}, or emulation:
  - uses: docker/setup-qemu-action@v4
  - uses: cachix/install-nix-action@v31
    with:
      extra_nix_config: extra-platforms = ${system}`
    },
  },
  {
    pattern: /unable to load seccomp BPF program/,
    hint: ({ system, runnerSystem }) => {
      const where =
        system === undefined || system === runnerSystem
          ? 'on this runner, which is emulated, or a container that does not allow it. Use another runner'
          : `under emulation. Build for ${system} on ${describeRunner(system)}`
      return `Nix's sandbox can't filter system calls ${where}, or turn the filter off:
  - uses: cachix/install-nix-action@v31
    with:
      extra_nix_config: filter-syscalls = false`
    },
  },
  {
    pattern: /Exec format error|cannot execute binary file/i,
    hint: ({ system, runnerSystem, hasBuilder }) => {
      if (hasBuilder)
        return `Nix ran a program for ${system} on a machine that can't run it. If that was this runner, remove ${system} from \`extra-platforms\` in Nix's configuration, so that only the remote builder builds for it. Otherwise, check which systems \`builders\` lists for the remote builder.`
      return system === runnerSystem
        ? `The build runs a program that is not for ${system}, or that is damaged. Check whether it takes tools from the \`pkgs\` of another system, or downloads a program for another system.`
        : `This runner can't run programs for ${system ?? 'another system'}: no emulation is registered for them. Add before the step that installs Nix:
  - uses: docker/setup-qemu-action@v4
Or ${system === undefined ? 'use a runner for that system' : `build on ${describeRunner(system)}`}.`
    },
  },
  ...SOURCE_SYMPTOMS,
]

/** Returns a line about settings in a flake's `nixConfig` that Nix ignores. */
export function explainIgnoredSettings(names: readonly string[]): string {
  return `Nix ignores settings in the flake's nixConfig: ${names.join(', ')}. To apply them, set \`nix-args: --accept-flake-config\`, which trusts the flake with every setting, such as caches to download from and programs to run.`
}

/** Describes a runner that can run programs for a system without emulation. */
export function describeRunner(system: string): string {
  const label = hostedRunner(system)
  return `a runner that is ${system}${label === undefined ? '' : ` (runs-on: ${label})`}`
}
