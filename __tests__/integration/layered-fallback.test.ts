import { afterAll, beforeAll, expect, test } from '@jest/globals'
import { type Lab, startLab } from '../support/lab.ts'
import { layeredFlake, readPushed } from '../support/layered.ts'
import { startRegistry } from '../support/registry.ts'
import { type ActionRun, passed } from '../support/runner.ts'

// Layered images that are built in full, because this action may not make the same image from their description.

let lab: Lab
let names = 0

beforeAll(async () => {
  lab = await startLab()
})
afterAll(() => lab.close())

async function push(
  flake: string,
  attribute: string,
  inputs: Readonly<Record<string, string>> = {},
): Promise<ActionRun> {
  const image = `${lab.registry.host}/owner/fallback-${names++}`
  const env = { ACTIONS_RUNTIME_TOKEN: '', ACTIONS_RESULTS_URL: '' }
  return passed(
    await lab.build('x86_64-linux', { cwd: flake, jobTotal: 1, env, inputs: { attribute, image, ...inputs } }),
  )
}

/** Returns the reasons for using the complete image, one per line in the log that gives one. */
function reasons({ log }: ActionRun): readonly string[] {
  return [...log.matchAll(/^Using the complete image \S+ instead of its description, because (.*)$/gm)].map(
    ([, reason = '']) => reason,
  )
}

/** Expects that the push of `built` gives this reason for using the complete image, and pushes the same as `inFull`. */
async function expectFallback(packages: string, reason: RegExp): Promise<void> {
  const flake = await layeredFlake(lab, packages)
  const built = await push(flake, 'built')
  expect(reasons(built)).toEqual([expect.stringMatching(reason)])
  const inFull = await push(flake, 'inFull')
  expect(reasons(inFull)).toEqual([])
  const [one, other] = [await readPushed(built.outputs.image), await readPushed(inFull.outputs.image)]
  expect({ ...one.manifest, annotations: {} }).toEqual({ ...other.manifest, annotations: {} })
  expect(one.recipes.filter((recipe) => recipe !== undefined)).toEqual([])
}

test.each([
  ['a key that is new', 'description.fresh = true;', /^its description has the unknown key `fresh`$/],
  ['no key `os`', 'omit = [ "os" ];', /^its description has no key `os`$/],
  ['some of the keys for attributes of files', 'omit = [ "gid" "gname" ];', /^its description has no key `gid`$/],
  [
    'a number that is not an integer',
    'description.config.StopTimeout = 1.5;',
    /^its description has the number 1\.5, which is not an integer/,
  ],
  [
    'a folder in a store path',
    'description.store_layers = [ [ "${run "deep" "mkdir -p $out/below; echo deep > $out/below/file"}/below" ] ];',
    /^`store_layers\.0\.0` in its description is not a store path$/,
  ],
])('an image whose description has %s is built in full', async (_, change, reason) => {
  await expectFallback(`rec { built = image { ${change} }; inFull = complete built; }`, reason)
})

test.each(['created', 'mtime'])('an image whose `%s` is the time of the build is built in full', async (key) => {
  const flake = await layeredFlake(lab, `{ built = image { description.${key} = "now"; }; }`)
  const built = await push(flake, 'built')
  expect(reasons(built)).toEqual([`\`${key}\` in its description is \`now\`, which makes each image different`])
  expect((await readPushed(built.outputs.image)).manifest.layers).toHaveLength(3)
})

const MORE_THAN_COMPRESSED = /^its derivation does not only compress the output of its attribute `stream`$/
const MORE_THAN_RUN = /^its derivation is not a script that only runs a program on its attribute `conf`$/

test.each([
  ['the stream of another image', 'original // { stream = other.stream; }', 'complete original', MORE_THAN_COMPRESSED],
  [
    'the description of another image',
    'original // { inherit (other.stream) conf; }',
    'complete original',
    MORE_THAN_RUN,
  ],
  [
    'a script that changes what it streams',
    'filtered // { inherit (original.stream) conf; }',
    'run "app.tar.gz" "${filtered} | gzip -n > $out"',
    MORE_THAN_RUN,
  ],
  [
    'a stream that its derivation changes',
    'changed // { inherit (original) stream; }',
    'complete changed',
    MORE_THAN_COMPRESSED,
  ],
  [
    'a stream that its derivation does not use',
    'other // { inherit (original) stream; }',
    'complete other',
    MORE_THAN_COMPRESSED,
  ],
])('an image with %s is built in full', async (_, built, inFull, reason) => {
  const changed = `run "app.tar" ''
    PATH=/usr/local/bin:/usr/bin:/bin; \${original.stream} > app.tar; sed 's|"/nix/store"|"/NIX/store"|' app.tar > $out
  ''`
  const filtered = `run "stream-app" ''
    printf '#!/bin/sh\n%s | sed "s|\\"/nix/store\\"|\\"/NIX/store\\"|"  # %s\n' \${original.stream} \${original.stream.conf} > $out
    chmod +x $out
  ''`
  await expectFallback(
    `let
      original = image { contents.original = "original"; };
      filtered = ${filtered};
      other = image { contents.other = "other"; };
      changed = ${changed};
    in { built = ${built}; inFull = ${inFull}; }`,
    reason,
  )
})

/** A script that does more than run the stream script. */
const OTHER_SCRIPT = `run "stream-app" "sed 's/^exec/echo streaming >\\&2; exec/' \${original.stream} > $out; chmod +x $out"`

test.each([
  ['an image that is', OTHER_SCRIPT],
  [
    'an image that is the output of',
    `run "app.tar.gz" "\${${OTHER_SCRIPT}} | gzip -n > $out" // { stream = ${OTHER_SCRIPT}; }`,
  ],
])('%s a script that does more than run the stream script is built in full', async (_, built) => {
  await expectFallback(
    `let original = image { contents.scripted = "scripted"; }; in { built = ${built}; inFull = complete original; }`,
    /^\S+-stream-app is not a script of dockerTools\.streamLayeredImage$/,
  )
})

/** Repacks the archive of the base. */
function repacked(command: string): string {
  return `run "base.tar" ''
    gzip -d < \${base} | tar -x; ${command}
    tar --create --file=$out *
  ''`
}

test.each([
  [
    'is compressed with bzip2',
    `run "base.tar" ''
      gzip -d < \${base} |
      python3 -c 'import bz2, sys; sys.stdout.buffer.write(bz2.compress(sys.stdin.buffer.read()))' > $out
    ''`,
    /^its base image is not supported: \S+-base\.tar is not an image \(the file is compressed with bzip2\)$/,
  ],
  [
    'contains two images',
    repacked(
      `python3 -c 'import json; m = json.load(open("manifest.json")); json.dump(m + m, open("manifest.json", "w"))'`,
    ),
    /^its base image is not supported: \S+-base\.tar has 2 images/,
  ],
  [
    'names its layers with characters outside of ASCII',
    repacked(
      'for layer in */; do mv "$layer" "ü-$layer"; done; sed -i \'s|"\\([0-9a-f]*/layer.tar\\)"|"ü-\\1"|\' manifest.json',
    ),
    /of its base image is not a file name of printable ASCII characters$/,
  ],
])('an image whose base %s is built in full', async (_, archive, reason) => {
  const packages = `let base = image { contents.base = "base"; }; archive = ${archive}; in rec {
    built = image { contents.top = "top"; description.from_image = "\${archive}"; };
    inFull = complete built;
  }`
  await expectFallback(packages, reason)
  const flake = await layeredFlake(lab, packages)
  expect(reasons(await push(flake, 'built', { push: 'false' }))).toEqual([expect.stringMatching(reason)])
})

test('an image whose topmost layer does not have its recorded hash is not published', async () => {
  const registry = await startRegistry()
  try {
    const script = 'mkdir $out; tar --create --file=$out/layer.tar .; printf %064d 0 > $out/checksum'
    const customisation = `"\${run "customisation" "${script}"}"`
    const flake = await layeredFlake(lab, `{ built = image { description.customisation_layer = ${customisation}; }; }`)
    const inputs = { attribute: 'built', image: `${registry.host}/owner/app` }
    const step = await lab.build('x86_64-linux', { cwd: flake, inputs })
    expect(reasons(step)).toEqual([
      expect.stringMatching(/^its layer \S+ has the diff ID sha256:\S+, and its description/),
    ])
    expect(step.errors).toEqual([expect.stringContaining('0'.repeat(64))])
    expect(registry.tags('owner/app')).toEqual(new Map())
    expect(registry.requests.filter(({ method, route }) => method === 'PUT' && route === 'manifest')).toEqual([])
  } finally {
    await registry.close()
  }
})
