import { FAULT_NAMES, FAULTS, type Fault, type FaultName } from './faults.ts'
import { DOCKER_FAULT_NAMES, type DockerFaultName } from './programs.ts'
import type { Service } from './scenarios.ts'

/** One entry of the matrix: a scenario, one of its requests, and the fault of that request. */
export interface Cell {
  readonly scenario: string
  readonly service: Service
  /** The kind of the request: `PUT blob`. */
  readonly kind: string
  /** The number of the request among those of its kind, from 1. */
  readonly nth: number
  readonly fault: FaultName | DockerFaultName
  /** Whether all later requests of the kind fail as well. */
  readonly lasting: boolean
}

/** The number of requests of each kind in a scenario without a fault, by service. */
export interface Requests {
  readonly scenario: string
  readonly counts: readonly (readonly [Service, string, number])[]
}

/** Returns all cells: the first, a middle and the last request of each kind, with each fault, once and lasting. */
export function allCells(requests: readonly Requests[]): readonly Cell[] {
  return requests.flatMap(({ scenario, counts }) =>
    counts.flatMap(([service, kind, count]) =>
      [...new Set([1, Math.ceil(count / 2), count])].flatMap((nth) =>
        faultsOf(service, kind).flatMap(([fault, { passesOnly = false }]) =>
          [...(onlyLasts(service, kind) ? [] : [false]), ...(passesOnly ? [] : [true])].map((lasting) => {
            return { scenario, service, kind, nth, fault, lasting }
          }),
        ),
      ),
    ),
  )
}

function faultsOf(
  service: Service,
  kind: string,
): readonly (readonly [Cell['fault'], Fault | Record<string, never>])[] {
  if (service === 'docker') return dockerFaultsOf(kind).map((name) => [name, {}])
  return FAULT_NAMES.flatMap((name) => {
    const fault: Fault = FAULTS[name]
    return fault.suits?.(kind) === false ? [] : [[name, fault] as const]
  })
}

/** Returns the faults of a Docker command. Only a push uses the network. */
function dockerFaultsOf(command: string): readonly DockerFaultName[] {
  return command === 'push' ? DOCKER_FAULT_NAMES : ['docker: daemon gone', 'docker: frozen']
}

/** Reports whether a fault can only last: apart from a push, the action does not repeat Docker commands. */
function onlyLasts(service: Service, kind: string): boolean {
  return service === 'docker' && kind !== 'push'
}

/** Formats a cell as the name with which it can be run again. */
export function formatCell({ scenario, service, kind, nth, fault, lasting }: Cell): string {
  return `${scenario} / ${service} / ${kind} #${nth} / ${fault} / ${lasting ? 'lasting' : 'once'}`
}

/** Draws random cells. The same seed draws the same cells. */
export function sample(cells: readonly Cell[], count: number, seed: string): readonly Cell[] {
  const random = randomFrom(seed)
  const rest = [...cells]
  return Array.from({ length: Math.min(count, rest.length) }, () => {
    const [cell] = rest.splice(Math.floor(random() * rest.length), 1)
    return cell as Cell
  })
}

/** https://en.wikipedia.org/wiki/Xorshift#xorshift*, from a hash (FNV-1a) of the seed. */
function randomFrom(seed: string): () => number {
  let state = 2166136261
  for (const character of seed) state = Math.imul(state ^ character.charCodeAt(0), 16777619) >>> 0
  state ||= 1
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    state >>>= 0
    return state / 2 ** 32
  }
}
