/**
 * The environment by which a Node process has other functions in `node:fs/promises`. What it starts, which may be Node
 * as well, has them as they are.
 * @param functions by name, in JavaScript, where `real` has them as they are, and `existsSync` is there as well
 */
export function withFiles(functions: Readonly<Record<string, string>>): { readonly NODE_OPTIONS: string } {
  const replaced = Object.entries(functions).map(([name, code]) => `files.${name} = ${code}`)
  const module = `
    import { existsSync } from 'node:fs'
    import files from 'node:fs/promises'
    import { syncBuiltinESMExports } from 'node:module'
    delete process.env.NODE_OPTIONS
    const real = { ...files }
    ${replaced.join('\n')}
    syncBuiltinESMExports()`
  return { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(module)}` }
}
