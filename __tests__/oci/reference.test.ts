import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { FormatError } from '../../src/errors.ts'
import { formatRepository, parseReference, sameRepository } from '../../src/oci/reference.ts'

const digest = `sha256:${'0123456789abcdef'.repeat(4)}`

describe('a reference', () => {
  test.each([
    ['app', 'docker.io', 'library/app'],
    ['owner/app', 'docker.io', 'owner/app'],
    ['docker.io/app', 'docker.io', 'library/app'],
    ['docker.io/owner/app', 'docker.io', 'owner/app'],
    ['index.docker.io/app', 'docker.io', 'library/app'],
    ['registry-1.docker.io/owner/app', 'docker.io', 'owner/app'],
    ['ghcr.io/owner/app', 'ghcr.io', 'owner/app'],
    ['ghcr.io/app', 'ghcr.io', 'app'],
    ['localhost/app', 'localhost', 'app'],
    ['localhost:5000/app', 'localhost:5000', 'app'],
    ['127.0.0.1:5000/app', '127.0.0.1:5000', 'app'],
    ['registry:5000/app', 'registry:5000', 'app'],
    ['[::1]/app', '[::1]', 'app'],
    ['[2001:db8::1]:5000/owner/app', '[2001:db8::1]:5000', 'owner/app'],
    ['registry/app', 'docker.io', 'registry/app'],
    ['docker.io/library/x.y', 'docker.io', 'library/x.y'],
    ['a.b-c.example/x__y/z--1/0.9', 'a.b-c.example', 'x__y/z--1/0.9'],
  ])('%s has the host %s and the path %s', (text, host, path) => {
    const { repository, ...rest } = parseReference(text)
    expect(repository).toEqual({ host, path })
    expect(rest).toEqual({})
    expect(formatRepository(repository)).toBe(`${host}/${path}`)
  })

  test.each([
    ['app:latest', { tag: 'latest' }],
    ['app:_1.0-rc_1', { tag: '_1.0-rc_1' }],
    [`app:${'v'.repeat(128)}`, { tag: 'v'.repeat(128) }],
    [`app@${digest}`, { digest }],
    [`app:latest@${digest}`, { tag: 'latest', digest }],
    [`localhost:5000/library/app@${digest}`, { digest }],
    ['localhost:5000/library/app:5000', { tag: '5000' }],
    ['[::1]:5000/library/app:1', { tag: '1' }],
    // Without a slash, this is a tag and not a port, as in Docker.
    ['app:5000', { tag: '5000' }],
  ])('%s has %p', (text, expected) => {
    const { repository, ...rest } = parseReference(text)
    expect(rest).toEqual(expected)
    expect(repository.path).toBe('library/app')
  })

  test('has a path of at most 255 characters', () => {
    const longest = `owner/${'a'.repeat(249)}`
    expect(parseReference(`ghcr.io/${longest}`).repository.path).toBe(longest)
    expect(() => parseReference(`ghcr.io/${longest}a`)).toThrow('at most 255 characters')
  })

  test('is the same repository for all host names of Docker Hub', () => {
    const [one, other, elsewhere] = ['app', 'index.docker.io/library/app', 'ghcr.io/library/app'].map(
      (text) => parseReference(text).repository,
    )
    expect(one && other && sameRepository(one, other)).toBe(true)
    expect(one && elsewhere && sameRepository(one, elsewhere)).toBe(false)
  })
})

describe('an invalid reference is refused with the invalid part', () => {
  test.each([
    ['https://ghcr.io/owner/app', '"https://ghcr.io/owner/app" is a URL; remove "https://"'],
    ['DOCKER://app', 'remove "DOCKER://"'],
    ['ghcr.io/Owner/app', 'it can\'t contain "O"'],
    ['Owner/app', 'it can\'t contain "O"'],
    ['ghcr.io/', 'there is nothing after the host'],
    ['ghcr.io', 'there is nothing after the host\nAdd the name of the image: ghcr.io/owner/app.'],
    ['ghcr.io', 'docker.io/library/ghcr.io'],
    ['docker.io', 'there is nothing after the host'],
    ['localhost', 'there is nothing after the host'],
    ['localhost:5000', 'there is nothing after the host'],
    ['127.0.0.1:5000', 'there is nothing after the host'],
    ['', 'is not an image name'],
    ['/app', 'is not an image name'],
    ['ghcr.io//app', 'each part between slashes'],
    ['ghcr.io/app/', 'each part between slashes'],
    ['ghcr.io/-app', 'each part between slashes'],
    ['ghcr.io/a..b', 'each part between slashes'],
    ['ghcr.io/a___b', 'each part between slashes'],
    ['ghcr.io/a b', 'it can\'t contain " "'],
    ['ghcr.io/app\n', 'it can\'t contain "\n"'],
    ['-ghcr.io/app', '"-ghcr.io" is not a host name'],
    ['ghcr.io:/app', '"ghcr.io:" is not a host name'],
    ['ghcr.io:http/app', '"ghcr.io:http" is not a host name'],
    ['me@ghcr.io/app', 'what follows "@" must be sha256:'],
    ['[::1/app', '"[::1" is not a host name'],
    ['app:', 'a tag must not be empty'],
    ['app:-1', '"-1" is not a tag'],
    ['app:a+b', '"a+b" is not a tag'],
    [`app:${'v'.repeat(129)}`, 'has 129 characters, at most 128 are allowed'],
    ['app@latest', 'what follows "@" must be sha256: and 64 hexadecimal digits'],
    [`app@${digest.toUpperCase()}`, 'what follows "@" must be sha256:'],
    [`app@${digest}0`, 'what follows "@" must be sha256:'],
    [`app@${digest}@${digest}`, 'what follows "@" must be sha256:'],
    [`app@sha512:${'0'.repeat(128)}`, 'what follows "@" must be sha256:'],
  ])('%p', (text, why) => {
    expect(() => parseReference(text)).toThrow(FormatError)
    expect(() => parseReference(text)).toThrow(why)
  })

  test.each(['ghcr.io:99999/app', '[:::]:5000/app', '256.0.0.1/app', '1.2.3.4.5/app'])(
    'the host of %s, which is invalid in a URL',
    (text) => {
      expect(() => parseReference(text)).toThrow(FormatError)
    },
  )

  test('any text is either parsed or refused with a FormatError', () => {
    const texts = fc.oneof(fc.string(), fc.stringMatching(/^[a-z0-9.:/@_\-[\]]{0,40}$/))
    fc.assert(
      fc.property(texts, (text) => {
        try {
          const { host, path } = parseReference(text).repository
          expect(URL.canParse(`https://${host}/v2/${path}/`)).toBe(true)
          expect(parseReference(`${host}/${path}`).repository).toEqual({ host, path })
        } catch (error) {
          if (!(error instanceof FormatError)) throw error
        }
      }),
    )
  })
})
