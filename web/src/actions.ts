/** What people do to layers, as edits: the words of the panels, menus and keys. */
import * as api from './api'
import type { Edit, Layer } from './api'
import { busy, commit, complain, covered, find, live, notify, only, reload, say, selected, selection, siblings, stack, task, type Patch } from './state'

const ids = () => [...selection.value]
const one = <T>(list: T[]): T | T[] => (list.length === 1 ? list[0]! : list)
const named = (layers: readonly Layer[]) => (layers.length === 1 ? layers[0]!.name : `${layers.length} layers`)

/** The selected layers where an edit may touch them; says which is locked where not. */
function free(): Layer[] {
  const locked = selected.value.find((layer) => layer.locked)
  if (locked) notify(`“${locked.name}” is locked. Unlock it first, with the lock in its row.`)
  return locked ? [] : selected.value
}

/** Run an edit of the selected layers; what it does is said for screen readers. */
async function run(op: string, fields: Record<string, unknown> = {}, words?: string, patch: Partial<Patch> = {}): Promise<boolean> {
  const layers = free()
  if (!layers.length) return false
  const done = await commit([{ op, layer: one(layers.map((layer) => layer.id)), ...fields }], { ...patch, ids: ids() })
  if (done && words) say(`${words} ${named(layers)}`)
  return done
}

export const setOpacity = (value: number) =>
  free().length ? commit([{ op: 'opacity', layer: one(ids()), value }], { ids: ids(), fields: { opacity: value } }) : undefined
export const setBlend = (mode: string) =>
  free().length ? commit([{ op: 'blend', layer: one(ids()), mode }], { ids: ids(), fields: { blend_mode: mode } }) : undefined
export const setLook = (op: string, fields: Record<string, unknown>) => run(op, fields)
export const align = (fields: { x?: string; y?: string }) => run('align', fields, 'Aligned')
export const distribute = (axis: string) => run('distribute', { axis }, 'Distributed')
export const flip = (axis: string) => run('flip', { axis }, 'Flipped')
export const rotate = (degrees: number) => run('rotate', { degrees }, 'Turned')
export const reset = (what: string) => run('reset', { what }, 'Reset')
export const group = () => run('group', {}, 'Grouped')
export const removeSelected = () => run('remove', {}, 'Removed', { fields: { visible: false } })

export function toggle(layer: Layer, what: 'visible' | 'locked'): void {
  const value = !layer[what]
  const op = what === 'visible' ? (value ? 'show' : 'hide') : value ? 'lock' : 'unlock'
  void commit([{ op, layer: layer.id }], { ids: [layer.id], fields: { [what]: value } })
  say(`${layer.name}: ${{ show: 'shown', hide: 'hidden', lock: 'locked', unlock: 'unlocked' }[op]}`)
}

export const rename = (layer: Layer, name: string) =>
  commit([{ op: 'rename', layer: layer.id, name }], { ids: [layer.id], fields: { name } })

export async function duplicate(): Promise<void> {
  const layer = free()[0]
  if (!layer || !(await commit([{ op: 'duplicate', layer: layer.id }]))) return
  const row = siblings(layer.id)
  const copy = row[row.findIndex((each) => each.id === layer.id) + 1]
  if (copy) selection.value = [copy.id]
  say(`Duplicated ${layer.name}`)
}

export const mergeDown = () => run('merge_down', {}, 'Merged')
export const merge = () => run('merge', {}, 'Merged')
export const ungroup = () => run('ungroup', {}, 'Ungrouped')

/** Up or down by one among its siblings. */
export async function step(layer: Layer, up: boolean): Promise<void> {
  const row = siblings(layer.id)
  const at = row.findIndex((each) => each.id === layer.id) + (up ? 1 : -1)
  const other = row[at]
  if (!other) return say(`${layer.name} is ${up ? 'at the top' : 'at the bottom'}`)
  await drop(layer.id, other.id, up)
}

export async function drop(layer: string, target: string, above: boolean): Promise<void> {
  if (layer === target) return
  const other = find(target)
  const order = { id: layer, target, above }
  const done = await commit([{ op: 'reorder', layer, [above ? 'above' : 'below']: target }], { ids: [layer], order })
  if (done) say(`${find(layer)?.name} is now ${above ? 'above' : 'below'} ${other?.name}`)
}

/** Left top corner or size in numbers. */
export function place(layer: Layer, fields: { x?: number; y?: number; width?: number; height?: number }): void {
  const [left, top, right, bottom] = layer.frame
  const edits: Edit[] = []
  if (fields.x !== undefined || fields.y !== undefined) {
    edits.push({ op: 'move', layer: layer.id, to: [fields.x ?? left, fields.y ?? top] })
  }
  const factor = fields.width ? fields.width / (right - left) : fields.height ? fields.height / (bottom - top) : 0
  if (factor) edits.push({ op: 'scale', layer: layer.id, factor, anchor: 'left top' })
  if (free().length) void commit(edits)
}

let nudged: { x: number; y: number; ids: string[]; timer: ReturnType<typeof setTimeout> } | null = null

/** Steps of the arrow keys; those that follow each other become one edit. */
export function nudge(x: number, y: number): void {
  const now = nudged?.ids.join() === ids().join() ? nudged : null
  if (!now && !free().length) return
  if (nudged) clearTimeout(nudged.timer)
  if (nudged && !now) finishNudge()
  nudged = { x: (now?.x ?? 0) + x, y: (now?.y ?? 0) + y, ids: ids(), timer: setTimeout(finishNudge, 450) }
  live.value = { ids: covered(nudged.ids), delta: [1, 0, nudged.x, 0, 1, nudged.y] }
}

export function finishNudge(): void {
  if (!nudged) return
  clearTimeout(nudged.timer)
  const { x, y, ids: layers } = nudged
  nudged = null
  if (x || y) {
    void commit([{ op: 'move', layer: one(layers), x, y }], { ids: layers, delta: [1, 0, x, 0, 1, y] })
    say(`Moved ${Math.abs(x)} ${x < 0 ? 'left' : 'right'}, ${Math.abs(y)} ${y < 0 ? 'up' : 'down'}`)
  }
  live.value = null
}

let asked: HTMLInputElement // kept, or it may be collected before a file is chosen

/** Ask for a file. */
export function choose(accept: string, then: (file: File) => void): void {
  const input = Object.assign(document.createElement('input'), { type: 'file', accept })
  input.onchange = () => input.files?.[0] && then(input.files[0])
  asked = input
  asked.click()
}

export async function replacePicture(file: File): Promise<void> {
  const layer = only.value
  const id = stack.value?.id
  if (!layer || !id || !free().length) return
  busy.value++
  try {
    const { picture } = await api.picture(id, file)
    await commit([{ op: 'replace_picture', layer: layer.id, picture }])
  } catch (error) {
    complain(error)
  } finally {
    busy.value--
  }
}

/** Follow a job of this project to its end. */
export function watch(job: api.Job, done: (job: api.Job) => void): void {
  task.value = job
  api.follow(job.id, (now) => {
    task.value = ['queued', 'running'].includes(now.state) ? { ...now } : null
    if (now.state === 'failed') notify(now.error?.message ?? 'It failed, and the server does not say why.', true)
    if (now.state === 'done') done(now)
    if (now.state === 'done' && now.error) notify(now.error.message, true)
  })
}

export async function split(layers: string): Promise<void> {
  const [layer, id] = [only.value, stack.value?.id]
  if (!layer || !id) return
  try {
    watch(await api.split(id, layer.id, layers), () => void reload().then(() => say(`Split ${layer.name}`)))
  } catch (error) {
    complain(error)
  }
}

export async function exportAs(format: string): Promise<void> {
  const now = stack.value
  if (!now) return
  busy.value++
  try {
    await api.download(api.exportUrl(now.id, format), `${now.name}.${format}`)
    notify(`Exported ${now.name}.${format}.`)
  } catch (error) {
    complain(error)
  } finally {
    busy.value--
  }
}
