/** The page: which of its three faces is shown, and what holds for all of them. */
import { render } from 'preact'
import { useEffect, useState } from 'preact/hooks'
import * as api from './api'
import { Icon } from './icons'
import { Dialogs } from './panels/dialogs'
import { Editor } from './panels/editor'
import { RunPage } from './panels/run'
import { StartPage, take } from './panels/start'
import { showTheme } from './panels/topbar'
import { route } from './route'
import { capabilities, complain, dismiss, notices, said } from './state'
import './style/base.css'
import './style/start.css'
import './style/editor.css'
import './style/panels.css'

function Notices() {
  return (
    <div class="notices">
      {notices.value.map(({ key, text, error }) => (
        <div key={key} class={`notice ${error ? 'error' : ''}`} role={error ? 'alert' : 'status'}>
          <Icon name={error ? 'alert' : 'check'} />
          <p>{text}</p>
          <button type="button" class="icon-button" aria-label="Dismiss" onClick={() => dismiss(key)}><Icon name="close" /></button>
        </div>
      ))}
    </div>
  )
}

/** Files that are dropped or pasted anywhere on the page. */
function useFiles(): boolean {
  const [over, setOver] = useState(false)
  useEffect(() => {
    const has = (event: DragEvent) => event.dataTransfer?.types.includes('Files') ?? false
    const drag = (event: DragEvent) => {
      if (!has(event)) return
      event.preventDefault()
      setOver(true)
    }
    const leave = (event: DragEvent) => !event.relatedTarget && setOver(false)
    const drop = (event: DragEvent) => {
      setOver(false)
      const file = event.dataTransfer?.files[0]
      if (!has(event)) return
      event.preventDefault()
      if (file) void take(file)
    }
    const paste = (event: ClipboardEvent) => {
      const file = event.clipboardData?.files[0]
      if (!file || (event.target as Element).closest('input, textarea')) return
      event.preventDefault()
      void take(file)
    }
    addEventListener('dragover', drag)
    addEventListener('dragleave', leave)
    addEventListener('drop', drop)
    addEventListener('paste', paste)
    return () => {
      removeEventListener('dragover', drag)
      removeEventListener('dragleave', leave)
      removeEventListener('drop', drop)
      removeEventListener('paste', paste)
    }
  }, [])
  return over
}

function Page() {
  const over = useFiles()
  const { page, id } = route.value
  return (
    <>
      {page === 'start' ? <StartPage /> : page === 'job' ? <RunPage key={id} id={id} /> : <Editor key={id} id={id} />}
      <Dialogs />
      <Notices />
      {over && <div class="drop-here" aria-hidden="true"><p>Drop a picture or a project</p></div>}
      <div class="unseen" role="status">{said.value}</div>
    </>
  )
}

showTheme()
render(<Page />, document.getElementById('app')!)

/** Ask what the server can do, until an engine is ready. */
async function learn(): Promise<void> {
  try {
    capabilities.value = await api.capabilities()
    if (!capabilities.value.engines.some((engine) => engine.ready)) setTimeout(() => void learn(), 1000)
  } catch (error) {
    complain(error)
  }
}
void learn()
