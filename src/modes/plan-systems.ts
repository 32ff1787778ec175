import { NixError } from '../errors.ts'
import type { SystemImage, SystemsCall } from '../nix/evaluate-systems.ts'
import { explainPackagesFailure, formatPackages } from '../nix/packages.ts'
import { lastLines } from '../text.ts'

/** The systems of the matrix, and what to report about the others and those that may fail. */
export interface ChosenSystems {
  readonly planned: readonly SystemImage[]
  readonly warnings: readonly string[]
  readonly notes: readonly string[]
}

/**
 * Chooses the systems to build the image for. Those whose evaluation fails only on this runner, or only beyond the fact
 * that the flake has the image, stay in the matrix: their build reports the error.
 * @throws NixError if the flake has the image for no system, or it can be evaluated for none
 */
export function chooseSystems(images: readonly SystemImage[], call: SystemsCall): ChosenSystems {
  if (!images.some(({ kind }) => kind === 'found' || kind === 'unknown')) throw noImage(images, call)
  const warnings: string[] = []
  const notes: string[] = []
  const planned = images.filter((image) => {
    const name = `packages.${image.system}.${call.attribute}`
    switch (image.kind) {
      case 'found':
        return true
      case 'unknown':
        if (image.because === 'import')
          notes.push(
            `${name} is in the matrix although this step can't evaluate it: its evaluation imports from a derivation, which only the build job builds: ${image.why}`,
          )
        else
          warnings.push(
            `${name} is in the matrix although Nix was killed while it evaluated it (${image.why}). This runner may not have enough memory.`,
          )
        return true
      case 'failed':
        warnings.push(
          image.offered
            ? `${name} is in the matrix although it can't be evaluated: ${image.why}`
            : `Skipping ${image.system}: ${formatFailure(image, call.attribute)}`,
        )
        return image.offered
      case 'unsuitable':
        warnings.push(`Skipping ${image.system}: ${formatUnsuitable(image, call.attribute)}`)
        return false
      default:
        return false
    }
  })
  return { planned, warnings, notes }
}

/**
 * @param wanted the systems to plan
 * @param offered those for which the flake has packages
 * @throws NixError if the flake has no packages for one of them
 */
export function assertOffered(wanted: readonly string[], offered: readonly string[], { flake }: SystemsCall): void {
  const missing = wanted.filter((system) => !offered.includes(system))
  if (missing.length > 0)
    throw new NixError({
      message: `The flake ${flake} has no packages for ${missing.join(', ')}, which \`systems\` lists`,
      detail: `it has packages for ${offered.join(', ') || 'no system'}`,
      hint: CHANGE_SYSTEMS,
    })
}

/**
 * @param wanted the systems that the matrix must have
 * @throws NixError if it lacks one of them
 */
export function assertPlanned(
  wanted: readonly string[],
  planned: readonly SystemImage[],
  images: readonly SystemImage[],
  { flake, attribute }: SystemsCall,
): void {
  const missing = wanted.filter((system) => !planned.some((one) => one.system === system))
  if (missing.length > 0)
    throw new NixError({
      message: `The flake ${flake} has no packages.<system>.${attribute} for ${missing.join(', ')}, which \`systems\` lists`,
      detail: images
        .filter(({ system }) => missing.includes(system))
        .map((image) => formatImage(image, attribute))
        .join('\n'),
      hint: CHANGE_SYSTEMS,
    })
}

const CHANGE_SYSTEMS = 'Remove these systems from `systems`, or add the image for them to the flake.'

/** Returns the error for a flake without a system whose image can be evaluated. */
function noImage(images: readonly SystemImage[], call: SystemsCall): NixError {
  const { flake, attribute } = call
  const failed = images.filter((image) => image.kind === 'failed')
  const [first] = failed
  const lacking = images.some(({ kind }) => kind === 'absent' || kind === 'unsuitable')
  // If the packages of all other systems lack the image, its name may be wrong.
  if (first === undefined || (lacking && failed.every(({ names }) => names === undefined)))
    return new NixError({
      message: `The flake ${flake} has no packages.<system>.${attribute} for any supported system`,
      detail: images.map((image) => formatImage(image, attribute)).join('\n') || '"packages" is empty',
      hint: 'Set `attribute` to a package of the flake, or add the missing package to the flake.',
    })
  const reasons = new Set(failed.map(({ why }) => why))
  const shared = reasons.size === 1
  return new NixError({
    message: `Nix can't evaluate packages.<system>.${attribute} of the flake ${flake} for any system`,
    detail: [
      ...(shared ? [lastLines(first.detail, 20)] : failed.map(({ system, why }) => `${system}: ${why}`)),
      'The flake has these packages:',
      ...images.map((image) => formatImage(image, attribute)),
    ].join('\n'),
    hint:
      explainPackagesFailure(failed.map(({ detail }) => detail).join('\n'), call) ??
      `Correct the image in the flake, or set \`attribute\` to another package. To see where the evaluation fails, run:
  nix eval --show-trace ${flake}#packages.${first.system}.${attribute}`,
  })
}

type FailedImage = Extract<SystemImage, { kind: 'failed' }>

function formatImage(image: SystemImage, attribute: string): string {
  const { system } = image
  switch (image.kind) {
    case 'unsupported':
      return formatPackages({ kind: 'unsupported', system }, attribute)
    case 'unsuitable':
      return `${formatNames(system, image.names, attribute)} (${formatUnsuitable(image, attribute)})`
    case 'failed':
      return image.names === undefined
        ? formatPackages({ kind: 'failed', system, why: image.why }, attribute)
        : formatNames(system, image.names, attribute)
    case 'unknown':
      return formatPackages({ kind: 'failed', system, why: image.why }, attribute)
    default:
      return formatNames(system, image.names, attribute)
  }
}

function formatNames(system: string, names: readonly string[], attribute: string): string {
  return formatPackages({ kind: 'evaluated', system, names }, attribute)
}

function formatFailure({ system, names, why }: FailedImage, attribute: string): string {
  return `packages.${system}${names === undefined ? '' : `.${attribute}`} can't be evaluated: ${why}`
}

function formatUnsuitable({ system, type }: Extract<SystemImage, { kind: 'unsuitable' }>, attribute: string): string {
  return `packages.${system}.${attribute} is ${TYPES[type] ?? `of type ${type}`}`
}

const TYPES: Readonly<Record<string, string>> = {
  null: 'null',
  set: 'a set, not a derivation',
  lambda: 'a function, not a derivation',
}
