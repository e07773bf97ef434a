/** Every state of the project by name; a click goes there, and back again. */
import { useEffect, useRef } from 'preact/hooks'
import type { Edit } from '../api'
import { find, stack, travel } from '../state'

const WORDS: Record<string, string> = {
  blend: 'Blend mode of', bring_forward: 'Bring forward', brightness: 'Brightness of', canvas: 'Resize the canvas', contrast: 'Contrast of',
  curves: 'Curves of', drop_shadow: 'Shadow of', extract: 'Keep alone', gradient: 'Gradient of', heal: 'Fill in', hue: 'Hue of',
  merge_all: 'Merge all', merge_down: 'Merge down', opacity: 'Opacity of', outline: 'Outline of', palette: 'Palette of',
  replace_picture: 'Replace picture of', replace_text: 'Set text of', saturation: 'Saturation of', send_backward: 'Send backward',
}
const names = new Map<string, string>() // of layers that are gone by now, too

function named(layer: unknown): string {
  if (Array.isArray(layer)) return layer.length === 1 ? named(layer[0]) : `${layer.length} layers`
  const key = String(layer ?? '')
  const now = find(key)?.name
  if (now) names.set(key, now)
  return now ?? names.get(key) ?? (/^[\da-f]{12,}$/.test(key) ? '' : key)
}

/** A step in words: what was done first, and to what. */
function words(name: string, edits: Edit[]): string {
  const edit = edits.find((each) => !(each.op === 'rotate' && edits.length === 3)) // a scale along turned axes
  if (!edit) return name
  const verb = WORDS[edit.op] ?? edit.op[0]!.toUpperCase() + edit.op.slice(1).replaceAll('_', ' ')
  const behind = edit.op === 'heal' ? ` behind ${named(edit.under)}` : ''
  return `${verb} ${named(edit.layer)}`.trim() + behind
}

export function HistoryPanel() {
  const { history, position, original } = stack.value!
  const here = useRef<HTMLButtonElement>(null)
  useEffect(() => here.current?.scrollIntoView({ block: 'nearest' }), [position, history.length])
  const rows = [original === null ? 'Opened' : 'Taken apart', ...history.map((step) => words(step.name, step.edit))]
  return (
    <ol class="history" aria-label="History, the oldest first">
      {rows.map((name, index) => (
        <li key={index}>
          <button type="button" ref={index === position ? here : null} class={index === position ? 'chosen' : index > position ? 'faint' : ''}
            aria-current={index === position ? 'step' : undefined} onClick={() => index !== position && void travel(index)}>
            <span class="number">{index}</span><span class="name" title={name}>{name}</span>
          </button>
        </li>
      ))}
    </ol>
  )
}
