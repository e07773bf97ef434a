/** Small controls that several panels share. */
import type { ComponentChildren } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import { Icon, type IconName } from '../icons'

interface ButtonProps {
  icon: IconName
  label: string
  onClick: () => void
  disabled?: boolean
  pressed?: boolean
  keys?: string
  class?: string
}

/** A button that shows only an icon; its label is read aloud and shown as a tip. */
export const IconButton = ({ icon, label, onClick, disabled, pressed, keys, class: extra = '' }: ButtonProps) => (
  <button type="button" class={`icon-button ${extra}`} aria-label={label} title={keys ? `${label} (${keys})` : label}
    aria-pressed={pressed} disabled={disabled ?? false} onClick={onClick}>
    <Icon name={icon} />
  </button>
)

interface SliderProps {
  label: string
  value: number
  min: number
  max: number
  step?: number
  unit?: string
  disabled?: boolean
  onInput?: (value: number) => void
  onChange: (value: number) => void
}

/** A slider with a number field: `onInput` while it moves, `onChange` once when it is let go. */
export function Slider({ label, value, min, max, step = 1, unit = '', disabled = false, onInput, onChange }: SliderProps) {
  const [held, hold] = useState<number | null>(null)
  const now = held ?? value
  const clamp = (text: string) => Math.min(max, Math.max(min, Number(text) || 0))
  const middle = Math.max(0, min) // where nothing is changed
  const share = (at: number) => `${(100 * (at - min)) / (max - min)}%`
  const done = (next: number) => {
    hold(null)
    if (next !== value) onChange(next)
  }
  useEffect(() => hold(null), [value])
  return (
    <div class="slider">
      <label>
        <span>{label}</span>
        <input type="range" min={min} max={max} step={step} value={now} disabled={disabled}
          style={{ '--low': share(Math.min(now, middle)), '--high': share(Math.max(now, middle)) }}
          onInput={(event) => {
            const next = clamp(event.currentTarget.value)
            hold(next)
            onInput?.(next)
          }}
          onChange={(event) => done(clamp(event.currentTarget.value))} />
      </label>
      <NumberField label={`${label}, number`} value={now} min={min} max={max} unit={unit} disabled={disabled} onChange={done} bare />
    </div>
  )
}

interface NumberProps {
  label: string
  value: number
  min?: number
  max?: number
  unit?: string
  disabled?: boolean
  bare?: boolean // the label is only read aloud
  onChange: (value: number) => void
}

/** A number that is taken when the field is left or Enter is pressed; Escape gives up. */
export function NumberField({ label, value, min = -1e6, max = 1e6, unit = '', disabled = false, bare = false, onChange }: NumberProps) {
  const shown = String(Math.round(value * 100) / 100)
  const [text, setText] = useState<string | null>(null)
  const take = () => {
    const next = Math.min(max, Math.max(min, Number((text ?? '').replace(',', '.').replace(unit, ''))))
    if (text !== null && text.trim() !== '' && Number.isFinite(next) && String(next) !== shown) onChange(next)
    setText(null)
  }
  return (
    <label class={`number ${bare ? 'bare' : ''}`}>
      {!bare && <span>{label}</span>}
      <input type="text" inputMode="decimal" aria-label={label} disabled={disabled} value={text ?? shown + unit}
        onFocus={(event) => event.currentTarget.select()}
        onInput={(event) => setText(event.currentTarget.value)}
        onBlur={take}
        onKeyDown={(event) => {
          if (event.key === 'Enter') event.currentTarget.blur() // so that Ctrl Z is the project's again
          if (event.key === 'Escape') setText(null)
          const step = { ArrowUp: 1, ArrowDown: -1 }[event.key]
          if (!step) return
          event.preventDefault()
          setText(String(Math.min(max, Math.max(min, Number((text ?? shown).replace(unit, '')) + step * (event.shiftKey ? 10 : 1)))))
        }} />
    </label>
  )
}

interface DialogProps {
  title: string
  onClose: () => void
  children: ComponentChildren
  wide?: boolean
}

export function DialogBox({ title, onClose, children, wide = false }: DialogProps) {
  const box = useRef<HTMLDialogElement>(null)
  useEffect(() => {
    const from = document.activeElement
    box.current?.showModal()
    return () => (from instanceof HTMLElement ? from.focus() : undefined)
  }, [])
  return (
    <dialog ref={box} class={wide ? 'wide' : ''} aria-labelledby="dialog-title" onClose={onClose}
      onClick={(event) => event.target === box.current && box.current?.close()}>
      <div class="dialog-body">
        <header>
          <h2 id="dialog-title">{title}</h2>
          <IconButton icon="close" label="Close" onClick={() => box.current?.close()} />
        </header>
        {children}
      </div>
    </dialog>
  )
}

/** A section of a panel that can be folded; whether it is open is remembered. */
export function Section({ title, open = false, children }: { title: string; open?: boolean; children: ComponentChildren }) {
  const key = `section ${title}`
  const kept = localStorage.getItem(key)
  return (
    <details class="section" open={kept === null ? open : kept === 'open'}
      onToggle={(event) => localStorage.setItem(key, event.currentTarget.open ? 'open' : 'shut')}>
      <summary><Icon name="right" />{title}</summary>
      <div class="section-body">{children}</div>
    </details>
  )
}
