import type { Readable } from 'node:stream'
import type { Descriptor } from '../oci/manifest.ts'
import type { Digest, Repository } from '../oci/reference.ts'

/** A manifest or index as stored in a registry. Its digest is the hash of its bytes. */
export interface StoredManifest {
  readonly bytes: Buffer
  readonly digest: Digest
  readonly mediaType: string
  /** The strong ETag of the answer, if the manifest was read by a tag. */
  readonly etag?: string
}

/**
 * A client for all registries. It has one login and one token per scope, however many requests there are.
 * Source: https://github.com/opencontainers/distribution-spec/blob/main/spec.md
 */
export interface Registry {
  /**
   * Reads a manifest or index by tag or digest. Verifies the digest.
   * @returns undefined if it does not exist
   * @throws RegistryError
   */
  getManifest(repository: Repository, reference: string, options?: ReadOptions): Promise<StoredManifest | undefined>
  /**
   * Returns the digest that a tag points to, with HEAD if possible: Docker Hub counts each GET of a manifest as a pull.
   * @returns undefined if the tag does not exist
   * @throws RegistryError
   */
  findDigest(repository: Repository, tag: string): Promise<Digest | undefined>
  /**
   * Stores a manifest or index under a tag or its digest. If the registry's answer does not prove that, reads it back.
   * @param etag lets a registry that honours `If-Match` refuse, with status 412, if the tag has moved since it was read
   * @returns the `subject` of the manifest, if the registry says that it lists the manifest as a referrer
   * @throws RegistryError that says what the tag points to now, unless the registry has refused the first request
   */
  putManifest(
    repository: Repository,
    reference: string,
    mediaType: string,
    bytes: Uint8Array,
    etag?: string,
  ): Promise<Digest | undefined>
  /**
   * Lists the manifests whose `subject` is a manifest. Their order is the registry's.
   * @returns undefined if the registry does not support that
   * @throws RegistryError
   */
  listReferrers(repository: Repository, digest: Digest): Promise<readonly Descriptor[] | undefined>
  /**
   * Deletes a tag, if the registry supports that.
   * @returns whether the tag was deleted
   */
  deleteTag(repository: Repository, tag: string): Promise<boolean>
  /**
   * Reads a small blob, such as an image's config. Verifies the digest.
   * @param limit the maximum size in bytes
   * @returns undefined if it does not exist
   * @throws RegistryError
   */
  getBlob(repository: Repository, digest: Digest, limit: number, options?: ReadOptions): Promise<Buffer | undefined>
  hasBlob(repository: Repository, digest: Digest, options?: ReadOptions): Promise<boolean>
  /**
   * Begins to read a blob of any size. The caller must verify the digest.
   * @returns the bytes; reading them throws if the transfer stalls
   * @throws RegistryError also if the blob does not exist
   */
  openBlob(repository: Repository, digest: Digest): Promise<AsyncIterable<Buffer>>
  /**
   * Mounts a blob of another repository of the same registry.
   * @returns whether the registry has mounted it; registries refuse for many reasons
   */
  mountBlob(repository: Repository, digest: Digest, from: Repository): Promise<boolean>
  /**
   * Uploads a blob in one request. If the registry's answer does not prove that it is stored, looks for it.
   * @param from another repository of the same registry that has the blob, which is mounted from there if possible
   * @throws RegistryError
   */
  putBlob(repository: Repository, blob: Blob, from?: Repository): Promise<'mounted' | 'uploaded'>
  /**
   * Checks that images can be pushed to a repository, by beginning an upload, which is cancelled in the background.
   * Reads that run at the same time use the same token.
   * @throws RegistryError that says why they can't
   */
  checkPush(repository: Repository): Promise<void>
}

/** Options for reading content that was written just now: registries may lag behind their writes. */
export interface ReadOptions {
  /** Reads again, for some seconds, if the content is not found. */
  readonly retryNotFound?: boolean
  /** The digest that a tag pointed to before it was written. The tag is read again if it still points there. */
  readonly outdated?: Digest | undefined
}

/** A blob to upload. */
export interface Blob {
  readonly digest: Digest
  /** In bytes. */
  readonly size: number
  /** Returns a stream of all bytes. May be called several times. */
  open(): Readable
}
