// Compiles wasm/ to WebAssembly and writes it into a source file, so that dist/ needs no additional file.
import { writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import asc from 'assemblyscript/asc'

const checkout = fileURLToPath(new URL('..', import.meta.url))

let module = new Uint8Array()
const { error, stderr } = await asc.main(
  [
    'wasm/deflate.ts',
    ...['--outFile', 'deflate.wasm', '--runtime', 'stub', '--noAssert', '-O3'],
    // The only import that remains with --noAssert. Nothing calls it.
    ...['--use', 'abort='],
  ],
  { baseDir: checkout, writeFile: (_name, contents) => keep(contents) },
)
if (error) {
  console.error(`${error.message}\n${stderr.toString()}`)
  process.exit(1)
}
const text = `// Made from wasm/ by scripts/wasm.mjs.

/** The compressor as a WebAssembly module, in base64. */
export const DEFLATE_MODULE =
  '${Buffer.from(module).toString('base64')}'
`
writeFileSync(new URL('../src/compress/deflate/module.ts', import.meta.url), text)

/** @param {Uint8Array | string} contents - of the only file that is asked for */
function keep(contents) {
  if (typeof contents !== 'string') module = contents
}
