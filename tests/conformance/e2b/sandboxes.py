"""The official Python SDK against our server: what its users do in normal use.

    sandboxes.py [AREA...]

Needs E2B_API_KEY, E2B_API_URL and E2B_SANDBOX_URL of a server that runs. Prints one line a check and exits 1 if one failed.
"""

import asyncio
import concurrent.futures
import datetime
import http.client
import io
import os
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

from checks import Checks, holds, raises, same, until, wanted
from e2b import (
    AsyncSandbox,
    AsyncTemplate,
    AuthenticationException,
    BuildException,
    CommandExitException,
    FileNotFoundException,
    FileType,
    FilesystemEventType,
    InvalidArgumentException,
    NotFoundException,
    PtySize,
    Sandbox,
    SandboxException,
    SandboxNotFoundException,
    SandboxQuery,
    SandboxState,
    Template,
    TimeoutException,
    wait_for_file,
)

check = Checks("python")
URL = os.environ["E2B_SANDBOX_URL"]
# What no other run of this has.
MARK = uuid.uuid4().hex[:10]


def listed(**query):
    pages = Sandbox.list(query=SandboxQuery(**query))
    found = []
    while pages.has_next:
        found += pages.next_items()
    return found


def plain(method, url, headers=None, body=None):
    """Without the SDK: status and body."""
    request = urllib.request.Request(url, data=body, method=method, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def lifecycle():
    metadata = {"run": MARK, "purpose": "a & b=c, ü"}
    box = Sandbox.create(timeout=120, metadata=metadata, envs={"GREETING": "hello"})
    with check("create answers an id, and the sandbox runs"):
        holds(box.sandbox_id and box.is_running())
    with check("what it was created with is told"):
        info = box.get_info()
        same((info.sandbox_id, info.metadata, info.state), (box.sandbox_id, metadata, SandboxState.RUNNING))
        lasts = (info.end_at - info.started_at).total_seconds()
        holds(115 <= lasts <= 125, lasts)
        holds(info.cpu_count >= 1 and info.memory_mb >= 128 and info.template_id and info.envd_version, info)
    with check("its variables are in every process"):
        same(box.commands.run("echo $GREETING").stdout, "hello\n")
    with check("a second client connects and sees the same files"):
        box.files.write("seen.txt", "by both")
        same(Sandbox.connect(box.sandbox_id).files.read("seen.txt"), "by both")
    with check("connect extends the lifetime and never shortens it"):
        before = box.get_info().end_at
        Sandbox.connect(box.sandbox_id, timeout=10)
        holds(box.get_info().end_at >= before)
        Sandbox.connect(box.sandbox_id, timeout=600)
        holds((box.get_info().end_at - before).total_seconds() > 300)
    with check("set_timeout counts from now, also to less"):
        box.set_timeout(200)
        left = (box.get_info().end_at - datetime.datetime.now(datetime.timezone.utc)).total_seconds()
        holds(190 <= left <= 201, left)
    others = [Sandbox.create(timeout=120, metadata={"run": MARK, "number": str(n)}) for n in range(4)]
    with check("list finds by metadata"):
        same({item.sandbox_id for item in listed(metadata={"run": MARK})}, {box.sandbox_id, *(o.sandbox_id for o in others)})
        same([item.sandbox_id for item in listed(metadata={"run": MARK, "number": "2"})], [others[2].sandbox_id])
        same([item.sandbox_id for item in listed(metadata=metadata)], [box.sandbox_id])
        same(listed(metadata={"run": MARK, "number": "no such"}), [])
    with check("list comes in pages"):
        pages, found = Sandbox.list(query=SandboxQuery(metadata={"run": MARK}), limit=2), []
        while pages.has_next:
            page = pages.next_items()
            holds(len(page) <= 2, page)
            found += [item.sandbox_id for item in page]
        same((len(found), len(set(found))), (5, 5))
    with check("list is ordered by start"):
        orders = {}
        for order in ("asc", "desc"):
            pages = Sandbox.list(query=SandboxQuery(metadata={"run": MARK}), order=order)
            orders[order] = [item.sandbox_id for item in pages.next_items()]
        same(orders["asc"], list(reversed(orders["desc"])))
        same(orders["asc"][0], box.sandbox_id)
    with check("list filters by state"):
        same(len(listed(metadata={"run": MARK}, state=[SandboxState.RUNNING])), 5)
        same(listed(metadata={"run": MARK}, state=[SandboxState.PAUSED]), [])
    for other in others:
        other.kill()
    with check("metrics are a list"):
        holds(isinstance(box.get_metrics(), list))
    with check("one idempotency key makes one sandbox"):
        key = f"key-{MARK}"
        first = Sandbox.create(timeout=60, metadata={"run": MARK}, idempotency_key=key)
        second = Sandbox.create(timeout=60, metadata={"run": MARK}, idempotency_key=key)
        same(second.sandbox_id, first.sandbox_id)
        same(second.commands.run("echo usable").stdout, "usable\n")
        first.kill()
    with check("kill ends it, a second kill finds nothing"):
        same((box.kill(), box.kill(), Sandbox.kill(box.sandbox_id)), (True, False, False))
        same(box.is_running(), False)
    with check("calls after the kill say that it is gone"):
        for act in (
            lambda: box.commands.run("true"),
            lambda: box.commands.list(),
            lambda: box.files.read("x"),
            lambda: box.files.write("x", "y"),
            lambda: box.files.list("/tmp"),
        ):
            raises(TimeoutException, act, "was not found")
        for act in (box.get_info, lambda: box.set_timeout(10), lambda: Sandbox.connect(box.sandbox_id), box.pause):
            raises(SandboxNotFoundException, act)
    with check("no sandbox of this run is left"):
        same(listed(metadata={"run": MARK}), [])


def letting_in():
    with check("a wrong key is refused"):
        raises(AuthenticationException, lambda: Sandbox.create(api_key="e2b_wrong"))
        raises(AuthenticationException, lambda: Sandbox.list(api_key="e2b_wrong").next_items())
    box = Sandbox.create(timeout=60)
    with check("a sandbox's calls need its token, and no other sandbox's"):
        with Sandbox.create(timeout=60) as other:
            mine, theirs = box._envd_access_token, other._envd_access_token
            holds(mine and theirs and mine != theirs)
            head = {"E2b-Sandbox-Id": box.sandbox_id, "E2b-Sandbox-Port": "49983"}
            listing = f"{URL}/files?path=/etc/hostname"
            for token in ({}, {"X-Access-Token": ""}, {"X-Access-Token": theirs}, {"X-Access-Token": mine[:-1]}):
                status, _ = plain("GET", listing, head | token)
                same(status, 401)
                rpc = head | token | {"content-type": "application/json"}
                same(plain("POST", f"{URL}/process.Process/List", rpc, b"{}")[0], 401)
            rpc = head | {"X-Access-Token": mine, "content-type": "application/json"}
            same(plain("POST", f"{URL}/process.Process/List", rpc, b"{}")[0], 200)
    with check("the API key alone does not open a sandbox"):
        head = {"E2b-Sandbox-Id": box.sandbox_id, "X-API-Key": os.environ["E2B_API_KEY"]}
        same(plain("GET", f"{URL}/files?path=/etc/hostname", head)[0], 401)
    with check("a token does not open the control plane"):
        status, _ = plain("GET", f"{URL}/v2/sandboxes", {"X-Access-Token": box._envd_access_token, "X-API-Key": box._envd_access_token})
        same(status, 401)
    with check("an unknown template is refused by name"):
        error = raises((SandboxException, NotFoundException), lambda: Sandbox.create("no-such-template"))
        holds("no-such-template" in str(error), error)
    with check("a sandbox that never was is gone"):
        raises(SandboxNotFoundException, lambda: Sandbox.connect("inone0000"))
        same(Sandbox.kill("inone0000"), False)
        same(plain("GET", f"{URL}/health", {"E2b-Sandbox-Id": "inone0000"})[0], 502)
    with check("a body that is no JSON is the caller's mistake"):
        head = {"X-API-Key": os.environ["E2B_API_KEY"], "content-type": "application/json"}
        status, body = plain("POST", f"{URL}/v2/sandboxes", head, b"{nonsense")
        same((status, b'"message"' in body), (400, True))
    box.kill()


def commands():
    box = Sandbox.create(timeout=300, envs={"FROM_SANDBOX": "s", "BOTH": "sandbox"})
    run = box.commands.run
    with check("a command's output"):
        result = run("echo out; echo err >&2")
        same((result.stdout, result.stderr, result.exit_code, result.error), ("out\n", "err\n", 0, None))
    with check("exit 3 is thrown with both outputs"):
        error = raises(CommandExitException, lambda: run("echo o; echo e >&2; exit 3"))
        same((error.exit_code, error.stdout, error.stderr), (3, "o\n", "e\n"))
    with check("a command that is not there exits with 127"):
        same(raises(CommandExitException, lambda: run("no-such-command-at-all")).exit_code, 127)
    with check("a command that a signal ends"):
        error = raises(CommandExitException, lambda: run("kill -9 $$"))
        same((error.exit_code, "killed" in (error.error or "")), (-1, True))
    with check("the user, its home and its variables"):
        seen = run('echo "$(id -un) $USER $LOGNAME $HOME $PWD"; test -w $HOME && test -n "$PATH"').stdout
        same(seen, "user user user /home/user /home/user\n")
    with check("user=user is that user"):
        same(run("id -un", user="user").stdout, "user\n")
    with check("an unknown user is refused"):
        raises((AuthenticationException, SandboxException), lambda: run("id -un", user="nobody-knows"))
    with check("variables: the command's over the sandbox's"):
        same(run("echo $FROM_SANDBOX $BOTH $MINE", envs={"BOTH": "command", "MINE": "m"}).stdout, "s command m\n")
    with check("a variable keeps every character"):
        odd = "a b\n\t'\"$HOME`x`\\ é ☃ ="
        same(run('printf %s "$ODD"', envs={"ODD": odd}).stdout, odd)
    with check("a working directory"):
        run("mkdir -p deep/down")
        same(run("pwd", cwd="/tmp").stdout, "/tmp\n")
        same(run("pwd", cwd="/home/user/deep").stdout, "/home/user/deep\n")
        same(run("pwd", cwd="deep/down").stdout, "/home/user/deep/down\n")
    with check("a missing working directory is the caller's mistake"):
        raises(InvalidArgumentException, lambda: run("true", cwd="/no/such/place"))
    with check("no standard input is its end"):
        same(run("cat; echo over").stdout, "over\n")
    with check("shell syntax: pipes, quotes, here documents, many lines"):
        script = "set -e\nx='a b'\ncat <<END | tr a-z A-Z\n$x\nEND\nfor i in 1 2; do echo $i; done"
        same(run(script).stdout, "A B\n1\n2\n")
    with check("a hundred thousand lines, in order"):
        same(run("seq 100000").stdout, "".join(f"{n}\n" for n in range(1, 100001)))
    with check("both outputs large at once"):
        result = run("(seq 30000 >&2) & seq 30000; wait")
        same((result.stdout == result.stderr, len(result.stdout)), (True, 168894))
    with check("bytes that are no UTF-8 arrive as replacement characters"):
        same(run(r"printf '\xff\xfea\x00b\n'").stdout, "\ufffd\ufffda\x00b\n")
    with check("a character that comes in two pieces is one"):
        same(run(r"printf '\xc3'; sleep 0.3; printf '\xa9\n'").stdout, "é\n")
    with check("a megabyte without a line break"):
        result = run("head -c 1000000 /dev/zero | tr '\\0' x")
        same((len(result.stdout), set(result.stdout)), (1000000, {"x"}))
    with check("a process left behind does not hold the command's end"):
        pid = run("sleep 300 >/dev/null 2>&1 & echo $!").stdout.strip()
        run(f"kill {pid}")
    with check("the time limit ends a command, and what it started"):
        raises(TimeoutException, lambda: run("sleep 301 & sleep 302", timeout=1))
        until("the end of the process", lambda: not box.commands.list(), 20)
        seen = until("the end of its children", lambda: "none" in run("pgrep -f 'sleep 30[12]' || echo none", timeout=20).stdout, 20)
        holds(seen)
        same(run("echo still usable").stdout, "still usable\n")
    with check("without a limit a command may run"):
        same(run("sleep 1; echo done", timeout=0).stdout, "done\n")
    with check("ten at once"):
        with concurrent.futures.ThreadPoolExecutor(10) as pool:
            outs = list(pool.map(lambda n: run(f"sleep 0.2; echo {n}").stdout, range(10)))
        same(outs, [f"{n}\n" for n in range(10)])
    box.kill()


def background():
    box = Sandbox.create(timeout=300)
    run = box.commands.run
    with check("callbacks get output as it comes, in order"):
        seen = []

        def on_stdout(text):
            seen.append(text)
            if "ready" in text:
                box.files.write("go", "")  # Without it the command would not go on: so this came before its end.

        result = run("echo ready; until [ -e go ]; do sleep 0.05; done; echo one; sleep 0.1; echo two", on_stdout=on_stdout)
        same(("".join(seen), result.stdout), ("ready\none\ntwo\n",) * 2)
    with check("callbacks for both outputs"):
        out, err = [], []
        run("echo a; sleep 0.1; echo b >&2; sleep 0.1; echo c", on_stdout=out.append, on_stderr=err.append)
        same(("".join(out), "".join(err)), ("a\nc\n", "b\n"))
    with check("in the background, waited for"):
        handle = run("sleep 0.3; echo late; exit 4", background=True)
        holds(handle.pid > 0)
        error = raises(CommandExitException, handle.wait)
        same((error.exit_code, error.stdout), (4, "late\n"))
    with check("list tells what runs"):
        handle = run("sleep 77", background=True, envs={"LISTED": "yes"}, cwd="/tmp")
        mine = [p for p in box.commands.list() if p.pid == handle.pid]
        same([(p.cmd, p.args, p.envs.get("LISTED"), p.cwd) for p in mine], [("/bin/bash", ["-l", "-c", "sleep 77"], "yes", "/tmp")])
    with check("kill ends it; a second kill finds nothing"):
        same((handle.kill(), raises(CommandExitException, handle.wait).exit_code), (True, -1))
        same((handle.kill(), box.commands.kill(handle.pid)), (False, False))
        same([p for p in box.commands.list() if p.pid == handle.pid], [])
    with check("a process that ignores every signal is killed"):
        handle = run("trap '' TERM INT HUP; echo up; while :; do sleep 1; done", background=True)
        next(iter(handle))
        same(handle.kill(), True)
        raises(CommandExitException, handle.wait)
    with check("standard input, then its end"):
        handle = run("cat; echo over", background=True, stdin=True)
        handle.send_stdin("one\n")
        box.commands.send_stdin(handle.pid, b"two \xc3\xa9\n")
        handle.close_stdin()
        same(handle.wait().stdout, "one\ntwo é\nover\n")
    with check("a megabyte of standard input"):
        handle = run("wc -c; cat >/dev/null", background=True, stdin=True)
        for _ in range(16):
            handle.send_stdin("x" * 65536)
        handle.close_stdin()
        same(handle.wait().stdout.strip(), str(16 * 65536))
    with check("streamed standard input"):
        handle = run("head -n 3", background=True, stdin=True)
        box.commands.stream_input(handle.pid, ["a\n", b"b\n", "c\n"])
        same(handle.wait().stdout, "a\nb\nc\n")
    with check("input to a process that is not there"):
        raises(NotFoundException, lambda: box.commands.send_stdin(987654, "x"))
        raises(NotFoundException, lambda: box.commands.connect(987654))
        same(box.commands.kill(987654), False)
    with check("a second client follows a process that runs"):
        handle = run("until [ -e now ]; do sleep 0.05; done; echo heard; exit 5", background=True)
        follower = Sandbox.connect(box.sandbox_id).commands.connect(handle.pid)
        same(follower.pid, handle.pid)
        box.files.write("now", "")
        for one in (handle, follower):
            error = raises(CommandExitException, one.wait)
            same((error.exit_code, error.stdout), (5, "heard\n"))
    with check("a process outlives its client's disconnect"):
        handle = run("until [ -e later ]; do sleep 0.05; done; echo alive > proof", background=True)
        handle.disconnect()
        time.sleep(0.5)
        same([p.pid for p in box.commands.list()], [handle.pid])
        box.files.write("later", "")
        until("the proof", lambda: box.files.exists("proof"))
        until("its end", lambda: not box.commands.list())
    with check("a killed sandbox ends a command that is waited for"):
        handle = run("echo up; sleep 88", background=True)
        next(iter(handle))
        box.kill()
        raises(TimeoutException, handle.wait)


def terminals():
    box = Sandbox.create(timeout=120, envs={"IN_SANDBOX": "yes"})

    def until_seen(handle, text):
        seen = b""
        for _, _, data in handle:
            seen += data or b""
            if text in seen:
                return seen
        raise AssertionError(f"{text!r} never came: {seen!r}")

    handle = box.pty.create(size=PtySize(rows=24, cols=80), envs={"PS1": "$ ", "OWN": "mine"}, cwd="/tmp")
    with check("a terminal has its size"):
        box.pty.send_stdin(handle.pid, b"stty size\n")
        until_seen(handle, b"24 80")
    with check("a terminal is resized"):
        box.pty.resize(handle.pid, PtySize(rows=40, cols=100))
        box.pty.send_stdin(handle.pid, b"stty size\n")
        until_seen(handle, b"40 100")
    with check("a terminal's variables, directory and kind"):
        box.pty.send_stdin(handle.pid, b'echo "<$TERM $OWN $IN_SANDBOX $PWD>"; test -t 0 && echo term$((1))\n')
        seen = until_seen(handle, b"term1")
        holds(b"<xterm-256color mine yes /tmp>" in seen, seen)
    with check("control-C reaches what runs in it"):
        box.pty.send_stdin(handle.pid, b"sleep 99; echo code $?\n")
        time.sleep(0.5)
        box.pty.send_stdin(handle.pid, b"\x03")
        box.pty.send_stdin(handle.pid, b"echo after $((40+2))\n")
        until_seen(handle, b"after 42")
    with check("a terminal's shell ends with its code"):
        box.pty.send_stdin(handle.pid, b"exit 6\n")
        same(raises(CommandExitException, handle.wait).exit_code, 6)
    with check("a terminal is killed once"):
        handle = box.pty.create(size=PtySize(rows=10, cols=20))
        same(box.pty.kill(handle.pid), True)
        raises(CommandExitException, handle.wait)
        same(box.pty.kill(handle.pid), False)
    with check("a terminal that is not there"):
        raises(NotFoundException, lambda: box.pty.resize(987654, PtySize(rows=1, cols=1)))
        raises(NotFoundException, lambda: box.pty.send_stdin(987654, b"x"))
    with check("a second client joins a terminal"):
        handle = box.pty.create(size=PtySize(rows=24, cols=80))
        joined = Sandbox.connect(box.sandbox_id).pty.connect(handle.pid)
        box.pty.send_stdin(handle.pid, b"echo $((1200+34))\n")
        until_seen(joined, b"1234")
        handle.kill()
    box.kill()


def files():
    box = Sandbox.create(timeout=300)
    fs = box.files
    with check("text goes in and comes out"):
        info = fs.write("note.txt", "grüße\nzwei\n")
        same((info.name, info.path, info.type), ("note.txt", "/home/user/note.txt", FileType.FILE))
        same((fs.read("note.txt"), fs.read("/home/user/note.txt")), ("grüße\nzwei\n",) * 2)
    every = bytes(range(256)) * 400
    with check("bytes go in and come out"):
        fs.write("every.bin", every)
        same(bytes(fs.read("every.bin", format="bytes")), every)
    with check("writing replaces, and shortens"):
        fs.write("every.bin", b"short")
        same(fs.read("every.bin"), "short")
    with check("an empty file"):
        fs.write("empty", "")
        same((fs.read("empty"), fs.get_info("empty").size), ("", 0))
    with check("a stream goes in and comes out"):
        large = os.urandom(1 << 20) * 24
        fs.write("large.bin", io.BytesIO(large))
        same(b"".join(fs.read("large.bin", format="stream")) == large, True)
        same(box.commands.run("wc -c < large.bin").stdout.strip(), str(len(large)))
    with check("an iterator of pieces goes in"):
        fs.write("pieces", (b"%d\n" % n for n in range(1000)))
        same(fs.read("pieces"), "".join(f"{n}\n" for n in range(1000)))
    with check("compressed both ways"):
        fs.write("packed.txt", "again " * 10000, gzip=True)
        same(fs.read("packed.txt"), "again " * 10000)
        same(fs.read("packed.txt", gzip=True), "again " * 10000)
    with check("folders on the way are made"):
        fs.write("a/b/c/deep.txt", "down")
        same(box.commands.run("cat a/b/c/deep.txt; stat -c %U a/b").stdout, "downuser\n")
    with check("many files in one call"):
        wrote = fs.write_files([{"path": f"many/{n}.txt", "data": f"file {n}"} for n in range(120)])
        same([w.path for w in wrote], [f"/home/user/many/{n}.txt" for n in range(120)])
        same(box.commands.run("cat many/*.txt | wc -c").stdout.strip(), str(sum(len(f"file {n}") for n in range(120))))
    with check("a file belongs to the user, who may change it"):
        fs.write("mine.sh", "echo mine\n")
        same(box.commands.run("stat -c '%U %G %a' mine.sh; echo more >> mine.sh; chmod +x mine.sh; ./mine.sh | head -1").stdout, "user user 644\nmine\n")
    with check("names with every sort of character"):
        for name in ("with space", "quote'\"", "ünïcode ☃", "%41 + & = ?#", "new\nline", "-dash", "..dots.."):
            fs.write(f"odd/{name}", name)
            same(fs.read(f"odd/{name}"), name)
        same(len(fs.list("odd")), 7)
    with check("writing outside of the home, in /tmp"):
        fs.write("/tmp/there.txt", "there")
        same(box.commands.run("cat /tmp/there.txt").stdout, "there")
    with check("list, one level and more"):
        same(sorted((e.name, e.type) for e in fs.list("a")), [("b", FileType.DIR)])
        same(sorted(e.path for e in fs.list("a", depth=2)), ["/home/user/a/b", "/home/user/a/b/c"])
        same(sorted(e.path for e in fs.list("a", depth=9)), ["/home/user/a/b", "/home/user/a/b/c", "/home/user/a/b/c/deep.txt"])
    with check("exists"):
        same((fs.exists("note.txt"), fs.exists("a"), fs.exists("nothing")), (True, True, False))
    with check("what is told of a file"):
        before = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=1)
        fs.write("told", "12345")
        box.commands.run("chmod 640 told")
        info = fs.get_info("told")
        same((info.name, info.path, info.type, info.size, info.owner, info.group), ("told", "/home/user/told", FileType.FILE, 5, "user", "user"))
        same((info.mode & 0o777, info.permissions[-9:]), (0o640, "rw-r-----"))
        changed = info.modified_time if info.modified_time.tzinfo else info.modified_time.replace(tzinfo=datetime.timezone.utc)
        holds(before < changed < before + datetime.timedelta(minutes=2), changed)
    with check("what is told of a folder and of a link"):
        box.commands.run("ln -s note.txt link")
        same(fs.get_info("a").type, FileType.DIR)
        link = fs.get_info("link")
        same((link.type, os.path.basename(link.symlink_target)), (FileType.SYMLINK, "note.txt"))
        same(fs.read("link"), "grüße\nzwei\n")
    with check("make_dir, and again"):
        same((fs.make_dir("made/in/depth"), fs.make_dir("made/in/depth"), fs.exists("made/in/depth")), (True, False, True))
    with check("a folder in place of a file is refused"):
        raises((InvalidArgumentException, SandboxException), lambda: fs.make_dir("note.txt"))
    with check("rename, into a folder that is not there yet too"):
        fs.write("old", "moved")
        info = fs.rename("old", "elsewhere/new")
        same((info.path, fs.read("elsewhere/new"), fs.exists("old")), ("/home/user/elsewhere/new", "moved", False))
    with check("remove a file and a whole folder"):
        fs.remove("elsewhere/new")
        fs.remove("many")
        same((fs.exists("elsewhere/new"), fs.exists("many")), (False, False))
    with check("what is not there"):
        raises(FileNotFoundException, lambda: fs.read("nothing"))
        raises(FileNotFoundException, lambda: fs.read("nothing", format="stream"))
        raises(FileNotFoundException, lambda: fs.list("nothing"))
        raises(FileNotFoundException, lambda: fs.get_info("nothing"))
        raises(FileNotFoundException, lambda: fs.rename("nothing", "something"))
    with check("a folder is no file, and a file no folder"):
        raises(InvalidArgumentException, lambda: fs.read("a"))
        raises((InvalidArgumentException, SandboxException), lambda: fs.write("a", "text"))
        raises(InvalidArgumentException, lambda: fs.list("note.txt"))
    with check("what the user may not do fails and changes nothing"):
        raises(SandboxException, lambda: fs.write("/usr/bin/evil", "x"))
        raises(SandboxException, lambda: fs.write("/proc/evil", "x"))
        same(box.commands.run("test -e /usr/bin/evil || echo none").stdout, "none\n")
    with check("a link does not lead out of the sandbox"):
        box.commands.run("ln -s / rootlink; ln -s /proc/1/root prison")
        outside = {e.name for e in fs.list("rootlink")}
        same(outside, set(box.commands.run("ls -A /").stdout.split()))
        marker = tempfile.NamedTemporaryFile(prefix="host-only-", dir="/var/tmp")
        marker.write(b"secret")
        marker.flush()
        for path in (marker.name, f"rootlink{marker.name}", f"prison{marker.name}", f"../../../..{marker.name}"):
            # What the kernel does not let it look at is refused, which is as good as not there.
            raises(SandboxException, lambda path=path: fs.read(path))
            raises(SandboxException, lambda path=path: fs.get_info(path))
            raises(SandboxException, lambda path=path: fs.write(path, "x"))
        same(open(marker.name).read(), "secret")
    with check("a command runs on for a while beside calls about files"):
        fs.write("before", "x")
        same(box.commands.run("sleep 8; echo on").stdout, "on\n")
    with check("metadata of a file"):
        wrote = fs.write("tagged", "x", metadata={"author": "me", "round": "2"})
        same(wrote.metadata, {"author": "me", "round": "2"})
        same(fs.get_info("tagged").metadata, {"author": "me", "round": "2"})
    box.kill()


def urls():
    box = Sandbox.create(timeout=120)
    box.files.write("shown.txt", "to whoever has the address")
    with check("a signed address reads"):
        same(plain("GET", box.download_url("shown.txt")), (200, b"to whoever has the address"))
        same(plain("GET", box.download_url("/home/user/shown.txt", user="user", use_signature_expiration=60))[0], 200)

    def form(name, content):
        mark = "----------x"
        head = f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: text/plain\r\n\r\n'
        return {"content-type": f"multipart/form-data; boundary={mark}"}, f"{head}{content}\r\n--{mark}--\r\n".encode()

    with check("a signed address writes"):
        headers, body = form("given.txt", "from outside")
        same(plain("POST", box.upload_url("given.txt"), headers, body)[0], 200)
        same(box.files.read("given.txt"), "from outside")
    with check("no signature, a bent one, another path, another use: refused"):
        good = box.download_url("shown.txt")
        parts = urllib.parse.urlsplit(good)
        query = dict(urllib.parse.parse_qsl(parts.query))
        headers, body = form("shown.txt", "overwritten")

        def bent(**changes):
            changed = {k: v for k, v in (query | changes).items() if v is not None}
            return parts._replace(query=urllib.parse.urlencode(changed)).geturl()

        flipped = query["signature"][:-2] + ("AA" if query["signature"][-2:] != "AA" else "BB")
        for address in (bent(signature=None), bent(signature=flipped), bent(path="given.txt"), bent(signature_expiration="99999999999"), bent(username="root")):
            same(plain("GET", address)[0], 401)
        same(plain("POST", good, headers, body)[0], 401)
        same(plain("GET", box.upload_url("shown.txt"))[0], 401)
        same(box.files.read("shown.txt"), "to whoever has the address")
    with check("an expired address is refused, one that has time is not"):
        same(plain("GET", box.download_url("shown.txt", use_signature_expiration=-5))[0], 401)
        same(plain("GET", box.download_url("shown.txt", use_signature_expiration=30))[0], 200)
    with check("a sandbox is found by its host name"):
        host, port = urllib.parse.urlsplit(URL).netloc.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        token = {"Host": f"49983-{box.sandbox_id}.{host}", "X-Access-Token": box._envd_access_token}
        connection.request("GET", "/files?path=shown.txt", headers=token)
        answer = connection.getresponse()
        same((answer.status, answer.read()), (200, b"to whoever has the address"))
    with check("an address dies with its sandbox"):
        address = box.download_url("shown.txt")
        box.kill()
        holds(plain("GET", address)[0] in (401, 404, 502))


def watching():
    box = Sandbox.create(timeout=120)
    fs = box.files
    fs.make_dir("watched/inner")

    def events(handle, *expected):
        seen = []

        def arrived():
            seen.extend((e.type, e.name) for e in handle.get_new_events())
            return all(e in seen for e in expected)

        try:
            until(f"{expected}", arrived, 20)
        except AssertionError as error:
            raise AssertionError(f"{error}, seen: {seen}") from error

    kinds = FilesystemEventType
    with check("a watched folder tells what happens in it"):
        handle = fs.watch_dir("watched")
        fs.write("watched/new.txt", "x")
        events(handle, (kinds.CREATE, "new.txt"), (kinds.WRITE, "new.txt"))
        box.commands.run("chmod 600 watched/new.txt; mv watched/new.txt watched/other.txt; rm watched/other.txt")
        events(handle, (kinds.CHMOD, "new.txt"), (kinds.RENAME, "new.txt"), (kinds.CREATE, "other.txt"), (kinds.REMOVE, "other.txt"))
        fs.write("watched/inner/unseen", "x")
        time.sleep(0.3)
        same([e.name for e in handle.get_new_events() if "unseen" in e.name], [])
        handle.stop()
        raises(SandboxException, handle.get_new_events)
    def later(handle):
        fs.write(f"watched/later/{uuid.uuid4().hex}", "x")
        return any(e.name.startswith("later/") for e in handle.get_new_events())

    with check("a folder watched with all that is in it"):
        handle = fs.watch_dir("watched", recursive=True)
        fs.write("watched/inner/deep.txt", "x")
        events(handle, (kinds.CREATE, "inner/deep.txt"))
        fs.make_dir("watched/later")
        events(handle, (kinds.CREATE, "later"))
        until("events of a folder that came later", lambda: later(handle), 20)
        handle.stop()

    with check("a watcher of what is not there, or no folder"):
        raises(FileNotFoundException, lambda: fs.watch_dir("nowhere"))
        fs.write("plain", "x")
        raises((InvalidArgumentException, SandboxException), lambda: fs.watch_dir("plain"))
    box.kill()


def pausing():
    box = Sandbox.create(timeout=300, metadata={"pausing": MARK})
    counter = box.commands.run("for i in $(seq 1 1000000); do echo $i > count; sleep 0.05; done", background=True)
    until("the count", lambda: box.files.exists("count") and box.files.read("count").strip())
    with check("pause says whether it did"):
        same((box.pause(), box.pause()), (True, False))
    with check("a paused sandbox is listed as that"):
        same(box.get_info().state, SandboxState.PAUSED)
        same([item.sandbox_id for item in listed(metadata={"pausing": MARK}, state=[SandboxState.PAUSED])], [box.sandbox_id])
        same(listed(metadata={"pausing": MARK}, state=[SandboxState.RUNNING]), [])
    with check("a paused sandbox does not run"):
        same(box.is_running(), False)
        raises(TimeoutException, lambda: box.commands.run("echo no"))
    with check("connect resumes it, with its processes and files"):
        again = Sandbox.connect(box.sandbox_id, timeout=200)
        same(again.get_info().state, SandboxState.RUNNING)
        holds(counter.pid in [p.pid for p in again.commands.list()])
        first = int(again.files.read("count").strip() or 0)
        until("the count going on", lambda: int(again.files.read("count").strip() or 0) > first)
    with check("it stood still while it was paused"):
        before = int(until("a count", lambda: again.files.read("count").strip()))
        again.pause()
        time.sleep(2)
        again.connect()
        after = int(until("a count", lambda: again.files.read("count").strip()))
        # Two seconds at twenty a second would be forty.
        holds(after - before < 25, (before, after))
    with check("a paused sandbox can be killed"):
        again.pause()
        same((again.kill(), again.kill()), (True, False))
        raises(SandboxNotFoundException, lambda: Sandbox.connect(box.sandbox_id))
    with check("a sandbox that pauses at the end of its time comes back"):
        box = Sandbox.create(timeout=2, lifecycle={"on_timeout": "pause"})
        box.files.write("kept", "over the pause")
        until("the pause", lambda: box.get_info().state == SandboxState.PAUSED)
        back = Sandbox.connect(box.sandbox_id, timeout=60)
        same(back.files.read("kept"), "over the pause")
        back.kill()


def ending():
    with check("a sandbox is gone when its time is over"):
        box = Sandbox.create(timeout=2, metadata={"ending": MARK})
        handle = box.commands.run("echo up; sleep 600", background=True)
        next(iter(handle))
        until("the end", lambda: not box.is_running(), 30)
        raises(TimeoutException, handle.wait)
        raises(SandboxNotFoundException, box.get_info)
        raises(SandboxNotFoundException, lambda: Sandbox.connect(box.sandbox_id))
        same((box.kill(), listed(metadata={"ending": MARK})), (False, []))
    with check("a timeout set later is the one that counts"):
        box = Sandbox.create(timeout=3)
        box.set_timeout(60)
        time.sleep(4)
        same(box.commands.run("echo here").stdout, "here\n")
        box.set_timeout(1)
        until("the end", lambda: not box.is_running(), 30)


def network():
    box = Sandbox.create(timeout=120)
    run = box.commands.run
    with check("two processes talk over the sandbox's loopback"):
        box.files.write("www/page.txt", "served")
        server = run("exec python3 -m http.server 8123 --bind 127.0.0.1", background=True, cwd="www")
        fetch = "python3 -c \"import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8123/page.txt', timeout=5).read().decode())\""
        until("an answer", lambda: "served" in run(f"{fetch} 2>/dev/null || true").stdout)
        server.kill()
    port = urllib.parse.urlsplit(URL).port
    knock = "timeout 3 bash -c 'exec 3<>/dev/tcp/%s/%d' 2>/dev/null && echo in || echo refused"
    with check("the host's loopback, and this server, are not reachable"):
        same(run(knock % ("127.0.0.1", port)).stdout, "refused\n")
    with check("no way to the outside, whatever create asked for"):
        same(run(knock % ("1.1.1.1", 443)).stdout, "refused\n")
        with Sandbox.create(timeout=60, allow_internet_access=False) as closed:
            same(closed.commands.run(knock % ("1.1.1.1", 443)).stdout, "refused\n")
    with check("two sandboxes share neither network nor files nor processes"):
        with Sandbox.create(timeout=60) as other:
            handle = run("exec python3 -m http.server 8124", background=True)
            until("the port", lambda: run(knock % ("127.0.0.1", 8124)).stdout == "in\n")
            same(other.commands.run(knock % ("127.0.0.1", 8124)).stdout, "refused\n")
            run("echo mine > /tmp/only-here")
            same(other.commands.run("test -e /tmp/only-here || echo none").stdout, "none\n")
            same(other.commands.run("pgrep -f '[h]ttp.server' || echo none").stdout, "none\n")
            same(other.commands.kill(handle.pid), False)
            handle.kill()
    box.kill()


def templates():
    context = tempfile.TemporaryDirectory()
    name = f"conformance-{MARK}"
    os.makedirs(f"{context.name}/app/sub")
    for path, text in {"app/main.py": "print('the app')\n", "app/sub/data.txt": "data", "lone.txt": "lone\n", "skip.log": "x"}.items():
        with open(f"{context.name}/{path}", "w") as file:
            file.write(text)
    os.chmod(f"{context.name}/app/main.py", 0o755)
    logs = []

    def recipe():
        return (
            Template(file_context_path=context.name, file_ignore_patterns=["*.log"])
            .from_template("base")
            .copy("app", "/home/user/app")
            .copy("lone.txt", "/home/user/copied/", mode=0o600)
            .set_workdir("/home/user/app")
            .set_envs({"FLAVOUR": "sour", "SPACED": "a b"})
            .run_cmd("echo said while building; echo $FLAVOUR > flavour.txt; pwd > where.txt")
            .run_cmd(["mkdir -p /home/user/made", "echo 2 > /home/user/made/two"])
            .set_start_cmd("touch /tmp/started; exec python3 -m http.server 8125 --bind 127.0.0.1", wait_for_file("/tmp/started"))
        )

    built = None
    with check("a template is built, and its log is told"):
        built = Template.build(recipe(), name, cpu_count=1, memory_mb=512, on_build_logs=logs.append)
        holds(built.template_id and built.build_id, built)
        holds(any("said while building" in entry.message for entry in logs), [entry.message for entry in logs])
        same(Template.get_build_status(built).status.value, "ready")
    with check("it exists by its name, another does not"):
        same((Template.exists(name), Template.exists(f"{name}-not")), (True, False))
    with check("sandboxes begin with what was built, by name and by id"):
        for reference in (name, built.template_id):
            with Sandbox.create(reference, timeout=120) as box:
                same(box.commands.run("cat /home/user/app/flavour.txt /home/user/app/where.txt /home/user/made/two").stdout, "sour\n/home/user/app\n2\n")
                same(box.files.read("/home/user/copied/lone.txt"), "lone\n")
                same(box.commands.run("/usr/bin/env python3 /home/user/app/main.py; cat /home/user/app/sub/data.txt").stdout, "the app\ndata")
                same(box.commands.run("stat -c '%a %U' /home/user/copied/lone.txt /home/user/app/main.py").stdout, "600 user\n755 user\n")
    with check("its variables and its working directory are every command's"):
        with Sandbox.create(name, timeout=120, envs={"FLAVOUR": "sweet"}) as box:
            same(box.commands.run('echo "$FLAVOUR $SPACED $PWD"').stdout, "sweet a b /home/user/app\n")
    with check("its start command runs in every sandbox"):
        with Sandbox.create(name, timeout=120) as box:
            fetch = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8125/', timeout=5).status)"
            box.files.write("/tmp/fetch.py", fetch)
            until("an answer", lambda: "200" in box.commands.run("python3 /tmp/fetch.py 2>/dev/null || true").stdout)
    with check("what one sandbox changes no other has"):
        with Sandbox.create(name, timeout=120) as first:
            first.commands.run("echo spoiled > /home/user/app/flavour.txt; rm -r /home/user/made; echo > /home/user/app/sub/data.txt")
            with Sandbox.create(name, timeout=120) as second:
                same(second.commands.run("cat /home/user/app/flavour.txt /home/user/made/two /home/user/app/sub/data.txt").stdout, "sour\n2\ndata")
    with check("a template upon a template"):
        upper = f"{name}-upper"
        Template.build(Template().from_template(name).run_cmd("echo upper > /home/user/upper.txt"), upper)
        with Sandbox.create(upper, timeout=120) as box:
            same(box.commands.run("cat /home/user/upper.txt /home/user/app/flavour.txt; echo $SPACED").stdout, "upper\nsour\na b\n")
    with check("a built template is replaced by the next build of its name"):
        Template.build(Template().from_template("base").run_cmd("echo second > /home/user/version"), name)
        with Sandbox.create(name, timeout=120) as box:
            same(box.commands.run("cat /home/user/version; test -e /home/user/app || echo new").stdout, "second\nnew\n")
    with check("a build that fails says so, with its output, and makes nothing"):
        failing = f"{name}-fails"
        said = []
        bad = Template().from_template("base").run_cmd("echo before the end; exit 7")
        raises(BuildException, lambda: Template.build(bad, failing, on_build_logs=said.append))
        holds(any("before the end" in entry.message for entry in said), [entry.message for entry in said])
        raises((SandboxException, NotFoundException), lambda: Sandbox.create(failing))
    with check("a build upon what is not there fails"):
        raises((BuildException, SandboxException), lambda: Template.build(Template().from_template("no-such-base").run_cmd("true"), f"{name}-orphan"))
    context.cleanup()


def asynchronous():
    asyncio.run(in_coroutines())


async def in_coroutines():
    box = await AsyncSandbox.create(timeout=120, metadata={"async": MARK})
    with check("coroutines: commands side by side"):
        results = await asyncio.gather(*(box.commands.run(f"sleep 0.2; echo {n}") for n in range(8)))
        same([r.stdout for r in results], [f"{n}\n" for n in range(8)])
    with check("coroutines: output as it comes, and standard input"):
        seen = asyncio.Event()
        handle = await box.commands.run("echo up; read x; echo got $x", background=True, stdin=True, on_stdout=lambda text: seen.set() if "up" in text else None)
        await asyncio.wait_for(seen.wait(), 30)
        await box.commands.send_stdin(handle.pid, "this\n")
        same((await handle.wait()).stdout, "up\ngot this\n")
    with check("coroutines: files, whole and streamed"):
        data = os.urandom(3 << 20)
        await asyncio.gather(*(box.files.write(f"f{n}", data[: n << 10]) for n in range(12)))
        await box.files.write("all", io.BytesIO(data))
        pieces = [bytes(piece) async for piece in await box.files.read("all", format="stream")]
        same(b"".join(pieces) == data, True)
        same(sorted((e.name, e.size) for e in await box.files.list(".") if e.name[:1] == "f")[1:3], [("f1", 1024), ("f10", 10240)])
    with check("coroutines: a folder watched over a stream"):
        events, arrived = [], asyncio.Event()

        def on_event(event):
            events.append(event)
            if event.name == "fresh":
                arrived.set()

        watch = await box.files.watch_dir(".", on_event=on_event)
        await box.files.write("fresh", "x")
        await asyncio.wait_for(arrived.wait(), 30)
        await watch.stop()
    with check("coroutines: a terminal"):
        seen, found = bytearray(), asyncio.Event()

        def on_data(data):
            seen.extend(data)
            if b"1234" in seen:
                found.set()

        terminal = await box.pty.create(size=PtySize(rows=10, cols=40), on_data=on_data)
        await box.pty.send_stdin(terminal.pid, b"echo $((1200+34))\n")
        await asyncio.wait_for(found.wait(), 30)
        same(await terminal.kill(), True)
    with check("coroutines: a template"):
        name = f"conformance-async-{MARK}"
        await AsyncTemplate.build(AsyncTemplate().from_template("base").run_cmd("echo built > built.txt"), name)
        same((await AsyncTemplate.exists(name), await AsyncTemplate.exists(f"{name}-not")), (True, False))
        async with await AsyncSandbox.create(name, timeout=60) as made:
            same(await made.files.read("built.txt"), "built\n")
    with check("coroutines: errors, pages, the end"):
        try:
            await box.commands.run("exit 9")
            raise AssertionError("exit 9 was not thrown")
        except CommandExitException as error:
            same(error.exit_code, 9)
        pages = AsyncSandbox.list(query=SandboxQuery(metadata={"async": MARK}))
        same([item.sandbox_id for item in await pages.next_items()], [box.sandbox_id])
        same((await box.kill(), await box.kill(), await box.is_running()), (True, False, False))


AREAS = [lifecycle, letting_in, commands, background, terminals, files, urls, watching, pausing, ending, network, templates, asynchronous]

if __name__ == "__main__":
    for area in wanted(AREAS):
        check.area = area.__name__.replace("_", " ")
        began = time.monotonic()
        with check.whole():
            area()
        print(f"       {check.area}: {time.monotonic() - began:.1f} s", flush=True)
    sys.exit(check.end())
