/** What opens above the page: shortcuts, splitting a layer, variants from a table. */
import { useState } from 'preact/hooks'
import * as api from '../api'
import { walk } from '../api'
import { choose, split, watch } from '../actions'
import { Icon } from '../icons'
import { SHORTCUTS } from '../shortcuts'
import { complain, dialog, notify, only, stack } from '../state'
import { DialogBox } from './controls'

const close = () => void (dialog.value = null)

const Shortcuts = () => (
  <DialogBox title="Keyboard and pointer" onClose={close} wide>
    <div class="shortcuts">
      {SHORTCUTS.map(([group, rows]) => (
        <section key={group}>
          <h3>{group}</h3>
          <dl>
            {rows.map(([keys, does]) => (
              <div key={does}><dt>{keys.split(' ').map((key) => <kbd key={key}>{key}</kbd>)}</dt><dd>{does}</dd></div>
            ))}
          </dl>
        </section>
      ))}
    </div>
  </DialogBox>
)

function Split() {
  const [layers, set] = useState('auto')
  const name = only.value?.name ?? ''
  return (
    <DialogBox title={`Split “${name}”`} onClose={close}>
      <form class="options" onSubmit={(event) => {
        event.preventDefault()
        close()
        void split(layers)
      }}>
        <p class="hint">The layer is taken apart again and becomes a group that shows the same.</p>
        <fieldset>
          <legend>Number of layers</legend>
          <div class="chips">
            {['auto', '2', '3', '4', '5', '6'].map((each) => (
              <label key={each} class="chip">
                <input type="radio" name="split" value={each} checked={layers === each} onChange={() => set(each)} />
                <span>{each === 'auto' ? 'Auto' : each}</span>
              </label>
            ))}
          </div>
        </fieldset>
        <button type="submit" class="primary">Split</button>
      </form>
    </DialogBox>
  )
}

/** A cell of a CSV file. */
const cell = (text: string) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text)

function Variants() {
  const now = stack.value!
  const layers = [...walk(now.layers)].filter((layer) => !layer.layers)
  const layer = only.value ?? layers.at(-1)!
  const head = ['name', 'canvas', `${layer.name}.color`, `${layer.name}.x`, `${layer.name}.visible`].map(cell).join(',')
  const [table, setTable] = useState(`${head}\nred,,#e4002b,0,yes\nstory,story,#1f4fd8,0,yes\n`)
  const start = async () => {
    try {
      const job = await api.variants(now.id, new File([table], 'table.csv', { type: 'text/csv' }))
      close()
      notify('Making the variants. The zip is saved when they are done.')
      watch(job, (done) => void api.download(api.resultUrl(done.id), `${now.name}-variants.zip`).catch(complain))
    } catch (error) {
      complain(error)
    }
  }
  return (
    <DialogBox title="Variants from a table" onClose={close} wide>
      <form class="options" onSubmit={(event) => {
        event.preventDefault()
        void start()
      }}>
        <p class="hint">
          One row, one picture. A column is <code>Layer.color</code>, <code>.x</code>, <code>.y</code>, <code>.text</code>, <code>.visible</code> or{' '}
          <code>Layer.op.field</code>; <code>canvas</code> is square, portrait, story, landscape, banner, leaderboard or a size such as 1080x1350. An empty cell changes nothing.
        </p>
        <label class="field">
          <span>Table (CSV)</span>
          <textarea class="code" rows={8} spellcheck={false} value={table} onInput={(event) => setTable(event.currentTarget.value)} />
        </label>
        <p class="hint">Layers: {layers.map((each) => each.name).join('; ')}</p>
        <div class="buttons">
          <button type="button" onClick={() => choose('.csv,text/csv', (file) => void file.text().then(setTable))}><Icon name="import" />Open a CSV file…</button>
          <span class="gap" />
          <button type="submit" class="primary">Make variants</button>
        </div>
      </form>
    </DialogBox>
  )
}

export function Dialogs() {
  if (dialog.value === 'shortcuts') return <Shortcuts />
  if (dialog.value === 'split' && only.value) return <Split />
  if (dialog.value === 'variants' && stack.value) return <Variants />
  return null
}
