import { access, mkdtemp, readFile, rename, writeFile } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import { which } from '@actions/io'
import { afterAll, beforeAll, expect, test } from '@jest/globals'
import { type Lab, startLab } from '../support/lab.ts'
import { layeredFlake, readPushed, storePathNamed } from '../support/layered.ts'
import { startRegistry } from '../support/registry.ts'
import { type ActionCall, type ActionRun, passed } from '../support/runner.ts'

// Layered images that are pushed from their description: real Nix, and the same images built in full.

const { DOCKER_HOST, DOCKER_CONFIG } = process.env
const DIGEST = expect.stringMatching(/^sha256:[0-9a-f]{64}$/)

let lab: Lab
let names = 0

beforeAll(async () => {
  lab = await startLab({ docker: { DOCKER_HOST, DOCKER_CONFIG } })
})
afterAll(() => lab.close())

/** A separate repository for each push. */
function newImage(): string {
  return `${lab.registry.host}/owner/layered-${names++}`
}

const WITHOUT_ARTIFACTS = { ACTIONS_RUNTIME_TOKEN: '', ACTIONS_RESULTS_URL: '' }

/** Builds an attribute of a flake. Each step is of another run, so records are handed over as text. */
function build(
  flake: string,
  attribute: string,
  { env, inputs, ...call }: Partial<ActionCall> = {},
): Promise<ActionRun> {
  return lab.build('x86_64-linux', {
    cwd: flake,
    jobTotal: 1,
    ...call,
    env: { ...WITHOUT_ARTIFACTS, ...env },
    inputs: { attribute, image: newImage(), ...inputs },
  })
}

async function exists(path = ''): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  )
}

/** Builds and pushes an attribute, which must be pushed from its description: Nix then does not build its output. */
async function pushDescribed(flake: string, attribute: string, call: Partial<ActionCall> = {}): Promise<ActionRun> {
  const step = passed(await build(flake, attribute, call))
  expect(step.log).not.toContain('instead of its description')
  return step
}

/** Expects that both steps have pushed the same image, except for the store path and the recipes in annotations. */
async function expectSameImage(described: ActionRun, complete: ActionRun): Promise<void> {
  const [one, other] = [await readPushed(described.outputs.image), await readPushed(complete.outputs.image)]
  expect(one.config).toBe(other.config)
  expect({ ...one.manifest, annotations: {} }).toEqual({ ...other.manifest, annotations: {} })
  expect(one.manifest.annotations).toEqual({
    ...other.manifest.annotations,
    'io.github.nix-image-action.store-path': described.outputs['store-path'],
  })
  expect(other.recipes.filter((recipe) => recipe !== undefined)).toEqual([])
}

/** All kinds of files, in store paths of all kinds, several of them in one layer, and a layer without any. */
const FILES = `{
  contents = { files = "Grüße, 世界 🌍"; file = "one file"; link = ""; more = "more"; };
  layers = [ [ "more" "files" ] [ "link" "file" ] [ ] ];
  commands = {
    files = ''
      ln -s files link; ln -s /nonexistent/target dangling; ln -s "$(printf '%0150d' 0)" long-link
      printf '#!/bin/sh\\n' > run; chmod +x run; ln run hard-link
      mkdir -p empty/below a; touch a/b a-b a.b no-content
      touch "$(printf '%0120d' 0)" 'Grüße-世界-🌍' "$(printf 'not-utf-8-\\377')" "it's"
      mkdir -p "$(printf '%0100d' 1)/$(printf '%0100d' 2)/$(printf '%0100d' 3)"
      touch "$(printf '%0100d' 1)/$(printf '%0100d' 2)/$(printf '%0100d' 3)/file"
      head -c 700000 /dev/zero > large
    '';
    file = ''cd /; rm -r "$out"; echo "$text" > "$out"'';
    link = ''cd /; rm -r "$out"; ln -s /nonexistent/store/path "$out"'';
  };
}`

const OWNED = `{
  created = "2024-02-29T12:30:00+02:00"; mtime = "2001-09-09T01:46:40+00:00";
  uid = "1000"; gid = "3000000"; uname = "größe"; gname = "users";
  config = { Cmd = [ "sh" "-c" "echo 'Grüße, 世界 🌍' \\"$HOME\\"" ]; Labels."äöü" = "\\n\\t<>&"; Env = [ "A=b=c" "A=d" ]; };
}`

const EXAMPLES = `rec {
  built = image (${FILES} // { description = ${OWNED}; });
  streamed = built.stream;
  inFull = complete built;
}`

test.each([
  ['buildLayeredImage', 'built', 'gzip'],
  ['buildLayeredImage', 'built', 'zstd'],
  ['streamLayeredImage', 'streamed', 'gzip'],
  ['streamLayeredImage', 'streamed', 'zstd'],
])(
  'an image like those of %s is the same as the one that its script writes (%s, %s)',
  async (_, attribute, compression) => {
    const flake = await layeredFlake(lab, EXAMPLES)
    const described = await pushDescribed(flake, attribute, { inputs: { compression } })
    await expectSameImage(described, passed(await build(flake, 'inFull', { inputs: { compression } })))
    const { recipes, config } = await readPushed(described.outputs.image)
    expect(recipes).toEqual([DIGEST, DIGEST, DIGEST, undefined])
    expect(config).toContain('"echo \'Gr\\u00fc\\u00dfe, \\u4e16\\u754c \\ud83c\\udf0d\' \\"$HOME\\""')
  },
)

test('Nix evaluates once and builds once, and does not build the tarball', async () => {
  const flake = await layeredFlake(lab, '{ built = image { contents.once = "once"; }; }')
  const folder = await mkdtemp(join(lab.folder, 'bin-'))
  const calls = join(folder, 'calls')
  const script = `#!/bin/sh\nprintf '%s\\n' "$*" >> '${calls}'\nexec '${await which('nix', true)}' "$@"\n`
  await writeFile(join(folder, 'nix'), script, { mode: 0o755 })
  const PATH = `${folder}${delimiter}${process.env.PATH}`
  const { outputs, log } = await pushDescribed(flake, 'built', { env: { PATH } })
  const started = (await readFile(calls, 'utf8')).trim().split('\n')
  // How the settings are shown depends on the version of Nix.
  expect(started.filter((call) => !/^--version$| (?:config show|show-config) /.test(call))).toEqual([
    expect.stringMatching(/^(.* )?eval --json .*#packages\.x86_64-linux\.built /),
    expect.stringMatching(/^(.* )?build --json .*-app-conf\.json\.drv/),
    expect.stringMatching(/^(.* )?path-info /),
  ])
  expect(outputs['store-path']).toMatch(/-app\.tar\.gz$/)
  expect(await exists(outputs['store-path'])).toBe(false)
  expect(log).toMatch(/^Nix built \S+-app-conf\.json$/m)

  const inFull = passed(await build(flake, 'built', { inputs: { 'push-with': 'docker', tag: 'once' } }))
  expect(inFull.outputs['store-path']).toBe(outputs['store-path'])
  expect(await exists(outputs['store-path'])).toBe(true)
})

test.each([
  ['', ''],
  [' and attributes of files', 'omit = [ "mtime" "uid" "gid" "uname" "gname" ];'],
])('of older nixpkgs, without `conf`%s, only the script is built', async (_, omitted) => {
  const contents = `contents = { older = "older"; files = "${omitted.length}"; };`
  const flake = await layeredFlake(
    lab,
    `let image' = image { ${contents} ${omitted} description.created = "2020-02-02T02:02:02+00:00"; }; in rec {
      built = image' // { stream = streamed; };
      streamed = removeAttrs image'.stream [ "conf" ];
      inFull = complete image';
    }`,
  )
  const built = await pushDescribed(flake, 'built')
  expect(built.log).toMatch(/^Nix built \S+-stream-app$/m)
  expect(built.outputs['store-path']).toMatch(/-app\.tar\.gz$/)
  expect(await exists(built.outputs['store-path'])).toBe(false)
  const streamed = await pushDescribed(flake, 'streamed')
  const inFull = passed(await build(flake, 'inFull'))
  for (const described of [built, streamed]) {
    await expectSameImage(described, inFull)
    expect((await readPushed(described.outputs.image)).recipes).toEqual([DIGEST, DIGEST, undefined])
  }
})

const BASE = `image {
  contents = { lowest = "lowest"; lower = "lower"; };
  description.config.Env = [ "PATH=/base" "BASE=ü" "LAST=base" ];
}`

test.each([
  ['a tarball', '"${base}"'],
  ['a plain tar', '"${run "base.tar" "PATH=/usr/local/bin:/usr/bin:/bin; ${base.stream} > $out"}"'],
  ['a tar in a folder', '"${run "base" "mkdir $out; gzip -d < ${base} > $out/base.tar"}/base.tar"'],
])('an image on top of %s has the layers and the variables of its base', async (_, archive) => {
  const flake = await layeredFlake(
    lab,
    `let base = ${BASE}; in rec {
      built = image {
        contents.top = "top";
        description = { from_image = ${archive}; config.Env = [ "NEW=new" "PATH=/top" ]; };
      };
      inFull = complete built;
    }`,
  )
  const described = await pushDescribed(flake, 'built')
  expect(await exists(described.outputs['store-path'])).toBe(false)
  await expectSameImage(described, passed(await build(flake, 'inFull')))
  const { recipes, config } = await readPushed(described.outputs.image)
  // Of the base, only the archive is known.
  expect(recipes).toEqual([undefined, undefined, undefined, DIGEST, undefined])
  expect(JSON.parse(config).config.Env).toEqual(['PATH=/top', 'BASE=ü', 'LAST=base', 'NEW=new'])
})

/** Runs `work` while files are missing from the store, which Nix does not notice. */
async function withoutFiles(paths: readonly string[], work: () => Promise<void>): Promise<void> {
  for (const path of paths) await rename(path, `${path}.away`)
  try {
    await work()
  } finally {
    for (const path of paths) await rename(`${path}.away`, path)
  }
}

test('published layers are not read, however the rest of the image changes', async () => {
  const version = (text: string) => `image { contents = { steady = "1"; unchanged = "2"; varying = "${text}"; }; }`
  const flake = await layeredFlake(
    lab,
    `rec { first = ${version('a')}; second = ${version('b')}; third = ${version('c')}; inFull = complete third; }`,
  )
  const image = newImage()
  const publish = async (attribute: string): Promise<ActionRun> => {
    const step = await pushDescribed(flake, attribute, { inputs: { image } })
    passed(await lab.merge({ inputs: { image, digests: step.outputs.record ?? '' }, env: WITHOUT_ARTIFACTS }))
    return step
  }
  expect((await publish('first')).outputs['reused-layers']).toBe('0')
  const inFull = passed(await build(flake, 'inFull'))

  const steady = await storePathNamed(lab, 'steady')
  const customisation = await storePathNamed(lab, 'app-customisation-layer')
  const unread = [steady, await storePathNamed(lab, 'unchanged'), join(customisation, 'layer.tar')]
  await withoutFiles(unread, async () => {
    // The second push reuses layers that the first has pushed, the third those that the second has reused.
    for (const attribute of ['second', 'third']) {
      const step = await publish(attribute)
      expect(step.outputs['reused-layers']).toBe('3')
      expect(step.log).toContain('4 layers: 3 reused, 1 pushed')
      expect((await readPushed(step.outputs.image)).recipes).toEqual([DIGEST, DIGEST, DIGEST, undefined])
      if (attribute === 'third') await expectSameImage(step, inFull)
    }
    // Nothing is reused, or nothing is published in this format.
    for (const inputs of [{ 'reuse-from': '' }, { compression: 'zstd' }]) {
      const step = await build(flake, 'first', { inputs: { image, ...inputs } })
      expect(step.errors).toEqual([expect.stringContaining(`${steady}, which a layer of the image includes`)])
    }
  })
  const recompressed = await pushDescribed(flake, 'third', { inputs: { image, compression: 'zstd', rebuild: 'true' } })
  expect(recompressed.outputs['reused-layers']).toBe('0')
  expect((await readPushed(recompressed.outputs.image)).recipes).toEqual([DIGEST, DIGEST, DIGEST, undefined])
}, 120_000)

test('layers of another repository are not uploaded again', async () => {
  const flake = await layeredFlake(lab, '{ built = image { contents = { one = "1"; two = "2"; }; }; }')
  const other = newImage()
  const first = await pushDescribed(flake, 'built', { inputs: { image: other } })
  passed(await lab.merge({ inputs: { image: other, digests: first.outputs.record ?? '' }, env: WITHOUT_ARTIFACTS }))
  const step = await pushDescribed(flake, 'built', { inputs: { 'reuse-from': `${other}:latest` } })
  expect(step.outputs).toMatchObject({ digest: first.outputs.digest, 'reused-layers': '3', 'pushed-bytes': '0' })
}, 60_000)

test.each([
  ['a store path', 'fragile', ''],
  ['the topmost layer', 'app-customisation-layer', 'layer.tar'],
  ['the hash of the topmost layer', 'app-customisation-layer', 'checksum'],
  ['the description', 'app-conf.json', ''],
])('if %s is missing, the error says so, and nothing is published', async (_, name, file) => {
  const registry = await startRegistry()
  try {
    const flake = await layeredFlake(
      lab,
      '{ built = image { contents = { fragile = "fragile"; sound = "sound"; }; }; }',
    )
    const inputs = { image: `${registry.host}/owner/app` }
    const { log } = await pushDescribed(flake, 'built')
    const [, conf = ''] = /^Nix built (\S+-app-conf\.json)$/m.exec(log) ?? []
    const path = name === 'app-conf.json' ? conf : join(await storePathNamed(lab, name), file)
    await withoutFiles([path], async () => {
      for (const push of ['true', 'false']) {
        const step = await build(flake, 'built', { inputs: { ...inputs, push } })
        expect(step.exitCode).toBe(1)
        expect(step.errors).toEqual([expect.stringContaining(path)])
        expect(step.raw).not.toMatch(/^\s*at /m)
        expect(step.outputs).toEqual({})
      }
    })
    expect(registry.tags('owner/app')).toEqual(new Map())
    expect(registry.requests.filter(({ method, route }) => method === 'PUT' && route === 'manifest')).toEqual([])
  } finally {
    await registry.close()
  }
})

test('with `push: false`, the whole image is read, and its platform is checked', async () => {
  const flake = await layeredFlake(
    lab,
    `{ built = image { contents.rehearsed = "rehearsed"; }; foreign = ${FOREIGN}; }`,
  )
  const inputs = { push: 'false' }
  const { outputs } = await pushDescribed(flake, 'built', { inputs })
  expect(Object.keys(outputs)).toEqual(['store-path'])
  expect(await exists(outputs['store-path'])).toBe(false)
  const { exitCode, errors } = await build(flake, 'foreign', { inputs })
  expect(exitCode).toBe(1)
  expect(errors).toEqual([expect.stringContaining('The image is for linux/arm64, but x86_64-linux is linux/amd64')])
})

const FOREIGN = 'image { architecture = "arm64"; contents.foreign = "foreign"; }'

test.each([
  ['', FOREIGN],
  [
    ' with a base',
    `image { architecture = "arm64"; contents.foreign = "foreign"; description.from_image = "\${${BASE}}"; }`,
  ],
])('an image%s for another platform is refused before a byte is sent', async (_, foreign) => {
  const registry = await startRegistry()
  try {
    const flake = await layeredFlake(lab, `{ foreign = ${foreign}; }`)
    const { errors } = await build(flake, 'foreign', { inputs: { image: `${registry.host}/owner/app` } })
    expect(errors).toEqual([expect.stringContaining('The image is for linux/arm64, but x86_64-linux is linux/amd64')])
    expect(registry.requests.filter(({ bodyBytes }) => bodyBytes > 0)).toEqual([])
  } finally {
    await registry.close()
  }
})

test('Docker pushes the complete image', async () => {
  const repo = 'description.repo_tag = "layered:docker";'
  const flake = await layeredFlake(lab, `{ built = image { contents.loaded = "loaded"; ${repo} }; }`)
  const inputs = { 'push-with': 'docker', tag: 'docker' }
  const byDocker = passed(await build(flake, 'built', { inputs }))
  expect(byDocker.log).toMatch(/^Nix built \S+-app\.tar\.gz$/m)
  expect(byDocker.log).not.toContain('Build the layers of')
  expect(await exists(byDocker.outputs['store-path'])).toBe(true)
  const byRegistry = await pushDescribed(flake, 'built')
  const [one, other] = [await readPushed(byDocker.outputs.image), await readPushed(byRegistry.outputs.image)]
  expect(one.config).toBe(other.config)
})
