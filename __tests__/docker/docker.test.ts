import { access, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import type { Writable } from 'node:stream'
import { finished } from 'node:stream/promises'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals'
import { checkDocker, loadedImage, loadImage, tagImage } from '../../src/docker/docker.ts'
import { pushTag } from '../../src/docker/push.ts'
import { DockerError } from '../../src/errors.ts'
import { type Digest, digestOf } from '../../src/oci/reference.ts'

const path = process.env.PATH
const id = digestOf(Buffer.from('the config'))
const digest = digestOf(Buffer.from('the manifest'))
const older = digestOf(Buffer.from('a manifest of before'))
const reference = 'ghcr.io/owner/app:v1'

let folder: string
let shown: string

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'docker-stub-'))
  shown = ''
  jest.spyOn(process.stdout, 'write').mockImplementation((text) => {
    shown += String(text)
    return true
  })
})
afterEach(async () => {
  jest.restoreAllMocks()
  process.env.PATH = path
  await rm(folder, { recursive: true })
})

/** Installs a shell script as Docker. It leaves files for the test in the folder `$files`. */
async function dockerIs(script: string): Promise<void> {
  const start = `#!/bin/sh\nfiles='${folder}'\n`
  await writeFile(join(folder, 'docker'), `${start}${script}\n`, { mode: 0o755 })
  process.env.PATH = `${folder}${delimiter}${path}`
}

/** Pushes the tag without waiting between attempts. Adds the log to `shown`. */
function push(denied = 'Log in', silence?: number, existing?: Digest): Promise<string> {
  const info = (line: string) => {
    shown += `${line}\n`
  }
  return pushTag(
    { reference, size: 0, hints: { denied, immutable: 'Set another tag' }, existing },
    { info },
    {
      wait: async () => undefined,
      ...(silence !== undefined && { silence }),
    },
  )
}

/** Makes Docker run a script the first time, and push the tag after that. */
function dockerOnce(script: string): Promise<void> {
  return dockerIs(
    `echo "$1" >> "$files/asked"\nif [ ! -e "$files/failed" ]; then touch "$files/failed"; ${script}; fi\necho "v1: digest: ${digest} size: 856"`,
  )
}

async function timesAsked(): Promise<number> {
  return (await readFile(join(folder, 'asked'), 'utf8')).trim().split('\n').length
}

/** Returns the message of the DockerError that is thrown. */
async function refusal(work: Promise<unknown>): Promise<string> {
  const error = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  expect(error).toBeInstanceOf(DockerError)
  return (error as DockerError).message
}

/** The error of a feed that reads a damaged image. */
const DAMAGED = new Error('the image is damaged')

test('a damaged image is reported even if Docker ignores SIGTERM', async () => {
  // Newer versions of Docker only check for signals between two reads.
  await dockerIs("trap '' TERM; cat > /dev/null; exit 1")
  const feed = async (stdin: Writable) => {
    await write(stdin, Buffer.from('the first part'))
    throw DAMAGED
  }
  await expect(loadImage(feed)).rejects.toBe(DAMAGED)
})

/** Writes one chunk, and waits until it has been taken, as `readImage` does. */
async function write(stdin: Writable, chunk: Buffer): Promise<void> {
  await promisify((done: (error?: Error | null) => void) => stdin.write(chunk, done))()
}

async function feedAll(stdin: Writable): Promise<string> {
  await write(stdin, Buffer.from('the whole '))
  await write(stdin, Buffer.from('archive'))
  stdin.end()
  return 'what was read'
}

/** Writes until the pipe is closed. */
async function feedForever(stdin: Writable): Promise<never> {
  for (;;) await write(stdin, Buffer.alloc(64 * 1024))
}

describe('checking Docker before a build', () => {
  test('succeeds if Docker is running', async () => {
    await dockerIs('[ "$1" = version ] && echo 28.0.4')
    await expect(checkDocker()).resolves.toBeUndefined()
  })

  test('fails with the output of Docker if its daemon is not running, and says which runners have Docker', async () => {
    await dockerIs('echo "Cannot connect to the Docker daemon at unix:///x. Is it running?" >&2; exit 1')
    const message = await refusal(checkDocker())
    expect(message).toMatch(/^Docker is not running on this runner\n {2}Cannot connect to the Docker daemon at unix:/)
    expect(message).toContain('such as the hosted Linux runners (ubuntu-24.04, ubuntu-24.04-arm)')
    expect(message).toContain('To check this, run:\n  docker version')
  })

  test.each<[string, () => Promise<unknown>]>([
    ['before the build', checkDocker],
    ['when loading an image', () => loadImage(feedAll)],
    ['when pushing a tag', () => push()],
  ])('fails if Docker is not installed: %s', async (_, work) => {
    process.env.PATH = folder
    const message = await refusal(work())
    expect(message).toMatch(
      /^Docker is not installed on this runner\nUse a runner that has Docker, such as the hosted Linux runners/,
    )
  })
})

describe('loading an image', () => {
  test('gives Docker the whole archive, and returns the result of the feed', async () => {
    await dockerIs('echo "$@" > "$files/args"; cat > "$files/received"')
    expect(await loadImage(feedAll)).toBe('what was read')
    expect(await readFile(join(folder, 'received'), 'utf8')).toBe('the whole archive')
    expect(await readFile(join(folder, 'args'), 'utf8')).toBe('load\n')
  })

  test.each<[string, string, (stdin: Writable) => Promise<unknown>]>([
    ['before it has read anything', '', feedForever],
    ['in the middle', 'head -c 100000 > /dev/null', feedForever],
    ['after all of it', 'cat > /dev/null', feedAll],
  ])('fails with the error of Docker, not with a broken pipe, if Docker fails %s', async (_, reading, feed) => {
    await dockerIs(`${reading}\necho "open /var/lib/docker: no space left on device" >&2; exit 1`)
    expect(await refusal(loadImage(feed))).toBe(
      'Docker could not load the image that Nix built\n  open /var/lib/docker: no space left on device',
    )
  })

  test('fails with the error of the feed, and does not end Docker’s input as if the archive were complete', async () => {
    await dockerIs('echo $$ > "$files/pid"; exec cat > "$files/received"')
    const damaged = new Error('the archive is damaged')
    const feed = async (stdin: Writable): Promise<never> => {
      // More than a pipe holds, so Docker has started to read.
      await write(stdin, Buffer.alloc(4 * 1024 * 1024))
      throw damaged
    }
    await expect(loadImage(feed)).rejects.toBe(damaged)
    const pid = Number(await readFile(join(folder, 'pid'), 'utf8'))
    await expect(access(`/proc/${pid}`)).rejects.toThrow('ENOENT')
  })

  test('fails with the error of the feed even if Docker has loaded the archive', async () => {
    await dockerIs('cat > /dev/null')
    const damaged = new Error('the checksum of the archive is wrong')
    const feed = async (stdin: Writable): Promise<never> => {
      stdin.end('the whole archive')
      await finished(stdin, { readable: false })
      throw damaged
    }
    await expect(loadImage(feed)).rejects.toBe(damaged)
  })
})

test('loading does not block if Docker prints many tags', async () => {
  // More than a pipe holds: Docker would block if nothing read it.
  await dockerIs('cat > "$files/received"; yes "Loaded image: app:nix" | head -c 10000000')
  expect(await loadImage(feedAll)).toBe('what was read')
})

describe('a loaded image is found', () => {
  const knows = (...names: readonly string[]): Promise<void> =>
    dockerIs(
      `for name; do :; done\ncase "$name" in ${names.join('|')}) echo sha256:0;; *) echo "No such image" >&2; exit 1;; esac`,
    )

  test('by its ID, which no other job can replace', async () => {
    await knows(id, 'app:nix')
    expect(await loadedImage(id, ['app:nix'])).toBe(id)
  })

  test.each([
    ['by the name in the archive', ['app:nix']],
    ['by the name that Docker knows', ['gone:nix', 'app:nix']],
  ])('%s if Docker uses other IDs (containerd image store)', async (_, names) => {
    await knows('app:nix')
    expect(await loadedImage(id, names)).toBe('app:nix')
  })

  test('by one of the first valid names of an archive that has very many', async () => {
    await dockerIs('for name; do :; done; echo "$name" >> "$files/asked"; exit 1')
    const names = Array.from({ length: 10_000 }, (_, at) => `app:v${at}`)
    const message = await refusal(loadedImage(id, ['--help', ':', 'n'.repeat(1_000_000), ...names]))
    const asked = [id, ...names.slice(0, 8)]
    expect(message).toBe(`Docker loaded the image, but can't find it as ${asked.join(' or ')}`)
    expect(await readFile(join(folder, 'asked'), 'utf8')).toBe(`${asked.join('\n')}\n`)
  })

  test('or the error lists the names that were tried', async () => {
    await knows('another')
    expect(await refusal(loadedImage(id, ['app:nix', 'app:v1']))).toBe(
      `Docker loaded the image, but can't find it as ${id} or app:nix or app:v1`,
    )
  })

  test('or the error says to set a name if the archive has none', async () => {
    await knows('another')
    const message = await refusal(loadedImage(id, []))
    expect(message).toContain(id)
    expect(message).toContain('Set `name` and `tag` of the image in Nix')
  })
})

test('an error while tagging includes the output of Docker', async () => {
  await dockerIs('echo "Error response from daemon: No such image: $2 for $3" >&2; exit 1')
  expect(await refusal(tagImage(id, reference))).toBe(
    `Docker could not tag the image as ${reference}\n  Error response from daemon: No such image: ${id} for ${reference}`,
  )
})

describe('a push', () => {
  test('returns the last digest that Docker prints, and shows the progress', async () => {
    await dockerIs(`echo "$@"\necho "v0: digest: ${older} size: 1234"\necho "v1: digest: ${digest} size: 856"`)
    expect(await push()).toBe(digest)
    expect(shown).toContain(`push ${reference}\nv0: digest: ${older} size: 1234\nv1: digest: ${digest} size: 856`)
  })

  test.each([
    'denied: requested access to the resource is denied',
    'unauthorized: authentication required',
    'Error response from daemon: no basic auth credentials',
    'Error response from daemon: Head "https://ghcr.io/v2/": denied: denied',
  ])('without a login fails with a hint on how to log in: %s', async (detail) => {
    await dockerIs(`echo '${detail}' >&2; exit 1`)
    expect(await refusal(push('Log in before this step'))).toBe(
      `Docker could not push ${reference}\n  ${detail}\nLog in before this step`,
    )
  })

  test.each([
    ['manifest invalid: manifest invalid'],
    [
      'failed to push: unexpected status from PUT request to https://zot.example/v2/app/manifests/v1: 415 Unsupported Media Type',
    ],
  ])('of an unsupported media type fails with a hint to push OCI manifests: %s', async (detail) => {
    await dockerIs(`echo '${detail}' >&2; exit 1`)
    expect(await refusal(push())).toMatch(
      /\nThe registry may not support Docker's manifests\. .*\n {2}push-with: registry$/,
    )
  })

  test.each([
    [
      'tag invalid: The image tag v1 already exists in the app repository and cannot be overwritten because the tag is immutable.',
      undefined,
    ],
    ['denied: requested access to the resource is denied', older],
  ])('of a tag that may be immutable fails with a hint on tags, not on logins: %s', async (detail, existing) => {
    await dockerIs(`echo '${detail}' >&2; exit 1`)
    const message = await refusal(push('Log in', undefined, existing as Digest | undefined))
    expect(message).toMatch(/\nSet another tag$/)
    expect(message).not.toContain('Log in')
    if (existing !== undefined) expect(message).toContain(`: the tag exists and points to ${existing}\n`)
  })

  test('that fails for another reason has no hint on logins', async () => {
    await dockerIs('echo "manifest invalid: the layers are not known" >&2; exit 1')
    expect(await refusal(push())).toBe(
      `Docker could not push ${reference}\n  manifest invalid: the layers are not known`,
    )
  })

  test.each([
    ['no digest', 'v1: pushed'],
    ['a truncated digest', `v1: digest: ${digest.slice(0, -1)} size: 856`],
    ['a digest of another algorithm', `v1: digest: ${digest.replace('sha256', 'sha512')} size: 856`],
  ])('fails if Docker prints %s', async (_, detail) => {
    await dockerIs(`echo '${detail}'`)
    expect(await refusal(push())).toBe(`Docker pushed ${reference}, but did not print its digest\n  ${detail}`)
  })
})

describe('a push with a transient failure', () => {
  test.each([
    'received unexpected HTTP status: 503 Service Unavailable',
    'error parsing HTTP 502 response body: invalid character',
    'toomanyrequests: retry-after: 1s, allowed: 44000/minute',
    'denied: You have exceeded a secondary rate limit',
    'Put "https://ghcr.io/v2/": read tcp 10.0.0.1:4711: read: connection reset by peer',
    'Get "https://ghcr.io/v2/": dial tcp 10.0.0.1:443: connect: connection refused',
    'unexpected EOF',
    'Get "https://ghcr.io/v2/": net/http: TLS handshake timeout',
    'dial tcp: lookup ghcr.io: i/o timeout',
    'blob upload unknown',
    'blob upload invalid: the digest differs',
    'Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?',
  ])('is retried, and the log has the reason: %s', async (detail) => {
    await dockerOnce(`echo '${detail}' >&2; exit 1`)
    expect(await push()).toBe(digest)
    expect(await timesAsked()).toBe(2)
    expect(shown).toContain(`docker push ${reference}: ${detail}; retrying in 1.`)
  })

  test('is retried if Docker stops responding', async () => {
    await dockerOnce('exec sleep 1000')
    expect(await push('Log in', 1000)).toBe(digest)
    expect(shown).toContain(`docker push ${reference}: docker push wrote nothing for 1 s; retrying in 1.`)
  })

  test('is retried for two minutes; the error then has the number of attempts and a hint', async () => {
    await dockerIs('echo "received unexpected HTTP status: 503 Service Unavailable" >&2; exit 1')
    expect(await refusal(push())).toMatch(
      /^Docker could not push .* \((9|1\d) attempts in (9\d|1[01]\d|120) s\)\n {2}received .* 503 .*\n.*Re-run this job later\.$/,
    )
  })
})

test.each([
  'denied: requested access to the resource is denied',
  'unauthorized: authentication required; error 503',
  'tls: failed to verify certificate: x509: certificate signed by unknown authority',
])('a push with a permanent failure is not retried: %s', async (detail) => {
  await dockerOnce(`echo '${detail}' >&2; exit 1`)
  expect(await refusal(push())).toContain(detail)
  expect(await timesAsked()).toBe(1)
})

describe('a stopped daemon', () => {
  const gone = 'Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?'
  const hint =
    /\nThe Docker daemon has stopped or can't be reached\. Restart Docker on the runner, check that its disk is not full.*remove `push-with: docker`/

  test.each<[string, () => Promise<unknown>]>([
    ['loads an image', () => loadImage(feedAll)],
    ['looks up an image', () => loadedImage(id, ['app:nix'])],
    ['tags an image', () => tagImage(id, reference)],
    ['pushes an image', () => push()],
  ])('is named as the cause, with a hint, while Docker %s', async (_, work) => {
    await dockerIs(`[ "$1" = load ] && cat > /dev/null; echo '${gone}' >&2; exit 1`)
    const message = await refusal(work())
    expect(message).toContain(gone)
    expect(message).toMatch(hint)
  })
})

describe('a daemon that stops responding', () => {
  const timing = { silence: 1000 }

  test.each<[string, string, string, () => Promise<unknown>]>([
    ['is checked', '', 'docker version wrote nothing', () => checkDocker(timing)],
    [
      'has read an image',
      'cat > /dev/null',
      'docker load wrote nothing for 1 s after',
      () => loadImage(feedAll, undefined, timing),
    ],
    ['reads an image', '', 'docker load read nothing', () => loadImage(feedForever, undefined, timing)],
    ['pushes an image', '', 'docker push wrote nothing', () => push('Log in', 200)],
  ])('ends the step with an error while it %s', async (_, reading, detail, work) => {
    await dockerIs(`${reading}\nexec sleep 1000`)
    const message = await refusal(work())
    expect(message).toMatch(/the Docker daemon does not respond\n/)
    expect(message).toContain(detail)
    expect(message).toContain('Restart Docker on the runner')
  })

  test('is not killed while it still reads', async () => {
    await dockerIs('for at in 1 2 3 4 5 6; do sleep 0.4; head -c 100000 > /dev/null; done; cat > /dev/null')
    const feed = async (stdin: Writable) => {
      for (let at = 0; at < 16; at++) await write(stdin, Buffer.alloc(64 * 1024))
      stdin.end()
    }
    await expect(loadImage(feed, undefined, timing)).resolves.toBeUndefined()
  })
})
