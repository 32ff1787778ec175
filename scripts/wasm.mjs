// Compiles wasm/ to WebAssembly and embeds it in src/compress/deflate-module.ts, which tsc and ncc include in dist/.
import { readFile, writeFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import asc from 'assemblyscript/asc'

const checkout = fileURLToPath(new URL('..', import.meta.url))

/** @type {Uint8Array} */
let module = new Uint8Array()
const { error, stderr } = await asc.main(
  [
    'wasm/deflate.ts',
    ...['--baseDir', checkout],
    ...['--outFile', 'deflate.wasm', '--runtime', 'stub', '--noAssert', '-O3'],
    // The module would import this function, although nothing calls it with --noAssert.
    ...['--use', 'abort='],
  ],
  {
    readFile: readSource,
    writeFile(_name, contents) {
      if (typeof contents !== 'string') module = contents
    },
  },
)
if (error) {
  console.error(`${error.message}\n${stderr.toString()}`)
  process.exit(1)
}
await writeFile(
  new URL('../src/compress/deflate-module.ts', import.meta.url),
  `// Generated from wasm/ by scripts/wasm.mjs.

/** The compressor as a WebAssembly module, in base64. */
export const DEFLATE_MODULE =
  '${Buffer.from(module).toString('base64')}'
`,
)

/**
 * Returns the text of a source file, or null if it does not exist. AssemblyScript's decorator for functions is not valid
 * TypeScript, so the sources have it as a comment, which type checks and lint accept.
 *
 * @param {string} name
 * @param {string} folder
 */
async function readSource(name, folder) {
  const text = await readFile(resolve(folder, name), 'utf8').catch(() => null)
  return text?.replaceAll(/^\/\/ @inline$/gm, '@inline') ?? null
}
