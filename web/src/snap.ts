/** Lines that a layer under the hand catches on: edges and middles of the canvas and of what else is seen. */
import { walk, type Box, type Stack } from './api'

export interface Lines {
  across: number[] // x of upright lines
  down: number[] // y of level lines
}

export function linesOf(stack: Stack, without: ReadonlySet<string>): Lines {
  const lines: Lines = { across: [0, stack.width / 2, stack.width], down: [0, stack.height / 2, stack.height] }
  for (const layer of walk(stack.layers)) {
    if (without.has(layer.id) || !layer.visible || layer.layers) continue
    const [left, top, right, bottom] = layer.frame
    lines.across.push(left, (left + right) / 2, right)
    lines.down.push(top, (top + bottom) / 2, bottom)
  }
  return lines
}

/** The step from `at` to the nearest line, or null where none is within `reach`. */
export function nearest(at: number, lines: number[], reach: number): number | null {
  let best: number | null = null
  for (const line of lines) {
    const step = line - at
    if (Math.abs(step) <= reach && (best === null || Math.abs(step) < Math.abs(best))) best = step
  }
  return best
}

/** The step that puts an edge or the middle of a box on a line, and the lines it then lies on. */
export function snap([left, top, right, bottom]: Box, lines: Lines, reach: number) {
  const best = (spots: number[], on: number[]) =>
    spots
      .map((spot) => nearest(spot, on, reach))
      .reduce((one, other) => (other !== null && (one === null || Math.abs(other) < Math.abs(one)) ? other : one), null)
  const xs = [left, (left + right) / 2, right]
  const ys = [top, (top + bottom) / 2, bottom]
  const [x, y] = [best(xs, lines.across) ?? 0, best(ys, lines.down) ?? 0]
  const met = (spots: number[], step: number, on: number[]) => on.filter((line) => spots.some((spot) => Math.abs(spot + step - line) < 0.51))
  return { x, y, across: [...new Set(met(xs, x, lines.across))], down: [...new Set(met(ys, y, lines.down))] }
}
