/** The one store: what the server said last, what is shown, what is selected, and edits that are on their way. */
import { batch, computed, signal } from '@preact/signals'
import * as api from './api'
import { walk } from './api'
import type { Affine, Capabilities, Edit, Job, Layer, Stack } from './api'
import { IDENTITY, then } from './geometry'
import { loadProxies } from './proxies'

export type Mode = 'edit' | 'original' | 'flat' | 'difference'
export type Dialog = 'shortcuts' | 'variants' | 'split' | null

/** How layers look before the server's answer is there. */
export interface Patch {
  ids: ReadonlySet<string>
  delta?: Affine
  filter?: string
  order?: { id: string; target: string; above: boolean }
  fields?: Partial<Pick<Layer, 'opacity' | 'blend_mode' | 'visible' | 'locked' | 'name'>>
}

export interface Notice {
  key: number
  text: string
  error: boolean
}

export const capabilities = signal<Capabilities | null>(null)
export const stack = signal<Stack | null>(null)
export const selection = signal<readonly string[]>([])
export const patches = signal<readonly Patch[]>([])
export const live = signal<Patch | null>(null) // the gesture or slider under the hand
export const solo = signal<string | null>(null)
export const mode = signal<Mode>('edit')
export const dialog = signal<Dialog>(null)
export const busy = signal(0)
export const notices = signal<readonly Notice[]>([])
export const said = signal('') // for screen readers
export const task = signal<Job | null>(null) // a split or a table of variants under way

export const selected = computed(() => selection.value.flatMap((id) => find(id) ?? []))
export const only = computed(() => (selected.value.length === 1 ? selected.value[0]! : null))
export const canUndo = computed(() => (stack.value?.position ?? 0) > 0)
export const canRedo = computed(() => (stack.value ? stack.value.position < stack.value.history.length : false))

export const find = (id: string): Layer | undefined => {
  for (const layer of walk(stack.value?.layers ?? [])) if (layer.id === id) return layer
  return undefined
}

/** The layers beside one, bottom to top, itself among them. */
export function siblings(id: string, layers = arranged.value?.layers ?? []): Layer[] {
  if (layers.some((layer) => layer.id === id)) return layers
  for (const layer of layers) {
    const found = layer.layers ? siblings(id, layer.layers) : []
    if (found.length) return found
  }
  return []
}

/** Layers with one of them above or below another, in whose group it then is. */
function reordered(layers: Layer[], { id, target, above }: NonNullable<Patch['order']>): Layer[] {
  const moved = [...walk(layers)].find((layer) => layer.id === id)
  const into = (level: Layer[]): Layer[] =>
    level
      .filter((layer) => layer.id !== id)
      .map((layer) => (layer.layers ? { ...layer, layers: into(layer.layers) } : layer))
      .flatMap((layer) => (layer.id !== target || !moved ? layer : above ? [layer, moved] : [moved, layer]))
      .filter((layer) => layer.layers?.length !== 0) // a group that loses its last layer goes with it
  return moved ? into(layers) : layers
}

/** The stack in the order that it will have. */
export const arranged = computed<Stack | null>(() => {
  const orders = patches.value.flatMap((patch) => patch.order ?? [])
  return stack.value && orders.length ? { ...stack.value, layers: orders.reduce(reordered, stack.value.layers) } : stack.value
})

/** A layer as it looks with what is under the hand and on its way. */
export function shown(layer: Layer): { layer: Layer; delta: Affine; filter: string } {
  let [now, delta, filter] = [layer, IDENTITY, '']
  for (const patch of live.value ? [...patches.value, live.value] : patches.value) {
    if (!patch.ids.has(layer.id)) continue
    if (patch.fields) now = { ...now, ...patch.fields }
    if (patch.delta) delta = then(delta, patch.delta)
    if (patch.filter) filter = patch.filter
  }
  return { layer: now, delta, filter }
}

/** All ids that a selection means: those of the layers in its groups too. */
export const covered = (ids: readonly string[]): Set<string> =>
  new Set(ids.flatMap((id) => [id, ...(find(id)?.layers ? [...walk(find(id)!.layers!)].map((layer) => layer.id) : [])]))

let count = 0
export function notify(text: string, error = false): void {
  const key = ++count
  notices.value = [...notices.value.filter((old) => old.text !== text), { key, text, error }].slice(-4)
  setTimeout(() => dismiss(key), error ? 15_000 : 5_000)
}
export const dismiss = (key: number) => void (notices.value = notices.value.filter((notice) => notice.key !== key))
export const say = (text: string) => void (said.value = text)
export const complain = (error: unknown) => notify(error instanceof Error ? error.message : String(error), true)

let latest: Stack['version'] = 0
let queue: Promise<unknown> = Promise.resolve()

/** Show what the server said; pictures are there before anything changes on the screen. */
async function take(next: Stack, done?: Patch): Promise<void> {
  latest = next.version
  await loadProxies(next)
  if (next.id === stack.value?.id) for (const note of next.notes.filter((each) => !stack.value!.notes.includes(each))) notify(note)
  batch(() => {
    stack.value = next
    patches.value = patches.value.filter((patch) => patch !== done)
    const ids = new Set([...walk(next.layers)].map((layer) => layer.id))
    selection.value = selection.value.filter((id) => ids.has(id))
    if (solo.value && !ids.has(solo.value)) solo.value = null
  })
}

/** One call after the other, so that every edit meets the stack that it was made for. */
function inTurn(work: (id: string) => Promise<Stack>, patch?: Patch): Promise<boolean> {
  const id = stack.value?.id
  if (!id) return Promise.resolve(false)
  if (patch) patches.value = [...patches.value, patch]
  busy.value++
  const turn = queue.then(async () => {
    try {
      await take(await work(id), patch)
      return true
    } catch (error) {
      const stale = error instanceof api.ApiError && error.status === 409 && !task.value
      complain(stale ? new Error('This project was changed elsewhere. What you see now is its newest state; do your edit again.') : error)
      if (stale) await api.stack(id).then(take, complain)
      return false
    } finally {
      if (patch) patches.value = patches.value.filter((each) => each !== patch)
      busy.value--
    }
  })
  queue = turn
  return turn
}

export const commit = (edits: Edit[], patch?: Omit<Patch, 'ids'> & { ids: readonly string[] }) =>
  inTurn((id) => api.edit(id, latest, edits), patch && { ...patch, ids: covered(patch.ids) })

export async function undo(): Promise<void> {
  if (canUndo.value && (await inTurn(api.undo))) say('Undone')
}
export async function redo(): Promise<void> {
  if (canRedo.value && (await inTurn(api.redo))) say('Redone')
}
export const travel = (position: number) => inTurn((id) => api.travel(id, position))
export const reload = () => inTurn(api.stack)

export async function openStack(id: string): Promise<void> {
  await take(await api.stack(id))
  batch(() => {
    selection.value = []
    patches.value = []
    live.value = null
    solo.value = null
    mode.value = 'edit'
  })
}
