import { describe, expect, test } from '@jest/globals'
import { explainBuildFailure } from '../../src/nix/explain.ts'

const onX86 = { system: 'aarch64-linux', runnerSystem: 'x86_64-linux' }
const forX86 = { system: 'x86_64-linux', runnerSystem: 'x86_64-linux' }

// The messages of Nix 2.8 and 2.26, and of later versions as in their source.
const refused = (required: string, own: string): readonly string[] => [
  `error: a '${required.replace(' ', "' with features ")} is required to build '/nix/store/00-app.drv', but I am a 'x86_64-linux' with features ${own}`,
  `error: Cannot build '/nix/store/00-app.drv'.\n       Reason: required system or feature not available\n       Required system: '${required.replace(' ', "' with features ")}\n       Current system: 'x86_64-linux' with features ${own}`,
]

// Of Nix 2.34.
const mismatch =
  "error: Cannot build '/nix/store/00-app.drv'.\n       Reason: platform mismatch\n       Required system: 'aarch64-linux'\n       Current system: 'x86_64-linux'"

describe('a build for a system that the runner can’t build for', () => {
  // Hosted runners have /dev/kvm, so Nix lists `kvm` among its features.
  const machines = [
    '{}',
    '{benchmark, big-parallel, nixos-test, uid-range}',
    '{benchmark, big-parallel, kvm, nixos-test, uid-range}',
  ]

  test.each([...machines.flatMap((own) => refused('aarch64-linux {}', own)), mismatch])('%s', (log) => {
    const hint = explainBuildFailure(log, onX86)
    expect(hint).toContain("This runner is x86_64-linux, and Nix can't build for aarch64-linux on it")
    expect(hint).toContain('extra_nix_config: extra-platforms = aarch64-linux')
    expect(hint).toContain('docker/setup-qemu-action')
  })
})

test.each([...refused('x86_64-darwin {}', '{kvm}'), mismatch.replace('aarch64-linux', 'x86_64-darwin')])(
  'a dependency for macOS can’t be emulated: %s',
  (log) => {
    const hint = explainBuildFailure(log, onX86)
    expect(hint).toContain('A dependency of the image is built for macOS (x86_64-darwin)')
    expect(hint).toContain('packages.aarch64-linux')
    expect(hint).not.toMatch(/qemu|extra-platforms|runs-on/)
  },
)

describe('a build that needs a virtual machine', () => {
  test.each([
    ...refused('x86_64-linux {kvm}', '{benchmark, big-parallel, nixos-test, uid-range}'),
    ...refused('x86_64-linux {kvm, nixos-test}', '{benchmark, big-parallel, nixos-test}'),
    missing('{kvm}', '{}'),
    missing('{kvm, nixos-test}', '{benchmark, big-parallel, nixos-test}'),
  ])('%s', (log) => {
    const hint = explainBuildFailure(log, forX86)
    expect(hint).toContain('/dev/kvm')
    expect(hint).toContain('extra_nix_config: extra-system-features = kvm')
    expect(hint).not.toContain('extra-platforms')
  })
})

test.each([...refused('x86_64-linux {big-parallel}', '{kvm}'), missing('{big-parallel}', '{kvm}')])(
  'a missing feature is not confused with another system or a virtual machine: %s',
  (log) => {
    const hint = explainBuildFailure(log, forX86)
    expect(hint).toContain('`extra-system-features`')
    expect(hint).not.toContain("can't build for x86_64-linux")
    expect(hint).not.toContain('virtual machine')
  },
)

/** Of Nix 2.34. */
function missing(required: string, own: string): string {
  return `error: Cannot build '/nix/store/00-app.drv'.\n       Reason: missing system features\n       Required features: ${required}\n       Available features: ${own}`
}

describe('missing emulation', () => {
  test.each([
    "error: executing '/nix/store/00-bash-5.2/bin/bash': Exec format error",
    "while setting up the build environment: executing '/nix/store/00-busybox/bin/sh': Exec format error",
    '/build/app: cannot execute binary file: Exec format error',
    'fork/exec /build/app: exec format error',
  ])('%s', (log) => {
    const hint = explainBuildFailure(log, onX86)
    expect(hint).toContain('no emulation is registered')
    expect(hint).toContain('docker/setup-qemu-action')
    expect(hint).toContain('runs-on: ubuntu-24.04-arm')
  })
})

test.each([
  ['/build/app: cannot execute binary file: Exec format error', 'a program that is not for x86_64-linux'],
  ['error: unable to load seccomp BPF program: Invalid argument', 'a container that does not allow it'],
])('emulation is not suggested for a native build: %s', (log, detail) => {
  const hint = explainBuildFailure(log, forX86)
  expect(hint).toContain(detail)
  expect(hint).not.toMatch(/qemu|runs-on/)
})

describe('with a remote builder for the system, emulation is not suggested', () => {
  const withBuilder = { ...onX86, hasBuilder: true }

  test('if a program ran on the wrong machine', () => {
    const hint = explainBuildFailure(
      "error: executing '/nix/store/00-bash-5.2/bin/bash': Exec format error",
      withBuilder,
    )
    expect(hint).toMatch(/remove aarch64-linux from `extra-platforms`.* so that only the remote builder builds for it/)
    expect(hint).not.toMatch(/qemu|runs-on/i)
  })

  test.each([...refused('aarch64-linux {}', '{kvm}'), mismatch])('if no builder is available: %s', (log) => {
    const hint = explainBuildFailure(log, withBuilder)
    expect(hint).toMatch(/^No remote builder can build this for aarch64-linux now\./)
    expect(hint).not.toMatch(/qemu|extra-platforms/i)
  })

  test('unless it is for another system than the one that the build needs', () => {
    const [log = ''] = refused('riscv64-linux {}', '{kvm}')
    expect(explainBuildFailure(log, withBuilder)).toContain("Nix can't build for riscv64-linux on it")
  })
})

test('emulation is suggested if several systems were evaluated', () => {
  const hint = explainBuildFailure('/build/app: cannot execute binary file: Exec format error', {
    runnerSystem: 'x86_64-linux',
  })
  expect(hint).toMatch(
    /^This runner can't run programs for another system: [\s\S]*setup-qemu-action@v4\nOr use a runner for that system\.$/,
  )
})

test('the filter of the sandbox under emulation', () => {
  const hint = explainBuildFailure('error: unable to load seccomp BPF program: Invalid argument', onX86)
  expect(hint).toContain('extra_nix_config: filter-syscalls = false')
  expect(hint).toContain('runs-on: ubuntu-24.04-arm')
})

test.each([
  'error: writing to file: No space left on device',
  'tar: layer.tar: Cannot write: No space left on device',
  'write /build/layer.tar: no space left on device',
  'error: builder for ’/nix/store/00-app.drv’ failed\nOSError: [Errno 28] No space left on device',
])('a full disk: %s', (log) => {
  expect(explainBuildFailure(log, forX86)).toMatch(/disk is full.*14 GB/)
})

test('a full disk, with the free space', () => {
  const space = '12.0 MB are free for /nix/store, 3.1 GB for /home/runner/temp'
  const hint = explainBuildFailure('error: writing to file: No space left on device', { ...forX86, space })
  expect(hint).toContain(`The disk is full (now ${space}).`)
})

describe('the rate limit of the Git host', () => {
  test.each([
    `error: unable to download 'https://api.github.com/repos/NixOS/nixpkgs/commits/HEAD': HTTP error 403\n\n       response body:\n\n       {"message":"API rate limit exceeded for 192.0.2.1. (But here's the good news: Authenticated requests get a higher rate limit.)"}`,
    "error: unable to download 'https://api.github.com/repos/NixOS/nixpkgs/tarball/0123': HTTP error 429",
    'error: API rate limit exceeded for 192.0.2.1.',
  ])('%s', (log) => {
    expect(explainBuildFailure(log, forX86)).toContain('github_access_token: ${{ github.token }}')
  })

  test.each([
    ['gitlab.com', 'gitlab.com/api/v4/projects/a%2Fb/repository/commits?ref_name=HEAD'],
    ['gitlab.example.org', 'gitlab.example.org/a/github/-/archive/main.tar.gz'],
    ['git.example.org', 'git.example.org/api/v4/projects/a%2Fb/repository/archive.tar.gz?sha=0123'],
  ])('of %s, with a hint that does not suggest the token of GitHub', (host, url) => {
    for (const log of [
      `warning: error: unable to download 'https://${url}': HTTP error 429; retrying in 268 ms`,
      `error: unable to download 'https://${url}': HTTP error 403`,
    ]) {
      const hint = explainBuildFailure(log, forX86)
      expect(hint).toContain(`${host} limits requests`)
      expect(hint).toContain(`extra_nix_config: extra-access-tokens = ${host}=PAT:\${{ secrets.GITLAB_TOKEN }}`)
      expect(hint).not.toContain('github_access_token')
    }
  })

  test('is not blamed for a binary cache that denies access', () => {
    const log =
      "copying path '/nix/store/00-github-cli'\nerror: unable to download 'https://cache.example.org/00.narinfo': HTTP error 403\nwarning: input github:NixOS/nixpkgs"
    expect(explainBuildFailure(log, forX86)).toBeUndefined()
  })
})

describe('a private or missing repository', () => {
  const answer = '\n\n       response body:\n\n       {"message": "Not Found", "status": "404"}'

  test.each([
    `error: unable to download 'https://api.github.com/repos/owner/private/commits/HEAD': HTTP error 404 ('')${answer}`,
    `error:\n       … while fetching the input 'github:owner/private'\n\n       error: unable to download 'https://api.github.com/repos/owner/private/commits/main': HTTP error 404${answer}`,
    "error: unable to download 'https://api.github.com/repos/owner/private/tarball/0123': HTTP error 404",
    "error: unable to download 'https://github.com/owner/private/archive/0123.tar.gz': HTTP error 404",
    "error: unable to download 'https://api.github.com/repos/owner/private/commits/HEAD': HTTP error 401",
  ])('at GitHub: %s', (log) => {
    const hint = explainBuildFailure(log, forX86)
    expect(hint).toMatch(/^Nix can't read owner\/private from github\.com: .* the repository is private\./)
    expect(hint).toContain("The job's `github.token` can only read the job's own repository.")
    expect(hint).toContain('`access-tokens`')
    expect(hint).toMatch(
      /install-nix-action@v31\n {4}with:\n {6}github_access_token: \$\{\{ secrets\.FLAKE_INPUTS_TOKEN \}\}$/,
    )
  })

  test.each([
    ['github.example.org', 'github.example.org/api/v3/repos/owner/private/commits/HEAD', ''],
    ['git.example.org', 'git.example.org/api/v3/repos/owner/private/tarball/0123', ''],
    ['gitlab.com', 'gitlab.com/api/v4/projects/owner%2Fprivate/repository/commits?ref_name=HEAD', 'PAT:'],
    ['git.example.org', 'git.example.org/api/v4/projects/owner%2fprivate/repository/archive.tar.gz?sha=0', 'PAT:'],
  ])('at %s: %s', (host, url, kind) => {
    const hint = explainBuildFailure(`error: unable to download 'https://${url}': HTTP error 404`, forX86)
    expect(hint).toContain(`Nix can't read owner/private from ${host}`)
    expect(hint).toContain(`extra_nix_config: extra-access-tokens = ${host}=${kind}\${{ secrets.FLAKE_INPUTS_TOKEN }}`)
    expect(hint).not.toContain('github.token')
  })

  test('is not blamed for another missing file', () => {
    for (const url of ['cache.example.org/00.narinfo', 'github.com/owner/app/releases/download/v1/app.tar.gz'])
      expect(explainBuildFailure(`error: unable to download 'https://${url}': HTTP error 404`, forX86)).toBeUndefined()
  })

  test('with a token that the organization has not authorized', () => {
    const log = `error: unable to download 'https://api.github.com/repos/o/r/commits/HEAD': HTTP error 403\n\n       response body:\n\n       {"message":"Resource protected by organization SAML enforcement. You must grant your Personal Access token access to this organization."}`
    expect(explainBuildFailure(log, forX86)).toMatch(/^The GitHub token that Nix uses can't read .* \(SSO\)/)
  })

  test.each([
    // With prompts disabled, without a terminal, with a wrong token, and GitHub's answer to a wrong token.
    "fatal: could not read Username for 'https://git.example.org': terminal prompts disabled",
    "fatal: could not read Username for 'https://git.example.org': No such device or address",
    "fatal: could not read Password for 'https://user@git.example.org': terminal prompts disabled",
    "fatal: Authentication failed for 'https://git.example.org/owner/private.git/'",
    "remote: Repository not found.\nfatal: repository 'https://git.example.org/owner/private/' not found",
  ])('by Git: %s', (log) => {
    const hint = explainBuildFailure(`${log}\nerror: program 'git' failed with exit code 128`, forX86)
    expect(hint).toMatch(/^Git needs a login for git\.example\.org: the repository is private or does not exist/)
    expect(hint).toContain(
      'run: git config --global url."https://x-access-token:$TOKEN@git.example.org/".insteadOf "https://git.example.org/"',
    )
    expect(hint).toContain('`access-tokens`')
  })

  test.each([
    'git@github.com: Permission denied (publickey).\nfatal: Could not read from remote repository.',
    'git@gitlab.com: Permission denied (publickey,keyboard-interactive).',
    'fatal: Could not read from remote repository.',
  ])('by Git with SSH: %s', (log) => {
    const hint = explainBuildFailure(`${log}\nerror: program 'git' failed with exit code 128`, forX86)
    expect(hint).toMatch(/^SSH has no key that the host accepts\./)
    expect(hint).toContain('webfactory/ssh-agent@')
    expect(hint).toContain('ssh-private-key: ${{ secrets.DEPLOY_KEY }}')
  })

  test('by Git with SSH, with an unknown host key', () => {
    const log = 'Host key verification failed.\nfatal: Could not read from remote repository.'
    expect(explainBuildFailure(log, forX86)).toMatch(
      /^SSH does not know the host's key\..*\n {2}run: .*ssh-keyscan HOST/,
    )
  })
})

test('a selection of outputs that old versions of Nix do not support', () => {
  const hint = explainBuildFailure("error: '.#image^out' is not a valid URL", forX86)
  expect(hint).toContain('does not support `^`')
  expect(hint).toContain('.#image.out')
})

test.each([
  ['codeberg.org', 'https://codeberg.org/owner/private/archive/main.tar.gz'],
  ['git.example.org', 'https://git.example.org/api/v1/repos/owner/private/archive/0123.tar.gz'],
  ['git.sr.ht', 'https://git.sr.ht/owner/private/archive/0123.tar.gz'],
])('a private or missing repository at %s, whose archive Nix fetches', (host, url) => {
  for (const log of [
    `error: unable to download '${url}': HTTP error 404 ('Not Found')`,
    `error:\n       … while fetching the input '${url}'\n\n       error: Failed to open archive (Source threw exception: error: unable to download '${url}': HTTP error 404`,
  ]) {
    const hint = explainBuildFailure(log, forX86)
    expect(hint).toContain(`Nix can't read owner/private from ${host}`)
    expect(hint).toContain(`url = "git+ssh://git@${host}/owner/private";`)
  }
})

describe('an error of pure evaluation says what to change', () => {
  // The messages of Nix 2.8, and of 2.26 and 2.34 where they differ.
  test.each([
    [
      "error: attribute 'currentSystem' missing",
      'with the system that the package is for: "aarch64-linux" in packages.aarch64-linux',
    ],
    ["error: attribute 'currentTime' missing", 'with `self.lastModified`'],
    [
      "error: access to absolute path '/etc/app/ca.pem' is forbidden in pure eval mode (use '--impure' to override)",
      'Copy /etc/app/ca.pem into the repository, and write its path relative to the file that uses it, such as `./ca.pem`',
    ],
    [
      "error: access to absolute path '/etc' is forbidden in pure evaluation mode (use '--impure' to override)",
      'Copy /etc into the repository',
    ],
    // A link in the repository that leads out of it, with Nix 2.8.
    [
      "error: access to canonical path '/etc/hostname' is forbidden in restricted mode",
      'Copy /etc/hostname into the repository',
    ],
    [
      "error: cannot look up '<nixpkgs>' in pure evaluation mode (use '--impure' to override)",
      'Replace `<nixpkgs>` with an input of the flake, such as `inputs.nixpkgs`',
    ],
    [
      "error: cannot look up '<nixpkgs/lib>' in pure evaluation mode (use '--impure' to override)",
      'such as `inputs.nixpkgs`',
    ],
    [
      "error: in pure evaluation mode, 'fetchTarball' requires a 'sha256' argument",
      'Add `sha256` to the arguments of `builtins.fetchTarball`',
    ],
    [
      "error: in pure evaluation mode, 'fetchTree' requires a locked input, at /nix/store/00-source/flake.nix:21:18",
      'Add `rev`, the commit, to the arguments of `builtins.fetchTree`, or make the repository an input',
    ],
    [
      "error: in pure evaluation mode, 'fetchGit' will not fetch unlocked input 'git+https://github.com/owner/app?exportIgnore=1'",
      'or make git+https://github.com/owner/app?exportIgnore=1 an input',
    ],
    [
      "error: in pure evaluation mode, 'fetchGit' doesn't fetch unlocked input 'git+https://github.com/owner/app'",
      '`builtins.fetchGit`, or make git+https://github.com/owner/app an input',
    ],
    [
      "error: cannot call 'getFlake' on unlocked flake reference 'github:owner/app', at «none»:0 (use --impure to override)",
      'Make github:owner/app an input of the flake',
    ],
    ["error: 'builtins.storePath' is not allowed in pure evaluation mode", 'does not need what the error names'],
  ])('%s', (log, change) => {
    const hint = explainBuildFailure(log, onX86)
    expect(hint).toMatch(/^Nix evaluates flakes in pure mode/)
    expect(hint).toContain(change)
    expect(hint).toMatch(/\n {2}nix-args: --impure$/)
  })
})

describe('a flake.nix that Git does not track', () => {
  test.each([
    "error: path '/nix/store/00-source/flake.nix' does not exist",
    "error: getting status of '/nix/store/00-source/flake.nix': No such file or directory",
    "error: source tree referenced by 'git+file:///home/runner/app' does not contain a '/flake.nix' file",
    "error: source tree referenced by 'git+file:///home/runner/app?dir=nix' does not contain a 'nix/flake.nix' file",
    'error: Path \'flake.nix\' in the repository "/home/runner/app" is not tracked by Git.',
    'error: Path \'apps/a/flake.nix\' in the repository "/home/runner/app" is not tracked by Git.\n\nTo make it visible to Nix, run:',
    'error: could not find a flake.nix file',
    'error: getting status of "/home/runner/app/flake.nix": No such file or directory',
    'error: path "/home/runner/app" is not part of a flake (neither it nor its parent directories contain a \'flake.nix\' file)',
  ])('%s', (log) => {
    expect(explainBuildFailure(log, forX86)).toMatch(/^Nix found no flake\.nix\..*Commit the file.*actions\/checkout/)
  })
})

describe('another file that Git does not track', () => {
  test.each([
    // Nix 2.8, 2.26, and 2.34 for a file that exists and one that does not.
    "error: getting status of '/nix/store/kdmr1mwbs0fm36q4j49x501ppipfs7n5-source/nix/image.nix': No such file or directory",
    "error:\n       … while calling the 'import' builtin\n         at /nix/store/mk9j0py19nvql26xm4rc1aj75xz9d0h7-source/flake.nix:20:15:\n           20|       image = import ./nix/image.nix;\n\n       error: path '/nix/store/mk9j0py19nvql26xm4rc1aj75xz9d0h7-source/nix/image.nix' does not exist",
    `error:\n       … while calling the 'import' builtin\n         at /home/runner/app/flake.nix:20:15:\n\n       error: Path 'nix/image.nix' in the repository "/home/runner/app" is not tracked by Git.\n\n       To make it visible to Nix, run:\n\n       git -C "/home/runner/app" add "nix/image.nix"`,
    `error:\n       … while calling the 'import' builtin\n         at /home/runner/app/flake.nix:20:15:\n\n       error: Path 'nix/image.nix' does not exist in Git repository "/home/runner/app".`,
    // Nix 2.26 for readFile, readDir and pathExists, and 2.28 by its source.
    "error:\n       … while calling the 'readFile' builtin\n\n       error: opening file '/nix/store/mk9j0py19nvql26xm4rc1aj75xz9d0h7-source/nix/image.nix': No such file or directory",
    "error:\n       … while calling the 'readDir' builtin\n\n       error: reading directory /nix/store/mk9j0py19nvql26xm4rc1aj75xz9d0h7-source/nix/image.nix: No such file or directory",
    'error: reading directory "/nix/store/mk9j0py19nvql26xm4rc1aj75xz9d0h7-source/nix/image.nix": No such file or directory',
    // Lix 2.95, by its source.
    "error: opening directory '/nix/store/mk9j0py19nvql26xm4rc1aj75xz9d0h7-source/nix/image.nix': No such file or directory",
    // Nix 2.20 to 2.26 for `lazy-trees` and relative inputs, by their source.
    "error: access to path '/nix/image.nix' is forbidden because it is not under Git control; maybe you should 'git add' it to the repository '/home/runner/app'?",
  ])('%s', (log) => {
    const hint = explainBuildFailure(log, forX86)
    expect(hint).toMatch(/^Nix does not see nix\/image\.nix\. .*only sees files that Git tracks\. Commit the file/)
    expect(hint).toMatch(/an earlier step creates it.*\n {2}run: git add -N nix\/image\.nix$/)
  })

  describe('in a submodule', () => {
    const withSubmodule = { ...forX86, flake: '.', submodules: ['docs', 'vendor/lib'] }
    const missing = (name: string): readonly string[] => [
      `error: getting status of '/nix/store/kdmr1mwbs0fm36q4j49x501ppipfs7n5-source/${name}': No such file or directory`,
      `error: opening file '/nix/store/kdmr1mwbs0fm36q4j49x501ppipfs7n5-source/${name}': No such file or directory`,
      `error: Path '${name}' in the repository "/home/runner/app" is not tracked by Git.`,
      `error: Path '${name}' does not exist in Git repository "/home/runner/app".`,
    ]

    test.each([...missing('vendor/lib/data.json'), ...missing('vendor/lib')])('%s', (log) => {
      const hint = explainBuildFailure(log, withSubmodule)
      expect(hint).toMatch(
        /it leaves out Git submodules, such as vendor\/lib\..*`submodules: true` for actions\/checkout/,
      )
      expect(hint).toMatch(/\n {2}flake: \.\?submodules=1$/)
      expect(hint).not.toContain('git add')
      expect(explainBuildFailure(log, { ...withSubmodule, flake: './app?dir=nix' })).toMatch(
        /\n {2}flake: \.\/app\?dir=nix&submodules=1$/,
      )
      // Nix sees them already.
      expect(explainBuildFailure(log, { ...withSubmodule, flake: '.?submodules=1' })).toContain('git add -N vendor/lib')
    })

    test.each(missing('vendor/library.json'))('but not beside it: %s', (log) => {
      expect(explainBuildFailure(log, withSubmodule)).toContain('git add -N vendor/library.json')
    })
  })

  test('or a folder', () => {
    const log =
      "error: getting status of '/nix/store/kdmr1mwbs0fm36q4j49x501ppipfs7n5-source/apps': No such file or directory"
    expect(explainBuildFailure(log, forX86)).toContain('Nix does not see apps.')
  })

  test('is not blamed for a missing file elsewhere', () => {
    const log = "error: getting status of '/home/runner/app/default.nix': No such file or directory"
    expect(explainBuildFailure(log, forX86)).not.toMatch(/Git|commit/)
  })
})

test('a path without "./", which Nix looks up in the flake registry', () => {
  const log = "error: cannot find flake 'flake:apps/a' in the flake registries"
  expect(explainBuildFailure(log, forX86)).toMatch(
    /^Nix looks for "apps\/a" in the flake registry\. .*\n {2}\.\/apps\/a$/,
  )
})

test.each([
  "error: getting status of '/home/runner/app/result': No such file or directory",
  "error: path '/home/runner/app/result' does not exist",
])('a missing path: %s', (log) => {
  expect(explainBuildFailure(log, forX86)).toMatch(/^\/home\/runner\/app\/result does not exist on this runner/)
})

test.each([
  "error: getting status of '/nix/store/a/result': No such file or directory",
  "error: getting status of '/nix/var/nix/daemon-socket/socket': No such file or directory",
  "error: path '/build/source/testdata/big.bin' does not exist",
  "app> ERROR: path '/home/builder/testdata/big.bin' does not exist",
  "error: while setting up the build environment: getting attributes of path '/run/binfmt': No such file or directory",
])('a missing path inside a build or the store has no hint: %s', (log) => {
  expect(explainBuildFailure(log, forX86)).toBeUndefined()
})

test('the cause wins over its consequence', () => {
  const log = 'error: unable to load seccomp BPF program: Invalid argument\nerror: writing: No space left on device'
  expect(explainBuildFailure(log, onX86)).toContain('disk is full')
})

test.each([
  '',
  "error: builder for '/nix/store/00-app.drv' failed with exit code 1",
  'error: hash mismatch in fixed-output derivation',
])('an unknown failure has no hint: %j', (log) => {
  expect(explainBuildFailure(log, forX86)).toBeUndefined()
})
