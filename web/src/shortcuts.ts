/** Keys of the editor, and the sheet that lists them. */
import * as act from './actions'
import type { Board } from './canvas'
import { peek } from './handles'
import { renaming } from './panels/layers'
import { dialog, live, only, redo, selection, stack, undo } from './state'

export const SHORTCUTS: [string, [string, string][]][] = [
  ['Project', [
    ['Ctrl Z', 'Undo'],
    ['Ctrl Shift Z', 'Redo'],
    ['?', 'This sheet'],
  ]],
  ['Layers', [
    ['← ↑ → ↓', 'Move by 1 pixel, with Shift by 10'],
    ['Alt ↑ ↓', 'Bring forward, send backward'],
    ['Ctrl D', 'Duplicate'],
    ['Ctrl G', 'Group what is selected'],
    ['F2', 'Rename'],
    ['H', 'Show or hide'],
    ['L', 'Lock or unlock'],
    ['Delete', 'Remove'],
    ['Ctrl A', 'Select all'],
    ['Esc', 'Give up a drag, select nothing'],
  ]],
  ['View', [
    ['+ −', 'Zoom; so does the wheel, or a pinch'],
    ['0', 'Fit the canvas'],
    ['1', '100 %'],
    ['Space drag', 'Pan; so does dragging beside the picture'],
    ['O', 'While held: the original'],
    ['D', 'While held: the difference'],
  ]],
  ['Pointer', [
    ['Click', 'Select what shows there'],
    ['Alt click', 'The layer below it'],
    ['Shift click', 'Select more'],
    ['Ctrl drag', 'Move what is selected, with no catching on lines'],
    ['Shift drag', 'Move along one axis, scale freely'],
  ]],
]

const ARROWS: Record<string, [number, number]> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }
const MODIFIERS = new Set(['Shift', 'Control', 'Alt', 'Meta'])
const inside = (target: EventTarget | null, selector: string) => target instanceof Element && target.closest(selector) !== null
const typing = (target: EventTarget | null) => inside(target, 'input[type=text], textarea, dialog, [role=menu]')
const operated = (target: EventTarget | null) => inside(target, 'input, select') // they have uses of their own for plain keys

function plainKey(event: KeyboardEvent, board: Board): boolean {
  const layer = only.value
  if (event.key in ARROWS && selection.value.length) {
    const [x, y] = ARROWS[event.key]!
    if (event.altKey) {
      if (layer && y) void act.step(layer, y < 0)
    } else act.nudge(x * (event.shiftKey ? 10 : 1), y * (event.shiftKey ? 10 : 1))
    return true
  }
  switch (event.key) {
    case '?': dialog.value = 'shortcuts'; return true
    case '+': case '=': board.step(1.25); return true
    case '-': case '−': board.step(0.8); return true
    case '0': board.fit(); return true
    case '1': board.actual(); return true
    case 'o': case 'O': peek.value = 'original'; return true
    case 'd': case 'D': peek.value = 'difference'; return true
    case 'h': case 'H': if (layer) act.toggle(layer, 'visible'); return true
    case 'l': case 'L': if (layer) act.toggle(layer, 'locked'); return true
    case 'F2': if (layer) renaming.value = layer.id; return true
    case 'Delete': case 'Backspace': void act.removeSelected(); return true
    case 'Escape':
      if (live.value) board.drop()
      else selection.value = []
      return true
    case ' ':
      if (event.target instanceof HTMLButtonElement || event.target instanceof HTMLAnchorElement) return false
      board.panning = true
      return true
  }
  return false
}

function commandKey(event: KeyboardEvent): boolean {
  switch (event.key.toLowerCase()) {
    case 'z': void (event.shiftKey ? redo() : undo()); return true
    case 'y': void redo(); return true
    case 'd': void act.duplicate(); return true
    case 'g': void act.group(); return true
    case 'a': selection.value = stack.value?.layers.map((layer) => layer.id) ?? []; return true
  }
  return false
}

/** Listen for the editor's keys until the answer is called. */
export function listen(board: Board): () => void {
  const down = (event: KeyboardEvent) => {
    if (event.defaultPrevented || typing(event.target)) return
    const command = event.ctrlKey || event.metaKey
    if (!(event.key in ARROWS) && !MODIFIERS.has(event.key)) act.finishNudge()
    if (!command && operated(event.target)) return
    if (command ? commandKey(event) : plainKey(event, board)) event.preventDefault()
  }
  const up = (event: KeyboardEvent) => {
    if (event.key === ' ') board.panning = false
    if ('odOD'.includes(event.key)) peek.value = null
  }
  addEventListener('keydown', down)
  addEventListener('keyup', up)
  return () => {
    removeEventListener('keydown', down)
    removeEventListener('keyup', up)
  }
}
