/** The address's hash says what is open: `#/stack/ID`, `#/job/ID`, or the start. */
import { signal } from '@preact/signals'

export interface Route {
  page: 'start' | 'job' | 'stack'
  id: string
}

function read(): Route {
  const [, page, id] = /^#\/(stack|job)\/([^/]+)$/.exec(location.hash) ?? []
  return page ? { page: page as 'job' | 'stack', id: decodeURIComponent(id!) } : { page: 'start', id: '' }
}

export const route = signal<Route>(read())
addEventListener('hashchange', () => (route.value = read()))

/** Go to `stack/ID`, `job/ID` or, with nothing, to the start; `instead` of the page in the browser's history. */
export function go(to: string, instead = false): void {
  const url = `${location.pathname}${location.search}#/${to}`
  if (instead) history.replaceState(null, '', url)
  else if (location.hash !== `#/${to}`) history.pushState(null, '', url)
  route.value = read()
}
