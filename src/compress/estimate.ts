import { deflateRawSync } from 'node:zlib'

/** Of each MiB of a layer so much is compressed to learn how large all of it would be. */
const PERIOD = 1024 * 1024
const SAMPLE = 64 * 1024

/** About how many bytes a layer would have in gzip: the samples' share of their size, taken for the whole. */
export async function estimateCompressed(content: AsyncIterable<Buffer>): Promise<number> {
  let size = 0
  let sampled = 0
  let compressed = 0
  for await (const chunk of content) {
    // The samples are where a period begins; a chunk may hold one, a part of one, or several.
    for (let at = 0; at < chunk.length; ) {
      const inPeriod = (size + at) % PERIOD
      const wanted = inPeriod < SAMPLE ? SAMPLE - inPeriod : 0
      const sample = chunk.subarray(at, at + wanted)
      if (sample.length > 0) {
        sampled += sample.length
        compressed += deflateRawSync(sample, { level: 4 }).length
      }
      at += wanted > 0 ? sample.length : PERIOD - inPeriod
    }
    size += chunk.length
  }
  return sampled === 0 ? 0 : Math.round((compressed / sampled) * size)
}
