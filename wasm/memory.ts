// The layout of the module's memory. All addresses are constants, so that they become immediate operands.

/** The largest input of one call, in bytes. */
export const INPUT_LIMIT: i32 = 1 << 20

/** A multiple of 64 KiB: the lower 16 bits of an address equal those of the offset in the input. */
export const INPUT: i32 = 1 << 16
/** Reading words may go beyond the end of the input. */
const INPUT_PADDING: i32 = 1 << 16

export const OUTPUT: i32 = INPUT + INPUT_LIMIT + INPUT_PADDING
/** No deflate block is larger than the same input stored. The rest is for headers and for the last word. */
const OUTPUT_SIZE: i32 = INPUT_LIMIT + (1 << 16)

/** The buckets of the matcher, 8 bytes each. */
export const HASH_TABLE: i32 = OUTPUT + OUTPUT_SIZE
export const HASH_BITS: i32 = 14
const HASH_TABLE_SIZE: i32 = 8 << HASH_BITS

/** The tokens of a deflate block, 8 bytes each. */
export const TOKENS: i32 = HASH_TABLE + HASH_TABLE_SIZE
export const TOKENS_LIMIT: i32 = 1 << 15

/** The frequencies of literal and length symbols, then of distance symbols, 4 bytes each. */
export const LITERAL_COUNTS: i32 = 0
export const DISTANCE_COUNTS: i32 = LITERAL_COUNTS + 4 * 288
export const COUNTS_SIZE: i32 = DISTANCE_COUNTS + 4 * 32
/** The frequencies in the deflate block, and in the segment that is being parsed. */
export const BLOCK_COUNTS: i32 = TOKENS + 8 * TOKENS_LIMIT
export const SEGMENT_COUNTS: i32 = BLOCK_COUNTS + COUNTS_SIZE
/** The frequencies of the segment's lengths, by the length less 3, 4 bytes each. */
export const LENGTH_COUNTS: i32 = SEGMENT_COUNTS + COUNTS_SIZE
const COUNTS_END: i32 = LENGTH_COUNTS + 4 * 256
/** Logarithms; see split.ts. */
export const LOGARITHMS: i32 = COUNTS_END
export const LOGARITHMS_COUNT: i32 = 2048
const LOGARITHMS_END: i32 = LOGARITHMS + 2 * LOGARITHMS_COUNT

/** Code lengths, 1 byte per symbol: of literals and lengths, then of distances. */
export const LITERAL_BITS: i32 = LOGARITHMS_END
export const DISTANCE_BITS: i32 = LITERAL_BITS + 288
/** The same without a gap between the two, as the header has them. */
export const HEADER_BITS: i32 = DISTANCE_BITS + 32
/** The header's symbols in order, 2 bytes each: the symbol, and the value of its extra bits in the upper byte. */
export const HEADER_SYMBOLS: i32 = HEADER_BITS + 320
export const HEADER_COUNTS: i32 = HEADER_SYMBOLS + 2 * 320
export const HEADER_CODE_BITS: i32 = HEADER_COUNTS + 4 * 20
export const HEADER_CODES: i32 = HEADER_CODE_BITS + 20
/** The codes of literal and length symbols, then of distance symbols, 4 bytes each; see codes.ts. */
export const LITERAL_CODES: i32 = HEADER_CODES + 4 * 20
export const DISTANCE_CODES: i32 = LITERAL_CODES + 4 * 288
/** The code of each length with its extra bits, by the length less 3, 4 bytes each. */
export const LENGTH_CODES: i32 = DISTANCE_CODES + 4 * 32

/** Working memory of codes.ts. */
export const SORTED: i32 = LENGTH_CODES + 4 * 256
export const SORTED_BEFORE: i32 = SORTED + 4 * 288
export const WEIGHTS: i32 = SORTED_BEFORE + 4 * 288
export const BUCKETS: i32 = WEIGHTS + 4 * 288
export const BITS_COUNTS: i32 = BUCKETS + 4 * 256
export const NEXT_CODES: i32 = BITS_COUNTS + 4 * 16

/** The format's tables of lengths and distances; see symbols.ts. */
export const LENGTH_SYMBOLS: i32 = NEXT_CODES + 4 * 16
export const LENGTH_EXTRA: i32 = LENGTH_SYMBOLS + 256
export const LENGTH_BASE: i32 = LENGTH_EXTRA + 32
export const DISTANCE_SYMBOLS: i32 = LENGTH_BASE + 32
export const DISTANCE_EXTRA: i32 = DISTANCE_SYMBOLS + 512
export const DISTANCE_BASE: i32 = DISTANCE_EXTRA + 32
export const MEMORY_END: i32 = DISTANCE_BASE + 4 * 32
