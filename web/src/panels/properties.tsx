/** The selected layer in figures and switches. */
import type { Layer } from '../api'
import * as act from '../actions'
import { capabilities, commit, covered, dialog, live, only, selected, selection, shown, stack } from '../state'
import { IconButton, NumberField, Section, Slider } from './controls'
import { AdjustSection, EffectsSection, RecolorSection } from './look'
import { Icon } from '../icons'

const ALIGN = [
  ['alignLeft', 'Align left', { x: 'left' }],
  ['alignCenter', 'Align centre', { x: 'center' }],
  ['alignRight', 'Align right', { x: 'right' }],
  ['alignTop', 'Align top', { y: 'top' }],
  ['alignMiddle', 'Align middle', { y: 'middle' }],
  ['alignBottom', 'Align bottom', { y: 'bottom' }],
] as const

const title = (mode: string) => mode[0]!.toUpperCase() + mode.slice(1).replace('-', ' ')

function PlaceSection({ layer, disabled }: { layer: Layer | null; disabled: boolean }) {
  const [left, top, right, bottom] = layer ? layer.frame : [0, 0, 0, 0]
  return (
    <Section title="Place" open>
      {layer && (
        <div class="grid4">
          <NumberField label="X" value={left} disabled={disabled} onChange={(x) => act.place(layer, { x })} />
          <NumberField label="Y" value={top} disabled={disabled} onChange={(y) => act.place(layer, { y })} />
          <NumberField label="W" value={right - left} min={1} disabled={disabled} onChange={(width) => act.place(layer, { width })} />
          <NumberField label="H" value={bottom - top} min={1} disabled={disabled} onChange={(height) => act.place(layer, { height })} />
        </div>
      )}
      <div class="buttons" role="group" aria-label="Align with the canvas">
        {ALIGN.map(([icon, label, fields]) => <IconButton key={icon} icon={icon} label={label} disabled={disabled} onClick={() => void act.align(fields)} />)}
      </div>
      <div class="buttons" role="group" aria-label="Turn and mirror">
        <IconButton icon="flipX" label="Mirror left and right" disabled={disabled} onClick={() => void act.flip('horizontal')} />
        <IconButton icon="flipY" label="Mirror top and bottom" disabled={disabled} onClick={() => void act.flip('vertical')} />
        <IconButton icon="turn" label="Turn by 90°" disabled={disabled} onClick={() => void act.rotate(90)} />
        <span class="gap" />
        <button type="button" class="small" disabled={disabled} onClick={() => void act.reset('all')}><Icon name="reset" />Reset</button>
      </div>
    </Section>
  )
}

function TextSection({ layer, disabled }: { layer: Layer; disabled: boolean }) {
  if (!layer.text) return null
  const text = layer.text.lines.map((line) => line.string).join('\n')
  return (
    <Section title="Text" open>
      <form onSubmit={(event) => {
        event.preventDefault()
        const next = String(new FormData(event.currentTarget).get('text') ?? '')
        if (next.trim() && next !== text) void commit([{ op: 'replace_text', layer: layer.id, text: next }])
      }}>
        <textarea name="text" aria-label="Text of the layer" rows={Math.min(5, text.split('\n').length + 1)} key={layer.id + text} defaultValue={text} disabled={disabled} />
        <button type="submit" class="small" disabled={disabled}><Icon name="text" />Set the text</button>
      </form>
    </Section>
  )
}

function Actions({ layer, disabled }: { layer: Layer | null; disabled: boolean }) {
  return (
    <Section title="Layer" open>
      <div class="actions">
        {layer && !layer.layers && (
          <>
            <button type="button" title="Put another picture in its place" disabled={disabled} onClick={() => act.choose('image/*', (file) => void act.replacePicture(file))}><Icon name="picture" />Replace…</button>
            <button type="button" title="Take this layer apart again" disabled={disabled} onClick={() => (dialog.value = 'split')}><Icon name="split" />Split…</button>
          </>
        )}
        {layer && <button type="button" disabled={disabled} onClick={() => void act.duplicate()}><Icon name="copy" />Duplicate</button>}
        {layer?.layers ? (
          <>
            <button type="button" disabled={disabled} onClick={() => void act.ungroup()}><Icon name="ungroup" />Ungroup</button>
            <button type="button" disabled={disabled} onClick={() => void act.merge()}><Icon name="mergeDown" />Merge group</button>
          </>
        ) : (
          layer && <button type="button" disabled={disabled} onClick={() => void act.mergeDown()}><Icon name="mergeDown" />Merge down</button>
        )}
        {!layer && <button type="button" disabled={disabled} onClick={() => void act.group()}><Icon name="group" />Group</button>}
        <button type="button" class="danger" disabled={disabled} onClick={() => void act.removeSelected()}><Icon name="trash" />Remove</button>
      </div>
    </Section>
  )
}

export function PropertiesPanel() {
  const layers = selected.value
  const layer = only.value
  const first = layers[0]
  if (!first) {
    const { width, height, notes } = stack.value!
    return (
      <div class="properties">
        <p class="hint">Choose a layer: in the list, or with a click on the canvas.</p>
        <p class="hint">{width} × {height} pixels</p>
        {notes.map((note) => <p class="hint" key={note}>{note}</p>)}
      </div>
    )
  }
  const now = shown(first).layer
  const locked = layers.some((each) => shown(each).layer.locked)
  const opacity = Math.round(now.opacity * 100)
  return (
    <div class="properties">
      <h2 class="title" title={now.name}>{layer ? now.name : `${layers.length} layers`}</h2>
      {locked && <p class="hint"><Icon name="lock" />Locked: unlock it in its row to edit it.</p>}
      <div class="section-body top">
        <Slider label="Opacity" min={0} max={100} unit=" %" value={opacity} disabled={locked}
          onInput={(next) => (live.value = { ids: covered(selection.value.slice(0, 1)), fields: { opacity: next / 100 } })}
          onChange={(next) => {
            void act.setOpacity(next / 100)
            live.value = null
          }} />
        <label class="select">
          <span>Blend</span>
          <select value={now.blend_mode} disabled={locked} onChange={(event) => void act.setBlend(event.currentTarget.value)}>
            {(capabilities.value?.blend_modes ?? [now.blend_mode]).map((mode) => <option key={mode} value={mode}>{title(mode)}</option>)}
          </select>
        </label>
      </div>
      {layer && <TextSection layer={layer} disabled={locked} />}
      <PlaceSection layer={layer} disabled={locked} />
      <RecolorSection layer={first} disabled={locked} />
      <AdjustSection layer={first} disabled={locked} />
      {layer && !layer.layers && <EffectsSection layer={layer} disabled={locked} />}
      <Actions layer={layer} disabled={locked} />
    </div>
  )
}
