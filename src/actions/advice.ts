import { loginStep, MORE_FILES, MORE_SPACE, UNIQUE_TAG } from '../advice.ts'
import type { DiskError } from '../errors.ts'
import { OCI_INDEX } from '../oci/manifest.ts'
import type { RegistryError } from '../registry/registry-error.ts'

/**
 * Returns what to change in a workflow after a registry error. Separate from `registry/`, which does not depend on GitHub
 * Actions.
 * @param mode the mode of the step
 */
export function adviceFor(error: RegistryError, mode?: string): string | undefined {
  const { host, problem, code, status, mediaType } = error
  switch (problem) {
    case 'no-credentials':
      return `Log in before this step:\n${loginStep(host)}\n${permissions(host, mode)}`.trimEnd()
    case 'wrong-credentials':
      return `Check the user name and the password or token in the login step before this one:\n${loginStep(host)}${withoutLogin(host, mode)}`
    case 'refused-login':
      return `Check the user name and the password or token in the login step before this one:\n${loginStep(host)}${withoutLogin(host, mode)}\nIf they are correct, the login has no access to this repository. ${permissions(host, mode) || accessTo(mode)}`
    case 'refused-token':
      return `${permissions(host, mode)}
If you set \`token\`, check that it is valid and may access packages. To log in with other credentials, add before this step:
${loginStep(host)}`
    case 'tag-exists':
      return mode === 'merge' ? REMOVE_TAG : OTHER_TAG
    case 'unsupported-type':
      return adviseType(mediaType)
    case 'read-only':
      return `Push to the registry itself, not to a mirror or proxy cache. If ${host} is the registry itself, ask its operator to allow pushes.`
    case 'denied':
      return permissions(host, mode) || accessTo(mode)
    case 'unreachable':
      return `Check that "${host}" is the address of the registry and that the runner can reach it. Set a proxy in HTTPS_PROXY and NO_PROXY. Plain HTTP is used only for localhost.`
    case 'untrusted-certificate':
      return "Set the environment variable NODE_EXTRA_CA_CERTS, for the job or the runner, to a file with the certificate of your certificate authority. Certificate checks can't be turned off."
    case 'rate-limited':
      return 'Log in before this step, because rate limits are higher for authenticated requests. Or run this job again later.'
    case 'not-found':
      return code === 'NAME_UNKNOWN'
        ? 'Create the repository in the registry first. This registry does not create repositories automatically.'
        : 'Run this job again: the registry may need some seconds to return what was pushed. If that does not help, check the name, and that the login has read access.'
    case 'doubtful':
      return unexpectedResponse(host)
    case 'other':
      if (status === undefined) return undefined
      if (status < 400) return unexpectedResponse(host)
      return status >= 500 || status === 408
        ? 'The registry has an internal error. Run this job again later.'
        : `Run this job again. If that does not help, ask the operator of ${host} what the response means.`
  }
}

/** Returns what to do if files can't be written. */
export function adviceForDisk({ problem, folder }: DiskError): string {
  switch (problem) {
    case 'full':
      return `${MORE_SPACE} Then re-run this job.`
    case 'read-only':
      return `Make ${folder} writable. Then re-run this job.`
    case 'denied':
      return `Let the runner's user write to ${folder}. Then re-run this job.`
    case 'missing':
      return `Create ${folder} before this step. Then re-run this job.`
    case 'too-many-files':
      return `${MORE_FILES} Then re-run this job.`
    case 'other':
      return 'Re-run this job.'
  }
}

function accessTo(mode: string | undefined): string {
  return `Give the login ${mode === 'verify' ? 'read' : 'write'} access to the repository.`
}

const OTHER_TAG = `Push the image by digest only, which is all that merge needs:
  tag: ""
Or ${UNIQUE_TAG}`

const REMOVE_TAG =
  'Remove this tag from `tags`, or delete it in the registry if it may be replaced. Then run this job again.'

/** Returns a hint for a registry that refuses a media type. */
function adviseType(mediaType = ''): string {
  const registry = 'Push OCI manifests. In the build steps, remove `push-with: docker` or set:\n  push-with: registry'
  if (mediaType.includes('docker')) return registry
  if (mediaType !== OCI_INDEX)
    return `Update the registry. If it supports only Docker's types, let Docker push:\n  push-with: docker`
  return `${registry}\nIf the registry supports only Docker's types, update it, or set \`push-with: docker\` in all build steps and remove \`annotations\` from the merge.`
}

function unexpectedResponse(host: string): string {
  return `Run this job again. If that does not help, check whether a proxy in front of ${host} changes or replaces its responses.`
}

/** Returns that the action can log in by itself. Docker can't, which only builds use. */
function withoutLogin(host: string, mode: string | undefined): string {
  if (host !== 'ghcr.io') return ''
  const except = mode === 'build' ? ', except with `push-with: docker`' : ''
  return `\nOr remove the login step: on github.com, this step then uses the token of the job${except}.`
}

function permissions(host: string, mode: string | undefined): string {
  if (host !== 'ghcr.io') return ''
  if (mode === 'verify') return READ_PERMISSIONS
  return `Give the token of the job write access to packages:
  permissions:
    contents: read
    packages: write
If the package exists already, also give this repository the role "Write" in the package settings, under "Manage Actions access".
In pull requests from forks and from Dependabot, the token is read-only. Set in this step:
  push: \${{ github.event_name != 'pull_request' }}`
}

const READ_PERMISSIONS = `Give the token of the job read access to packages:
  permissions:
    contents: read
    packages: read
For a package of another repository, also give this repository the role "Read" in the package settings, under "Manage Actions access".`
