import { describe, expect, test } from '@jest/globals'
import { mapAtMost } from '../src/promises.ts'

/** Work that ends on request, with a record of what has been started. */
function startWork() {
  const work = new Map<number, PromiseWithResolvers<string>>()
  return {
    started: () => [...work.keys()],
    map: (item: number) => {
      const one = Promise.withResolvers<string>()
      work.set(item, one)
      return one.promise
    },
    end: async (item: number) => {
      work.get(item)?.resolve(`result ${item}`)
      await settle()
    },
    fail: async (item: number) => {
      work.get(item)?.reject(new Error(`no ${item}`))
      await settle()
    },
  }
}

/** Waits until all that can run now has run. */
const settle = () => new Promise<void>((resolve) => setImmediate(resolve))

describe('mapping with a limit', () => {
  test('starts the next item when one ends, and returns the results in the order of the items', async () => {
    const { started, map, end } = startWork()
    const mapped = mapAtMost(2, [1, 2, 3, 4], map)
    expect(started()).toEqual([1, 2])
    await end(2)
    expect(started()).toEqual([1, 2, 3])
    await end(3)
    expect(started()).toEqual([1, 2, 3, 4])
    await end(4)
    await end(1)
    expect(await mapped).toEqual(['result 1', 'result 2', 'result 3', 'result 4'])
  })

  test.each([[[]], [[1]], [[1, 2, 3]]])('maps %j with a limit of 3', async (items: readonly number[]) => {
    expect(await mapAtMost(3, items, async (item) => item * 2)).toEqual(items.map((item) => item * 2))
  })

  test('starts nothing more after a failure, and waits for what was started', async () => {
    const { started, map, end, fail } = startWork()
    const outcomes: unknown[] = []
    const mapped = mapAtMost(2, [1, 2, 3, 4], map).catch((error: unknown) => outcomes.push(error))
    await fail(1)
    expect({ started: started(), outcomes }).toEqual({ started: [1, 2], outcomes: [] })
    await end(2)
    expect({ started: started(), outcomes }).toEqual({ started: [1, 2], outcomes: [new Error('no 1')] })
    await mapped
  })

  test('fails if an item throws at once', async () => {
    const map = (item: number) => {
      if (item === 2) throw new Error('no 2')
      return Promise.resolve(item)
    }
    await expect(mapAtMost(2, [1, 2, 3], map)).rejects.toThrow('no 2')
  })
})
