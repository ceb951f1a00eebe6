"""Holds `nightcrew sandboxd` to E2B's official SDKs: the scenarios of sandboxes.py and sandboxes.mjs, and what the SDKs send.

    run.py NIGHTCREW PYTHON NODE SDK [--write]

NIGHTCREW is the built program, PYTHON one with the SDK, NODE a Node that the JavaScript SDK takes, SDK its file. Both scenarios go
through one server at the same time. The requests of calls.py and calls.mjs are recorded and compared with golden/*.json, which
`cargo test` holds our own client to; `--write` writes those files instead. Exits 1 on any failure, also when the server leaves
a process or a file behind.
"""

import difflib
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

from recorder import Recorder

HERE = pathlib.Path(__file__).resolve().parent
KEY = "e2b_" + "c0f" * 13 + "0"
COUNTS = re.compile(r"^\w+: (\d+) ok, (\d+) FAILED$", re.M)


class Server:
    """`nightcrew sandboxd` on a port of its own, with a state folder of its own."""

    def __init__(self, program, folder):
        self.folder = pathlib.Path(folder)
        key, self.log = self.folder / "api-key", self.folder / "log"
        key.write_text(KEY)
        key.chmod(0o600)
        command = [program, "--state", self.folder / "state", "sandboxd", "--listen", "127.0.0.1:0", "--api-key-file", key]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.url = self.ready()

    def ready(self):
        for _ in range(600):
            if told := re.search(r"sandboxes at (http://\S+),", self.said()):
                return told[1]
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        sys.exit(f"the server does not come up:\n{self.said()}")

    def said(self):
        return self.log.read_text(errors="replace")

    def family(self):
        """Processes that descend from the server, or stood in its folder; with what they are."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == self.process.pid:
                continue
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                inside = str(self.folder) in os.readlink(entry / "cwd") or str(self.folder) in words
            except OSError:
                continue
            if parent == self.process.pid or inside:
                found.append(f"{entry.name} {words[:120]}")
        return found

    def stop(self):
        """Ends it as systemd would. Answers what it did wrong."""
        wrong = []
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(60)
            if code != 0:
                wrong.append(f"the server ended with {code}")
        except subprocess.TimeoutExpired:
            self.process.kill()
            wrong.append("the server did not end on SIGTERM within 60 s")
        if left := self.family():
            wrong.append(f"processes are left: {left}")
        sandboxes = [str(path) for path in self.folder.rglob("i*") if path.is_dir() and len(path.name) > 20]
        if sandboxes:
            wrong.append(f"folders of sandboxes are left: {sandboxes[:5]}")
        if panics := re.findall(r".*panicked.*", self.said()):
            wrong.append(f"the server panicked: {panics[:3]}")
        return wrong


def environment(url, sdk):
    # No setting of the user's reaches an SDK.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("E2B_")}
    addresses = {"E2B_API_KEY": KEY, "E2B_API_URL": url, "E2B_SANDBOX_URL": url, "E2B_SDK": sdk}
    return kept | addresses | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "PYTHONDONTWRITEBYTECODE": "1"}


def scenarios(url, sdk, commands):
    """Both at once. Answers the counts and whether each went well."""
    running = []
    for command in commands:
        output = tempfile.TemporaryFile()
        running.append((subprocess.Popen(command, env=environment(url, sdk), stdout=output, stderr=subprocess.STDOUT), output))
    ok, failed, broken = 0, 0, []
    for (process, output), command in zip(running, commands):
        code = process.wait()
        output.seek(0)
        text = output.read().decode(errors="replace")
        print(text, end="", flush=True)
        counts = COUNTS.findall(text)
        ok, failed = ok + sum(int(c[0]) for c in counts), failed + sum(int(c[1]) for c in counts)
        if code != 0 and not any(int(c[1]) for c in counts):
            broken.append(f"{' '.join(map(str, command))} ended with {code}")
    return ok, failed, broken


def golden(url, sdk, name, command, write):
    """Records one SDK's requests. Answers what is not as it should be."""
    recorder = Recorder(url)
    done = subprocess.run(command, env=environment(recorder.url, sdk), capture_output=True, text=True, timeout=170)
    recorder.close()
    if done.returncode != 0:
        return [f"{name}: the calls ended with {done.returncode}\n{done.stdout[-1500:]}{done.stderr[-3000:]}"]
    file, seen = HERE / "golden" / f"{name}.json", recorder.text()
    if write:
        file.write_text(seen)
        print(f"wrote {file.relative_to(HERE.parents[2])}: {len(recorder.calls)} calls")
        return []
    kept = file.read_text()
    if kept != seen:
        lines = difflib.unified_diff(kept.splitlines(), seen.splitlines(), "golden", "sent", lineterm="", n=0)
        return [f"{name}: what the SDK sends is not what golden/{name}.json says\n" + "\n".join(line[:600] for line in lines)]
    print(f"ok     {name}: {len(recorder.calls)} kinds of requests are as in golden/{name}.json", flush=True)
    return []


def main():
    words = [word for word in sys.argv[1:] if word != "--write"]
    program, python, node, sdk = words[:4]
    write = "--write" in sys.argv
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nightcrew-e2b-") as folder:
        server = Server(program, folder)
        ok, failed, wrong = 0, 0, []
        try:
            if not write:
                commands = [[python, "-B", HERE / "sandboxes.py"], [node, HERE / "sandboxes.mjs"]]
                ok, failed, wrong = scenarios(server.url, sdk, commands)
            for name, command in {"python": [python, "-B", HERE / "calls.py"], "javascript": [node, HERE / "calls.mjs"]}.items():
                problems = golden(server.url, sdk, name, command, write)
                ok, wrong = ok + (not problems), wrong + problems
        finally:
            wrong += server.stop()
        if not any("are left" in text or "did not end" in text for text in wrong):
            ok += 1
            print("ok     the server ends and leaves no process and no sandbox's folder")
        for text in wrong:
            print(f"FAILED {text}")
        if failed or wrong:
            print(f"the server said:\n{server.said()[-3000:]}")
    failed += len(wrong)
    print(f"E2B's SDKs against sandboxd: {ok} ok, {failed} FAILED, {time.monotonic() - began:.0f} s")
    return 1 if failed or not ok else 0


if __name__ == "__main__":
    sys.exit(main())
