// The official JavaScript SDK against our server: what its users do in normal use.
//
//     node sandboxes.mjs [AREA...]
//
// Needs E2B_API_KEY, E2B_API_URL and E2B_SANDBOX_URL of a server that runs, and E2B_SDK, the file of the SDK. Prints one line a check
// and exits 1 if one failed.

import { randomBytes, randomUUID } from 'node:crypto'
import { mkdtemp, mkdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { check, holds, rejects, run, same, until } from './checks.mjs'

const {
  AuthenticationError,
  BuildError,
  CommandExitError,
  FileNotFoundError,
  FilesystemEventType,
  FileType,
  InvalidArgumentError,
  NotFoundError,
  Sandbox,
  SandboxError,
  SandboxNotFoundError,
  Template,
  TimeoutError,
  waitForFile,
} = await import(process.env.E2B_SDK)

// What no other run of this has.
const MARK = randomUUID().slice(0, 8)
const URL_ = process.env.E2B_SANDBOX_URL
const sleep = (ms) => new Promise((done) => setTimeout(done, ms))

async function listed(query) {
  const pages = Sandbox.list({ query })
  const found = []
  while (pages.hasNext) found.push(...(await pages.nextItems()))
  return found.map((item) => item.sandboxId)
}

async function lifecycle() {
  const metadata = { run: MARK, purpose: 'a & b=c, ü' }
  const box = await Sandbox.create({ timeoutMs: 120_000, metadata, envs: { GREETING: 'hello' } })
  await check('create answers an id, and the sandbox runs', async () => {
    holds(box.sandboxId && (await box.isRunning()))
  })
  await check('what it was created with is told', async () => {
    const info = await box.getInfo()
    same([info.sandboxId, info.metadata, info.state], [box.sandboxId, metadata, 'running'])
    const lasts = info.endAt - info.startedAt
    holds(lasts > 115_000 && lasts < 125_000, lasts)
    holds(info.cpuCount >= 1 && info.memoryMB >= 128 && info.templateId && info.envdVersion, info)
  })
  await check('its variables are in every process', async () => {
    same((await box.commands.run('echo $GREETING')).stdout, 'hello\n')
  })
  await check('a second client connects and sees the same files', async () => {
    await box.files.write('seen.txt', 'by both')
    same(await (await Sandbox.connect(box.sandboxId)).files.read('seen.txt'), 'by both')
  })
  await check('setTimeout counts from now', async () => {
    await box.setTimeout(200_000)
    const left = (await box.getInfo()).endAt - Date.now()
    holds(left > 190_000 && left <= 201_000, left)
  })
  const others = await Promise.all([0, 1, 2, 3].map((n) => Sandbox.create({ timeoutMs: 120_000, metadata: { run: MARK, number: `${n}` } })))
  await check('list finds by metadata, and comes in pages', async () => {
    same((await listed({ metadata: { run: MARK } })).sort(), [box, ...others].map((o) => o.sandboxId).sort())
    same(await listed({ metadata: { run: MARK, number: '2' } }), [others[2].sandboxId])
    same(await listed({ metadata }), [box.sandboxId])
    same(await listed({ metadata: { run: MARK }, state: ['paused'] }), [])
    const pages = Sandbox.list({ query: { metadata: { run: MARK } }, limit: 2 })
    const found = new Set()
    while (pages.hasNext) {
      const page = await pages.nextItems()
      holds(page.length <= 2, page)
      page.forEach((item) => found.add(item.sandboxId))
    }
    same(found.size, 5)
  })
  await Promise.all(others.map((other) => other.kill()))
  await check('metrics are a list', async () => holds(Array.isArray(await box.getMetrics())))
  await check('kill ends it, a second kill finds nothing', async () => {
    same([await box.kill(), await box.kill(), await Sandbox.kill(box.sandboxId)], [true, false, false])
    same(await box.isRunning(), false)
  })
  await check('calls after the kill say that it is gone', async () => {
    for (const act of [() => box.commands.list(), () => box.files.read('x'), () => box.files.write('x', 'y'), () => box.files.list('/tmp')]) {
      await rejects(TimeoutError, act, 'was not found')
    }
    await rejects(SandboxNotFoundError, () => box.commands.run('true'))
    for (const act of [() => box.getInfo(), () => box.setTimeout(10_000), () => Sandbox.connect(box.sandboxId), () => box.pause()]) {
      await rejects(SandboxNotFoundError, act)
    }
  })
  await check('a wrong key is refused', async () => {
    await rejects(AuthenticationError, () => Sandbox.create({ apiKey: 'e2b_wrong' }))
  })
  await check('an unknown template is refused by name', async () => {
    await rejects([SandboxError, NotFoundError], () => Sandbox.create('no-such-template'), 'no-such-template')
  })
  await check('no sandbox of this run is left', async () => same(await listed({ metadata: { run: MARK } }), []))
}

async function commands() {
  const box = await Sandbox.create({ timeoutMs: 300_000, envs: { FROM_SANDBOX: 's', BOTH: 'sandbox' } })
  const sh = (text, opts) => box.commands.run(text, opts)
  await check("a command's output", async () => {
    const result = await sh('echo out; echo err >&2')
    same([result.stdout, result.stderr, result.exitCode, result.error], ['out\n', 'err\n', 0, undefined])
  })
  await check('exit 3 is thrown with both outputs', async () => {
    const error = await rejects(CommandExitError, () => sh('echo o; echo e >&2; exit 3'))
    same([error.exitCode, error.stdout, error.stderr], [3, 'o\n', 'e\n'])
  })
  await check('a command that a signal ends', async () => {
    const error = await rejects(CommandExitError, () => sh('kill -9 $$'))
    same(error.exitCode, -1)
  })
  await check('the user, its home, variables and directories', async () => {
    same((await sh('echo "$(id -un) $USER $HOME $PWD"')).stdout, 'user user /home/user /home/user\n')
    same((await sh('id -un', { user: 'user' })).stdout, 'user\n')
    same((await sh('echo $FROM_SANDBOX $BOTH $MINE', { envs: { BOTH: 'command', MINE: 'm' } })).stdout, 's command m\n')
    same((await sh('pwd', { cwd: '/tmp' })).stdout, '/tmp\n')
  })
  await check("a missing working directory is the caller's mistake", async () => {
    await rejects(InvalidArgumentError, () => sh('true', { cwd: '/no/such/place' }))
  })
  await check('a hundred thousand lines, in order', async () => {
    const expected = Array.from({ length: 100_000 }, (_, n) => `${n + 1}\n`).join('')
    same((await sh('seq 100000')).stdout === expected, true)
  })
  await check('bytes that are no UTF-8, and a character in two pieces', async () => {
    same((await sh("printf '\\xff\\xfea\\x00b\\n'")).stdout, '\ufffd\ufffda\x00b\n')
    same((await sh("printf '\\xc3'; sleep 0.3; printf '\\xa9\\n'")).stdout, 'é\n')
  })
  await check('callbacks get output as it comes, in order', async () => {
    const seen = []
    const onStdout = async (text) => {
      seen.push(text)
      // Without it the command would not go on: so this came before its end.
      if (text.includes('ready')) await box.files.write('go', '')
    }
    const result = await sh('echo ready; until [ -e go ]; do sleep 0.05; done; echo one; sleep 0.1; echo two', { onStdout })
    same([seen.join(''), result.stdout], ['ready\none\ntwo\n', 'ready\none\ntwo\n'])
  })
  await check('in the background: waited for, listed, killed once', async () => {
    const late = await sh('sleep 0.3; echo late; exit 4', { background: true })
    const error = await rejects(CommandExitError, () => late.wait())
    same([error.exitCode, error.stdout], [4, 'late\n'])
    const long = await sh('sleep 77', { background: true, cwd: '/tmp', envs: { LISTED: 'yes' } })
    const mine = (await box.commands.list()).filter((p) => p.pid === long.pid)
    same(mine.map((p) => [p.cmd, p.args, p.envs.LISTED, p.cwd]), [['/bin/bash', ['-l', '-c', 'sleep 77'], 'yes', '/tmp']])
    same(await long.kill(), true)
    same((await rejects(CommandExitError, () => long.wait())).exitCode, -1)
    same([await long.kill(), await box.commands.kill(long.pid)], [false, false])
  })
  await check('standard input, then its end', async () => {
    const handle = await sh('cat; echo over', { background: true, stdin: true })
    await handle.sendStdin('one\n')
    await box.commands.sendStdin(handle.pid, new TextEncoder().encode('two é\n'))
    await handle.closeStdin()
    same((await handle.wait()).stdout, 'one\ntwo é\nover\n')
  })
  await check('a second client follows a process that runs', async () => {
    const handle = await sh('until [ -e now ]; do sleep 0.05; done; echo heard; exit 5', { background: true })
    const follower = await (await Sandbox.connect(box.sandboxId)).commands.connect(handle.pid)
    await box.files.write('now', '')
    for (const one of [handle, follower]) {
      const error = await rejects(CommandExitError, () => one.wait())
      same([error.exitCode, error.stdout], [5, 'heard\n'])
    }
  })
  await check("a process outlives its client's disconnect", async () => {
    const handle = await sh('until [ -e later ]; do sleep 0.05; done; echo alive > proof', { background: true })
    await handle.disconnect()
    await sleep(500)
    same((await box.commands.list()).map((p) => p.pid), [handle.pid])
    await box.files.write('later', '')
    await until('the proof', () => box.files.exists('proof'))
  })
  await check('the time limit ends a command', async () => {
    await rejects(TimeoutError, () => sh('sleep 301', { timeoutMs: 1_000 }))
    await until('the end of the process', async () => !(await box.commands.list()).length, 20_000)
    same((await sh('echo still usable')).stdout, 'still usable\n')
  })
  await check('what is not there', async () => {
    await rejects(NotFoundError, () => box.commands.connect(987654))
    await rejects(NotFoundError, () => box.commands.sendStdin(987654, 'x'))
    same(await box.commands.kill(987654), false)
  })
  await check('twenty at once', async () => {
    const results = await Promise.all(Array.from({ length: 20 }, (_, n) => sh(`sleep 0.1; echo ${n}`)))
    same(results.map((r) => r.stdout), Array.from({ length: 20 }, (_, n) => `${n}\n`))
  })
  await check('a killed sandbox ends a command that is waited for', async () => {
    let up
    const started = new Promise((done) => (up = done))
    const handle = await sh('echo up; sleep 88', { background: true, onStdout: () => up() })
    await started
    await box.kill()
    await rejects(TimeoutError, () => handle.wait())
  })
}

async function terminals() {
  const box = await Sandbox.create({ timeoutMs: 120_000 })
  let seen = ''
  const opened = { cols: 80, rows: 24, cwd: '/tmp', envs: { PS1: '$ ', OWN: 'mine' }, onData: (data) => void (seen += new TextDecoder().decode(data)) }
  const handle = await box.pty.create(opened)
  const type = (text) => box.pty.sendInput(handle.pid, new TextEncoder().encode(text))
  await check('a terminal has its size, and is resized', async () => {
    await type('stty size\n')
    await until('24 80', () => seen.includes('24 80'))
    await box.pty.resize(handle.pid, { cols: 100, rows: 40 })
    await type('stty size\n')
    await until('40 100', () => seen.includes('40 100'))
  })
  await check("a terminal's variables and directory", async () => {
    await type('echo "<$TERM $OWN $PWD>"\n')
    await until('the line', () => seen.includes('<xterm-256color mine /tmp>'))
  })
  await check("a terminal's shell ends with its code, another is killed once", async () => {
    await type('exit 6\n')
    same((await rejects(CommandExitError, () => handle.wait())).exitCode, 6)
    const other = await box.pty.create({ cols: 20, rows: 10, onData: () => {} })
    same(await box.pty.kill(other.pid), true)
    await rejects(CommandExitError, () => other.wait())
    same(await box.pty.kill(other.pid), false)
  })
  await box.kill()
}

async function files() {
  const box = await Sandbox.create({ timeoutMs: 300_000 })
  const fs = box.files
  await check('text goes in and comes out', async () => {
    const info = await fs.write('note.txt', 'grüße\nzwei\n')
    same([info.name, info.path, info.type], ['note.txt', '/home/user/note.txt', FileType.FILE])
    same(await fs.read('note.txt'), 'grüße\nzwei\n')
  })
  await check('bytes, as array, blob and stream', async () => {
    const data = Buffer.concat(Array(12).fill(randomBytes(1 << 20)))
    const exact = data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength)
    await fs.write('array.bin', exact)
    same(Buffer.compare(Buffer.from(await fs.read('array.bin', { format: 'bytes' })), data), 0)
    await fs.write('blob.bin', new Blob([exact]))
    same((await fs.read('blob.bin', { format: 'blob' })).size, data.length)
    await fs.write('stream.bin', new Blob([exact]).stream())
    const pieces = []
    for await (const piece of await fs.read('stream.bin', { format: 'stream' })) pieces.push(piece)
    same(Buffer.compare(Buffer.concat(pieces), data), 0)
  })
  await check('compressed both ways, and as octets', async () => {
    await fs.write('packed.txt', 'again '.repeat(10_000), { gzip: true })
    same(await fs.read('packed.txt', { gzip: true }), 'again '.repeat(10_000))
    await fs.write('octets.txt', 'plain', { useOctetStream: true })
    same(await fs.read('octets.txt'), 'plain')
  })
  await check('many files in one call, folders on the way are made', async () => {
    const wrote = await fs.writeFiles(Array.from({ length: 60 }, (_, n) => ({ path: `many/in/${n}.txt`, data: `file ${n}` })))
    same(wrote.map((w) => w.path), Array.from({ length: 60 }, (_, n) => `/home/user/many/in/${n}.txt`))
    same((await box.commands.run('cat many/in/*.txt | wc -c')).stdout.trim(), '410')
  })
  await check('names with every sort of character', async () => {
    const names = ['with space', 'quote\'"', 'ünïcode ☃', '%41 + & = ?#', '-dash']
    for (const name of names) {
      await fs.write(`odd/${name}`, name)
      same(await fs.read(`odd/${name}`), name)
    }
    same((await fs.list('odd')).map((e) => e.name).sort(), [...names].sort())
  })
  await check('list, one level and more; exists', async () => {
    await fs.write('a/b/c/deep.txt', 'down')
    same((await fs.list('a')).map((e) => [e.name, e.type]), [['b', FileType.DIR]])
    same((await fs.list('a', { depth: 9 })).map((e) => e.path).sort(), ['/home/user/a/b', '/home/user/a/b/c', '/home/user/a/b/c/deep.txt'])
    same([await fs.exists('a'), await fs.exists('nothing')], [true, false])
  })
  await check('what is told of a file and of a link', async () => {
    await fs.write('told', '12345')
    await box.commands.run('chmod 640 told; ln -s told link')
    const info = await fs.getInfo('told')
    same([info.name, info.path, info.type, info.size, info.owner, info.group, info.mode & 0o777], ['told', '/home/user/told', FileType.FILE, 5, 'user', 'user', 0o640])
    holds(info.permissions.endsWith('rw-r-----'), info.permissions)
    holds(Math.abs(info.modifiedTime - Date.now()) < 120_000, info.modifiedTime)
    holds((await fs.getInfo('link')).symlinkTarget.endsWith('told'))
  })
  await check('makeDir and again, rename, remove', async () => {
    same([await fs.makeDir('made/deep'), await fs.makeDir('made/deep')], [true, false])
    const info = await fs.rename('told', 'made/new')
    same([info.path, await fs.exists('told')], ['/home/user/made/new', false])
    await fs.remove('made')
    same(await fs.exists('made'), false)
  })
  await check('what is not there, what is a folder', async () => {
    for (const act of [() => fs.read('nothing'), () => fs.list('nothing'), () => fs.getInfo('nothing'), () => fs.rename('nothing', 'x')]) {
      await rejects(FileNotFoundError, act)
    }
    await rejects(InvalidArgumentError, () => fs.read('a'))
    await rejects(InvalidArgumentError, () => fs.list('note.txt'))
  })
  await check('metadata of a file', async () => {
    await fs.write('tagged', 'x', { metadata: { author: 'me' } })
    same((await fs.getInfo('tagged')).metadata, { author: 'me' })
  })
  await check('a watched folder tells over a stream', async () => {
    await fs.makeDir('watched')
    const events = []
    const watch = await fs.watchDir('watched', (event) => void events.push(`${event.type} ${event.name}`))
    await fs.write('watched/new.txt', 'x')
    await until('the events', () => events.includes(`${FilesystemEventType.CREATE} new.txt`) && events.includes(`${FilesystemEventType.WRITE} new.txt`))
    await fs.remove('watched/new.txt')
    await until('the last event', () => events.includes(`${FilesystemEventType.REMOVE} new.txt`))
    await watch.stop()
    await rejects(FileNotFoundError, () => fs.watchDir('nowhere', () => {}))
  })
  await check('signed addresses read and write; bent and expired ones do not', async () => {
    const address = await box.downloadUrl('note.txt', { useSignatureExpiration: 60_000 })
    same(await (await fetch(address)).text(), 'grüße\nzwei\n')
    const form = new FormData()
    form.append('file', new Blob(['from outside']), 'given.txt')
    same((await fetch(await box.uploadUrl('given.txt'), { method: 'POST', body: form })).status, 200)
    same(await fs.read('given.txt'), 'from outside')
    const bent = new URL(address)
    bent.searchParams.set('path', 'given.txt')
    same((await fetch(bent)).status, 401)
    bent.searchParams.delete('signature')
    same((await fetch(bent)).status, 401)
    same((await fetch(await box.downloadUrl('note.txt', { useSignatureExpiration: -10_000 }))).status, 401)
  })
  await box.kill()
}

async function pausing() {
  const box = await Sandbox.create({ timeoutMs: 300_000, metadata: { pausing: MARK } })
  await check('pause and connect: processes and files go on', async () => {
    const counter = await box.commands.run('for i in $(seq 1 1000000); do echo $i > count; sleep 0.05; done', { background: true })
    const count = async (of) => Number((await of.files.read('count')).trim() || 0)
    await until('the count', async () => (await box.files.exists('count')) && (await count(box)) > 2)
    same([await box.pause(), await box.pause()], [true, false])
    same(await listed({ metadata: { pausing: MARK }, state: ['paused'] }), [box.sandboxId])
    same(await box.isRunning(), false)
    const again = await Sandbox.connect(box.sandboxId, { timeoutMs: 200_000 })
    holds((await again.commands.list()).some((p) => p.pid === counter.pid))
    const first = await count(again)
    await until('the count going on', async () => (await count(again)) > first)
    same([await again.kill(), await again.kill()], [true, false])
  })
  await check('a sandbox is gone when its time is over', async () => {
    const short = await Sandbox.create({ timeoutMs: 2_000 })
    const handle = await short.commands.run('sleep 600', { background: true })
    await until('the end', async () => !(await short.isRunning()))
    await rejects(TimeoutError, () => handle.wait())
    await rejects(SandboxNotFoundError, () => short.getInfo())
  })
}

async function templates() {
  const context = await mkdtemp(join(tmpdir(), 'conformance-'))
  const name = `conformance-js-${MARK}`
  await mkdir(join(context, 'app', 'sub'), { recursive: true })
  await writeFile(join(context, 'app', 'main.txt'), 'the app\n')
  await writeFile(join(context, 'app', 'sub', 'data.txt'), 'data')
  const logs = []
  let built
  await check('a template is built, and its log is told', async () => {
    const recipe = Template({ fileContextPath: context })
      .fromTemplate('base')
      .copy('app', '/home/user/app')
      .setWorkdir('/home/user/app')
      .setEnvs({ FLAVOUR: 'sour' })
      .runCmd('echo said while building; echo $FLAVOUR > flavour.txt')
      .setStartCmd('touch /tmp/started; exec sleep 1000', waitForFile('/tmp/started'))
    built = await Template.build(recipe, name, { cpuCount: 1, memoryMB: 512, onBuildLogs: (entry) => void logs.push(entry.message) })
    holds(logs.some((line) => line.includes('said while building')), logs)
    same([await Template.exists(name), await Template.exists(`${name}-not`)], [true, false])
  })
  await check('sandboxes begin with what was built', async () => {
    for (const reference of [name, built.templateId]) {
      const box = await Sandbox.create(reference, { timeoutMs: 120_000 })
      same((await box.commands.run('cat main.txt flavour.txt sub/data.txt; echo $FLAVOUR')).stdout, 'the app\nsour\ndatasour\n')
      await until('the start command', async () => (await box.commands.run('test -e /tmp/started && pgrep -f "sleep 1000" || true')).stdout)
      await box.kill()
    }
  })
  await check('a build that fails says so, with its output', async () => {
    const said = []
    const bad = Template().fromTemplate('base').runCmd('echo before the end; exit 7')
    await rejects(BuildError, () => Template.build(bad, `${name}-fails`, { onBuildLogs: (entry) => void said.push(entry.message) }))
    holds(said.some((line) => line.includes('before the end')), said)
    await rejects([SandboxError, NotFoundError], () => Sandbox.create(`${name}-fails`))
  })
  await rm(context, { recursive: true })
}

await run({ lifecycle, commands, terminals, files, pausing, templates })
