/** Handles on the selected layers, and the lines they catch on: Konva's. A gesture of theirs ends as edits. */
import Konva from 'konva/lib/Core'
import { Line } from 'konva/lib/shapes/Line'
import { Rect } from 'konva/lib/shapes/Rect'
import { Transformer } from 'konva/lib/shapes/Transformer'
import { signal } from '@preact/signals'
import type { Box } from './api'
import { bounds, editsFor, frameOf, inverse, moved, placed, then, type Frame } from './geometry'
import { linesOf, nearest, type Lines } from './snap'
import { commit, covered, live, mode, selected, selection, shown, stack, type Mode } from './state'

export const view = signal({ scale: 1, x: 0, y: 0 }) // CSS pixels
export const peek = signal<Mode | null>(null) // what is looked at while a key is down
export const REACH = 6 // pixels of the screen within which lines catch

/** The bounds of a frame. */
export const boxOf = (frame: Frame): Box => bounds([0, 0, frame.width, frame.height], placed(frame))

/** The frame of the selection with what is on its way and under the hand. */
export function frameNow(): Frame {
  const layers = selected.value
  if (!layers.length) return { x: 0, y: 0, width: 1, height: 1, rotation: 0 }
  return moved(frameOf(layers), shown(layers[0]!).delta)
}

/** End a gesture: what it did becomes an edit, and is shown until the server's answer is there. */
export function finish(ids: string[], from: Frame, to: Frame, across = 1, down = 1): void {
  const edits = editsFor(ids.length === 1 ? ids[0]! : ids, from, to, across, down)
  const delta = live.value?.delta
  if (edits.length && delta) void commit(edits, { ids, delta })
  live.value = null
}

export class Handles {
  private readonly stage: Konva.Stage
  private readonly overlay = new Konva.Layer()
  private readonly rect = new Rect({ listening: false, strokeScaleEnabled: false })
  private readonly handles: Transformer
  private readonly guides: Line[] = []
  private shownGuides = ';'
  private lines: Lines = { across: [], down: [] }
  private before: Frame | null = null // of a resize or turn under way

  constructor(private readonly box: HTMLElement, holder: HTMLDivElement) {
    this.stage = new Konva.Stage({ container: holder, width: 1, height: 1 })
    this.handles = new Transformer({
      nodes: [], rotationSnaps: [0, 45, 90, 135, 180, 225, 270, 315], rotationSnapTolerance: 4, flipEnabled: false,
      shiftBehavior: 'inverted', ignoreStroke: true, anchorSize: 9, anchorCornerRadius: 2, anchorStrokeWidth: 1.5,
      borderStrokeWidth: 1.5, rotateAnchorOffset: 22,
      anchorDragBoundFunc: (_, at, event) => (event.ctrlKey || event.metaKey ? at : this.caught(at)),
    })
    this.overlay.add(this.rect, this.handles)
    this.stage.add(this.overlay)
    this.handles.on('transformstart', () => this.startTransform())
    this.handles.on('transform', () => this.onTransform())
    this.handles.on('transformend', () => void this.endTransform())
  }

  destroy = (): void => void this.stage.destroy()
  resize = (width: number, height: number): void => void this.stage.size({ width, height })
  get held(): boolean {
    return this.before !== null
  }

  /** Whether a handle is at a point of the board. */
  at(point: { x: number; y: number }): boolean {
    const shape = this.stage.getIntersection(point)
    return shape?.getParent() === this.handles && shape.name() !== 'back'
  }

  show(on: boolean): void {
    this.handles.visible(on)
    this.overlay.batchDraw()
  }

  follow({ scale, x, y }: { scale: number; x: number; y: number }): void {
    this.overlay.setAttrs({ x, y, scaleX: scale, scaleY: scale })
    this.handles.forceUpdate()
  }

  private startTransform(): void {
    this.before = frameNow()
    if (stack.value) this.lines = linesOf(stack.value, covered(selection.value))
  }

  private ended(): [Frame, number, number] {
    const { rect } = this
    return [{ x: rect.x(), y: rect.y(), width: rect.width() * rect.scaleX(), height: rect.height() * rect.scaleY(), rotation: rect.rotation() }, rect.scaleX(), rect.scaleY()]
  }

  private onTransform(): void {
    if (!this.before) return
    const [to, across, down] = this.ended()
    live.value = { ids: covered(selection.value), delta: then(inverse(placed(this.before)), placed(to, across, down)) }
  }

  private endTransform(): void {
    const from = this.before
    this.before = null
    this.showGuides([], [])
    if (from) finish([...selection.value], from, ...this.ended())
  }

  /** Where a handle goes that is near a line: corners stay on their diagonal, so that proportions stay. */
  private caught(at: { x: number; y: number }): { x: number; y: number } {
    const anchor = this.handles.getActiveAnchor()
    const from = this.before
    if (!from || !anchor || anchor === 'rotater' || Math.abs(from.rotation) > 0.01) return at
    const { scale, x, y } = view.value
    const [left, top, right, bottom] = boxOf(from)
    const sideways = anchor.endsWith('left') || anchor.endsWith('right')
    const endways = anchor.startsWith('top') || anchor.startsWith('bottom')
    let [u, v] = [(at.x - x) / scale, (at.y - y) / scale]
    const guides: [number[], number[]] = [[], []]
    if (sideways && endways) {
      const [fixed, level] = [anchor.endsWith('left') ? right : left, anchor.startsWith('top') ? bottom : top]
      const [w, h] = [(anchor.endsWith('left') ? -1 : 1) * from.width, (anchor.startsWith('top') ? -1 : 1) * from.height]
      let share = ((u - fixed) * w + (v - level) * h) / (w * w + h * h)
      const byX = nearest(fixed + share * w, this.lines.across, REACH / scale)
      const byY = nearest(level + share * h, this.lines.down, REACH / scale)
      const upright = byX !== null && (byY === null || Math.abs(byX) <= Math.abs(byY)) // the nearer line has its way
      if (upright) share += byX / w
      else if (byY !== null) share += byY / h
      ;[u, v] = [fixed + share * w, level + share * h]
      if (upright) guides[0].push(u)
      else if (byY !== null) guides[1].push(v)
    } else {
      const step = sideways ? nearest(u, this.lines.across, REACH / scale) : nearest(v, this.lines.down, REACH / scale)
      if (sideways) u += step ?? 0
      else v += step ?? 0
      if (step !== null) guides[sideways ? 0 : 1].push(sideways ? u : v)
    }
    this.showGuides(...guides)
    return { x: u * scale + x, y: v * scale + y }
  }

  place(frame: Frame): void {
    this.rect.setAttrs({ ...frame, scaleX: 1, scaleY: 1 })
    this.overlay.batchDraw()
  }

  showGuides(across: number[], down: number[]): void {
    const key = `${across.join()};${down.join()}`
    if (key === this.shownGuides) return
    this.shownGuides = key
    const now = stack.value
    while (this.guides.length) this.guides.pop()!.destroy()
    if (!now) return
    const color = getComputedStyle(this.box).getPropertyValue('--guide')
    for (const points of [...across.map((x) => [x, 0, x, now.height]), ...down.map((y) => [0, y, now.width, y])]) {
      const line = new Line({ points, stroke: color, strokeWidth: 1, strokeScaleEnabled: false, listening: false })
      this.guides.push(line)
      this.overlay.add(line)
    }
    this.overlay.batchDraw()
  }

  /** Put the handles on what is selected; `resting` says that no hand is on it. */
  sync(resting: boolean): void {
    const accent = getComputedStyle(this.box).getPropertyValue('--accent')
    const layers = selected.value
    const locked = layers.some((layer) => layer.locked)
    this.handles.setAttrs({
      borderStroke: accent, anchorStroke: accent, anchorFill: '#fff', resizeEnabled: !locked, rotateEnabled: !locked,
      borderDash: locked ? [4, 3] : [], anchorSize: matchMedia('(pointer: coarse)').matches ? 13 : 9,
    })
    const shows = layers.length > 0 && (peek.value ?? mode.value) === 'edit'
    this.handles.nodes(shows ? [this.rect] : [])
    if (resting) this.handles.visible(true)
    if (!this.before && resting) this.place(frameNow())
  }
}
