// Writes the tables of inputs and outputs in README.md from action.yml.
//
//   node scripts/tables.mjs            writes each table behind its marker
//   node scripts/tables.mjs --check    fails if they are out of date
//
// A description in action.yml begins with the modes that it applies to, such as "build, plan: ", unless it applies to all.
// The type of an input follows from its default and its description: see typeOf().
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parse } from 'yaml'

/**
 * @typedef {{ description: string, default?: string, required?: boolean }} Entry
 */

const README = fileURLToPath(new URL('../README.md', import.meta.url))
const MODES = /^((?:build|merge|plan|verify)(?:, (?:build|merge|plan|verify))*): /

const { inputs, outputs } = parse(readFileSync(new URL('../action.yml', import.meta.url), 'utf8'))
const readme = readFileSync(README, 'utf8')
const current = withTable(withTable(readme, 'inputs', inputTable(inputs)), 'outputs', outputTable(outputs))

if (!process.argv.includes('--check')) {
  writeFileSync(README, current)
} else if (current !== readme) {
  console.error('The tables in README.md are out of date. Run "node scripts/tables.mjs".')
  process.exitCode = 1
}

/**
 * @param {string} text
 * @param {string} name
 * @param {string} table
 * @returns {string}
 */
function withTable(text, name, table) {
  const [before, after] = text.split(`<!-- ${name}: written by node scripts/tables.mjs -->\n`)
  if (after === undefined) throw new Error(`README.md has no place for the table of ${name}`)
  // The table ends at the first line that is not one of its rows.
  return `${before}<!-- ${name}: written by node scripts/tables.mjs -->\n${table}${after.replace(/^(\|.*\n)*/, '')}`
}

/**
 * @param {Readonly<Record<string, Entry>>} entries
 * @returns {string}
 */
function inputTable(entries) {
  const rows = Object.entries(entries)
    .filter(([, { description }]) => !description.includes('Do not set this input.'))
    .map(([name, entry]) => {
      const { modes, text } = splitDescription(entry.description)
      return [`\`${name}\``, modes, typeOf(entry), defaultOf(entry), text]
    })
  return tableOf(['input', 'modes', 'type', 'default', 'description'], rows)
}

/**
 * @param {Readonly<Record<string, Entry>>} entries
 * @returns {string}
 */
function outputTable(entries) {
  const rows = Object.entries(entries).map(([name, { description }]) => {
    const { modes, text } = splitDescription(description)
    return [`\`${name}\``, modes, text]
  })
  return tableOf(['output', 'modes', 'description'], rows)
}

/**
 * @param {string} description
 * @returns {{ modes: string, text: string }}
 */
function splitDescription(description) {
  const [prefix = '', modes = 'all'] = MODES.exec(description) ?? []
  const text = description.slice(prefix.length)
  return { modes, text: `${text.charAt(0).toUpperCase()}${text.slice(1)}` }
}

/**
 * A choice has a description for each of its values, as in "`gzip`: …"; a list says how its items are separated.
 * @param {Entry} entry
 * @returns {string}
 */
function typeOf({ description, default: usual }) {
  if (usual === 'true' || usual === 'false') return 'boolean'
  const values = [...description.matchAll(/`([a-z]+)`: /g)].map(([, value]) => `\`${value}\``)
  if (values.length > 1) return values.join(', ')
  if (/\bper line\b|separated by lines or commas/.test(description)) return 'list'
  if (/\bfrom \d+\b.* to \d+\b/.test(description)) return 'number'
  return 'string'
}

/**
 * @param {Entry} entry
 * @returns {string}
 */
function defaultOf({ default: usual = '', required }) {
  if (required) return 'required'
  const value = usual.replace(/^\$\{\{\s*(.*?)\s*\}\}$/, '$1')
  return value === '' ? '' : `\`${value}\``
}

/**
 * @param {readonly string[]} head
 * @param {readonly (readonly string[])[]} rows
 * @returns {string}
 */
function tableOf(head, rows) {
  const lines = [head, head.map(() => '---'), ...rows.map((cells) => cells.map((cell) => cell.replaceAll('|', '\\|')))]
  return `${lines.map((cells) => `| ${cells.join(' | ')} |`).join('\n')}\n`
}
