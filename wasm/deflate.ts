// The module's interface: compresses one block of a layer into deflate blocks. See README.md.
import { measureStored, writeBlock, writeStored } from './block'
import { addSegmentToBlock, countLengthSymbols, resetBlockCounts, resetSegmentCounts } from './counts'
import { literalsFrom, parsedEnd, setParsed, tokensEnd } from './match'
import { parseSegment, resetHashTable } from './matcher'
import { INPUT, MEMORY_END, OUTPUT, TOKENS, TOKENS_LIMIT } from './memory'
import { end, resetOutput } from './output'
import { isWorthNewBlock, prepareLogarithms } from './split'
import { prepareSymbols } from './symbols'
import { dropLiterals } from './tokens'

memory.grow(((MEMORY_END + 0xffff) >>> 16) - memory.size())
prepareSymbols()
prepareLogarithms()

/** The address of the input. */
export const input: i32 = INPUT
/** The address of the output. */
export const output: i32 = OUTPUT

/** The arguments of parseSegment for levels 1 to 4. */
const MAX_LAZY = memory.data<u8>([0, 0, 6, 8])
const INSERTED = memory.data<u8>([2, 4, 8, 12])
const LEVELS: i32 = 4

/** Bytes that are parsed at once. Deflate blocks consist of whole segments. */
const SEGMENT: i32 = 16 * 1024
/** A deflate block ends when its tokens reach this address: the tokens of another segment might not fit. */
const TOKENS_FULL: i32 = TOKENS + 8 * (TOKENS_LIMIT - SEGMENT / 3 - 1)

/**
 * Compresses the input into deflate blocks, none of which is final. They end with an empty stored block, so that the
 * output ends at a byte boundary and further blocks can be appended.
 * @returns the size of the output in bytes
 */
export function deflate(length: i32, level: i32): i32 {
  resetOutput()
  resetHashTable()
  writeSegments(INPUT, INPUT + length, min(max(level, 1), LEVELS))
  writeStored(INPUT, INPUT)
  if (end - OUTPUT > storedSize(length)) storeAll(length)
  return end - OUTPUT
}

/** Parses segment after segment, and writes similar ones as one deflate block. */
function writeSegments(from: i32, to: i32, level: i32): void {
  const maxLazy: i32 = load<u8>(MAX_LAZY + level - 1)
  const inserted: i32 = load<u8>(INSERTED + level - 1)
  let blockFrom = from
  let segmentFrom = from
  resetBlockCounts()
  setParsed(from, from, TOKENS)
  while (segmentFrom < to) {
    const literalsBefore = segmentFrom - literalsFrom
    const segmentTokens = tokensEnd
    resetSegmentCounts()
    parseSegment(segmentFrom, min(to, segmentFrom + SEGMENT), to, maxLazy, inserted)
    countLengthSymbols()
    if (segmentFrom > blockFrom && (isWorthNewBlock() || tokensEnd > TOKENS_FULL)) {
      writeBlock(blockFrom, segmentFrom, segmentTokens)
      resetBlockCounts()
      moveTokensToFront(segmentTokens, segmentFrom, literalsBefore)
      blockFrom = segmentFrom
    }
    addSegmentToBlock()
    segmentFrom = parsedEnd
  }
  writeBlock(blockFrom, to, tokensEnd)
}

/** Makes the last segment's tokens the first ones of a new block. */
function moveTokensToFront(segmentTokens: i32, segmentFrom: i32, literalsBefore: i32): void {
  const size = tokensEnd - segmentTokens
  if (size > 0) dropLiterals(segmentTokens, literalsBefore)
  memory.copy(TOKENS, segmentTokens, size)
  setParsed(parsedEnd, max(literalsFrom, segmentFrom), TOKENS + size)
}

/** Returns the size of the output in bytes if all of the input is stored. */
function storedSize(length: i32): i32 {
  return (length === 0 ? 0 : measureStored(length) >> 3) + (measureStored(0) >> 3)
}

/** Stores all of the input. For input that grows: blocks that are stored one by one have more headers. */
function storeAll(length: i32): void {
  resetOutput()
  writeStored(INPUT, INPUT + length)
  if (length > 0) writeStored(INPUT, INPUT)
}
