// Rejects patterns of unidiomatic English in comments and strings of src/, and in the documentation.
//
//   node scripts/english.mjs              checks src/, __tests__/, docs/ and the other files in FILES
//   node scripts/english.mjs README.md    checks only these files or folders
//
// Prints each match as file:line, with the pattern and the reason, and exits 1 if there are any.
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

const checkout = fileURLToPath(new URL('..', import.meta.url))

const FILES = [
  'src',
  '__tests__',
  'docs',
  'examples',
  '.github',
  'README.md',
  'CONTRIBUTING.md',
  'CHANGELOG.md',
  'SECURITY.md',
  'BENCHMARKS.md',
  'action.yml',
]
const READ = /\.(ts|md|ya?ml|nix|sh)$/

/** @type {readonly (readonly [RegExp, string])[]} */
const PATTERNS = [
  [/\banew\b/, 'write "again"'],
  [/\bmended\b/, 'write "fixed"'],
  [/\bwhoever\b/i, 'name the actor'],
  [/\bnobody\b/i, 'name the actor: "no user", "no other job"'],
  [/\bsomebody else\b/i, 'name the actor: "another run", "another process"'],
  [/\bwhere there (is|are)\b/i, 'write "if there is"'],
  [
    /(^|[.:;] |\*\* |\/\/ |\* )What (is|was|has|are|they|it|can|must|a|the) [^?]*$/,
    'name the thing before you describe it',
  ],
  [/\bwhich (is|are) no\b/, 'write "which is not a"'],
  [/\b(is|are) none of\b/, 'write "is not one of"'],
  [/\bhangs? on\b/, 'write "depends on"'],
  [/\bheld against\b|\bholds? \S+ against\b/, 'write "compared with"'],
  [/\bgo(es)? by\b/, 'write "depends on" or "uses"'],
  [/\bgives? up\b/, 'write "stops" or "fails"'],
  [/\bpassed over\b/, 'write "skipped"'],
  [/\b(left|leaves?) alone\b/, 'write "does not change" or "skips"'],
  [/\bat hand\b/, 'write "available"'],
  [/\b(one|two|each) a line\b/, 'write "one per line"'],
  [/\bfor people\b/, 'write "for users", or drop it'],
  [/\bis to be had\b|\bcan be had\b|\bto be had\b/, 'write "is available"'],
  [/\bin vain\b/, 'say what is skipped'],
  [/\b(is|are|was|were) told\b|\btells? apart\b|\btold apart\b/, 'write "is reported", or "distinguishes"'],
  [/\b(this|that|the|its|each|every|registry|own) rooms?\b|\brooms\b/i, 'write "module" or "folder"'],
  [/\bwants a login\b/, 'write "authentication required"'],
  [/\bhas come of\b|\bwould become of\b|\bbecomes of\b/, 'write "the result of"'],
  [/\bin words of its own\b|\bown words\b/, 'write "message"'],
  [/\b(is|are) not whole\b|\b(is|are) whole\b|\bhalf there\b/, 'write "incomplete" or "complete"'],
  [/\bprovided for\b/, 'write "supported"'],
  [/\bbrought along\b|\bcarried along\b/, 'write "passed" or "copied"'],
  [/\bbesides? what\b/, 'write "in addition to"'],
  [/\bas it stands\b/, 'write "unchanged"'],
]

const roots = process.argv.length > 2 ? process.argv.slice(2) : FILES
const findings = roots.flatMap((root) => filesIn(join(checkout, root))).flatMap(check)
for (const finding of findings) console.error(finding)
if (findings.length > 0) {
  console.error(`\n${findings.length} lines to rewrite. The patterns and their reasons are in scripts/english.mjs.`)
  process.exitCode = 1
}

/**
 * @param {string} path
 * @returns {readonly string[]}
 */
function filesIn(path) {
  if (!statSync(path).isDirectory()) return [path]
  return readdirSync(path, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && READ.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name))
    .toSorted()
}

/**
 * @param {string} file
 * @returns {readonly string[]}
 */
function check(file) {
  return readFileSync(file, 'utf8')
    .split('\n')
    .flatMap((line, index) =>
      PATTERNS.filter(([pattern]) => pattern.test(line)).map(
        ([pattern, reason]) =>
          `${relative(checkout, file)}:${index + 1}: ${pattern}: ${reason}\n    ${line.trim().slice(0, 160)}`,
      ),
    )
}
