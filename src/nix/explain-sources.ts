/** The circumstances of a failed build. */
export interface BuildContext {
  /** Undefined if several systems were evaluated. */
  readonly system?: string
  /** The system of the runner. */
  readonly runnerSystem: string
  /** Whether a remote builder is configured for the system. */
  readonly hasBuilder?: boolean
  /** The flake that is built. Undefined for a file. */
  readonly flake?: string | undefined
  /** The paths of the Git submodules in the flake's repository. */
  readonly submodules?: readonly string[]
  /** The free space on the disks, as formatted by `formatFreeSpace`. */
  readonly space?: string
}

/** A message in a failed build's log, and the hint for it. */
export interface Symptom {
  readonly pattern: RegExp
  readonly hint: (context: BuildContext, match: RegExpExecArray) => string
}

/** The errors of pure evaluation, and what to change in the flake. The last one is for all others. */
const PURE_EVALUATION: readonly (readonly [RegExp, (context: BuildContext, match: RegExpExecArray) => string])[] = [
  [
    /attribute 'currentSystem' missing/,
    ({ system = 'aarch64-linux' }) =>
      `Replace \`builtins.currentSystem\` in the flake with the system that the package is for: "${system}" in packages.${system}.`,
  ],
  [
    /attribute 'currentTime' missing/,
    () => 'Replace `builtins.currentTime` with `self.lastModified`, the time of the commit.',
  ],
  [
    /access to (?:absolute|canonical) path '([^']+)' is forbidden in (?:pure eval|restricted mode)/,
    (_, [, path = '']) =>
      `Copy ${path} into the repository, and write its path relative to the file that uses it, such as \`./${path.split('/').at(-1)}\`.`,
  ],
  [
    /cannot look up '<([^'/>]+)[^'>]*>' in pure eval/,
    (_, [, name]) => `Replace \`<${name}>\` with an input of the flake, such as \`inputs.${name}\`.`,
  ],
  [
    /in pure evaluation mode, '(\w+)' requires a 'sha256' argument/,
    (_, [, fetcher]) =>
      `Add \`sha256\` to the arguments of \`builtins.${fetcher}\`, or make its URL an input of the flake.`,
  ],
  [
    /in pure evaluation mode, '(\w+)' (?:will not|doesn't) fetch unlocked input '([^']+)'|in pure evaluation mode, '(\w+)' requires a (?:locked input|Mercurial revision)/,
    (_, [, fetcher, url, other]) =>
      `Add \`rev\`, the commit, to the arguments of \`builtins.${fetcher ?? other}\`, or make ${url ?? 'the repository'} an input of the flake.`,
  ],
  [
    /cannot call 'getFlake' on unlocked flake reference '([^']+)'/,
    (_, [, reference]) => `Make ${reference} an input of the flake, instead of calling \`builtins.getFlake\`.`,
  ],
  [
    /in pure eval(?:uation)? mode|\(use '?--impure'? to override\)/,
    () => 'Change the flake so that it does not need what the error names.',
  ],
]

/** The symptoms of a source that Nix can't fetch, find or evaluate. */
export const SOURCE_SYMPTOMS: readonly Symptom[] = [
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
    // The archives of Forgejo, Gitea and sourcehut. Nix 2.26 and later add where the URL comes from.
    pattern:
      /unable to download 'https:\/\/([^/']+)\/(?:api\/v1\/repos\/)?([^/']+\/[^/']+)\/archive\/[^']*': HTTP error (?:401|404)/i,
    hint: (
      _,
      [, host, repository],
    ) => `Nix can't read ${repository} from ${host}: the name or the revision is wrong, or the repository is private. For a private repository, let Git fetch it, with a deploy key of the job (webfactory/ssh-agent). In flake.nix, write:
  url = "git+ssh://git@${host}/${repository}";`,
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
    // The messages of Nix 2.8 and Lix, of 2.26 and 2.28 for files that are imported or only read, and of newer versions,
    // which read the repository itself.
    pattern:
      /(?:getting status of|opening (?:file|directory)|reading directory) ['"]?[^'":]*-source\/([^'":]+)['"]?: No such file|path '[^']*-source\/([^']+)' does not exist|[Pp]ath '\/?([^']+)' does not exist in Git repository|Path '([^']+)' in the repository .* is not tracked by Git|access to path '\/?([^']+)' is forbidden because it is not under Git control/,
    hint: (context, [, ...names]) => explainUntracked(context, names.find((one) => one !== undefined) ?? ''),
  },
  {
    pattern: /cannot find flake 'flake:([^']+)' in the flake registries/,
    hint: (_, [, name]) => `Nix looks for "${name}" in the flake registry. If it is a path, write:
  ./${name}`,
  },
  ...PURE_EVALUATION.map(
    ([pattern, change]): Symptom => ({ pattern, hint: (context, match) => explainPure(change(context, match)) }),
  ),
  {
    // Only messages of Nix itself, about a path that is neither in the store nor in a build directory.
    pattern:
      /^\s*error: (?:getting status of|path) ['"]((?!\/build\/|[^'"]*\/nix\/(?:store|var)\/|[^'"]*\/\.cache\/)\/[^'"]+)['"](?: does not exist|: No such file)/m,
    hint: (_, [, path]) =>
      `${path} does not exist on this runner. Check that an earlier step creates it, and that actions/checkout is the first step.`,
  },
]

/** Returns the hint for a file that is missing in the copy of a Git repository that Nix evaluates. */
function explainUntracked({ flake = '.', submodules = [] }: BuildContext, name: string): string {
  const submodule = submodules.find((path) => name === path || name.startsWith(`${path}/`))
  if (submodule !== undefined && !/[?&]submodules=1/.test(flake))
    return `Nix does not see ${name}: it leaves out Git submodules, such as ${submodule}. Set \`submodules: true\` for actions/checkout, and in this step:
  flake: ${flake}${flake.includes('?') ? '&' : '?'}submodules=1`
  return `Nix does not see ${name}. In a Git repository, Nix only sees files that Git tracks. Commit the file. If an earlier step creates it, add to that step:
  run: git add -N ${name}`
}

/** Returns a hint for an error of pure evaluation: what to change in the flake, and how to allow it instead. */
function explainPure(change: string): string {
  return `Nix evaluates flakes in pure mode, in which the result depends on nothing but the flake and its inputs. ${change} Or allow everything:
  nix-args: --impure`
}

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
