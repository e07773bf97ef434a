/** Places on the canvas: transforms `[a, b, c, d, e, f]` take (x, y) to (ax + by + c, dx + ey + f), as the package's do. */
import type { Affine, Box, Edit, Layer } from './api'

export const IDENTITY: Affine = [1, 0, 0, 0, 1, 0]

/** A rectangle turned about its left top corner. Degrees, clockwise. */
export interface Frame {
  x: number
  y: number
  width: number
  height: number
  rotation: number
}

export const then = ([a, b, c, d, e, f]: Affine, [A, B, C, D, E, F]: Affine): Affine => [
  A * a + B * d, A * b + B * e, A * c + B * f + C,
  D * a + E * d, D * b + E * e, D * c + E * f + F,
]

export function inverse([a, b, c, d, e, f]: Affine): Affine {
  const det = a * e - b * d
  const [A, B, D, E] = [e / det, -b / det, -d / det, a / det]
  return [A, B, -A * c - B * f, D, E, -D * c - E * f]
}

export const shift = (x: number, y: number): Affine => [1, 0, x, 0, 1, y]

export function placed(frame: Frame, across = 1, down = 1): Affine {
  const [cos, sin] = turn(frame.rotation)
  return [cos * across, -sin * down, frame.x, sin * across, cos * down, frame.y]
}

function turn(degrees: number): [number, number] {
  const quarter = ((degrees % 360) + 360) % 360
  const exact = ({ 0: [1, 0], 90: [0, 1], 180: [-1, 0], 270: [0, -1] } as Record<number, [number, number]>)[quarter]
  const angle = (degrees * Math.PI) / 180
  return exact ?? [Math.cos(angle), Math.sin(angle)]
}

export function bounds(box: Box, way: Affine): Box {
  const xs: number[] = []
  const ys: number[] = []
  for (const x of [box[0], box[2]]) {
    for (const y of [box[1], box[3]]) {
      xs.push(way[0] * x + way[1] * y + way[2])
      ys.push(way[3] * x + way[4] * y + way[5])
    }
  }
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)]
}

/** What a box has on a canvas; without width or height where that is nothing. */
export const onCanvas = ([left, top, right, bottom]: Box, { width, height }: { width: number; height: number }): Box => {
  const [x, y] = [Math.max(left, 0), Math.max(top, 0)]
  return [x, y, Math.max(x, Math.min(right, width)), Math.max(y, Math.min(bottom, height))]
}

export const union = (boxes: Box[]): Box => [
  Math.min(...boxes.map((box) => box[0])), Math.min(...boxes.map((box) => box[1])),
  Math.max(...boxes.map((box) => box[2])), Math.max(...boxes.map((box) => box[3])),
]

/** The frame that handles stand on: turned with a single layer, upright for a group, several layers and sheared ones. */
export function frameOf(layers: Layer[]): Frame {
  const { source, transform } = layers[0]!
  if (layers.length === 1 && source && transform) {
    let [a, b, c, d, e, f] = then(shift(source[0], source[1]), transform)
    const [width, height] = [source[2] - source[0], source[3] - source[1]]
    if (Math.abs(a * b + d * e) < 1e-6 * Math.hypot(a, d) * Math.hypot(b, e)) {
      if (a * e - b * d < 0) [a, d, c, f] = [-a, -d, c + a * width, f + d * width] // a mirror: start at the other corner
      const rotation = (Math.atan2(d, a) * 180) / Math.PI
      return { x: c, y: f, width: width * Math.hypot(a, d), height: height * Math.hypot(b, e), rotation }
    }
  }
  const [x, y, right, bottom] = union(layers.map((layer) => layer.frame))
  return { x, y, width: right - x, height: bottom - y, rotation: 0 }
}

/** The edits of one gesture: a turn about the middle, a scale about the corner or edge that stays, or a move. */
export function editsFor(layer: string | string[], from: Frame, to: Frame, across: number, down: number): Edit[] {
  const [x, y] = [to.x - from.x, to.y - from.y]
  if (!near(from.rotation, to.rotation)) {
    const degrees = Math.round((to.rotation - from.rotation) * 100) / 100
    return [{ op: 'rotate', layer, degrees, anchor: center(from) }]
  }
  if (near(across, 1) && near(down, 1)) {
    const [right, below] = [Math.round(x), Math.round(y)] // whole pixels keep every bit
    return right || below ? [{ op: 'move', layer, x: right, y: below }] : []
  }
  const [cos, sin] = turn(from.rotation)
  const still = (step: number, factor: number) => (near(factor, 1) ? 0 : step / (1 - factor))
  const [u, v] = [still(cos * x + sin * y, across), still(cos * y - sin * x, down)]
  const anchor = [from.x + cos * u - sin * v, from.y + sin * u + cos * v]
  const aside = Math.abs(sin) > 0.99999
  const scale = { op: 'scale', layer, factor: aside ? [down, across] : [across, down], anchor }
  if (aside || Math.abs(cos) > 0.99999) return [scale]
  const turned = (degrees: number): Edit => ({ op: 'rotate', layer, degrees, anchor })
  return [turned(-from.rotation), scale, turned(from.rotation)]
}

const near = (x: number, y: number) => Math.abs(x - y) < 1e-4

/** A frame after a transform that keeps its corners square. */
export function moved(frame: Frame, way: Affine): Frame {
  const [a, b, x, d, e, y] = then(placed(frame), way)
  const rotation = (Math.atan2(d, a) * 180) / Math.PI
  return { x, y, width: frame.width * Math.hypot(a, d), height: frame.height * Math.hypot(b, e), rotation }
}

export function center(frame: Frame): [number, number] {
  const [cos, sin] = turn(frame.rotation)
  const [w, h] = [frame.width / 2, frame.height / 2]
  return [frame.x + cos * w - sin * h, frame.y + sin * w + cos * h]
}
