import { measureStored, writeBlock, writeStored } from './block'
import { addPartToBlock, resetBlockCounts, resetPartCounts, sumLengths } from './counts'
import { parsePart, setLevel } from './level'
import { INPUT, MEMORY_END, OUTPUT, TOKENS, TOKENS_LIMIT } from './memory'
import { end, resetOutput } from './output'
import { literalsFrom, parsedEnd, setParsed, tokensEnd } from './parse'
import { differs, prepareLogarithms } from './split'
import { prepareSymbols } from './symbols'
import { dropLiterals } from './tokens'

memory.grow(((MEMORY_END + 0xffff) >>> 16) - memory.size())
prepareSymbols()
prepareLogarithms()

/** Where the input is to be put. */
export const input: i32 = INPUT
/** Where the output is found. */
export const output: i32 = OUTPUT

/** The input is parsed in parts of so many bytes, from which deflate blocks are made. */
const PART: i32 = 16 * 1024
/** No more tokens are begun with than leave room for those of a part. */
const TOKENS_FULL: i32 = TOKENS + 8 * (TOKENS_LIMIT - PART / 3 - 1)

/**
 * Compresses the input as deflate blocks, of which none is the last, and which end in an empty stored one: so they end
 * on a byte's border, and others can follow.
 * @returns how many bytes the output has
 */
export function deflate(length: i32, level: i32): i32 {
  resetOutput()
  setLevel(level)
  writeParts(INPUT, INPUT + length)
  writeStored(INPUT, INPUT)
  if (end - OUTPUT > storedSize(length)) storeAll(length)
  return end - OUTPUT
}

/** Parses part after part, and writes those that are alike as one block. */
function writeParts(from: i32, to: i32): void {
  let blockFrom = from
  let partFrom = from
  resetBlockCounts()
  setParsed(from, from, TOKENS)
  while (partFrom < to) {
    const literalsBefore = partFrom - literalsFrom
    const partTokens = tokensEnd
    resetPartCounts()
    parsePart(partFrom, min(to, partFrom + PART), to)
    sumLengths()
    if (partFrom > blockFrom && (differs() || tokensEnd > TOKENS_FULL)) {
      writeBlock(blockFrom, partFrom, partTokens)
      resetBlockCounts()
      restartTokens(partTokens, partFrom, literalsBefore)
      blockFrom = partFrom
    }
    addPartToBlock()
    partFrom = parsedEnd
  }
  writeBlock(blockFrom, to, tokensEnd)
}

/** Makes the tokens of the part that was parsed last the first ones of a block. */
function restartTokens(partTokens: i32, partFrom: i32, literalsBefore: i32): void {
  const size = tokensEnd - partTokens
  if (size > 0) dropLiterals(partTokens, literalsBefore)
  memory.copy(TOKENS, partTokens, size)
  setParsed(parsedEnd, max(literalsFrom, partFrom), TOKENS + size)
}

/** How many bytes the output has when all is stored. */
function storedSize(length: i32): i32 {
  return (length === 0 ? 0 : measureStored(length) >> 3) + (measureStored(0) >> 3)
}

/** The way out for what only grows: parts that are stored one by one have more headers. */
function storeAll(length: i32): void {
  resetOutput()
  writeStored(INPUT, INPUT + length)
  if (length > 0) writeStored(INPUT, INPUT)
}
