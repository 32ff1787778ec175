import { execFile } from 'node:child_process'
import { mkdtemp, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { type GitHost, startGitHost } from '../support/git-host.ts'
import { type Sigstore, SUBJECT, startSigstore } from '../support/sigstore.ts'
import { type SigstoreHosts, serveSigstoreHosts } from '../support/sigstore-hosts.ts'
import { builtProgram, type ProgramName } from './programs.ts'
import type { Bench } from './scenarios.ts'

const run = promisify(execFile)
const BUNDLE = 'application/vnd.dev.sigstore.bundle.v0.3+json'
const TOKEN = 'ghs_not_to_be_seen'
const REPOSITORY = 'attested'

/** Publishes an image with provenance and SBOMs, and reads both with the programs that users verify and inspect with. */
export function describeAttestations(bench: () => Bench, https: boolean): void {
  describe('of an image with provenance and SBOMs,', () => {
    let services: Services
    let published: Published
    beforeAll(async () => {
      services = await startServices(bench())
      published = await publishAttested(bench(), services)
    })
    afterAll(() => services?.close())

    test('cosign accepts the provenance of the index and each image', async () => {
      const { subjects } = published
      expect(subjects).toHaveLength(3)
      for (const digest of subjects) {
        const { predicateType, subject } = await verify(digest, SUBJECT)
        expect(predicateType).toBe('https://slsa.dev/provenance/v1')
        expect(subject.map((one) => `sha256:${one.digest.sha256}`)).toEqual(subjects)
      }
    })

    test('cosign accepts no provenance of another workflow', async () => {
      const other = SUBJECT.replace('release.yml', 'other.yml')
      for (const digest of published.subjects)
        await expect(verify(digest, other)).rejects.toThrow('no matching CertificateIdentity found')
    })

    test('oras lists the provenance of the index and each image', async () => {
      const [index, ...images] = await Promise.all(published.subjects.map(discover))
      expect(index).toEqual([published.attestation])
      expect(images.map((listed) => listed.length)).toEqual([1, 1])
    })

    // buildx uses plain http for this machine's addresses, and can be configured otherwise only with a Docker daemon.
    if (!https)
      test('buildx shows the SBOM of each platform', async () => {
        const { image } = bench()
        const args = ['imagetools', 'inspect', '--format', '{{json .SBOM}}', `${image(REPOSITORY)}:latest`]
        const output = await runProgram(bench(), 'buildx', args)
        const sboms: Readonly<Record<string, { readonly SPDX: { readonly spdxVersion: string } }>> = JSON.parse(output)
        expect(Object.keys(sboms).sort()).toEqual(['linux/amd64', 'linux/arm64'])
        for (const { SPDX } of Object.values(sboms)) expect(SPDX.spdxVersion).toBe('SPDX-2.3')
      })

    /** Returns the statement that cosign has verified. */
    async function verify(digest: string, identity: string): Promise<Statement> {
      const { image, registry } = bench()
      const { authority } = registry
      const output = await runProgram(bench(), 'cosign', [
        'verify-attestation',
        ...['--type', 'slsaprovenance1', '--trusted-root', services.trustedRoot],
        ...['--certificate-oidc-issuer', 'https://token.actions.githubusercontent.com'],
        ...['--certificate-identity', identity],
        ...(authority === undefined ? [] : ['--registry-cacert', authority.file]),
        `${image(REPOSITORY)}@${digest}`,
      ])
      const { payload }: { readonly payload: string } = JSON.parse(output)
      return JSON.parse(Buffer.from(payload, 'base64').toString())
    }

    /** Returns the digests of the provenance that is attached to a manifest. */
    async function discover(digest: string): Promise<readonly string[]> {
      const { image, registry, env } = bench()
      const output = await runProgram(bench(), 'oras', [
        'discover',
        ...['--format', 'json', '--artifact-type', BUNDLE],
        ...['--registry-config', join(env.DOCKER_CONFIG ?? '', 'config.json')],
        `--plain-http=${registry.authority === undefined}`,
        `${image(REPOSITORY)}@${digest}`,
      ])
      const { referrers }: { readonly referrers: readonly { readonly digest: string }[] } = JSON.parse(output)
      return referrers.map((one) => one.digest)
    }
  })
}

interface Statement {
  readonly predicateType: string
  readonly subject: readonly { readonly digest: { readonly sha256: string } }[]
}

/** The services that a merge signs with, and stores attestations with. */
interface Services {
  readonly sigstore: Sigstore
  readonly hosts: SigstoreHosts
  readonly git: GitHost
  /** A file. */
  readonly trustedRoot: string
  readonly close: () => Promise<void>
}

async function startServices({ lab, registry }: Bench): Promise<Services> {
  const sigstore = await startSigstore()
  const hosts = await serveSigstoreHosts(sigstore.services.public, registry.authority?.certificate)
  const git = await startGitHost({ repository: 'Owner/App', token: TOKEN, parents: {}, attestations: true })
  const trustedRoot = join(await mkdtemp(join(lab.folder, 'sigstore-')), 'trusted-root.json')
  await writeFile(trustedRoot, sigstore.trustedRoot)
  const close = async (): Promise<void> => {
    await Promise.all([hosts.close(), git.close()])
    await sigstore.close()
  }
  return { sigstore, hosts, git, trustedRoot, close }
}

interface Published {
  /** The digests of the index and of the images. */
  readonly subjects: readonly string[]
  /** The digest of the index's attestation. */
  readonly attestation: string
}

async function publishAttested(bench: Bench, { sigstore, hosts, git }: Services): Promise<Published> {
  const { built, merged } = await bench.publish(
    REPOSITORY,
    bench.lab.hello,
    { attribute: 'layeredImage' },
    {
      inputs: { attest: 'true' },
      env: { ...sigstore.env, ...hosts.env, GITHUB_API_URL: git.api },
      token: TOKEN,
    },
  )
  expect(git.bundles).toHaveLength(1)
  const { digest = '', attestation = '' } = merged.outputs
  return { subjects: [digest, ...built.map(({ outputs }) => outputs.digest ?? '')], attestation }
}

/** Runs a program that reaches only this machine, and returns its output. */
async function runProgram({ env, lab, registry }: Bench, name: ProgramName, args: readonly string[]): Promise<string> {
  const { stdout } = await run(builtProgram(name).path, args, {
    env: {
      PATH: process.env.PATH,
      HOME: lab.folder,
      DOCKER_CONFIG: env.DOCKER_CONFIG,
      HTTP_PROXY: 'http://127.0.0.1:1',
      HTTPS_PROXY: 'http://127.0.0.1:1',
      ...(registry.authority !== undefined && { SSL_CERT_FILE: registry.authority.file }),
    },
  })
  return stdout
}
