/**
 * Returns the environment that replaces functions of `node:fs/promises` in a Node process, but not in its child
 * processes, which may be Node as well.
 * @param functions JavaScript code by name, in which `real` contains the original functions; `existsSync` is available
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
