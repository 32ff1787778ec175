/** The part of WebAssembly that is used here. TypeScript declares it only together with a browser's interfaces. */
declare namespace WebAssembly {
  /** A compiled module. Can be sent to workers. */
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
