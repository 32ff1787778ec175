import { MORE_SPACE } from '../fs/disk.ts'
import { hostedRunner } from './system.ts'

/** What is known of a build when it fails. */
export interface BuildContext {
  /** Absent where it was more than one that was evaluated. */
  readonly system?: string
  /** The system of the machine that the build ran on. */
  readonly runnerSystem: string
  /** What is free on the disks by now, in words. */
  readonly space?: string
}

interface Symptom {
  readonly pattern: RegExp
  readonly hint: (context: BuildContext, match: RegExpExecArray) => string
}

/**
 * What a user can do about a failed build, from Nix's own messages; nothing where they are not known. Where several
 * are there, the first of the table counts: it goes from causes to consequences.
 */
export function explainBuildFailure(log: string, context: BuildContext): string | undefined {
  // Line by line, and not all of a long one: a build prints what it likes, and patterns take time for each character.
  const lines = log.split('\n').map((line) => line.slice(0, LINE_LENGTH))
  for (const { pattern, hint } of SYMPTOMS) {
    for (const line of lines) {
      const match = pattern.exec(line)
      if (match !== null) return hint(context, match)
    }
  }
  return undefined
}

/** No message of Nix's that is looked for is longer. */
const LINE_LENGTH = 2000

/**
 * The features that a build requires: "a 'x86_64-linux' with features {kvm} is required to build" of Nix 2.8 to 2.26,
 * "Required features: {kvm}" of 2.34, "Required system: 'x86_64-linux' with features {kvm}" of versions between.
 */
const REQUIRED =
  "(?:[Aa] '[^']{1,100}' with features \\{(?=[^}]{0,300}\\} is required to build)|[Rr]equired (?:system: '[^']{1,100}' with )?features:? \\{)[^}]{0,300}"

/** What a build needs that requires the feature `kvm`. */
export const ALLOW_KVM = `Use a runner with /dev/kvm, and tell Nix:
  - uses: cachix/install-nix-action@v31
    with:
      extra_nix_config: extra-system-features = kvm`

const SYMPTOMS: readonly Symptom[] = [
  {
    // Programs in Go, such as skopeo, write the system's errors in lower case.
    pattern: /No space left on device/i,
    hint: ({ space }) => `The disk is full${space === undefined ? '' : ` (by now ${space})`}. ${MORE_SPACE}`,
  },
  {
    pattern: new RegExp(`${REQUIRED}\\bkvm\\b`),
    hint: () => `The build needs a virtual machine (runAsRoot or a VM test does). ${ALLOW_KVM}`,
  },
  {
    // "platform mismatch" and "missing system features" are two reasons in 2.34, and one in older versions.
    pattern:
      /[Aa] '([^']{1,100})' with features \{[^}]{0,300}\} is required to build|[Rr]equired system: '([^']{1,100})'|[Rr]equired features: \{/,
    hint: ({ runnerSystem, system: wanted = runnerSystem }, match) => {
      const system = match[1] ?? match[2] ?? runnerSystem
      // No emulation makes Linux run programs of macOS, nor does an image have any.
      if (system.endsWith('-darwin') && system !== runnerSystem)
        return `Something that the image needs is for macOS (${system}), and images are for Linux. Is \`pkgs\` of another system in packages.${wanted}? It takes that of ${wanted}, and inputs their packages.${wanted}.`
      if (system === runnerSystem)
        return 'This runner lacks a feature that the build requires. Where it can give it, tell Nix by `extra-system-features` in extra_nix_config of install-nix-action.'
      return `This runner is a ${runnerSystem}, and its Nix does not build for ${system}. Run the job on a runner of that system, or tell Nix that this one can, by emulation:
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
          ? 'on this runner: it is emulated, or a container that does not allow it. Take another runner'
          : `under emulation. Build for ${system} on ${describeRunner(system)}`
      return `Nix's sandbox can't filter system calls ${where}, or tell Nix:
  - uses: cachix/install-nix-action@v31
    with:
      extra_nix_config: filter-syscalls = false`
    },
  },
  {
    pattern: /Exec format error|cannot execute binary file/i,
    hint: ({ system, runnerSystem }) =>
      system === runnerSystem
        ? `The build runs a program that is for another processor than ${system}, or damaged. Does it take its tools from \`pkgs\` of another system, or a program that was downloaded for one?`
        : `Programs for ${system ?? 'another system'} don't run on this machine: no emulation is registered for them. Before Nix is installed, add
  - uses: docker/setup-qemu-action@v4
or ${system === undefined ? 'take a runner of that system' : `build on ${describeRunner(system)}`}.`,
  },
  {
    // In GitHub's answer, which Nix shows below its own words.
    pattern: /organization SAML enforcement|Resource not accessible by (?:integration|personal access token)/,
    hint: () =>
      'The token that Nix has for GitHub may not read that repository. Authorize it for the organization (SSO), or give Nix another one (`github_access_token` in install-nix-action).',
  },
  {
    // An input such as github:owner/name, from github.com or from a GitHub Enterprise Server. Of others, the path tells.
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
    ) => `Git needs a login for ${host}: the repository is private, or there is none of that name. Give Git a token in a step before this one:
  - run: git config --global url."${scheme}x-access-token:$TOKEN@${host}/".insteadOf "${scheme}${host}/"
    env:
      TOKEN: \${{ secrets.FLAKE_INPUTS_TOKEN }}
An input such as \`github:owner/name\` needs no login for Git, only a token in Nix's \`access-tokens\`.`,
  },
  {
    pattern: /Host key verification failed/i,
    hint: () => `SSH does not know the host's key. webfactory/ssh-agent adds the one of github.com; for another host, add to a step before this one
  run: mkdir -p ~/.ssh && ssh-keyscan HOST >> ~/.ssh/known_hosts`,
  },
  {
    pattern: /Permission denied \([^)]{0,100}publickey|fatal: Could not read from remote repository/i,
    hint: () => `SSH has no key that the host accepts. For a private Git repository, give the job a deploy key of it:
  - uses: webfactory/ssh-agent@v0.9.1
    with:
      ssh-private-key: \${{ secrets.DEPLOY_KEY }}
or write the input as \`github:owner/name\`, and give Nix a token (its \`access-tokens\`).`,
  },
  {
    pattern: /unable to download 'https:\/\/[^/']*github[^']*': HTTP error (?:403|429)|API rate limit exceeded/i,
    hint: () => `GitHub limits requests without a login. Give Nix the token:
  - uses: cachix/install-nix-action@v31
    with:
      github_access_token: \${{ github.token }}`,
  },
  {
    // Of its own servers, which may have any name, the API's path tells.
    pattern:
      /unable to download 'https:\/\/([^/']*gitlab[^/']*|[^/']+(?=\/api\/v4\/projects\/))\/[^']*': HTTP error (?:403|429)/i,
    // "extra-", for install-nix-action sets GitHub's by `access-tokens`. The form: access-tokens in nix.conf(5).
    hint: (
      _,
      [, host],
    ) => `${host} limits requests without a login. Give Nix a token that you have there, behind \`PAT:\` for a personal access token, or \`OAuth2:\`:
  - uses: cachix/install-nix-action@v31
    with:
      extra_nix_config: extra-access-tokens = ${host}=PAT:\${{ secrets.GITLAB_TOKEN }}`,
  },
  {
    pattern: /'[^'^]+\^[^']*' is not a valid URL/,
    hint: () =>
      'This version of Nix does not know `^`, by which newer ones choose outputs. Name the output as an attribute (`.#image.out` in place of `.#image^out`), or install a newer Nix.',
  },
  {
    pattern:
      /path ['"][^'"]*flake\.nix['"] does not exist|does not contain a '[^']*flake\.nix' file|getting status of ['"][^'"]*flake\.nix['"]: No such file|Path '[^']*flake\.nix' in the repository .* is not tracked by Git|could not find a flake\.nix file|is not part of a flake/,
    hint: () =>
      'There is no flake.nix there that Nix can see. In a Git repository it sees only files that Git knows: is the file committed, and is actions/checkout the first step?',
  },
  {
    // Of Nix 2.8, 2.26 and 2.34; the last two are of 2.34, which looks into the repository itself.
    pattern:
      /getting status of '[^']*-source\/([^']+)': No such file|path '[^']*-source\/([^']+)' does not exist|Path '([^']+)' does not exist in Git repository|Path '([^']+)' in the repository .* is not tracked by Git/,
    hint: (_, [, ...names]) => {
      const name = names.find((one) => one !== undefined)
      return `Nix does not see ${name}: of a Git repository it sees only the files that Git knows. Commit it; if a step before this one makes it, add to that step
  run: git add -N ${name}`
    },
  },
  {
    pattern: /cannot find flake 'flake:([^']+)' in the flake registries/,
    hint: (
      _,
      [, name],
    ) => `A path begins with "./"; anything else is looked for in Nix's registry. If that is one, write it as
  ./${name}`,
  },
  {
    // In Nix's own words, and of a path of the user's: not in the store, nor where builders work.
    pattern:
      /^\s*error: (?:getting status of|path) ['"]((?!\/build\/|[^'"]*\/nix\/(?:store|var)\/|[^'"]*\/\.cache\/)\/[^'"]+)['"](?: does not exist|: No such file)/m,
    hint: (_, [, path]) =>
      `There is no ${path} on this runner. Does a step before this one make it, and is actions/checkout the first step?`,
  },
]

/**
 * A private repository is not found without a token, as one that is not there.
 * @param kind what stands before the token: https://nix.dev/manual/nix/2.34/command-ref/conf-file#conf-access-tokens
 */
function explainPrivate(host: string, repository: string, kind = ''): string {
  const setting =
    host === 'github.com'
      ? 'github_access_token: ${{ secrets.FLAKE_INPUTS_TOKEN }}'
      : `extra_nix_config: extra-access-tokens = ${host}=${kind}\${{ secrets.FLAKE_INPUTS_TOKEN }}`
  const own = host === 'github.com' ? " The job's own `github.token` reads only its own repository." : ''
  return `${host} has no ${repository} that Nix may read: the name or the revision is wrong, or the repository is private.${own} Give Nix a token that may read it (its \`access-tokens\`):
  - uses: cachix/install-nix-action@v31
    with:
      ${setting}`
}

/** A runner on which programs for a system run by themselves, in words. */
export function describeRunner(system: string): string {
  const label = hostedRunner(system)
  return `a runner that is ${system}${label === undefined ? '' : ` (runs-on: ${label})`}`
}
