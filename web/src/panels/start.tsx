/** Where a person begins: a picture, how to take it apart, and the projects there already are. */
import { signal } from '@preact/signals'
import { useEffect, useState } from 'preact/hooks'
import * as api from '../api'
import { choose } from '../actions'
import { Icon, Logo } from '../icons'
import { go, route } from '../route'
import { busy, capabilities, complain, notify } from '../state'
import { ThemeButton } from './topbar'
import { NumberField } from './controls'

interface Draft {
  file: File | null
  url: string
  layers: string
  prompt: string
  engine: string
  steps: number | null
  seed: number
}

export const draft = signal<Draft>({ file: null, url: '', layers: 'auto', prompt: '', engine: '', steps: null, seed: 0 })
export const problem = signal('') // what was wrong with the last file or run
const set = (changes: Partial<Draft>) => void (draft.value = { ...draft.value, ...changes })

const WHY: Record<string, string> = {
  auto: 'As many as the picture needs. A good start.',
  2: 'One thing and what lies behind it.',
  3: 'Simple: a subject, a text, a background.',
  4: 'Simple: a subject, a text or two, a background.',
  5: 'Busy: a poster or an advert with several parts.',
  6: 'Busy: a poster or an advert with several parts.',
  7: 'Busy: many texts and things.',
  8: 'Busy: many texts and things.',
  9: 'Very busy. Parts may become small; you can also split a single layer later.',
  10: 'Very busy. Parts may become small; you can also split a single layer later.',
}

const SEEN = ['png', 'jpg', 'jpeg', 'webp', 'gif', 'bmp', 'avif'] // what a browser can show

/** Take a picture to the form, or open a project; with a wrong file, all stays as it was. */
export async function take(file: File): Promise<void> {
  problem.value = ''
  const suffix = file.name.toLowerCase().split('.').pop()!
  const { formats, pictures } = capabilities.value ?? { formats: { read: ['zip', 'psd'] }, pictures: SEEN }
  if (formats.read.includes(suffix)) {
    busy.value++
    try {
      go(`stack/${(await api.open(file)).id}`)
    } catch (error) {
      refuse(file, error)
    } finally {
      busy.value--
    }
    return
  }
  const image = new Image()
  image.src = URL.createObjectURL(file)
  const seen = await image.decode().then(() => true, () => false)
  if (!seen && (SEEN.includes(suffix) || !pictures.includes(suffix))) {
    URL.revokeObjectURL(image.src)
    const why = SEEN.includes(suffix) ? 'it is broken, or no picture at all' : `pictures are ${pictures.join(', ')}; projects are ${formats.read.join(', ')}`
    return refuse(file, new Error(`this file cannot be read: ${why}.`))
  }
  if (draft.value.url) URL.revokeObjectURL(draft.value.url)
  set({ file, url: seen ? image.src : '' }) // a TIFF is read by the server only
  go('')
}

function refuse(file: File, error: unknown): void {
  const text = `${file.name}: ${error instanceof Error ? error.message : String(error)}`
  if (route.value.page === 'start') problem.value = text
  else notify(text, true)
}

async function begin(): Promise<void> {
  const { file, layers, prompt, steps, seed } = draft.value
  const engine = engineNow()
  if (!file || !engine || busy.value) return
  problem.value = ''
  busy.value++
  const takes = (option: string) => (engine.takes as string[]).includes(option)
  try {
    const job = await api.decompose(
      { file, layers, engine: engine.name, prompt: takes('prompt') ? prompt : '', steps: takes('steps') && steps ? String(steps) : '', seed: takes('seed') && seed ? String(seed) : '' },
      crypto.randomUUID?.() ?? String(Math.random()),
    )
    go(`job/${job.id}`)
  } catch (error) {
    refuse(file, error)
  } finally {
    busy.value--
  }
}

function engineNow(): api.Engine | undefined {
  const all = capabilities.value?.engines ?? []
  return all.find((each) => each.name === draft.value.engine) ?? all.find((each) => each.ready) ?? all[0]
}

const size = (bytes: number) => (bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`)

function DropZone() {
  const { file, url } = draft.value
  const accept = ['image/*', ...(capabilities.value?.formats.read ?? []).map((suffix) => `.${suffix}`)].join()
  return (
    <button type="button" class={`dropzone ${file ? 'filled' : ''}`} onClick={() => choose(accept, (next) => void take(next))}>
      {url ? <img src={url} alt="The picture to take apart" /> : <span class="art"><Icon name={file ? 'picture' : 'import'} /></span>}
      <span class="caption">
        {file ? (
          <><b>{file.name}</b><span>{size(file.size)}. Choose another, drop or paste one.</span></>
        ) : (
          <><b>Drop a picture here, paste it, or choose one</b><span>A project (.zip) or a Photoshop file opens as it is</span></>
        )}
      </span>
    </button>
  )
}

function Form() {
  const engine = engineNow()
  const { file, layers, prompt, steps, seed } = draft.value
  const takes = (option: string) => (engine?.takes as string[] | undefined)?.includes(option) ?? false
  const ready = capabilities.value?.engines.filter((each) => each.ready) ?? []
  return (
    <form class="options" onSubmit={(event) => {
      event.preventDefault()
      void begin()
    }}>
      <fieldset>
        <legend>Number of layers</legend>
        <div class="chips">
          {['auto', '2', '3', '4', '5', '6', '7', '8', '9', '10'].map((each) => (
            <label key={each} class="chip">
              <input type="radio" name="layers" value={each} checked={layers === each} onChange={() => set({ layers: each })} />
              <span>{each === 'auto' ? 'Auto' : each}</span>
            </label>
          ))}
        </div>
        <p class="why" aria-live="polite">{WHY[layers]}</p>
      </fieldset>
      {ready.length > 1 && (
        <label class="field">
          <span>Engine</span>
          <select value={engine?.name} onChange={(event) => set({ engine: event.currentTarget.value })}>
            {ready.map((each) => <option key={each.name} value={each.name}>{each.name}</option>)}
          </select>
          <small>{engine?.about}</small>
        </label>
      )}
      {takes('prompt') && (
        <label class="field">
          <span>Caption <em>(optional)</em></span>
          <textarea rows={2} value={prompt} placeholder="A poster for a jazz night, a trumpet on yellow" onInput={(event) => set({ prompt: event.currentTarget.value })} />
          <small>Says what the whole picture shows. It does not choose the layers.</small>
        </label>
      )}
      {(takes('steps') || takes('seed')) && (
        <div class="pair numbers">
          {takes('steps') && <NumberField label="Steps" min={1} max={1000} value={steps ?? engine?.default_steps ?? 20} onChange={(next) => set({ steps: Math.round(next) })} />}
          {takes('seed') && <NumberField label="Seed" min={0} max={2 ** 31} value={seed} onChange={(next) => set({ seed: Math.round(next) })} />}
          <small>More steps take longer and can be finer. The same seed gives the same layers.</small>
        </div>
      )}
      <button type="submit" class="primary large" disabled={!file || !engine?.ready || busy.value > 0}>
        {busy.value ? 'Sending…' : engine?.ready === false ? 'The engine is starting…' : 'Take it apart'}</button>
    </form>
  )
}

function Examples() {
  const pick = async (example: api.Capabilities['examples'][number]) => {
    try {
      const response = await fetch(example.url)
      if (!response.ok) throw new Error(`The example did not come (${response.status}).`)
      const blob = await response.blob()
      await take(new File([blob], `${example.name}.jpg`, { type: blob.type }))
    } catch (error) {
      complain(error)
    }
  }
  const all = capabilities.value?.examples.slice(0, 3)
  if (all?.length === 0) return null
  return (
    <section class="examples" aria-labelledby="examples">
      <h2 id="examples">Or try one of these</h2>
      <ul class="tiles three">
        {(all ?? []).map((each) => (
          <li key={each.name}>
            <button type="button" class="tile" onClick={() => void pick(each)}>
              <img src={each.thumbnail} alt="" loading="lazy" />
              <span class="name">{each.name[0]!.toUpperCase() + each.name.slice(1)}</span>
            </button>
          </li>
        ))}
      </ul>
    </section>
  )
}

function ago(seconds: number): string {
  const date = new Date(seconds * 1000)
  const days = (Date.now() - date.getTime()) / 864e5
  return days < 1 ? date.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' }) : date.toLocaleDateString()
}

function Projects() {
  const [rows, setRows] = useState<api.StackRow[]>([])
  const [sure, ask] = useState('')
  useEffect(() => void api.stacks().then(setRows, complain), [])
  if (!rows.length) return null
  const remove = async (row: api.StackRow) => {
    if (sure !== row.id) return ask(row.id)
    try {
      await api.remove(row.id)
      setRows(rows.filter((each) => each !== row))
    } catch (error) {
      complain(error)
    }
  }
  return (
    <section aria-labelledby="projects">
      <h2 id="projects">Your projects</h2>
      <ul class="tiles">
        {rows.map((row) => (
          <li key={row.id}>
            <a class="tile" href={`#/stack/${row.id}`}>
              <img src={row.thumbnail} alt="" loading="lazy" />
              <span class="name">{row.name}</span>
              <span class="note">{row.layers} layers, {ago(row.changed)}</span>
            </a>
            <button type="button" class={`remove ${sure === row.id ? 'danger' : ''}`} onClick={() => void remove(row)} onBlur={() => ask('')}
              aria-label={sure === row.id ? `Really delete ${row.name}` : `Delete ${row.name}`}>
              {sure === row.id ? 'Delete?' : <Icon name="trash" />}
            </button>
          </li>
        ))}
      </ul>
    </section>
  )
}

export function StartPage() {
  return (
    <main class="start">
      <header>
        <Logo />
        <div><h1>unfuse</h1><p>One flat picture in, a stack of editable layers out.</p></div>
        <span class="gap" />
        <ThemeButton />
      </header>
      {problem.value && (
        <p class="problem" role="alert"><Icon name="alert" /><span>{problem.value}</span></p>
      )}
      <div class="begin" aria-busy={busy.value > 0}>
        <DropZone />
        <Form />
      </div>
      <Examples />
      <Projects />
      <footer>Everything runs on the machine that serves this page. Nothing is sent anywhere else.</footer>
    </main>
  )
}
