/** The bar above the canvas: undo, compare, export, and what concerns the whole page. */
import { signal } from '@preact/signals'
import { useEffect, useRef, useState } from 'preact/hooks'
import { exportAs } from '../actions'
import { Icon, Logo } from '../icons'
import { go } from '../route'
import { busy, canRedo, canUndo, capabilities, dialog, mode, redo, stack, task, undo, type Mode } from '../state'
import { IconButton } from './controls'

const THEMES = ['auto', 'light', 'dark'] as const
export const theme = signal<(typeof THEMES)[number]>((localStorage.getItem('theme') as 'auto' | null) ?? 'auto')
export const showTheme = () => (document.documentElement.dataset.theme = theme.value)

export function ThemeButton() {
  const next = THEMES[(THEMES.indexOf(theme.value) + 1) % THEMES.length]!
  const icon = ({ auto: 'auto', light: 'sun', dark: 'moon' } as const)[theme.value]
  return <IconButton icon={icon} label={`Colours: ${theme.value}. Change to ${next}`} onClick={() => {
    theme.value = next
    localStorage.setItem('theme', next)
    showTheme()
  }} />
}

const MODES: [Mode, string, string][] = [
  ['edit', 'Edit', 'The layers, to edit'],
  ['original', 'Original', 'The picture that was taken apart'],
  ['flat', 'Flattened', 'All layers put together, as the export writes them'],
  ['difference', 'Difference', 'Where the flattened layers differ from the original'],
]

function Compare() {
  return (
    <div class="segmented" role="group" aria-label="What is shown">
      {MODES.map(([name, label, tip]) => (
        <button type="button" key={name} title={tip} disabled={stack.value!.original === null && (name === 'original' || name === 'difference')} aria-pressed={mode.value === name} onClick={() => (mode.value = name)}>{label}</button>
      ))}
    </div>
  )
}

const TWINS = new Set(['jpeg', 'tif']) // other spellings of formats that are listed

/** Formats by name: Photoshop's two are one row, and so are all flat pictures. */
function rows() {
  const found = new Map<string, { keeps: string; formats: string[] }>()
  for (const { format, name, keeps } of capabilities.value?.formats.write ?? []) {
    if (TWINS.has(format)) continue
    if (!found.has(name)) found.set(name, { keeps, formats: [] })
    found.get(name)!.formats.push(format)
  }
  return [...found]
}

function ExportMenu() {
  const [open, setOpen] = useState(false)
  const box = useRef<HTMLDivElement>(null)
  useEffect(() => {
    if (!open) return
    box.current?.querySelector<HTMLElement>('[role=menuitem]')?.focus()
    const away = (event: Event) => !box.current?.contains(event.target as Node) && setOpen(false)
    addEventListener('pointerdown', away)
    return () => removeEventListener('pointerdown', away)
  }, [open])
  const close = () => {
    setOpen(false)
    box.current?.querySelector('button')?.focus()
  }
  const keys = (event: KeyboardEvent) => {
    const items = [...box.current!.querySelectorAll<HTMLElement>('[role=menuitem]')]
    const at = items.indexOf(document.activeElement as HTMLElement)
    const to = { ArrowDown: at + 1, ArrowRight: at + 1, ArrowUp: at - 1, ArrowLeft: at - 1, Home: 0, End: items.length - 1 }[event.key]
    if (event.key === 'Escape') close()
    else if (event.key === 'Tab') setOpen(false)
    else if (to !== undefined) items[(to + items.length) % items.length]?.focus()
    if (event.key !== 'Tab') event.stopPropagation()
    if (to !== undefined) event.preventDefault()
  }
  return (
    <div class="menu-holder" ref={box}>
      <button type="button" class="primary" aria-label="Export" aria-haspopup="menu" aria-expanded={open} onClick={() => setOpen(!open)}>
        <Icon name="export" /><span>Export</span>
      </button>
      {open && (
        <div class="menu" role="menu" aria-label="Export as" onKeyDown={keys}>
          {rows().map(([name, { keeps, formats }]) => (
            <div class="format" key={name}>
              <span class="name">{name[0]!.toUpperCase() + name.slice(1)}</span>
              <span class="kinds">
                {formats.map((format) => (
                  <button type="button" role="menuitem" tabIndex={-1} key={format} aria-label={`${name} .${format}`} onClick={() => {
                    close()
                    void exportAs(format)
                  }}>.{format}</button>
                ))}
              </span>
              <span class="note">{keeps}</span>
            </div>
          ))}
        </div>
      )}
    </div>
  )
}

export function TopBar() {
  const now = stack.value!
  const running = task.value
  return (
    <header class="topbar">
      <a class="home" href="#/" aria-label="unfuse: to the start" title="To the start. Everything is saved." onClick={() => go('')}><Logo /></a>
      <h1 class="project" title={now.name}>{now.name}</h1>
      <span class="saved" role="status">
        {running ? `${running.kind === 'split' ? 'Splitting' : 'Making variants'}${running.total ? `: ${running.step} of ${running.total}` : '…'}` : busy.value ? 'Working…' : 'Saved'}
      </span>
      <div class="buttons">
        <IconButton icon="undo" label="Undo" keys="Ctrl Z" disabled={!canUndo.value} onClick={() => void undo()} />
        <IconButton icon="redo" label="Redo" keys="Ctrl Shift Z" disabled={!canRedo.value} onClick={() => void redo()} />
      </div>
      <Compare />
      <span class="gap" />
      <div class="buttons">
        <IconButton icon="table" label="Variants from a table" onClick={() => (dialog.value = 'variants')} />
        <IconButton icon="help" label="Keyboard shortcuts" keys="?" onClick={() => (dialog.value = 'shortcuts')} />
        <ThemeButton />
      </div>
      <ExportMenu />
    </header>
  )
}
