"""A small fixed scenario with the official Python SDK, whose requests are recorded: see `recorder.py`."""

import asyncio
import contextlib
import io
import os
import tempfile

from e2b import AsyncSandbox, CommandExitException, PtySize, Sandbox, SandboxException, SandboxQuery, SandboxState, Template, TimeoutException


def sandboxes():
    Sandbox.create().kill()
    box = Sandbox.create(
        "base",
        timeout=120,
        metadata={"a": "b"},
        envs={"C": "d"},
        allow_internet_access=False,
        network={"allow_out": ["example.com"], "deny_out": ["0.0.0.0/0"]},
        lifecycle={"on_timeout": "kill"},
        idempotency_key=f"golden-{os.getpid()}",
    )
    box.is_running()
    box.get_info()
    box.set_timeout(60)
    box.get_metrics()
    Sandbox.list().next_items()
    Sandbox.list(query=SandboxQuery(metadata={"a b": "c&d=/é"}, state=[SandboxState.RUNNING, SandboxState.PAUSED]), limit=5, order="asc").next_items()
    Sandbox.connect(box.sandbox_id)
    Sandbox.connect(box.sandbox_id, timeout=100)
    for perhaps in (lambda: box.update_network({"allow_out": ["example.org"]}), box.pause, box.connect):
        with contextlib.suppress(SandboxException):
            perhaps()
    return box


def commands(box):
    box.commands.run("true")
    box.commands.run("true", envs={"E": "f"}, cwd="/tmp", user="user", timeout=30)
    with contextlib.suppress(TimeoutException):
        box.commands.run("sleep 20", timeout=1)
    handle = box.commands.run("cat", background=True, stdin=True, timeout=0)
    box.commands.list()
    handle.send_stdin("x\n")
    box.commands.stream_input(handle.pid, ["y\n"])
    box.commands.connect(handle.pid, timeout=30).disconnect()
    box.commands.connect(handle.pid, timeout=0).disconnect()
    handle.close_stdin()
    handle.wait()
    handle = box.commands.run("sleep 20", background=True)
    handle.kill()
    with contextlib.suppress(CommandExitException):
        handle.wait()
    terminal = box.pty.create(size=PtySize(rows=24, cols=80), cwd="/tmp", user="user", envs={"G": "h"})
    box.pty.resize(terminal.pid, PtySize(rows=30, cols=90))
    box.pty.send_stdin(terminal.pid, b"exit\n")
    with contextlib.suppress(CommandExitException):
        terminal.wait()


def files(box):
    fs = box.files
    fs.write("one", "text")
    fs.write("one", b"bytes", user="user", metadata={"k": "v"})
    fs.write("one", io.BytesIO(b"stream"))
    fs.write("one", b"packed", gzip=True)
    fs.write("one", b"octets", use_octet_stream=True, user="user")
    fs.write_files([{"path": "two", "data": "2"}, {"path": "three", "data": b"3"}])
    fs.read("one")
    fs.read("one", format="bytes", user="user")
    b"".join(fs.read("one", format="stream"))
    fs.list("/home/user")
    fs.list("/home/user", depth=3, user="user")
    fs.exists("one")
    fs.get_info("one", user="user")
    fs.make_dir("folder")
    fs.make_dir("folder/in", user="user")
    fs.rename("two", "folder/two")
    fs.rename("folder/two", "folder/2", user="user")
    fs.remove("three")
    fs.remove("folder/2", user="user")
    watcher = fs.watch_dir("folder", recursive=True)
    watcher.get_new_events()
    watcher.stop()


def templates():
    with tempfile.TemporaryDirectory() as context:
        with open(f"{context}/file.txt", "w") as file:
            file.write("text")
        template = (
            Template(file_context_path=context)
            .from_template("base")
            .copy("file.txt", "/home/user/file.txt", user="user", mode=0o644)
            .run_cmd("true")
            .run_cmd("true", user="user")
            .set_envs({"I": "j"})
            .set_workdir("/home/user")
            .set_user("user")
            .set_start_cmd("sleep 1000", "true")
        )
        Template.exists(f"golden-{os.getpid()}")
        Template.build(template, f"golden-{os.getpid()}", cpu_count=1, memory_mb=512)


async def watched(sandbox_id):
    box = await AsyncSandbox.connect(sandbox_id)
    handle = await box.files.watch_dir("folder", on_event=lambda _: None)
    await handle.stop()


if __name__ == "__main__":
    made = sandboxes()
    commands(made)
    files(made)
    asyncio.run(watched(made.sandbox_id))
    templates()
    made.kill()
