/** Own icons: strokes on a grid of 16. */
const PATHS = {
  eye: 'M1.5 8S4 3.5 8 3.5 14.5 8 14.5 8 12 12.5 8 12.5 1.5 8 1.5 8ZM8 6a2 2 0 1 0 0 4 2 2 0 0 0 0-4',
  hidden: 'M3 3l10 10M6.5 3.7A6 6 0 0 1 8 3.5c4 0 6.5 4.5 6.5 4.5a11 11 0 0 1-1.9 2.4M4.2 4.7A10.5 10.5 0 0 0 1.5 8S4 12.5 8 12.5a6 6 0 0 0 3.4-1.1',
  lock: 'M4 7.5h8v6H4zM5.5 7.5V5a2.5 2.5 0 0 1 5 0v2.5',
  unlock: 'M4 7.5h8v6H4zM5.5 7.5V5a2.5 2.5 0 0 1 4.7-1.2',
  solo: 'M8 2.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11M8 6.5a1.5 1.5 0 1 0 0 3 1.5 1.5 0 0 0 0-3',
  grip: 'M6 4h.01M10 4h.01M6 8h.01M10 8h.01M6 12h.01M10 12h.01',
  undo: 'M5.5 3 2.5 6l3 3M2.5 6H9.5a4 4 0 0 1 0 8H6',
  redo: 'M10.5 3l3 3-3 3M13.5 6H6.5a4 4 0 0 0 0 8H10',
  plus: 'M8 3v10M3 8h10',
  minus: 'M3 8h10',
  close: 'M4 4l8 8M12 4l-8 8',
  check: 'M3 8.5 6.5 12 13 4.5',
  down: 'M4 6l4 4 4-4',
  right: 'M6 4l4 4-4 4',
  left: 'M10 4 6 8l4 4',
  export: 'M8 10V2.5M5 5l3-3 3 3M3 9.5v4h10v-4',
  import: 'M8 2.5V10M5 7.5l3 3 3-3M3 9.5v4h10v-4',
  trash: 'M3 4.5h10M6.5 4.5v-2h3v2M4.5 4.5l.5 9h6l.5-9M6.8 7v4M9.2 7v4',
  copy: 'M5.5 5.5h8v8h-8zM10.5 5.5v-3h-8v8h3',
  split: 'M8 1.5l6 3-6 3-6-3zM2 8l6 3 6-3M2 11.5l6 3 6-3',
  picture: 'M2.5 3h11v10h-11zM2.5 11l3.5-3.5 3 3 2-2 2.5 2.5M10.5 5.5h.01',
  flipX: 'M8 2v12M6 4.5 2 11.5h4zM10 4.5l4 7h-4z',
  flipY: 'M2 8h12M4.5 6 11.5 2v4zM4.5 10l7 4v-4z',
  turn: 'M12.5 8A4.5 4.5 0 1 1 8 3.5h3M9 1.5l2 2-2 2',
  reset: 'M3.5 8A4.5 4.5 0 1 0 8 3.5H4.5M6.5 1.5l-2 2 2 2',
  alignLeft: 'M2.5 2v12M5 4h8v3H5zM5 9.5h5v3H5z',
  alignCenter: 'M8 2v2M8 7v2.5M8 12.5V14M3.5 4h9v3h-9zM5 9.5h6v3H5z',
  alignRight: 'M13.5 2v12M3 4h8v3H3zM6 9.5h5v3H6z',
  alignTop: 'M2 2.5h12M4 5v8h3V5zM9.5 5v5h3V5z',
  alignMiddle: 'M2 8h2M7 8h2.5M12.5 8H14M4 3.5v9h3v-9zM9.5 5v6h3V5z',
  alignBottom: 'M2 13.5h12M4 3v8h3V3zM9.5 6v5h3V6z',
  mergeDown: 'M8 2v7M5 6.5l3 3 3-3M2.5 13h11',
  group: 'M2 4.5V3h4l1.5 1.5H14v8.5H2z',
  ungroup: 'M2 4.5V3h4l1.5 1.5H14v8.5H2zM6 9h4',
  fit: 'M2.5 6V2.5H6M10 2.5h3.5V6M13.5 10v3.5H10M6 13.5H2.5V10',
  table: 'M2.5 3h11v10h-11zM2.5 6.5h11M2.5 9.8h11M6.5 3v10',
  help: 'M6 6a2 2 0 1 1 2.8 1.8c-.6.3-.8.7-.8 1.4M8 11.8h.01M8 1.8a6.2 6.2 0 1 0 0 12.4A6.2 6.2 0 0 0 8 1.8',
  sun: 'M8 5.3a2.7 2.7 0 1 0 0 5.4 2.7 2.7 0 0 0 0-5.4M8 1.3v1.4M8 13.3v1.4M1.3 8h1.4M13.3 8h1.4M3.3 3.3l1 1M11.7 11.7l1 1M12.7 3.3l-1 1M4.3 11.7l-1 1',
  moon: 'M13 9.5A5.5 5.5 0 0 1 6.5 3a5.5 5.5 0 1 0 6.5 6.5Z',
  auto: 'M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2v12M8 5l4 2M8 8l4.8 1.5M8 11l3.5 1.3',
  alert: 'M8 2 1.5 13.5h13zM8 6.5v3.5M8 11.8h.01',
  info: 'M8 1.8a6.2 6.2 0 1 0 0 12.4A6.2 6.2 0 0 0 8 1.8M8 7v4.2M8 4.8h.01',
  pen: 'M3 13l.7-3L10.5 3.2l2.3 2.3L6 12.3zM9 4.7 11.3 7',
  text: 'M3 4.5V3h10v1.5M8 3v10M6 13h4',
  link: 'M6.5 9.5l3-3M7 4.5l1-1a3 3 0 0 1 4.5 4.5l-1 1M9 11.5l-1 1A3 3 0 0 1 3.5 8l1-1',
}

export type IconName = keyof typeof PATHS

export const Icon = ({ name }: { name: IconName }) => (
  <svg class="icon" viewBox="0 0 16 16" aria-hidden="true">
    <path d={PATHS[name]} />
  </svg>
)

export const Logo = () => (
  <svg class="logo" viewBox="0 0 32 32" aria-hidden="true">
    <path class="filled" d="M16 3 30 10.5 16 18 2 10.5z" />
    <path d="m3 16.5 13 7 13-7M3 22.5l13 7 13-7" />
  </svg>
)
