import { cp, mkdtemp, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { type Lab, startLab } from '../support/lab.ts'
import { type NixDaemon, startNixDaemon } from '../support/nix-daemon.ts'
import { passed } from '../support/runner.ts'

// The environment of the step that Nix and the programs of a flake can see, with real Nix.

/** Secrets of the step, and the files for its workflow commands. */
const OF_THE_STEP = {
  INPUT_TOKEN: 'secret-of-the-input',
  ACTIONS_RUNTIME_TOKEN: 'secret-of-the-runtime',
  ACTIONS_RUNTIME_URL: 'http://127.0.0.1:1/secret-runtime/',
  ACTIONS_RESULTS_URL: 'http://127.0.0.1:1/secret-results/',
  ACTIONS_ID_TOKEN_REQUEST_TOKEN: 'secret-of-oidc',
  ACTIONS_ID_TOKEN_REQUEST_URL: 'http://127.0.0.1:1/secret-oidc/',
  GITHUB_TOKEN: 'secret-of-the-job',
  GH_TOKEN: 'secret-of-the-command-line',
}
const COMMAND_FILES = ['GITHUB_ENV', 'GITHUB_PATH', 'GITHUB_OUTPUT', 'GITHUB_STATE', 'GITHUB_STEP_SUMMARY']
const REGISTRY_LOGINS = ['DOCKER_CONFIG', 'REGISTRY_AUTH_FILE']
const WITHHELD = [...Object.keys(OF_THE_STEP), ...COMMAND_FILES]
/** A variable of the whole job, which is visible. Without it, a program that sees no variables would pass the test. */
const OF_THE_JOB = { OF_THE_JOB: 'set-for-the-job' }

let lab: Lab
let daemon: NixDaemon
beforeAll(async () => {
  lab = await startLab()
  daemon = await startNixDaemon({ PATH: process.env.PATH ?? '', ...lab.nix, ...OF_THE_JOB })
})
afterAll(async () => {
  await daemon.close()
  await lab.close()
})

describe.each(['by itself', 'through a daemon'])('with Nix building %s', (how) => {
  test('evaluation sees none of the step’s secrets', async () => {
    const { cwd, seen } = await project()
    const names = [...WITHHELD, 'OF_THE_JOB'].map((name) => JSON.stringify(name)).join(' ')
    const values = `map (name: "\${name}=\${builtins.getEnv name}\\n") [ ${names} ]`
    await writeFile(
      join(cwd, 'default.nix'),
      `{ system }: { image = derivation {
        name = "image"; inherit system; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
        values = builtins.concatStringsSep "" (${values});
        args = [ "-euc" ''printf '%s' "$values" > ${seen}; cp \${${TAR}} $out'' ];
      }; }`,
    )
    await build(how, cwd, { file: 'default.nix', attribute: 'image' })
    const empty = WITHHELD.map((name) => `${name}=\n`).join('')
    expect(await readFile(seen, 'utf8')).toBe(`${empty}OF_THE_JOB=set-for-the-job\n`)
  })

  test('a fixed-output derivation sees none of the step’s secrets', async () => {
    const { cwd, seen } = await project()
    const names = [...WITHHELD, 'OF_THE_JOB'].map((name) => JSON.stringify(name)).join(' ')
    const text = `text of ${seen}`
    await flake(
      cwd,
      `derivation {
        name = "image"; inherit system; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
        fetched = derivation {
          name = "fetched"; inherit system; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
          impureEnvVars = [ ${names} ];
          outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = builtins.hashString "sha256" "${text}";
          args = [ "-euc" "env > ${seen}; printf '%s' '${text}' > $out" ];
        };
        args = [ "-euc" "test -f $fetched; cp \${${TAR}} $out" ];
      }`,
    )
    await build(how, cwd)
    // The variables that Nix passes on exist, but may be empty.
    await expectNothingOf(seen, WITHHELD, ({ value }) => value !== '')
  })

  test('a script that streams an image sees neither the step’s secrets nor registry logins', async () => {
    const { cwd, seen } = await project()
    await flake(
      cwd,
      `derivation {
        name = "stream-image"; inherit system; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
        args = [ "-euc" ''
          printf '#!/bin/sh\\nenv > ${seen}\\ncat %s\\n' \${${TAR}} > $out
          chmod 755 $out
        '' ];
      }`,
    )
    await build(how, cwd)
    await expectNothingOf(seen, [...WITHHELD, ...REGISTRY_LOGINS])
  })

  test('the copyTo of an image of nix2container sees neither the step’s secrets nor registry logins', async () => {
    const { cwd, seen } = await project()
    await flake(
      cwd,
      `(derivation {
        name = "image-app.json"; inherit system; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
        args = [ "-euc" ''
          layers=$(tar -xOf \${${TAR}} manifest.json | grep -o '[0-9a-f]*/layer.tar' |
            sed 's|\\(.*\\)/layer.tar|{"digest":"","size":1,"diff_ids":"sha256:\\1"}|' | paste -sd,)
          echo '{"version":1,"image-config":{},"layers":['"$layers"']}' > $out
        '' ];
      }) // {
        copyTo = derivation {
          name = "copy-to"; inherit system; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
          args = [ "-euc" ''
            mkdir -p $out/bin
            printf '#!/bin/sh\\nenv > ${seen}\\nshift\\nexec skopeo --insecure-policy copy docker-archive:%s "$@"\\n' \${${TAR}} > $out/bin/copy-to
            chmod 755 $out/bin/copy-to
          '' ];
        };
      }`,
    )
    await build(how, cwd)
    await expectNothingOf(seen, [...WITHHELD, ...REGISTRY_LOGINS])
  })
})

/** The example's image, as an expression. */
const TAR = '(import ./image.nix { inherit system; architecture = "amd64"; }).tar'

interface Project {
  readonly cwd: string
  /** The file for the variables that the program sees. */
  readonly seen: string
}

async function project(): Promise<Project> {
  const cwd = await mkdtemp(join(lab.folder, 'project-'))
  await cp(lab.hello, cwd, { recursive: true })
  return { cwd, seen: join(cwd, 'seen') }
}

async function flake(cwd: string, image: string): Promise<void> {
  const outputs = `packages.x86_64-linux.containerImage = let system = "x86_64-linux"; in ${image};`
  await writeFile(join(cwd, 'flake.nix'), `{ outputs = _: { ${outputs} }; }`)
}

/** Builds without publishing, as for a pull request. */
async function build(how: string, cwd: string, inputs: Readonly<Record<string, string>> = {}): Promise<void> {
  const logins = Object.fromEntries(REGISTRY_LOGINS.map((name) => [name, join(lab.folder, `secret-${name}`)]))
  const nix = how === 'by itself' ? {} : daemon.env
  const env = { ...OF_THE_STEP, ...logins, ...OF_THE_JOB, ...nix }
  passed(await lab.build('x86_64-linux', { cwd, env, inputs: { push: 'false', ...inputs } }))
}

interface Variable {
  readonly name: string
  readonly value: string
}

async function expectNothingOf(
  file: string,
  names: readonly string[],
  counts: (variable: Variable) => boolean = () => true,
): Promise<void> {
  const text = await readFile(file, 'utf8')
  const variables = text.split('\n').map((line) => {
    const [name = '', ...value] = line.split('=')
    return { name, value: value.join('=') }
  })
  expect(variables).toContainEqual({ name: 'OF_THE_JOB', value: 'set-for-the-job' })
  expect(variables.filter((variable) => names.includes(variable.name) && counts(variable))).toEqual([])
  expect(variables.filter((variable) => /^(INPUT|ACTIONS)_/.test(variable.name) && counts(variable))).toEqual([])
  expect(text).not.toContain('secret-')
}
