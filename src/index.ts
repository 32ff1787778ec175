export const x = (a: readonly string[]): string | undefined => a[0]
