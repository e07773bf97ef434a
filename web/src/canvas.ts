/** The canvas: view and pointer. `scene` draws the layers, `handles` stand on the selected ones. */
import { effect, untracked } from '@preact/signals'
import { wholeUrl, type Box } from './api'
import { inverse, moved, placed, shift, type Frame } from './geometry'
import { Handles, REACH, boxOf, finish, frameNow, peek, view } from './handles'
import { arrived } from './proxies'
import { Scene, pick } from './scene'
import { linesOf, snap, type Lines } from './snap'
import { arranged, busy, covered, live, mode, notify, only, patches, selected, selection, solo, stack } from './state'

const [SMALLEST, LARGEST] = [0.02, 32]

type Gesture =
  | { kind: 'pan'; x: number; y: number; tap: boolean }
  | { kind: 'move'; x: number; y: number; from: Frame; box: Box; lines: Lines; started: boolean; ids: string[] }
  | { kind: 'pinch'; distance: number; x: number; y: number }

export class Board {
  private readonly scene: Scene
  private readonly handles: Handles
  private readonly pointers = new Map<number, { x: number; y: number }>()
  private readonly endings: (() => void)[] = []
  private gesture: Gesture | null = null
  private frame = 0
  private picture: HTMLImageElement | null = null
  private fits = true
  panning = false // the space bar is down

  constructor(
    private readonly box: HTMLElement,
    private readonly canvas: HTMLCanvasElement,
    private readonly paper: HTMLElement,
    holder: HTMLDivElement,
  ) {
    this.scene = new Scene(canvas)
    this.handles = new Handles(box, holder)
    this.listen()
    this.watch()
  }

  destroy(): void {
    for (const end of this.endings) end()
    cancelAnimationFrame(this.frame)
    this.handles.destroy()
  }

  // --- view

  fit = (): void => {
    const now = stack.value
    if (!now) return
    const { clientWidth: width, clientHeight: height } = this.box
    const margin = width < 600 ? 12 : 36
    const scale = Math.min((width - 2 * margin) / now.width, (height - 2 * margin) / now.height, 4)
    view.value = { scale, x: Math.round((width - now.width * scale) / 2), y: Math.round((height - now.height * scale) / 2) }
    this.fits = true
  }

  /** Zoom about a point of the board, its middle where none is given. */
  zoom(scale: number, x = this.box.clientWidth / 2, y = this.box.clientHeight / 2): void {
    const old = view.value
    const next = Math.min(LARGEST, Math.max(SMALLEST, scale))
    const grown = next / old.scale
    view.value = { scale: next, x: x - (x - old.x) * grown, y: y - (y - old.y) * grown }
    this.fits = false
  }

  step = (factor: number): void => this.zoom(view.value.scale * factor)
  /** Pixel on pixel. */
  actual = (): void => {
    this.zoom(1 / devicePixelRatio)
    view.value = { ...view.value, x: Math.round(view.value.x), y: Math.round(view.value.y) }
  }

  private pan(x: number, y: number): void {
    view.value = { ...view.value, x: view.value.x + x, y: view.value.y + y }
    this.fits = false
  }

  private point(event: { clientX: number; clientY: number }): { x: number; y: number } {
    const { left, top } = this.box.getBoundingClientRect()
    return { x: event.clientX - left, y: event.clientY - top }
  }

  private onCanvas({ x, y }: { x: number; y: number }): [number, number] {
    return [(x - view.value.x) / view.value.scale, (y - view.value.y) / view.value.scale]
  }

  // --- pointer

  private listen(): void {
    const on = <K extends keyof HTMLElementEventMap>(type: K, does: (event: HTMLElementEventMap[K]) => void, options = {}) => {
      this.box.addEventListener(type, does as EventListener, options)
      this.endings.push(() => this.box.removeEventListener(type, does as EventListener))
    }
    on('pointerdown', (event) => this.down(event))
    on('pointermove', (event) => this.move(event))
    on('pointerup', (event) => this.up(event))
    on('pointercancel', (event) => this.up(event, true))
    on('wheel', (event) => {
      event.preventDefault()
      const { x, y } = this.point(event)
      if (event.shiftKey) return this.pan(-(event.deltaY || event.deltaX), 0)
      const lines = event.deltaMode === 1 ? 20 : 1
      this.zoom(view.value.scale * Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0018)), x, y)
    }, { passive: false })
    const sizes = new ResizeObserver(() => this.resize())
    sizes.observe(this.box)
    this.endings.push(() => sizes.disconnect())
  }

  private down(event: PointerEvent): void {
    if (this.handles.held) return
    const at = this.point(event)
    this.pointers.set(event.pointerId, at)
    if (this.pointers.size === 2) {
      this.drop()
      const [one, other] = [...this.pointers.values()] as [typeof at, typeof at]
      this.gesture = { kind: 'pinch', distance: distance(one, other), x: (one.x + other.x) / 2, y: (one.y + other.y) / 2 }
      return
    }
    if (this.handles.at(at)) return void this.pointers.delete(event.pointerId)
    try {
      this.box.setPointerCapture(event.pointerId)
    } catch {
      // A pointer that is already gone cannot be held.
    }
    const now = arranged.value
    if (!now || event.button === 1 || this.panning || mode.value !== 'edit') {
      this.gesture = { kind: 'pan', ...at, tap: false }
      return
    }
    const touch = event.pointerType === 'touch'
    const held = event.ctrlKey || event.metaKey
    const [x, y] = this.onCanvas(at)
    const hit = held ? undefined : pick(now, x, y, event.altKey ? selection.value[0] : undefined)
    const mine = hit ? covered(selection.value).has(hit.id) : selection.value.length > 0 && this.holds(x, y)
    if (hit && event.shiftKey) {
      selection.value = mine ? selection.value.filter((id) => id !== hit.id) : [...selection.value, hit.id]
    } else if (!mine && hit && !touch && hit.kind !== 'background') selection.value = [hit.id]
    const movable = selected.value.length > 0 && selected.value.every((layer) => !layer.locked)
    if (movable && (mine || (hit && selection.value.includes(hit.id)))) {
      const from = frameNow()
      this.gesture = { kind: 'move', ...at, from, box: boxOf(from), lines: linesOf(now, covered(selection.value)), started: false, ids: [...selection.value] }
    } else this.gesture = { kind: 'pan', ...at, tap: true }
  }

  private move(event: PointerEvent): void {
    const at = this.point(event)
    if (!this.pointers.has(event.pointerId)) return
    this.pointers.set(event.pointerId, at)
    const gesture = this.gesture
    if (gesture?.kind === 'pinch' && this.pointers.size === 2) {
      const [one, other] = [...this.pointers.values()] as [typeof at, typeof at]
      const [x, y, apart] = [(one.x + other.x) / 2, (one.y + other.y) / 2, distance(one, other)]
      this.pan(x - gesture.x, y - gesture.y)
      this.zoom((view.value.scale * apart) / gesture.distance, x, y)
      this.gesture = { kind: 'pinch', distance: apart, x, y }
    } else if (gesture?.kind === 'pan') {
      if (gesture.tap && distance(gesture, at) < 4) return
      this.pan(at.x - gesture.x, at.y - gesture.y)
      this.gesture = { kind: 'pan', ...at, tap: false }
    } else if (gesture?.kind === 'move') {
      if (!gesture.started && distance(gesture, at) < 3) return
      if (!gesture.started) this.handles.show(false) // they would be drawn anew in every frame
      gesture.started = true
      let [x, y] = [(at.x - gesture.x) / view.value.scale, (at.y - gesture.y) / view.value.scale]
      if (event.shiftKey) [x, y] = Math.abs(x) > Math.abs(y) ? [x, 0] : [0, y]
      const [left, top, right, bottom] = gesture.box
      const free = event.ctrlKey || event.metaKey
      const caught = free ? null : snap([left + x, top + y, right + x, bottom + y], gesture.lines, REACH / view.value.scale)
      x = Math.round(x + (caught?.x ?? 0))
      y = Math.round(y + (caught?.y ?? 0))
      this.handles.showGuides(caught?.across ?? [], caught?.down ?? [])
      live.value = { ids: covered(gesture.ids), delta: shift(x, y) }
    }
  }

  private up(event: PointerEvent, cancelled = false): void {
    if (!this.pointers.delete(event.pointerId)) return
    const gesture = this.gesture
    this.gesture = null
    this.handles.showGuides([], [])
    if (gesture?.kind === 'move' && gesture.started) {
      const delta = live.value?.delta
      if (cancelled || !delta) return this.drop()
      finish(gesture.ids, gesture.from, moved(gesture.from, delta))
      this.handles.sync(true)
    } else if (!cancelled && !event.shiftKey && (gesture?.kind === 'move' || (gesture?.kind === 'pan' && gesture.tap))) {
      const hit = arranged.value && pick(arranged.value, ...this.onCanvas(this.point(event)), event.altKey ? selection.value[0] : undefined)
      if (!event.ctrlKey && !event.metaKey) selection.value = hit ? (selection.value.includes(hit.id) && selection.value.length === 1 ? selection.value : [hit.id]) : []
    }
  }

  /** Give up what is under the hand. */
  drop(): void {
    this.gesture = null
    live.value = null
    this.handles.showGuides([], [])
    this.handles.sync(true)
  }

  private holds(x: number, y: number): boolean {
    const frame = frameNow()
    const [a, b, c, d, e, f] = inverse(placed(frame))
    const [u, v] = [a * x + b * y + c, d * x + e * y + f]
    return u >= 0 && v >= 0 && u <= frame.width && v <= frame.height
  }

  // --- drawing

  private resize(): void {
    const { clientWidth: width, clientHeight: height } = this.box
    const ratio = devicePixelRatio
    this.canvas.width = Math.round(width * ratio)
    this.canvas.height = Math.round(height * ratio)
    this.handles.resize(width, height)
    if (this.fits) this.fit()
    this.redraw()
  }

  private redraw(): void {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0
      const now = arranged.value
      if (!now) return
      const ratio = devicePixelRatio
      const { scale, x, y } = view.value
      this.scene.draw(now, { scale: scale * ratio, x: x * ratio, y: y * ratio }, this.picture ?? undefined)
    })
  }

  private watch(): void {
    let shownId = ''
    this.endings.push(
      effect(() => {
        const now = stack.value
        void [patches.value, solo.value, arrived.value]
        this.scene.changed()
        if (now && now.id !== shownId) {
          shownId = now.id
          untracked(this.fit)
        }
        this.redraw()
      }),
      effect(() => {
        const { scale, x, y } = view.value
        const now = stack.value
        this.handles.follow(view.value)
        if (now) Object.assign(this.paper.style, { transform: `translate(${x}px, ${y}px)`, width: `${Math.floor(now.width * scale)}px`, height: `${Math.floor(now.height * scale)}px` })
        this.redraw()
      }),
      effect(() => {
        void live.value
        this.redraw()
      }),
      effect(() => {
        void [stack.value, patches.value, only.value, selection.value, mode.value, peek.value]
        untracked(() => this.handles.sync(this.gesture?.kind !== 'move'))
      }),
      effect(() => {
        const now = stack.value
        const what = peek.value ?? mode.value
        const url = now && what !== 'edit' ? wholeUrl(now, what) : ''
        untracked(() => void this.compare(url))
      }),
    )
  }

  /** Show a picture of the server's in place of the stack. */
  private async compare(url: string | null): Promise<void> {
    this.wanted = url
    if (url === null) notify('This project was opened from a file: there is no original picture to compare with.')
    if (!url) this.picture = null
    else {
      const image = new Image()
      image.src = url
      busy.value++
      try {
        await image.decode()
      } catch {
        if (this.wanted === url) {
          notify('The picture did not come. Try again.', true)
          mode.value = 'edit'
        }
        return
      } finally {
        busy.value--
      }
      if (this.wanted !== url) return
      this.picture = image
    }
    this.redraw()
  }
  private wanted: string | null = ''
}

const distance = (one: { x: number; y: number }, other: { x: number; y: number }) => Math.hypot(one.x - other.x, one.y - other.y)
