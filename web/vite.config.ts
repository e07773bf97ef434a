/** Builds the page into the package, and writes beside it which sources it was built from: see tests/test_page_build.py. */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join, relative, sep } from 'node:path'
import { defineConfig, type Plugin } from 'vite'

const here = import.meta.dirname
const out = join(here, '..', 'src', 'unfuse', 'server', 'page')
const tops = ['index.html', 'package.json', 'package-lock.json', 'tsconfig.json', 'vite.config.ts']

/** SHA-256 over all files, by name: `name NUL length NUL bytes` of each. */
function digest(root: string, names: string[]): string {
  const hash = createHash('sha256')
  for (const name of [...names].sort()) {
    const bytes = readFileSync(join(root, name))
    hash.update(`${name}\0${bytes.length}\0`).update(bytes)
  }
  return hash.digest('hex')
}

const below = (root: string, folder: string): string[] =>
  readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)).split(sep).join('/'))

const stamp: Plugin = {
  name: 'stamp',
  closeBundle() {
    const sources = digest(here, [...tops, ...below(here, 'src')])
    const built = digest(out, below(out, '.').filter((name) => name !== 'build.json'))
    writeFileSync(join(out, 'build.json'), JSON.stringify({ sources, built }, null, 1) + '\n')
  },
}

export default defineConfig({
  base: './',
  plugins: [stamp],
  build: { outDir: out, emptyOutDir: true, target: 'es2022', modulePreload: { polyfill: false }, assetsInlineLimit: 0 },
  server: { proxy: { '/v1': process.env.UNFUSE_SERVER ?? 'http://127.0.0.1:8000' } },
})
