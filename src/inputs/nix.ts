import type { Environment } from '../context.ts'
import { InputError } from '../errors.ts'
import { inputOf } from './field.ts'

export function readFlake(env: Environment): string {
  const flake = rejectOption('flake', inputOf(env, 'flake') || '.')
  if (!flake.includes('#')) return flake
  throw new InputError({
    message: `The input \`flake\` is "${flake}", which also names an attribute`,
    hint: 'Move the part after "#" to `attribute`, or use `installable` (build) for the whole.',
  })
}

export function readAttribute(env: Environment): string {
  const attribute = rejectOption('attribute', inputOf(env, 'attribute') || 'containerImage')
  const hash = attribute.indexOf('#')
  if (hash === -1) return attribute
  throw new InputError({
    message: `The input \`attribute\` is "${attribute}", which also names a flake`,
    hint: `Move the flake to \`flake\`, or use \`installable\` (build) for the whole:\n  attribute: ${attribute.slice(hash + 1) || 'containerImage'}`,
  })
}

/** Rejects a value that Nix would read as an option. @throws InputError */
export function rejectOption(input: string, text: string): string {
  if (!text.startsWith('-')) return text
  throw new InputError({
    message: `The input \`${input}\` is "${text}", which Nix would read as an option`,
    hint: `Set \`${input}\` to what to build, and move options for Nix to \`nix-args\`, one per line.`,
  })
}

export function checkNixArg(line: string): string {
  if (!/^--?[A-Za-z][\w-]*\s/.test(line)) return line
  throw new InputError({
    message: `The input \`nix-args\` contains "${line}" on one line, but each line is one argument`,
    hint: `Write each argument on its own line:\n  nix-args: |\n${line
      .split(/\s+/)
      .map((one) => `    ${one}`)
      .join('\n')}`,
  })
}
