// A small fixed scenario with the official JavaScript SDK, whose requests are recorded: see `recorder.py`.

import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const { Sandbox, Template } = await import(process.env.E2B_SDK)

/** What may be refused; it is the request that counts. */
const perhaps = (act) => act().catch(() => undefined)

await (await Sandbox.create()).kill()
const box = await Sandbox.create('base', {
  timeoutMs: 120_000,
  metadata: { a: 'b' },
  envs: { C: 'd' },
  allowInternetAccess: false,
  network: { allowOut: ['example.com'], denyOut: ['0.0.0.0/0'] },
  lifecycle: { onTimeout: 'kill' },
})
await box.isRunning()
await box.getInfo()
await box.setTimeout(60_000)
await box.getMetrics()
await Sandbox.list().nextItems()
await Sandbox.list({ query: { metadata: { 'a b': 'c&d=/é' }, state: ['running', 'paused'] }, limit: 5, order: 'asc' }).nextItems()
await Sandbox.connect(box.sandboxId)
await Sandbox.connect(box.sandboxId, { timeoutMs: 100_000 })
await perhaps(() => box.updateNetwork({ allowOut: ['example.org'] }))
await perhaps(() => box.pause())
await perhaps(() => box.connect())

await box.commands.run('true')
await box.commands.run('true', { envs: { E: 'f' }, cwd: '/tmp', user: 'user', timeoutMs: 30_000 })
const cat = await box.commands.run('cat', { background: true, stdin: true, timeoutMs: 0 })
await box.commands.list()
await cat.sendStdin('x\n')
await (await box.commands.connect(cat.pid, { timeoutMs: 30_000 })).disconnect()
await (await box.commands.connect(cat.pid, { timeoutMs: 0 })).disconnect()
await cat.closeStdin()
await cat.wait()
const long = await box.commands.run('sleep 20', { background: true })
await long.kill()
await perhaps(() => long.wait())
const terminal = await box.pty.create({ rows: 24, cols: 80, cwd: '/tmp', user: 'user', envs: { G: 'h' }, onData: () => {} })
await box.pty.resize(terminal.pid, { rows: 30, cols: 90 })
await box.pty.sendInput(terminal.pid, new TextEncoder().encode('exit\n'))
await perhaps(() => terminal.wait())

const fs = box.files
await fs.write('one', 'text')
await fs.write('one', new Blob(['bytes']), { user: 'user', metadata: { k: 'v' } })
await fs.write('one', new Blob(['stream']).stream())
await fs.write('one', 'packed', { gzip: true })
await fs.write('one', 'octets', { useOctetStream: true, user: 'user' })
await fs.writeFiles([{ path: 'two', data: '2' }, { path: 'three', data: '3' }])
await fs.read('one')
await fs.read('one', { format: 'bytes', user: 'user' })
await fs.list('/home/user')
await fs.list('/home/user', { depth: 3, user: 'user' })
await fs.exists('one')
await fs.getInfo('one', { user: 'user' })
await fs.makeDir('folder')
await fs.makeDir('folder/in', { user: 'user' })
await fs.rename('two', 'folder/two')
await fs.rename('folder/two', 'folder/2', { user: 'user' })
await fs.remove('three')
await fs.remove('folder/2', { user: 'user' })
await (await fs.watchDir('folder', () => {}, { recursive: true })).stop()

const context = await mkdtemp(join(tmpdir(), 'golden-'))
// Another content than the other SDK's, or it would be there already and not be sent.
await writeFile(join(context, 'file.txt'), 'from JavaScript')
const template = Template({ fileContextPath: context })
  .fromTemplate('base')
  .copy('file.txt', '/home/user/file.txt', { user: 'user', mode: 0o644 })
  .runCmd('true')
  .runCmd('true', { user: 'user' })
  .setEnvs({ I: 'j' })
  .setWorkdir('/home/user')
  .setUser('user')
  .setStartCmd('sleep 1000', 'true')
await Template.exists(`golden-js-${process.pid}`)
await Template.build(template, `golden-js-${process.pid}`, { cpuCount: 1, memoryMB: 512 })
await rm(context, { recursive: true })
await box.kill()
process.exit(0)
