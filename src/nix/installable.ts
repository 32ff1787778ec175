/** What the user asked to have built. */
export interface InstallableInputs {
  readonly system: string
  readonly flake: string
  readonly attribute: string
  /** Takes the place of flake and attribute where it is not empty; `{system}` in it is replaced. */
  readonly installable: string
}

/** What `nix build` is given. */
export function installableOf({ system, flake, attribute, installable }: InstallableInputs): string {
  if (installable !== '') return installable.replaceAll('{system}', system)
  return `${flake}#packages.${system}.${attribute}`
}
