import { OCI_INDEX } from '../oci/media-type.ts'
import type { RegistryError } from '../registry/registry-error.ts'

/** The step to add to a workflow so that this and later steps are logged in to a registry. */
export function loginStep(host: string): string {
  if (/\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com/.test(host)) return '  - uses: aws-actions/amazon-ecr-login@v2'
  const lines = {
    'ghcr.io': ['registry: ghcr.io', 'username: ${{ github.actor }}', 'password: ${{ github.token }}'],
    'docker.io': ['username: ${{ vars.DOCKERHUB_USERNAME }}', 'password: ${{ secrets.DOCKERHUB_TOKEN }}'],
  }[host] ?? [
    `registry: ${host}`,
    'username: ${{ vars.REGISTRY_USERNAME }}',
    'password: ${{ secrets.REGISTRY_PASSWORD }}',
  ]
  return ['  - uses: docker/login-action@v4', '    with:', ...lines.map((line) => `      ${line}`)].join('\n')
}

/**
 * What a user can do in a workflow about a registry's failure; the registry room itself knows nothing of workflows.
 * @param mode of the step
 */
export function adviceFor(error: RegistryError, mode?: string): string | undefined {
  const { host, problem, code, status, mediaType } = error
  switch (problem) {
    case 'no-credentials':
      return `Log in before this step:\n${loginStep(host)}\n${permissions(host)}`.trimEnd()
    case 'wrong-credentials':
      return `Check the user name and the password or token that the login step before this one is given:\n${loginStep(host)}`
    case 'refused-login':
      return `Check the user name and the password or token of the login step before this one:\n${loginStep(host)}\nIf they are right, the login has no access to this repository. ${permissions(host) || WRITE_ACCESS}`
    case 'tag-exists':
      return mode === 'merge' ? TAKE_TAG_OUT : OTHER_TAG
    case 'unsupported-type':
      return adviseType(mediaType)
    case 'read-only':
      return `Push to the registry itself, not to a mirror or proxy cache of it. If ${host} is the registry itself, ask its operator to allow pushes.`
    case 'denied':
      return permissions(host) || WRITE_ACCESS
    case 'unreachable':
      return `Is "${host}" the registry's address, and can the runner reach it? A proxy is taken from HTTPS_PROXY and NO_PROXY. Plain http is spoken to localhost alone.`
    case 'untrusted-certificate':
      return "Name the file with your certificate authority in the environment variable NODE_EXTRA_CA_CERTS, on the job or the runner. Certificate checks can't be turned off."
    case 'rate-limited':
      return 'Log in if this job is not logged in (the limits are higher then), or run it again later.'
    case 'not-found':
      return code === 'NAME_UNKNOWN'
        ? 'Create the repository in the registry first; this one does not create it by itself.'
        : 'Run the job again: a registry may need some seconds to show what was pushed. If that does not help, check the name, and that the login may see it.'
    case 'doubtful':
      return replacedAnswer(host)
    case 'other':
      if (status === undefined) return undefined
      if (status < 400) return replacedAnswer(host)
      return status >= 500 || status === 408
        ? 'The registry has a fault of its own. Run the job again later.'
        : `Run the job again. If that does not help, ask the operator of ${host} what the answer means.`
  }
}

const WRITE_ACCESS = 'Give the login write access to the repository.'

const OTHER_TAG = `Push the image by digest alone, which is all that merge needs:
  tag: ""
Or set a \`tag\` that is different for each run:
  tag: "{sha}-{system}-\${{ github.run_id }}-\${{ github.run_attempt }}"`

const TAKE_TAG_OUT =
  'Remove this tag from `tags`, or delete it in the registry if it may be replaced, and run the job again.'

/** What helps where a registry does not take manifests of a type. */
function adviseType(mediaType = ''): string {
  const registry = 'Push OCI manifests. In the build steps, remove `push-with: docker` or set:\n  push-with: registry'
  if (mediaType.includes('docker')) return registry
  if (mediaType !== OCI_INDEX)
    return `Update the registry. If it supports only Docker's types, let Docker push:\n  push-with: docker`
  return `${registry}\nIf the registry supports only Docker's types, update it, or set \`push-with: docker\` in all build steps and give the merge no \`annotations\`.`
}

function replacedAnswer(host: string): string {
  return `Run the job again. If that does not help, check whether a proxy in front of ${host} changes its answers, or answers in its place.`
}

function permissions(host: string): string {
  if (host !== 'ghcr.io') return ''
  return `Let the job's token write packages:
  permissions:
    contents: read
    packages: write
A package that exists already must grant this repository the role "Write" as well (package settings, "Manage Actions access").
In pull requests from forks and of Dependabot the token can't write at all: give this step
  push: \${{ github.event_name != 'pull_request' }}`
}
