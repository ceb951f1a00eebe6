// Counts what holds: one line a check, `ok …` or `FAILED …`.

import { isDeepStrictEqual, inspect } from 'node:util'

// A check that hangs ends the program as failed, instead of the whole run's patience.
const PATIENCE = 90_000

const counts = { ok: 0, failed: 0 }
let area = ''

const tell = () => console.log(`javascript: ${counts.ok} ok, ${counts.failed} FAILED`)

function failed(what, text) {
  counts.failed += 1
  console.log(`FAILED ${what}\n       ${text.slice(0, 1500)}`)
}

function said(error) {
  const place = /[^/]*\.mjs:\d+/.exec((error?.stack ?? '').split('\n').filter((line) => !line.includes('checks.mjs') && !line.includes('node_modules')).join('\n'))
  return `${place?.[0] ?? '?'}: ${error?.name}: ${error?.message ?? inspect(error)}`
}

/** One check: its body holds, or it throws. */
export async function check(what, body) {
  const full = `javascript ${area}: ${what}`
  const watchdog = setTimeout(() => {
    failed(full, `not over after ${PATIENCE / 1000} s`)
    tell()
    process.exit(1)
  }, PATIENCE)
  try {
    await body()
    counts.ok += 1
    console.log(`ok     ${full}`)
  } catch (error) {
    failed(full, said(error))
  } finally {
    clearTimeout(watchdog)
  }
}

const shortened = (value) => {
  const text = inspect(value, { depth: 5, maxStringLength: 300 })
  return text.length < 700 ? text : `${text.slice(0, 350)} … ${text.slice(-300)}`
}

export function same(seen, expected) {
  if (!isDeepStrictEqual(seen, expected)) throw new Error(`${shortened(seen)} instead of ${shortened(expected)}`)
}

export function holds(truth, seen = '') {
  if (!truth) throw new Error(`it does not hold: ${shortened(seen)}`)
}

/** What the promise of `act` is rejected with, which must be one of `kinds` and say `text`. */
export async function rejects(kinds, act, text = '') {
  const known = [kinds].flat()
  let answer
  try {
    answer = await act()
  } catch (error) {
    const names = known.map((kind) => kind.name).join(' or ')
    if (!known.some((kind) => error instanceof kind)) throw new Error(`${error?.name} instead of ${names}: ${error?.message}`)
    if (!error.message.includes(text)) throw new Error(`${error.name} does not say '${text}': ${error.message}`)
    return error
  }
  throw new Error(`nothing was thrown, it answered ${shortened(answer)}`)
}

/** Waits until `act` answers something true, and answers that. */
export async function until(what, act, limit = 30_000) {
  const end = Date.now() + limit
  for (;;) {
    const answer = await act()
    if (answer) return answer
    if (Date.now() > end) throw new Error(`${what}: not within ${limit / 1000} s`)
    await new Promise((done) => setTimeout(done, 50))
  }
}

/** Goes through the areas named on the command line, or all, and ends the program. */
export async function run(areas) {
  const names = process.argv.slice(2)
  for (const [name, body] of Object.entries(areas)) {
    if (names.length && !names.includes(name)) continue
    area = name
    const began = Date.now()
    try {
      await body()
    } catch (error) {
      failed(`javascript ${area}: is gone through to its end`, said(error))
    }
    console.log(`       ${area}: ${((Date.now() - began) / 1000).toFixed(1)} s`)
  }
  tell()
  process.exit(counts.failed || !counts.ok ? 1 : 0)
}
