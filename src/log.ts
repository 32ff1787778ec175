/** Where progress goes. The rooms get this as an argument, so that none of them knows of GitHub Actions. */
export interface Log {
  info(message: string): void
  warning(message: string): void
  debug(message: string): void
}
