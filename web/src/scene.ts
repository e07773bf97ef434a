/** Draws the stack: W3C blend modes are the canvas's own, a group is drawn on its own and laid down as one layer.
 *
 * `flat` is the whole at proxy size, from which the screen is drawn when only the view changes. While a layer is under
 * the hand, what lies below it and what lies above it are kept as pictures at the size of the screen, and only the
 * part in which it moves is drawn.
 */
import { walk, type Affine, type Box, type Layer, type Stack } from './api'
import { IDENTITY, bounds, onCanvas } from './geometry'
import { SIZE, proxyOf } from './proxies'
import { live, shown, solo, stack } from './state'

type Context = CanvasRenderingContext2D
export interface View {
  scale: number // device pixels a pixel of the canvas
  x: number
  y: number
}

const canvasOf = (width: number, height: number): [HTMLCanvasElement, Context] => {
  const canvas = Object.assign(document.createElement('canvas'), { width, height })
  return [canvas, canvas.getContext('2d')!]
}

const operation = (mode: string): GlobalCompositeOperation => (mode === 'normal' ? 'source-over' : (mode as GlobalCompositeOperation))
const plain = (layer: Layer) => layer.opacity === 1 && layer.blend_mode === 'normal'

function visible(layer: Layer): boolean {
  if (!solo.value) return layer.visible
  return layer.id === solo.value || (layer.layers ? [...walk(layer.layers)].some((inner) => inner.id === solo.value) : false)
}

/** Whether a group with effects is as the server knows it; while something in it moves, it is drawn without them. */
const rests = (group: Layer): boolean =>
  Boolean(group.effects?.length) &&
  [...walk(group.layers!)].every((inner) => shown(inner).layer === inner && shown(inner).delta === IDENTITY && !shown(inner).filter)

/** One layer onto `context`, whose transform is that of the canvas. `inside`: in a solo group all is as it was. */
function draw(context: Context, raw: Layer, inside = false): void {
  const { layer, delta, filter } = shown(raw)
  if (inside ? !layer.visible : !visible(layer)) return
  const within = inside || layer.id === solo.value
  context.save()
  context.globalAlpha = layer.opacity
  context.globalCompositeOperation = operation(layer.blend_mode)
  if (filter) context.filter = filter
  if (!layer.layers) {
    const bitmap = proxyOf(raw)
    const [left, top, right, bottom] = layer.box
    if (delta !== IDENTITY) context.transform(delta[0], delta[3], delta[1], delta[4], delta[2], delta[5])
    if (bitmap) context.drawImage(bitmap, left, top, right - left, bottom - top)
  } else if (rests(layer) && proxyOf(raw) && stack.value) {
    const [left, top, right, bottom] = onCanvas(layer.box, stack.value) // which is what a group's picture shows
    context.drawImage(proxyOf(raw)!, left, top, right - left, bottom - top)
  } else if (plain(layer) && !filter && [...walk(layer.layers)].every((inner) => shown(inner).layer.blend_mode === 'normal')) {
    for (const inner of layer.layers) draw(context, inner, within)
  } else {
    const [canvas, alone] = canvasOf(context.canvas.width, context.canvas.height)
    alone.setTransform(context.getTransform())
    for (const inner of layer.layers) draw(alone, inner, within)
    context.setTransform(1, 0, 0, 1, 0, 0)
    context.drawImage(canvas, 0, 0)
  }
  context.restore()
}

/** A layer or group alone, fitted into a small square: for the panel. */
export function drawThumbnail(canvas: HTMLCanvasElement, layer: Layer): void {
  const context = canvas.getContext('2d')!
  const [left, top, right, bottom] = layer.box
  const scale = Math.min(canvas.width / (right - left), canvas.height / (bottom - top))
  context.setTransform(1, 0, 0, 1, 0, 0)
  context.clearRect(0, 0, canvas.width, canvas.height)
  context.imageSmoothingQuality = 'high'
  context.setTransform(scale, 0, 0, scale, (canvas.width - scale * (left + right)) / 2, (canvas.height - scale * (top + bottom)) / 2)
  const paint = (each: Layer) => {
    const bitmap = each.layers ? undefined : proxyOf(each)
    if (bitmap) context.drawImage(bitmap, each.box[0], each.box[1], each.box[2] - each.box[0], each.box[3] - each.box[1])
    each.layers?.forEach(paint)
  }
  paint(layer)
}

/** The mean colour of what a layer shows, as `#rrggbb`. */
export function meanOf(layer: Layer): string {
  const [canvas, context] = canvasOf(24, 24)
  drawThumbnail(canvas, layer)
  const { data } = context.getImageData(0, 0, 24, 24)
  const sum = [0, 0, 0, 1e-6]
  for (let i = 0; i < data.length; i += 4) {
    sum[3]! += data[i + 3]!
    for (const c of [0, 1, 2]) sum[c]! += data[i + c]! * data[i + 3]!
  }
  return `#${[0, 1, 2].map((c) => Math.round(sum[c]! / sum[3]!).toString(16).padStart(2, '0')).join('')}`
}

/** The topmost layer that shows at a point of the canvas; `below` a layer, the next one down. */
export function pick(stack: Stack, x: number, y: number, below?: string): Layer | undefined {
  const [, context] = probe
  const hits: Layer[] = []
  const look = (raw: Layer, inside: boolean) => {
    const { layer } = shown(raw)
    if (inside ? !layer.visible : !visible(layer)) return
    if (layer.layers) return void [...layer.layers].reverse().forEach((inner) => look(inner, inside || layer.id === solo.value))
    const [left, top, right, bottom] = layer.box
    const bitmap = proxyOf(raw)
    if (!bitmap || x < left || y < top || x >= right || y >= bottom || layer.locked) return
    context.clearRect(0, 0, 1, 1)
    const [u, v] = [((x - left) / (right - left)) * bitmap.width, ((y - top) / (bottom - top)) * bitmap.height]
    context.drawImage(bitmap, Math.floor(u), Math.floor(v), 1, 1, 0, 0, 1, 1)
    if (context.getImageData(0, 0, 1, 1).data[3]! > 8) hits.push(raw)
  }
  for (const layer of [...stack.layers].reverse()) look(layer, false)
  const next = hits.findIndex((layer) => layer.id === below) + 1
  return hits[next] ?? hits[0]
}
const probe = (() => {
  const canvas = Object.assign(document.createElement('canvas'), { width: 1, height: 1 })
  return [canvas, canvas.getContext('2d', { willReadFrequently: true })!] as const
})()

type Piece = HTMLCanvasElement | Layer // what rests, as a picture; what moves or blends

export class Scene {
  private readonly context: Context
  private flat: HTMLCanvasElement | null = null
  private parts: { key: string; pieces: Piece[]; sprites: Map<Layer, HTMLCanvasElement>; before: Box | null } | null = null

  constructor(private readonly canvas: HTMLCanvasElement) {
    this.context = canvas.getContext('2d')!
  }

  /** What is kept no longer holds: the stack, or what is under the hand, is another. */
  changed(): void {
    this.flat = this.parts = null
  }

  draw(stack: Stack, view: View, picture?: CanvasImageSource): void {
    if (live.value && !picture) return this.drawLive(stack, view)
    this.parts = null
    if (!picture && !this.flat) this.flat = this.flatten(stack)
    const context = this.context
    this.start(context, view, true)
    context.clearRect(0, 0, stack.width, stack.height)
    context.imageSmoothingEnabled = view.scale < 3
    context.imageSmoothingQuality = 'high'
    context.drawImage(picture ?? this.flat!, 0, 0, stack.width, stack.height)
  }

  private start(context: Context, view: View, clear = false): void {
    context.setTransform(1, 0, 0, 1, 0, 0)
    if (clear) context.clearRect(0, 0, this.canvas.width, this.canvas.height)
    context.setTransform(view.scale, 0, 0, view.scale, view.x, view.y)
  }

  private flatten(stack: Stack): HTMLCanvasElement {
    const scale = Math.min(1, SIZE / Math.max(stack.width, stack.height))
    const [canvas, context] = canvasOf(Math.ceil(stack.width * scale), Math.ceil(stack.height * scale))
    context.setTransform(scale, 0, 0, scale, 0, 0)
    for (const layer of stack.layers) draw(context, layer)
    return canvas
  }

  /** A frame of a gesture: pictures of what rests, the layers that do not, only where they are and were. */
  private drawLive(stack: Stack, view: View): void {
    const ids = live.value!.ids
    const key = [view.scale, view.x, view.y, this.canvas.width, this.canvas.height, ...ids].join()
    const whole = this.parts?.key !== key
    if (whole) this.parts = { key, pieces: this.split(stack, view, ids), sprites: new Map(), before: null }
    const parts = this.parts!
    const now = live.value!.filter ? null : this.reach(stack, view, ids)
    const context = this.context
    this.start(context, view, whole)
    context.save()
    context.beginPath()
    context.rect(0, 0, stack.width, stack.height)
    context.clip()
    context.setTransform(1, 0, 0, 1, 0, 0)
    let [left, top, right, bottom] = [0, 0, this.canvas.width, this.canvas.height]
    if (!whole && now && parts.before) {
      const old = parts.before
      ;[left, top] = [Math.min(now[0], old[0]), Math.min(now[1], old[1])].map(Math.floor) as [number, number]
      ;[right, bottom] = [Math.max(now[2], old[2]), Math.max(now[3], old[3])].map(Math.ceil) as [number, number]
      left = Math.max(0, left), top = Math.max(0, top)
      right = Math.min(right, this.canvas.width), bottom = Math.min(bottom, this.canvas.height)
    }
    const [width, height] = [right - left, bottom - top]
    if (width > 0 && height > 0) {
      context.beginPath()
      context.rect(left, top, width, height)
      context.clip()
      context.clearRect(left, top, width, height)
      for (const piece of parts.pieces) {
        if (piece instanceof HTMLCanvasElement) {
          context.setTransform(1, 0, 0, 1, 0, 0)
          context.drawImage(piece, left, top, width, height, left, top, width, height)
        } else if (!this.drawSprite(piece, view)) {
          this.start(context, view)
          context.imageSmoothingQuality = 'low'
          draw(context, piece)
        }
      }
    }
    context.restore()
    parts.before = now
  }

  /** Neighbours that rest become one picture; those that blend, and those that move, stay layers. */
  private split(stack: Stack, view: View, ids: ReadonlySet<string>): Piece[] {
    const pieces: Piece[] = []
    let open: Context | null = null
    for (const layer of stack.layers) {
      const moves = [layer, ...walk(layer.layers ?? [])].some((each) => ids.has(each.id))
      const first = pieces.length === 0 || (pieces.length === 1 && open) // nothing but resting layers lies below
      if (moves || !(plain(layer) || layer.blend_mode === 'normal' || first)) {
        pieces.push(layer)
        open = null
        continue
      }
      if (!open) {
        const [canvas, context] = canvasOf(this.canvas.width, this.canvas.height)
        pieces.push(canvas)
        this.start((open = context), view)
        context.imageSmoothingQuality = 'medium'
      }
      draw(open, layer)
    }
    return pieces
  }

  /** A layer that is only moved, from a picture of it at the size of the screen; false where it must be drawn. */
  private drawSprite(raw: Layer, view: View): boolean {
    const { layer, delta, filter } = shown(raw)
    const bitmap = proxyOf(raw)
    const [a, b, x, d, e, y] = delta
    if (!bitmap || filter || view.scale > 1 || a !== 1 || b !== 0 || d !== 0 || e !== 1) return false
    if (!visible(layer)) return true
    const [left, top, right, bottom] = layer.box
    const sprites = this.parts!.sprites
    if (!sprites.has(raw)) {
      const [canvas, context] = canvasOf(Math.ceil((right - left) * view.scale), Math.ceil((bottom - top) * view.scale))
      context.imageSmoothingQuality = 'medium'
      context.drawImage(bitmap, 0, 0, canvas.width, canvas.height)
      sprites.set(raw, canvas)
    }
    const context = this.context
    context.setTransform(1, 0, 0, 1, 0, 0)
    context.globalAlpha = layer.opacity
    context.globalCompositeOperation = operation(layer.blend_mode)
    context.drawImage(sprites.get(raw)!, Math.round((left + x) * view.scale + view.x), Math.round((top + y) * view.scale + view.y))
    context.globalAlpha = 1
    context.globalCompositeOperation = 'source-over'
    return true
  }

  /** Where the layers under the hand are now, in pixels of the screen. */
  private reach(stack: Stack, view: View, ids: ReadonlySet<string>): Box | null {
    let box: Box | null = null
    const way: Affine = [view.scale, 0, view.x, 0, view.scale, view.y]
    for (const layer of walk(stack.layers)) {
      if (!ids.has(layer.id) || layer.layers) continue
      const [left, top, right, bottom] = bounds(bounds(layer.box, shown(layer).delta), way)
      const own: Box = [left - 2, top - 2, right + 2, bottom + 2]
      box = box ? [Math.min(box[0], own[0]), Math.min(box[1], own[1]), Math.max(box[2], own[2]), Math.max(box[3], own[3])] : own
    }
    return box
  }
}
