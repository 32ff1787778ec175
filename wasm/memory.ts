// Where everything is in the module's memory. All addresses are constants, so that they become parts of instructions.

/** The most bytes that one call can take. */
export const INPUT_LIMIT: i32 = 1 << 20

/** A multiple of 64 KiB: the lower 16 bits of an address are those of its place in the block. */
export const INPUT: i32 = 1 << 16
/** The input is read in words, the last of which end in here. */
const INPUT_PADDING: i32 = 1 << 16

export const OUTPUT: i32 = INPUT + INPUT_LIMIT + INPUT_PADDING
/** Stored blocks bound each deflate block; there is room for the last word that is written. */
const OUTPUT_SIZE: i32 = INPUT_LIMIT + (1 << 16)

/** By the hash of 4 bytes: the places where they were last. */
export const HASHES: i32 = OUTPUT + OUTPUT_SIZE
const HASHES_SIZE: i32 = 1 << 18
/** By the hash of 3 bytes: the place where they were last. */
export const SHORT_HASHES: i32 = HASHES + HASHES_SIZE
const SHORT_HASHES_SIZE: i32 = 1 << 16
/** By the lower bits of a place: the one before it with the same hash. */
export const CHAINS: i32 = SHORT_HASHES + SHORT_HASHES_SIZE
const CHAINS_SIZE: i32 = 1 << 16

/** The tokens of a deflate block, 8 bytes each. */
export const TOKENS: i32 = CHAINS + CHAINS_SIZE
export const TOKENS_LIMIT: i32 = 1 << 15

/** How often each literal or length symbol is there, then each distance symbol, 4 bytes each. */
export const LITERAL_COUNTS: i32 = 0
export const DISTANCE_COUNTS: i32 = LITERAL_COUNTS + 4 * 288
export const COUNTS_SIZE: i32 = DISTANCE_COUNTS + 4 * 32
/** Counts of the deflate block, and of the part that is being parsed. */
export const BLOCK_COUNTS: i32 = TOKENS + 8 * TOKENS_LIMIT
export const PART_COUNTS: i32 = BLOCK_COUNTS + COUNTS_SIZE
/** How often each length is in the part, by the length less 3, 4 bytes each. */
export const LENGTH_COUNTS: i32 = PART_COUNTS + COUNTS_SIZE
const COUNTS_END: i32 = LENGTH_COUNTS + 4 * 256
/** Logarithms, see split.ts. */
export const LOGARITHMS: i32 = COUNTS_END
export const LOGARITHMS_COUNT: i32 = 2048
const LOGARITHMS_END: i32 = LOGARITHMS + 2 * LOGARITHMS_COUNT

/** The bits of each code's symbols, 1 byte each: literals and lengths, then distances. */
export const LITERAL_BITS: i32 = LOGARITHMS_END
export const DISTANCE_BITS: i32 = LITERAL_BITS + 288
/** The same, as the header has them: without gaps between the two. */
export const HEADER_BITS: i32 = DISTANCE_BITS + 32
/** The header's symbols in their order, 2 bytes each: a symbol, and its extra bits' value in the upper byte. */
export const HEADER_SYMBOLS: i32 = HEADER_BITS + 320
export const HEADER_COUNTS: i32 = HEADER_SYMBOLS + 2 * 320
export const HEADER_CODE_BITS: i32 = HEADER_COUNTS + 4 * 20
export const HEADER_CODES: i32 = HEADER_CODE_BITS + 20
/** The code of each literal or length symbol, then of each distance symbol: 4 bytes each, see codes.ts. */
export const LITERAL_CODES: i32 = HEADER_CODES + 4 * 20
export const DISTANCE_CODES: i32 = LITERAL_CODES + 4 * 288
/** The code of each length, by the length less 3, with its extra bits, 4 bytes each. */
export const LENGTH_CODES: i32 = DISTANCE_CODES + 4 * 32

/** For the making of codes. */
export const SORTED: i32 = LENGTH_CODES + 4 * 256
export const SORTED_BEFORE: i32 = SORTED + 4 * 288
export const WEIGHTS: i32 = SORTED_BEFORE + 4 * 288
export const BUCKETS: i32 = WEIGHTS + 4 * 288
export const BITS_COUNTS: i32 = BUCKETS + 4 * 256
export const NEXT_CODES: i32 = BITS_COUNTS + 4 * 16

/** What the format says of lengths and distances, see symbols.ts. */
export const LENGTH_SYMBOLS: i32 = NEXT_CODES + 4 * 16
export const LENGTH_EXTRA: i32 = LENGTH_SYMBOLS + 256
export const LENGTH_BASE: i32 = LENGTH_EXTRA + 32
export const DISTANCE_SYMBOLS: i32 = LENGTH_BASE + 32
export const DISTANCE_EXTRA: i32 = DISTANCE_SYMBOLS + 512
export const DISTANCE_BASE: i32 = DISTANCE_EXTRA + 32
export const MEMORY_END: i32 = DISTANCE_BASE + 4 * 32
