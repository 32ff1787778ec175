const UNITS = ['B', 'kB', 'MB', 'GB', 'TB']

/** A number of bytes for people, in steps of a thousand: `3.1 MB`. */
export function formatBytes(bytes: number): string {
  const step = Math.min(UNITS.length - 1, Math.max(0, Math.floor(Math.log10(Math.max(1, bytes)) / 3)))
  const amount = bytes / 1000 ** step
  return `${amount >= 100 || step === 0 ? amount.toFixed(0) : amount.toFixed(1)} ${UNITS[step]}`
}
