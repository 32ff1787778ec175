import { MORE_SPACE } from '../advice.ts'
import { hostedRunner } from './system.ts'

/** The circumstances of a failed build. */
export interface BuildContext {
  /** Undefined if several systems were evaluated. */
  readonly system?: string
  /** The system of the runner. */
  readonly runnerSystem: string
  /** The free space on the disks, as formatted by `formatFreeSpace`. */
  readonly space?: string
}

interface Symptom {
  readonly pattern: RegExp
  readonly hint: (context: BuildContext, match: RegExpExecArray) => string
}

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
    hint: ({ runnerSystem, system: wanted = runnerSystem }, match) => {
      const system = match[1] ?? match[2] ?? runnerSystem
      // Linux can't emulate macOS, and images never contain macOS programs.
      if (system.endsWith('-darwin') && system !== runnerSystem)
        return `A dependency of the image is built for macOS (${system}), but images run Linux. In packages.${wanted}, use the \`pkgs\` of ${wanted}, and packages.${wanted} of the flake's inputs.`
      if (system === runnerSystem)
        return 'This runner lacks a system feature that the build requires. If the runner supports it, add it to `extra-system-features` in `extra_nix_config` of cachix/install-nix-action.'
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
    hint: ({ system, runnerSystem }) =>
      system === runnerSystem
        ? `The build runs a program that is not for ${system}, or that is damaged. Check whether it takes tools from the \`pkgs\` of another system, or downloads a program for another system.`
        : `This runner can't run programs for ${system ?? 'another system'}: no emulation is registered for them. Add before the step that installs Nix:
  - uses: docker/setup-qemu-action@v4
Or ${system === undefined ? 'use a runner for that system' : `build on ${describeRunner(system)}`}.`,
  },
  {
    // In the body of GitHub's response, which Nix prints below its own message.
    pattern: /organization SAML enforcement|Resource not accessible by (?:integration|personal access token)/,
    hint: () =>
      "The GitHub token that Nix uses can't read that repository. Authorize the token for the organization (SSO), or give Nix another token (`github_access_token` of cachix/install-nix-action).",
  },
  {
    // An input such as github:owner/name, from github.com or a GitHub Enterprise Server, which the path identifies.
    pattern:
      /unable to download 'https:\/\/(?:(?:api\.|codeload\.)?([^/']*github[^/']*)|([^/']+)(?=\/api\/v3\/))\/(?:api\/v3\/)?(?:repos\/)?([^/']+\/[^/']+)\/(?:commits|tarball|archive|tar\.gz)\/[^']*': HTTP error (?:401|404)/i,
    hint: (_, [, named, other, repository]) => explainPrivate(named ?? other ?? '', repository ?? ''),
  },
  {
    pattern: /unable to download 'https:\/\/([^/']+)\/api\/v4\/projects\/([^/']+)\/[^']*': HTTP error (?:401|404)/i,
    hint: (_, [, host = '', repository = '']) => explainPrivate(host, repository.replace(/%2F/gi, '/'), 'PAT:'),
  },
  {
    pattern:
      /fatal: (?:could not read (?:Username|Password) for|Authentication failed for|repository) '(https?:\/\/)(?:[^@/']*@)?([^/']+)[^']*'/,
    hint: (
      _,
      [, scheme, host],
    ) => `Git needs a login for ${host}: the repository is private or does not exist. Give Git a token in a step before this one:
  - run: git config --global url."${scheme}x-access-token:$TOKEN@${host}/".insteadOf "${scheme}${host}/"
    env:
      TOKEN: \${{ secrets.FLAKE_INPUTS_TOKEN }}
An input such as \`github:owner/name\` does not use Git. It only needs a token in Nix's \`access-tokens\`.`,
  },
  {
    pattern: /Host key verification failed/i,
    hint: () => `SSH does not know the host's key. webfactory/ssh-agent adds the key of github.com. For another host, add to a step before this one:
  run: mkdir -p ~/.ssh && ssh-keyscan HOST >> ~/.ssh/known_hosts`,
  },
  {
    pattern: /Permission denied \([^)]{0,100}publickey|fatal: Could not read from remote repository/i,
    hint: () => `SSH has no key that the host accepts. For a private Git repository, give the job a deploy key:
  - uses: webfactory/ssh-agent@v0.9.1
    with:
      ssh-private-key: \${{ secrets.DEPLOY_KEY }}
Or write the input as \`github:owner/name\`, and give Nix a token (\`access-tokens\`).`,
  },
  {
    pattern: /unable to download 'https:\/\/[^/']*github[^']*': HTTP error (?:403|429)|API rate limit exceeded/i,
    hint: () => `GitHub limits requests without a token. Give Nix the token of the job:
  - uses: cachix/install-nix-action@v31
    with:
      github_access_token: \${{ github.token }}`,
  },
  {
    // Self-managed GitLab servers can have any name. The path of the API identifies them.
    pattern:
      /unable to download 'https:\/\/([^/']*gitlab[^/']*|[^/']+(?=\/api\/v4\/projects\/))\/[^']*': HTTP error (?:403|429)/i,
    // "extra-", because install-nix-action sets the token of GitHub in `access-tokens`. See nix.conf(5) for the format.
    hint: (
      _,
      [, host],
    ) => `${host} limits requests without a token. Give Nix a token for ${host}, with the prefix \`PAT:\` for a personal access token, or \`OAuth2:\`:
  - uses: cachix/install-nix-action@v31
    with:
      extra_nix_config: extra-access-tokens = ${host}=PAT:\${{ secrets.GITLAB_TOKEN }}`,
  },
  {
    pattern: /'[^'^]+\^[^']*' is not a valid URL/,
    hint: () =>
      'This version of Nix does not support `^`, which selects outputs in newer versions. Name the output as an attribute (`.#image.out` instead of `.#image^out`), or install a newer Nix.',
  },
  {
    pattern:
      /path ['"][^'"]*flake\.nix['"] does not exist|does not contain a '[^']*flake\.nix' file|getting status of ['"][^'"]*flake\.nix['"]: No such file|Path '[^']*flake\.nix' in the repository .* is not tracked by Git|could not find a flake\.nix file|is not part of a flake/,
    hint: () =>
      'Nix found no flake.nix. In a Git repository, Nix only sees files that Git tracks. Commit the file, and make actions/checkout the first step.',
  },
  {
    // The messages of Nix 2.8, 2.26 and 2.34. The last two are from 2.34, which reads the repository itself.
    pattern:
      /getting status of '[^']*-source\/([^']+)': No such file|path '[^']*-source\/([^']+)' does not exist|Path '([^']+)' does not exist in Git repository|Path '([^']+)' in the repository .* is not tracked by Git/,
    hint: (_, [, ...names]) => {
      const name = names.find((one) => one !== undefined)
      return `Nix does not see ${name}. In a Git repository, Nix only sees files that Git tracks. Commit the file. If an earlier step creates it, add to that step:
  run: git add -N ${name}`
    },
  },
  {
    pattern: /cannot find flake 'flake:([^']+)' in the flake registries/,
    hint: (_, [, name]) => `Nix looks for "${name}" in the flake registry. If it is a path, write:
  ./${name}`,
  },
  {
    // Only messages of Nix itself, about a path that is neither in the store nor in a build directory.
    pattern:
      /^\s*error: (?:getting status of|path) ['"]((?!\/build\/|[^'"]*\/nix\/(?:store|var)\/|[^'"]*\/\.cache\/)\/[^'"]+)['"](?: does not exist|: No such file)/m,
    hint: (_, [, path]) =>
      `${path} does not exist on this runner. Check that an earlier step creates it, and that actions/checkout is the first step.`,
  },
]

/**
 * Returns the hint for a repository that was not found. Without a token, private repositories are not found either.
 * @param prefix of the token: https://nix.dev/manual/nix/2.34/command-ref/conf-file#conf-access-tokens
 */
function explainPrivate(host: string, repository: string, prefix = ''): string {
  const setting =
    host === 'github.com'
      ? 'github_access_token: ${{ secrets.FLAKE_INPUTS_TOKEN }}'
      : `extra_nix_config: extra-access-tokens = ${host}=${prefix}\${{ secrets.FLAKE_INPUTS_TOKEN }}`
  const own = host === 'github.com' ? " The job's `github.token` can only read the job's own repository." : ''
  return `Nix can't read ${repository} from ${host}: the name or the revision is wrong, or the repository is private.${own} Give Nix a token (\`access-tokens\`) that can read it:
  - uses: cachix/install-nix-action@v31
    with:
      ${setting}`
}

/** Returns the hint for settings in a flake's `nixConfig` that Nix ignores. */
export function explainIgnoredSettings(names: readonly string[]): string {
  return `Nix ignores settings in the flake's nixConfig: ${names.join(', ')}. If you trust the flake, allow them:
  nix-args: --accept-flake-config`
}

/** Describes a runner that can run programs for a system without emulation. */
export function describeRunner(system: string): string {
  const label = hostedRunner(system)
  return `a runner that is ${system}${label === undefined ? '' : ` (runs-on: ${label})`}`
}
