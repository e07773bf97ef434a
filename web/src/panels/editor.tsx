/** The editor: canvas in the middle, layers and history on the left, the selected layer on the right. */
import { signal } from '@preact/signals'
import { useEffect, useRef, useState } from 'preact/hooks'
import type { Stack } from '../api'
import { Board } from '../canvas'
import { peek, view } from '../handles'
import { go } from '../route'
import { listen } from '../shortcuts'
import { busy, mode, openStack, stack, task } from '../state'
import { IconButton } from './controls'
import { HistoryPanel } from './history'
import { LayersPanel } from './layers'
import { PropertiesPanel } from './properties'
import { problem } from './start'
import { TopBar } from './topbar'

type Tab = 'layers' | 'history' | 'layer'
const tab = signal<Tab>('layers')

function Canvas() {
  const box = useRef<HTMLDivElement>(null)
  const scene = useRef<HTMLCanvasElement>(null)
  const paper = useRef<HTMLDivElement>(null)
  const holder = useRef<HTMLDivElement>(null)
  const [board, setBoard] = useState<Board | null>(null)
  useEffect(() => {
    const made = new Board(box.current!, scene.current!, paper.current!, holder.current!)
    const stop = listen(made)
    setBoard(made)
    return () => {
      stop()
      made.destroy()
    }
  }, [])
  return (
    <div class="canvas">
      <div class="board" ref={box} tabIndex={0} role="group" aria-label="Canvas. Arrow keys move the selected layer." aria-roledescription="canvas">
        <div class="paper" ref={paper} />
        <canvas ref={scene} aria-hidden="true" />
        <div class="handles" ref={holder} aria-hidden="true" />
      </div>
      {board && <StatusBar board={board} />}
    </div>
  )
}

/** How near the flattened layers are to the original. */
function exactness({ recomposition: error, position }: Stack): string {
  if (!error) return ''
  const far = `at most ${error.max} of 255 levels, ${error.mean.toFixed(error.mean < 0.1 ? 3 : 1)} on average`
  if (position > 0) return error.max === 0 ? 'Flattened, it is the original exactly' : `Differs from the original by ${far}`
  return error.max === 0 ? 'Put together, the layers are the original exactly' : `Put together, the layers are the original but for ${far}`
}

function StatusBar({ board }: { board: Board }) {
  const now = stack.value!
  const shownMode = peek.value ?? mode.value
  const said = exactness(now)
  return (
    <div class="status">
      {shownMode === 'edit' ? <span class="size">{now.width} × {now.height}</span> : <span class="badge">{{ original: 'Original', flat: 'Flattened', difference: 'Difference' }[shownMode]}</span>}
      <span class="exact" title={said}>{said}</span>
      <span class="gap" />
      {(busy.value > 0 || task.value) && <span class="spinner" aria-hidden="true" />}
      <div class="buttons" role="group" aria-label="Zoom">
        <IconButton icon="minus" label="Zoom out" keys="-" onClick={() => board.step(0.8)} />
        <button type="button" class="zoom" title="100 % (1)" aria-label={`Zoom ${Math.round(view.value.scale * devicePixelRatio * 100)} %, set to 100 %`} onClick={board.actual}>
          {Math.round(view.value.scale * devicePixelRatio * 100)} %
        </button>
        <IconButton icon="plus" label="Zoom in" keys="+" onClick={() => board.step(1.25)} />
        <IconButton icon="fit" label="Fit the canvas" keys="0" onClick={board.fit} />
      </div>
    </div>
  )
}

function Tabs({ names }: { names: [Tab, string][] }) {
  return (
    <div class="tabs" role="group" aria-label="Panels">
      {names.map(([name, label]) => (
        <button type="button" key={name} aria-pressed={tab.value === name} onClick={() => (tab.value = name)}>{label}</button>
      ))}
    </div>
  )
}

export function Editor({ id }: { id: string }) {
  const ready = stack.value?.id === id
  useEffect(() => {
    if (stack.value?.id === id) return
    openStack(id).catch((error: unknown) => {
      problem.value = error instanceof Error ? error.message : String(error)
      go('', true)
    })
  }, [id])
  useEffect(() => {
    document.title = ready ? `${stack.value!.name} - unfuse` : 'unfuse'
    return () => void (document.title = 'unfuse')
  }, [ready])
  if (!ready) return <main class="loading" aria-busy="true"><span class="spinner" /><p>Opening the project</p></main>
  const left = tab.value === 'history' ? 'history' : 'layers'
  return (
    <div class="editor" data-tab={tab.value}>
      <TopBar />
      <aside class="side left" aria-label="Layers and history">
        <Tabs names={[['layers', 'Layers'], ['layer', 'Edit'], ['history', 'History']]} />
        <div class="panel">{left === 'history' ? <HistoryPanel /> : <LayersPanel />}</div>
      </aside>
      <main class="middle"><Canvas /></main>
      <aside class="side right" aria-label="Selected layer"><div class="panel"><PropertiesPanel /></div></aside>
    </div>
  )
}
