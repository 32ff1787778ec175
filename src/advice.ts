/** Returns the workflow step that logs in to a registry. */
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

/** A hint for a disk that is full or nearly full. */
export const MORE_SPACE =
  'Hosted runners guarantee 14 GB: free more before the build (for example with jlumbroso/free-disk-space), or use a larger runner. On a self-hosted runner, run nix-collect-garbage.'

/** A hint for a runner that has reached its limit of open files. */
export const MORE_FILES = 'Raise the limit on the runner: `ulimit -n 1024` or higher, before the runner starts.'

/** The end of a hint to give each run a tag that does not exist yet. */
export const UNIQUE_TAG = `set a \`tag\` that is different for each run:
  tag: "{sha}-{system}-\${{ github.run_id }}-\${{ github.run_attempt }}"`
