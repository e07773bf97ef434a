/** The server's HTTP interface: what it answers, and one function for each call. Addresses are relative to the page. */

export type Box = [left: number, top: number, right: number, bottom: number]
export type Affine = [number, number, number, number, number, number]
export type Edit = { op: string } & Record<string, unknown>

export interface Layer {
  id: string
  name: string
  kind: 'background' | 'object' | 'text' | 'decoration' | 'group'
  box: Box
  opacity: number
  blend_mode: string
  visible: boolean
  locked: boolean
  url?: string
  layers?: Layer[]
  frame: Box // the exact bounds without effects, which edits hold on to
  source?: Box // of the untouched pixels of an edited layer; `transform` takes them to where they are
  transform?: Affine
  looks?: Edit[]
  effects?: Edit[]
  text?: { lines: { string: string }[]; align: string } | null
}

export interface Stack {
  id: string
  name: string
  version: number
  width: number
  height: number
  layers: Layer[]
  notes: string[]
  history: { index: number; name: string; edit: Edit[] }[] // what can be undone, then what can be redone
  position: number // how many of them are done
  flat: string
  original: string | null
  recomposition: { max: number; mean: number } | null
}

export interface StackRow {
  id: string
  name: string
  width: number
  height: number
  layers: number
  changed: number // seconds since 1970
  thumbnail: string
}

export interface Job {
  id: string
  kind: 'decomposition' | 'split' | 'variants'
  state: 'queued' | 'running' | 'done' | 'failed' | 'cancelled'
  place: number | null
  name: string
  step: number
  total: number
  seconds_left: number | null
  stage: string
  stack: string | null
  error: { type: string; message: string } | null
}

export interface Engine {
  name: string
  about: string
  ready: boolean
  takes: ('prompt' | 'steps' | 'seed')[]
  max_layers: number | null
  default_steps: number | null
}

export interface Capabilities {
  version: string
  engines: Engine[]
  formats: { read: string[]; write: { format: string; name: string; keeps: string }[] }
  pictures: string[]
  blend_modes: string[]
  examples: { name: string; url: string; thumbnail: string }[]
}

/** Layers depth first, bottom to top; a group comes before what is in it. */
export function* walk(layers: readonly Layer[]): Generator<Layer> {
  for (const layer of layers) {
    yield layer
    if (layer.layers) yield* walk(layer.layers)
  }
}

/** What the server refuses, in its own words; status 0 where it cannot be reached. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly type: string,
    message: string,
  ) {
    super(message)
  }
}

async function send(method: string, path: string, body?: BodyInit, headers: HeadersInit = {}): Promise<Response> {
  let response: Response
  try {
    response = await fetch(path, { method, body: body ?? null, headers })
  } catch {
    throw new ApiError(0, 'Unreachable', 'The server does not answer. Is unfuse serve still running? Your work is saved there.')
  }
  if (response.ok) return response
  const answer = await response.json().catch(() => null)
  const error = answer?.error
  throw new ApiError(
    response.status,
    error?.type ?? 'Error',
    error?.message ?? `The server answered ${response.status} ${response.statusText}`.trim() + '. Try again.',
  )
}

async function json<T>(method: string, path: string, data?: unknown, headers: Record<string, string> = {}): Promise<T> {
  const body = data === undefined ? undefined : JSON.stringify(data)
  const type = body === undefined ? {} : { 'Content-Type': 'application/json' }
  return (await send(method, path, body, { ...type, ...headers })).json()
}

function form(fields: Record<string, string | Blob | undefined>): FormData {
  const data = new FormData()
  for (const [name, value] of Object.entries(fields)) if (value !== undefined && value !== '') data.append(name, value)
  return data
}

const posted = async <T>(path: string, fields: Record<string, string | Blob | undefined>, headers?: HeadersInit) =>
  (await (await send('POST', path, form(fields), headers)).json()) as T

const at = (id: string) => `v1/stacks/${encodeURIComponent(id)}`

export const capabilities = () => json<Capabilities>('GET', 'v1/capabilities')
export const stacks = () => json<StackRow[]>('GET', 'v1/stacks')
export const stack = (id: string) => json<Stack>('GET', at(id))
export const remove = (id: string) => send('DELETE', at(id))
export const open = (file: File) => posted<Stack>('v1/stacks', { file })
export const decompose = (fields: Record<string, string | Blob | undefined>, key: string) =>
  posted<Job>('v1/decompositions', fields, { 'Idempotency-Key': key })
export const job = (id: string) => json<Job>('GET', `v1/jobs/${id}`)
export const cancel = (id: string) => send('DELETE', `v1/jobs/${id}`)
export const edit = (id: string, version: Stack['version'], edits: Edit[]) =>
  json<Stack>('POST', `${at(id)}/edits`, { edits }, { 'If-Match': String(version) })
export const undo = (id: string) => json<Stack>('POST', `${at(id)}/undo`)
export const redo = (id: string) => json<Stack>('POST', `${at(id)}/redo`)
export const travel = (id: string, position: number) => json<Stack>('PUT', `${at(id)}/position`, { position })
export const picture = (id: string, file: File) => posted<{ picture: string }>(`${at(id)}/pictures`, { file })
export const split = (id: string, layer: string, layers: string) =>
  json<Job>('POST', `${at(id)}/layers/${layer}/split`, { layers: layers === 'auto' ? layers : Number(layers) })
export const variants = (id: string, table: File) => posted<Job>(`${at(id)}/variants`, { table })

/** A picture of the whole; null where there is no original to compare with. */
export function wholeUrl(stack: Stack, what: 'flat' | 'original' | 'difference'): string | null {
  if (what === 'flat') return `${stack.flat}&size=2048`
  if (stack.original === null) return null
  return `${at(stack.id)}/${what}.png?size=2048${what === 'difference' ? `&v=${stack.version}` : ''}`
}
export const previewUrl = (id: string, step: number) => `v1/decompositions/${id}/preview?step=${step}`
export const exportUrl = (id: string, format: string) => `${at(id)}/export/${format}`
export const resultUrl = (id: string) => `v1/jobs/${id}/result`

/** A file from the server, saved under the name it gives; an error is raised, not saved. */
export async function download(path: string, fallback: string): Promise<void> {
  const response = await send('GET', path)
  const given = response.headers.get('Content-Disposition') ?? ''
  const coded = /filename\*=(?:utf-8|UTF-8)''([^;]+)/.exec(given)?.[1]
  const name = coded ? decodeURIComponent(coded) : (/filename="?([^";]+)/.exec(given)?.[1] ?? fallback)
  const url = URL.createObjectURL(await response.blob())
  const link = Object.assign(document.createElement('a'), { href: url, download: name })
  document.body.append(link)
  link.click()
  link.remove()
  setTimeout(() => URL.revokeObjectURL(url), 60_000)
}

/** Follow a job to its end: by server-sent events, and by asking every second where those do not come. */
export function follow(id: string, seen: (job: Job) => void): () => void {
  let stopped = false
  const final = (now: Job) => !['queued', 'running'].includes(now.state)
  const take = (now: Job) => {
    if (stopped) return
    seen(now)
    if (final(now)) stop()
  }
  const source = new EventSource(`v1/jobs/${id}/events`)
  source.addEventListener('job', (event) => take(JSON.parse((event as MessageEvent<string>).data)))
  source.onerror = () => {
    source.close()
    void poll()
  }
  const poll = async () => {
    while (!stopped) {
      await job(id).then(take, (error: unknown) => {
        if (error instanceof ApiError && error.status >= 400 && error.status < 500) {
          take({ id, kind: 'decomposition', name: '', state: 'failed', place: null, step: 0, total: 0, seconds_left: null,
            stage: 'failed', stack: null, error: { type: error.type, message: error.message } })
        }
      })
      await new Promise((later) => setTimeout(later, 1000))
    }
  }
  const stop = () => {
    stopped = true
    source.close()
  }
  return stop
}
