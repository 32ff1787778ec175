import { dirname } from 'node:path'
import { openRegularFile, readWhole } from '../fs/regular-file.ts'
import type { Evaluation } from './evaluate.ts'
import { isStorePath, placeOnDisk, type StoreFolder, storeInPlace } from './store-path.ts'

/** In bytes. The derivations of images with thousands of inputs have about 100 KB. */
const DERIVATION_LIMIT = 16 * 1024 * 1024

/** Reads a derivation, if the path is a file in the store: a flake can set its `drvPath` to anything. */
export async function readDerivation(path: string, store: StoreFolder = storeInPlace()): Promise<string | undefined> {
  if (!isStorePath(path)) return undefined
  const place = placeOnDisk(path, store)
  try {
    const file = await openRegularFile(place, dirname(place))
    try {
      return file.size > DERIVATION_LIMIT ? undefined : (await readWhole(file, path)).toString('utf8')
    } finally {
      await file.handle.close()
    }
  } catch {
    return undefined
  }
}

/**
 * Returns whether a derivation requires KVM. With `__structuredAttrs`, its attributes are JSON within a string. Reads the
 * file because its format is the same in all versions of Nix, while the commands that print it have changed: `nix
 * show-derivation` in 2.8, `nix derivation show` in newer versions, with different JSON as of 2.32 and 2.34.
 * https://nix.dev/manual/nix/2.34/protocols/derivation-aterm
 * https://nix.dev/manual/nix/2.32/release-notes/rl-2.32
 */
export function requiresKvm(derivation: string): boolean {
  const [, features = ''] = /requiredSystemFeatures\\?"(?:,"|:\[)([^\])]*)/.exec(derivation) ?? []
  return /\bkvm\b/.test(features)
}

/**
 * Returns the system that builds a derivation. The system follows three lists: outputs, input derivations and sources.
 * The strings in them contain no quotes, because they are store paths, hashes and names of outputs.
 * https://nix.dev/manual/nix/2.34/protocols/derivation-aterm
 */
export function systemOfDerivation(derivation: string): string | undefined {
  return /\],"([\w-]{1,100})",/.exec(derivation)?.[1]
}

/**
 * Finds a reason not to trust that an image has the content that the attributes `stream` and `conf` of dockerTools
 * describe: someone may have changed the derivation of the image and kept the attributes.
 * @returns undefined if the image is the output of `stream`, compressed or not, and `stream` only runs a program on `conf`
 */
export async function unrelatedDescription(
  { derivation, stream, conf }: Evaluation,
  store: StoreFolder = storeInPlace(),
): Promise<string | undefined> {
  const image = await readDerivation(derivation, store)
  const script = stream === undefined ? image : await readDerivation(stream, store)
  const description = conf === undefined ? undefined : await readDerivation(conf, store)
  if (image === undefined || script === undefined || (conf !== undefined && description === undefined))
    return 'its derivation is not in the Nix store'
  if (stream !== undefined && !usesOnly(image, outputOfDerivation(script), isPipeline))
    return 'its derivation does not only compress the output of its attribute `stream`'
  if (description !== undefined && !usesOnly(script, outputOfDerivation(description), isWrapper))
    return 'its derivation is not a script that only runs a program on its attribute `conf`'
  return undefined
}

/** Returns the path of the first output of a derivation. */
function outputOfDerivation(derivation: string): string {
  return /^Derive\(\[\("[^"]*","([^"]+)"/.exec(derivation)?.[1] ?? ''
}

/** Reports whether a derivation uses a path, directly or by a variable, and only in texts that pass a check. */
function usesOnly(derivation: string, path: string, check: (text: string) => boolean): boolean {
  const texts = [...derivation.matchAll(/"((?:[^"\\]|\\.)*)"/gs)].map(([, text = '']) => unescapeText(text))
  const names = [...derivation.matchAll(/\("(\w+)","([^"]+)"\)/g)].filter(([, , value]) => value === path)
  const any = names.map(([, name]) => name).join('|')
  const variable = new RegExp(`\\$(?:\\{(?:${any})\\}|(?:${any})\\b)`, 'g')
  const uses = texts
    .map((text) => (names.length > 0 ? text.replace(variable, path) : text))
    .filter((text) => text.includes(path) && text.trim() !== path)
  return path !== '' && uses.length > 0 && uses.every((text) => check(text.replace(path, 'PATH')))
}

/**
 * Reports whether a text is one command, such as `/nix/store/…-stream-app | pigz -nT > $out`, after options of the shell.
 * Any other program than a compressor could change the image, and so could an argument that is not an option.
 */
function isPipeline(text: string): boolean {
  return /^\s*(?:set [-+\w ]+[;\n]\s*)*"?PATH"?\s*\|\s*(?:[\w/.+-]+\/)?(?:cat|gzip|pigz|zstd|pzstd|xz|pixz)(?: +-[\w${}=-]*)*\s*>\s*"?\$(?:out|\{out\})"?\s*$/.test(
    text,
  )
}

/**
 * Reports whether commands only write a script, such as `makeWrapper /nix/store/…-stream $out --add-flags PATH`. A script
 * that changes what the program writes needs a pipe or a file.
 */
function isWrapper(text: string): boolean {
  return !/\|/.test(text) && !/>(?!\s*"?\$(?:out|\{out\})"?(?:[\s;]|$))/.test(text)
}

/** https://nix.dev/manual/nix/2.34/protocols/derivation-aterm */
function unescapeText(text: string): string {
  return text.replace(/\\(.)/gs, (_, character: string) => ({ n: '\n', r: '\r', t: '\t' })[character] ?? character)
}
