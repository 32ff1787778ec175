/** What is used of WebAssembly. TypeScript's declarations of it come only along with those of a browser. */
declare namespace WebAssembly {
  /** Compiled code; workers can be given it. */
  class Module {
    constructor(bytes: Uint8Array)
  }

  class Instance {
    constructor(module: Module)
    readonly exports: unknown
  }

  interface Memory {
    readonly buffer: ArrayBuffer
  }

  interface Global {
    readonly value: number
  }
}
