/** A folder, a hash in Nix's base 32, and a name: https://nix.dev/manual/nix/latest/protocols/store-path */
const STORE_PATH = /^(?:\/[A-Za-z0-9._-]+)+\/[0-9a-df-np-sv-z]{32}-[A-Za-z0-9+._?=-]{1,211}$/

/** Whether a text is the path of something in a Nix store, wherever that is, and of nothing below it. */
export function isStorePath(text: string): boolean {
  return STORE_PATH.test(text) && !text.split('/').includes('..')
}
