/** Colours and effects of the selected layers. What is set again takes the place of what was set before. */
import { signal } from '@preact/signals'
import { useMemo, useState } from 'preact/hooks'
import type { Edit, Layer } from '../api'
import { setLook } from '../actions'
import { arrived } from '../proxies'
import { meanOf } from '../scene'
import { covered, live, selection } from '../state'
import { IconButton, Section, Slider } from './controls'

const KEPT = 'brand palette'
const palette = signal<string[]>(JSON.parse(localStorage.getItem(KEPT) ?? 'null') ?? ['#111111', '#e4002b', '#f4a100', '#0a7d5a', '#1f4fd8', '#ffffff'])

function keep(colors: string[]): void {
  palette.value = [...new Set(colors)].slice(0, 16)
  localStorage.setItem(KEPT, JSON.stringify(palette.value))
}

const leafOf = (layer: Layer): Layer => (layer.layers ? leafOf(layer.layers[0]!) : layer)
const step = (layer: Layer, op: string): Edit | undefined => {
  const { looks = [] } = leafOf(layer)
  const { effects = [] } = layer // a group's lie around all of it
  return [...looks, ...effects].find((edit) => edit.op === op)
}
const value = (layer: Layer, op: string, field: string, otherwise: number): number => Number(step(layer, op)?.[field] ?? otherwise)

export function RecolorSection({ layer, disabled }: { layer: Layer; disabled: boolean }) {
  const now = step(layer, 'recolor')
  const mean = useMemo(() => meanOf(layer), [layer, arrived.value])
  const color = String(now?.color ?? mean)
  const [editing, edit] = useState(false)
  const set = (next: string) => void setLook('recolor', { color: next, strength: Number(now?.strength ?? 1) })
  return (
    <Section title="Colour" open>
      <div class="swatches" role="group" aria-label="Brand palette">
        {palette.value.map((each) => (
          <button type="button" key={each} class={`swatch ${now?.color === each ? 'chosen' : ''}`} style={{ background: each }} disabled={disabled}
            aria-label={editing ? `Take ${each} out of the palette` : `Recolor to ${each}`} title={each}
            onClick={() => (editing ? keep(palette.value.filter((other) => other !== each)) : set(each))} />
        ))}
        <IconButton icon="plus" label="Add this colour to the palette" onClick={() => keep([...palette.value, color])} />
        <IconButton icon={editing ? 'check' : 'minus'} label={editing ? 'Done' : 'Take colours out of the palette'} pressed={editing} onClick={() => edit(!editing)} />
      </div>
      <div class="pair">
        <label class="color">
          <span>Mean colour</span>
          <input type="color" value={color} disabled={disabled} onChange={(event) => set(event.currentTarget.value)} />
        </label>
        <label class="number grow">
          <span class="unseen">Colour as hex</span>
          <input type="text" key={color} value={color} aria-label="Colour as hex" disabled={disabled} maxLength={7}
            onChange={(event) => /^#?([\da-f]{3}|[\da-f]{6})$/i.test(event.currentTarget.value) && set(`#${event.currentTarget.value.replace('#', '')}`)} />
        </label>
      </div>
      {now && <Slider label="Strength" min={0} max={100} unit=" %" disabled={disabled} value={Math.round(Number(now.strength ?? 1) * 100)}
        onChange={(next) => void setLook('recolor', { color, strength: next / 100 })} />}
    </Section>
  )
}

const ADJUST = [
  { op: 'brightness', label: 'Brightness', filter: (x: number) => `brightness(${1 + x / 100})` },
  { op: 'contrast', label: 'Contrast', filter: (x: number) => `contrast(${1 + x / 100})` },
  { op: 'saturation', label: 'Saturation', filter: (x: number) => `saturate(${1 + x / 100})` },
]

/** Shown at once as the browser can; the server's picture takes its place. */
const preview = (filter: string) => void (live.value = { ids: covered(selection.value), filter })
const settle = (work: Promise<boolean>) => void work.finally(() => (live.value = null))

export function AdjustSection({ layer, disabled }: { layer: Layer; disabled: boolean }) {
  return (
    <Section title="Adjust">
      {ADJUST.map(({ op, label, filter }) => {
        const now = Math.round(value(layer, op, 'amount', 0) * 100)
        return <Slider key={op} label={label} min={-100} max={100} value={now} disabled={disabled} onInput={(next) => preview(filter(next - now))}
          onChange={(next) => settle(setLook(op, { amount: next / 100 }))} />
      })}
      <Slider label="Hue" min={-180} max={180} unit="°" value={value(layer, 'hue', 'degrees', 0)} disabled={disabled}
        onInput={(next) => preview(`hue-rotate(${next - value(layer, 'hue', 'degrees', 0)}deg)`)} onChange={(next) => settle(setLook('hue', { degrees: next }))} />
      {!layer.layers && <Slider label="Blur" min={0} max={100} value={value(layer, 'blur', 'radius', 0)} disabled={disabled}
        onChange={(next) => void setLook('blur', { radius: next })} />}
    </Section>
  )
}

interface Field {
  name: string
  label: string
  min: number
  max: number
  start: number
  share?: boolean
}
const SHADOW: Field[] = [
  { name: 'x', label: 'Right', min: -100, max: 100, start: 8 },
  { name: 'y', label: 'Down', min: -100, max: 100, start: 8 },
  { name: 'blur', label: 'Softness', min: 0, max: 100, start: 8 },
  { name: 'opacity', label: 'Strength', min: 0, max: 100, start: 50, share: true },
]
const OUTLINE: Field[] = [{ name: 'width', label: 'Width', min: 0, max: 100, start: 4 }]

function Effect({ layer, op, title, fields, color: first, off, disabled }: { layer: Layer; op: string; title: string; fields: Field[]; color: string; off: string; disabled: boolean }) {
  const now = step(layer, op)
  const on = now !== undefined && Number(now[off] ?? 1) > 0
  const color = String(now?.color ?? first)
  const all = () => Object.fromEntries(fields.map(({ name, start, share }) => [name, Number(now?.[name] ?? (share ? start / 100 : start))]))
  const set = (changes: Record<string, unknown>) => void setLook(op, { ...all(), color, ...changes })
  const again = fields.find((field) => field.name === off)!
  return (
    <div class="effect">
      <div class="pair">
        <label class="check">
          <input type="checkbox" checked={on} disabled={disabled} onChange={(event) => set({ [off]: event.currentTarget.checked ? (again.share ? again.start / 100 : again.start) : 0 })} />
          {title}
        </label>
        {on && <label class="color"><span class="unseen">{title} colour</span>
          <input type="color" aria-label={`${title} colour`} value={color} disabled={disabled} onChange={(event) => set({ color: event.currentTarget.value })} /></label>}
      </div>
      {on && fields.map(({ name, label, min, max, start, share }) => (
        <Slider key={name} label={label} min={min} max={max} unit={share ? ' %' : ''} disabled={disabled} value={Math.round(Number(now?.[name] ?? (share ? start / 100 : start)) * (share ? 100 : 1))}
          onChange={(next) => set({ [name]: share ? next / 100 : next })} />
      ))}
    </div>
  )
}

export const EffectsSection = ({ layer, disabled }: { layer: Layer; disabled: boolean }) => (
  <Section title="Shadow and outline">
    <Effect layer={layer} op="drop_shadow" title="Drop shadow" fields={SHADOW} color="#000000" off="opacity" disabled={disabled} />
    <Effect layer={layer} op="outline" title="Outline" fields={OUTLINE} color="#ffffff" off="width" disabled={disabled} />
  </Section>
)
