#!/usr/bin/env node
// The command line of the action: `nix-image-action build --image ghcr.io/owner/app`.
import { readFileSync } from 'node:fs'

const { version, engines } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'))
const [oldest] = /\d+/.exec(engines.node) ?? []

if (process.argv[2] === '--version') {
  console.log(version)
} else if (Number.parseInt(process.versions.node, 10) < Number(oldest)) {
  console.error(`error: nix-image-action needs Node ${oldest} or later, but this is Node ${process.versions.node}`)
  process.exitCode = 1
} else {
  // The same program as the action, which gets no arguments.
  if (process.argv.length === 2) process.argv.push('--help')
  await import('../dist/index.js')
}
