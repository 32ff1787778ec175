import { deflateRawSync } from 'node:zlib'

/** The first 64 KiB of each MiB are compressed. */
const PERIOD = 1024 * 1024
const SAMPLE = 64 * 1024

/** Estimates the size of a layer in gzip, in bytes, from the compression ratio of samples. */
export async function estimateCompressed(content: AsyncIterable<Buffer>): Promise<number> {
  let size = 0
  let sampled = 0
  let compressed = 0
  for await (const chunk of content) {
    // A chunk may contain several samples, or part of one.
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
