/** Pictures of layers, at most 2048 pixels a side, decoded once and kept by address, which changes with the pixels. */
import { signal } from '@preact/signals'
import { walk, type Layer, type Stack } from './api'

export const SIZE = 2048
const MOST = 120e6 // pixels kept, so that undo needs no loading

const kept = new Map<string, ImageBitmap>()
const coming = new Map<string, Promise<void>>()
export const arrived = signal(0) // counts up when pictures come

export const proxyOf = (layer: Layer): ImageBitmap | undefined => kept.get(layer.url ?? '')

const sized = (url: string) => `${url}${url.includes('?') ? '&' : '?'}size=${SIZE}`

async function load(url: string): Promise<void> {
  const response = await fetch(sized(url))
  if (!response.ok) throw new Error(`A layer's picture did not come (${response.status}). Reload the page to try again.`)
  kept.set(url, await createImageBitmap(await response.blob()))
}

export async function loadProxies(stack: Stack): Promise<void> {
  const urls = [...walk(stack.layers)].flatMap((layer) => layer.url ?? [])
  const missing = urls.filter((url) => !kept.has(url))
  await Promise.all(
    missing.map((url) => {
      if (!coming.has(url)) coming.set(url, load(url).finally(() => coming.delete(url)))
      return coming.get(url)
    }),
  )
  for (const url of urls) kept.set(url, touch(url)) // the newest stand last
  let pixels = [...kept.values()].reduce((sum, each) => sum + each.width * each.height, 0)
  for (const [url, bitmap] of kept) {
    if (pixels < MOST || urls.includes(url)) break
    pixels -= bitmap.width * bitmap.height
    kept.delete(url)
    bitmap.close()
  }
  if (missing.length) arrived.value++
}

function touch(url: string): ImageBitmap {
  const bitmap = kept.get(url)!
  kept.delete(url)
  return bitmap
}
