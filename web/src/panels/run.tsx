/** A decomposition under way: what it looks like so far, how long it takes, and a way out. */
import { useEffect, useState } from 'preact/hooks'
import * as api from '../api'
import { Icon, Logo } from '../icons'
import { go } from '../route'
import { complain, say } from '../state'
import { draft, problem } from './start'

function left(seconds: number): string {
  if (seconds < 2) return 'nearly done'
  if (seconds < 90) return `about ${Math.round(seconds)} s left`
  return `about ${Math.round(seconds / 60)} min left`
}

const STAGES: Record<string, string> = {
  waiting: 'Waiting for its turn', starting: 'Starting the engine', decoding: 'Reading the picture', layers: 'Finding layers',
  refining: 'Refining edges', writing: 'Saving the project',
}

function words(job: api.Job | null): string {
  if (!job) return 'Starting'
  if (job.state === 'queued') return job.place ? `Waiting, ${job.place} before you` : 'Waiting for its turn'
  const stage = STAGES[job.stage] ?? 'Taking the picture apart'
  return job.stage === 'layers' && job.total > 1 ? `${stage}: step ${job.step} of ${job.total}` : stage
}

export function RunPage({ id }: { id: string }) {
  const [job, setJob] = useState<api.Job | null>(null)
  const [preview, setPreview] = useState('')
  const [stopping, stop] = useState(false)
  useEffect(
    () =>
      api.follow(id, (now) => {
        setJob(now)
        if (now.state === 'done' && now.stack) {
          say('Done. The layers are there.')
          go(`stack/${now.stack}`, true)
        } else if (now.state === 'failed') {
          problem.value = now.error?.message ?? 'It failed, and the server does not say why. Try again.'
          go('', true)
        } else if (now.state === 'cancelled') go('', true)
      }),
    [id],
  )
  const step = job?.step ?? 0
  const many = job && job.total > 1
  useEffect(() => {
    if (!step) return
    const image = new Image()
    image.src = api.previewUrl(id, step)
    image.decode().then(() => setPreview(image.src), () => undefined) // there may be none for this step
  }, [id, step])
  const cancel = () => {
    stop(true)
    api.cancel(id).catch((error: unknown) => {
      stop(false)
      complain(error)
    })
  }
  const share = many ? step / job.total : undefined
  return (
    <main class="run">
      <header><Logo /><h1>Taking {draft.value.file?.name ?? job?.name ?? 'your picture'} apart</h1></header>
      <div class="stage" aria-busy="true">
        {draft.value.url && <img class={preview ? 'under' : ''} src={draft.value.url} alt="The picture" />}
        {preview && <img class="preview" src={preview} alt="What the layers look like so far" />}
        {!preview && !draft.value.url && <span class="art"><Icon name="picture" /></span>}
      </div>
      <div class="progress">
        <progress aria-label="Progress" max={1} {...(share === undefined ? {} : { value: share })} />
        <p><span role="status">{words(job)}</span><span>{job?.state === 'running' && job.seconds_left !== null ? left(job.seconds_left) : '\u00a0'}</span></p>
      </div>
      <button type="button" disabled={stopping} onClick={cancel}>{stopping ? 'Stopping…' : 'Cancel'}</button>
    </main>
  )
}
