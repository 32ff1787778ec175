import * as v from 'valibot'
import { readJson } from '../json.ts'
import type { Log } from '../log.ts'
import { buildFailed, type NixBuildCall } from './failure.ts'
import { type Installable, storePlaceOf } from './installable.ts'
import { runNixLogged } from './logged-run.ts'
import { nixString } from './packages.ts'
import { isStorePath } from './store-path.ts'

/** A derivation, as Nix evaluated it. */
export interface Evaluation {
  /** The path of the derivation: `/nix/store/….drv`. */
  readonly derivation: string
  /** The output to build: `out`. */
  readonly output: string
  /** The store path of the output. Undefined if only the build determines it, as for content-addressed derivations. */
  readonly storePath: string | undefined
  /** The derivation of the attribute `stream`, which `dockerTools.buildLayeredImage` adds to its image. */
  readonly stream: string | undefined
  /** The derivation of the attribute `conf`, which `dockerTools.streamLayeredImage` adds to its script. */
  readonly conf: string | undefined
  /** The version of Nix, such as `2.34.1`. */
  readonly nixVersion: string
  /** The names of settings in the flake's `nixConfig` that Nix did not apply. */
  readonly ignoredSettings: readonly string[]
}

/**
 * Evaluates an image without building it. One evaluation returns all that is needed: with nixpkgs, it takes seconds.
 * @returns undefined if the installable is no single derivation or output, or `nix eval` does not support the arguments:
 * then only `nix build` interprets it
 * @throws NixError if the evaluation fails, or Nix is not installed
 */
export async function evaluateImage(call: NixBuildCall, log: Log): Promise<Evaluation | undefined> {
  const { installable, nixArgs } = call
  const [text = '', output, ...more] = installable.text.split('^')
  // Nix can't evaluate a store path, or a link to one.
  if (storePlaceOf(installable) !== undefined) return undefined
  if (more.length > 0 || (output !== undefined && !OUTPUT_NAME.test(output))) return undefined
  const given = [...nixArgs, ...installable.options]
  if (installable.options.length > 0 && given.some((word) => word.startsWith('--arg-from-'))) return undefined
  log.info(`Evaluating ${installable.name}`)
  const args = ['eval', '--json', ...call.setup.platformOptions]
  const image = installable.options.length > 0 ? callFunction(given) : 'value'
  const target = [...given, text, '--apply', describeDerivation(image, output)]
  const run = await runNixLogged(args, target, (line) => log.info(line), false)
  // `nix-args` may have options that only `nix build` knows.
  if (run.result.exitCode !== 0 && /unrecogni[sz]ed flag/.test(run.result.log)) {
    log.info(`Can't evaluate ${installable.name} before the build: \`nix eval\` does not support all of \`nix-args\``)
    return undefined
  }
  if (run.result.exitCode !== 0) throw await buildFailed(call, run)
  const read = readJson(EVALUATED, run.result.stdout)
  if (!read.ok || read.value === null || !isStorePath(read.value.derivation)) return undefined
  const { derivation, place, stream, conf, ...rest } = read.value
  const pathOr = (path: string | null) => (path !== null && isStorePath(path) ? path : undefined)
  const { ignoredSettings } = run.log
  const paths = { derivation, storePath: pathOr(place), stream: pathOr(stream), conf: pathOr(conf) }
  return { ...rest, ...paths, ignoredSettings }
}

/**
 * Returns the store path of an installable before it is built.
 * @returns undefined if it is not known before the build
 */
export function storePathBeforeBuild({ text }: Installable, evaluation: Evaluation | undefined): string | undefined {
  // Depending on its version, Nix takes a derivation in the store for its outputs or for the derivation itself.
  return isStorePath(text) && !text.endsWith('.drv') ? text : evaluation?.storePath
}

const OUTPUT_NAME = /^[A-Za-z_][\w-]{0,100}$/

const EVALUATED = v.nullable(
  v.object({
    derivation: v.string(),
    output: v.pipe(v.string(), v.regex(OUTPUT_NAME)),
    place: v.string(),
    stream: v.nullable(v.string()),
    conf: v.nullable(v.string()),
    nixVersion: v.string(),
  }),
)

/**
 * Returns a Nix expression that calls `value` if it is a function, as `nix build` does: with those of the arguments that it
 * has. `nix eval` does not call the function before it applies another one. The expression is null if an argument is
 * missing, which `nix build` reports.
 * @param args the arguments for Nix
 */
function callFunction(args: readonly string[]): string {
  const set = args.flatMap((word, at) => {
    const [name = '', text = ''] = args.slice(at + 1, at + 3)
    if (word === '--argstr') return [`{ ${nixString(name)} = ${nixString(text)}; }`]
    return word === '--arg' ? [`{ ${nixString(name)} = (${text}\n); }`] : []
  })
  return [
    '(if !builtins.isFunction value then value else',
    `let args = ${['{ }', ...set].join(' // ')}; wanted = builtins.functionArgs value;`,
    'in if builtins.all (name: wanted.${name} || args ? ${name}) (builtins.attrNames wanted)',
    'then value (builtins.intersectAttrs wanted args) else null)',
  ].join(' ')
}

/**
 * The output that `nix build` builds without a selection. If that is several, the image is the derivation's default one.
 * https://nix.dev/manual/nix/2.34/command-ref/new-cli/nix#derivation-output-selection
 */
const DEFAULT_OUTPUT =
  '(let wanted = image.meta.outputsToInstall or [ ]; in if builtins.length wanted == 1 then builtins.head wanted else image.outputName or "out")'

/**
 * Returns a Nix function from the installable's `value` to the fields of `EVALUATED`, or to null if it is no derivation.
 * @param image the expression of the derivation
 */
function describeDerivation(image: string, output: string | undefined): string {
  const text = (expression: string) => `builtins.unsafeDiscardStringContext (${expression})`
  const derivationOf = (...paths: readonly string[]) =>
    `(let path = ${paths.map((path) => `${path}.drvPath or `).join('')}null; in if builtins.isString path then ${text('path')} else null)`
  return [
    `value: let image = ${image}; output = ${output === undefined ? DEFAULT_OUTPUT : `"${output}"`};`,
    'in if !(image ? drvPath && image ? outPath) then null else {',
    `derivation = ${text('image.drvPath')};`,
    `place = ${text('(image.${output} or image).outPath')};`,
    'inherit output;',
    `stream = ${derivationOf('image.stream')};`,
    `conf = ${derivationOf('image.conf', 'image.stream.conf')};`,
    'nixVersion = builtins.nixVersion; }',
  ].join(' ')
}
