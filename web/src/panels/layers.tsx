/** The layers, top one first: choose, show, lock, rename, order by dragging or by Alt and the arrow keys. */
import { signal } from '@preact/signals'
import { useEffect, useLayoutEffect, useRef } from 'preact/hooks'
import type { Layer } from '../api'
import { drop, finishNudge, rename, removeSelected, step, toggle } from '../actions'
import { Icon } from '../icons'
import { arrived } from '../proxies'
import { drawThumbnail } from '../scene'
import { arranged, say, selection, shown, solo } from '../state'
import { IconButton } from './controls'

export const renaming = signal<string | null>(null)
const folded = signal<ReadonlySet<string>>(new Set())
const dragged = signal<{ id: string; over: string; above: boolean } | null>(null)

function Thumbnail({ layer }: { layer: Layer }) {
  const canvas = useRef<HTMLCanvasElement>(null)
  const key = JSON.stringify([layer.box, layer.url, layer.layers])
  useEffect(() => drawThumbnail(canvas.current!, layer), [key, arrived.value])
  return <canvas class="thumbnail" ref={canvas} width={64} height={64} aria-hidden="true" />
}

function Rename({ layer }: { layer: Layer }) {
  const input = useRef<HTMLInputElement>(null)
  useLayoutEffect(() => {
    input.current?.focus()
    input.current?.select()
  }, [])
  const end = (name: string | null) => {
    renaming.value = null
    if (name?.trim() && name.trim() !== layer.name) void rename(layer, name.trim())
    requestAnimationFrame(() => document.getElementById(`layer-${layer.id}`)?.focus())
  }
  return (
    <input class="rename" ref={input} aria-label="Name of the layer" value={layer.name}
      onBlur={(event) => renaming.value === layer.id && end(event.currentTarget.value)}
      onKeyDown={(event) => {
        event.stopPropagation()
        if (event.key === 'Enter') end(event.currentTarget.value)
        if (event.key === 'Escape') end(null)
      }} />
  )
}

/** Drag a row to another place. Touch drags by the grip, so that a finger on the list scrolls. */
function dragRow(event: PointerEvent, layer: Layer): void {
  const row = event.currentTarget as HTMLElement
  const grip = (event.target as Element).closest('.grip')
  if (event.button !== 0 || (event.pointerType === 'touch' && !grip) || (event.target as Element).closest('input')) return
  const start = event.clientY
  const move = (now: PointerEvent) => {
    if (!dragged.value && Math.abs(now.clientY - start) < 5) return
    now.preventDefault()
    const over = document.elementFromPoint(now.clientX, now.clientY)?.closest<HTMLElement>('[data-row]')
    if (!over || row.closest('li')?.querySelector('ul')?.contains(over)) return
    const { top, height } = over.getBoundingClientRect()
    dragged.value = { id: layer.id, over: over.dataset.row!, above: now.clientY < top + height / 2 }
  }
  const end = (now: PointerEvent) => {
    removeEventListener('pointermove', move)
    removeEventListener('pointerup', end)
    removeEventListener('pointercancel', end)
    const last = dragged.value
    dragged.value = null
    if (last && now.type === 'pointerup' && last.over !== last.id) {
      void drop(last.id, last.over, last.above)
      addEventListener('click', (click) => click.stopPropagation(), { capture: true, once: true })
      setTimeout(() => dispatchEvent(new Event('click')), 0)
    }
  }
  addEventListener('pointermove', move, { passive: false })
  addEventListener('pointerup', end)
  addEventListener('pointercancel', end)
}

function choose(layer: Layer, event: MouseEvent): void {
  finishNudge()
  const now = selection.value
  const more = event.shiftKey || event.ctrlKey || event.metaKey
  if (!more) selection.value = [layer.id]
  else selection.value = now.includes(layer.id) ? now.filter((id) => id !== layer.id) : [...now, layer.id]
}

function keys(event: KeyboardEvent, layer: Layer): void {
  const rows = [...document.querySelectorAll<HTMLElement>('.layers .row-name')]
  const at = rows.indexOf(event.currentTarget as HTMLElement)
  const up = event.key === 'ArrowUp'
  if (up || event.key === 'ArrowDown') {
    if (event.altKey) void step(layer, up).then(() => document.getElementById(`layer-${layer.id}`)?.focus())
    else rows[at + (up ? -1 : 1)]?.focus()
  } else if (event.key === 'F2') renaming.value = layer.id
  else if (event.key === 'ArrowRight' && layer.layers) fold(layer, false)
  else if (event.key === 'ArrowLeft' && layer.layers) fold(layer, true)
  else if (event.key === 'Delete' || event.key === 'Backspace') {
    if (!selection.value.includes(layer.id)) selection.value = [layer.id]
    void removeSelected()
  } else return
  event.preventDefault()
  event.stopPropagation()
}

function fold(layer: Layer, shut = !folded.value.has(layer.id)): void {
  const next = new Set(folded.value)
  if (shut) next.add(layer.id)
  else next.delete(layer.id)
  folded.value = next
}

function Row({ layer: raw, depth }: { layer: Layer; depth: number }) {
  const { layer } = shown(raw)
  const chosen = selection.value.includes(layer.id)
  const alone = solo.value === layer.id
  const drag = dragged.value
  const mark = drag?.over === layer.id && drag.id !== layer.id ? (drag.above ? 'drop-above' : 'drop-below') : ''
  const shut = folded.value.has(layer.id)
  const note = [layer.blend_mode !== 'normal' && layer.blend_mode, layer.opacity < 1 && `${Math.round(layer.opacity * 100)} %`].filter(Boolean).join(', ')
  return (
    <li>
      <div class={`row ${chosen ? 'chosen' : ''} ${layer.visible ? '' : 'faint'} ${mark} ${drag?.id === layer.id ? 'dragged' : ''}`}
        data-row={layer.id} style={{ '--depth': depth }} onPointerDown={(event) => dragRow(event, layer)}>
        <span class="grip" aria-hidden="true"><Icon name="grip" /></span>
        {layer.layers && (
          <button type="button" class="fold" aria-expanded={!shut} aria-label={`${shut ? 'Open' : 'Close'} group ${layer.name}`} onClick={() => fold(layer)}>
            <Icon name={shut ? 'right' : 'down'} />
          </button>
        )}
        {renaming.value === layer.id ? (
          <><Thumbnail layer={raw} /><Rename layer={layer} /></>
        ) : (
          <button type="button" class="row-name" id={`layer-${layer.id}`} aria-pressed={chosen} title={layer.name}
            onClick={(event) => choose(layer, event)} onDblClick={() => (renaming.value = layer.id)}
            onKeyDown={(event) => keys(event, layer)}>
            <Thumbnail layer={raw} />
            <span class="words">
              <span class="name">{layer.name}</span>
              <span class="note">{note || (layer.layers ? `${layer.layers.length} layers` : layer.kind)}</span>
            </span>
          </button>
        )}
        <IconButton class={alone ? 'on' : 'quiet'} icon="solo" label={`Solo ${layer.name}`} pressed={alone}
          onClick={() => {
            solo.value = alone ? null : layer.id
            say(alone ? 'All layers are shown' : `Only ${layer.name} is shown`)
          }} />
        <IconButton class={layer.locked ? 'on' : 'quiet'} icon={layer.locked ? 'lock' : 'unlock'} label={`Lock ${layer.name}`} pressed={layer.locked} onClick={() => toggle(layer, 'locked')} />
        <IconButton class={layer.visible ? '' : 'off'} icon={layer.visible ? 'eye' : 'hidden'} label={`Show ${layer.name}`} pressed={layer.visible} onClick={() => toggle(layer, 'visible')} />
      </div>
      {layer.layers && !shut && <Rows layers={layer.layers} depth={depth + 1} />}
    </li>
  )
}

const Rows = ({ layers, depth }: { layers: Layer[]; depth: number }) => (
  <ul>{[...layers].reverse().map((layer) => <Row key={layer.id} layer={layer} depth={depth} />)}</ul>
)

export function LayersPanel() {
  const now = arranged.value!
  return (
    <div class="layers" role="group" aria-label="Layers, top one first">
      {solo.value && (
        <p class="pill">Only one layer is shown. <button type="button" class="link" onClick={() => (solo.value = null)}>Show all</button></p>
      )}
      <Rows layers={now.layers} depth={0} />
    </div>
  )
}
