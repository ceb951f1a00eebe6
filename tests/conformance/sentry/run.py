"""Official Sentry SDKs send real errors into the intake of a real daemon; what it kept is read back through the program itself.

    run.py NIGHTCREW PYTHON NODE NODE_SDK RUST [--write]

NIGHTCREW is the built program, PYTHON one with sentry-sdk, NODE a Node with NODE_SDK the folder of @sentry/node, RUST the built
rust/ of this folder. `--write` writes one envelope of each SDK to golden/, which `cargo test` reads without network. Exits 1 on any
failure.
"""

import gzip
import http.server
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
KEY = "5e9f0c7d3b2a4816a0d1c2e3f4a5b6c7"
CONFIG = """version: 1
http: {listen: "127.0.0.1:0"}
secrets: {INTAKE: {file: intake.key}}
privacy: {hide: [email, ip]}
intake:
  listen: "127.0.0.1:PORT"
  projects:
    - {id: 42, name: shop, key: secret:INTAKE}
    - {id: 43, name: web, key: secret:INTAKE}
    - {id: 44, name: rust, key: secret:INTAKE}
    - {id: 45, name: limited-python, key: secret:INTAKE, max_per_minute: 4}
    - {id: 46, name: limited-node, key: secret:INTAKE, max_per_minute: 4}
"""
PIPELINE = """version: 1
name: errors
summary: Lists errors as they come.
on: {sentry: {project: shop}}
steps:
  - id: errors
    fetch: {from: sentry, query: "is:unresolved"}
  - id: news
    report: {from: [errors], to: files}
"""
failures, passed = [], 0


def check(name, told, wanted=True):
    global passed
    if told == wanted:
        passed += 1
        print(f"ok     {name}", flush=True)
    else:
        failures.append(name)
        print(f"FAILED {name}\n       is     {told!r:.1500}\n       wanted {wanted!r:.500}", flush=True)


class Daemon:
    def __init__(self, program, folder):
        self.program, self.folder = program, pathlib.Path(folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        for name, text in {
            "config/nightcrew.yaml": CONFIG.replace("PORT", str(self.port)),
            "config/intake.key": KEY + "\n",
            "pipelines/errors.yaml": PIPELINE,
        }.items():
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        (self.folder / "config/intake.key").chmod(0o600)
        self.log = self.folder / "log"
        with open(self.log, "wb") as log:
            command = [program, "--state", "state", "serve", "--profile", "local"]
            self.process = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.wait("the daemon is ready", lambda: '"ready"' in self.said() or self.process.poll() is not None)
        if self.process.poll() is not None:
            sys.exit(f"the daemon does not come up:\n{self.said()}")

    def said(self):
        return re.sub("\x1b\\[[0-9;]*m", "", self.log.read_text(errors="replace"))

    def wait(self, what, fact, patience=60):
        end = time.monotonic() + patience
        while not fact():
            if time.monotonic() > end:
                return check(what, "not in time")
            time.sleep(0.1)

    def dsn(self, project, key=KEY):
        return f"http://{key}@127.0.0.1:{self.port}/{project}"

    def ask(self, *words):
        done = subprocess.run([self.program, "--state", "state", "--json", *words], cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"nightcrew {' '.join(words)} ended with {done.returncode}\n{done.stderr}")
        return json.loads(done.stdout)

    def groups(self, project):
        return self.ask("errors", project)["errors"]

    def one(self, project, word):
        groups = self.groups(project)
        found = [group for group in groups if word in group["title"]]
        if len(found) != 1:
            sys.exit(f"not one group of {word}: {[(group['title'], group['count']) for group in groups]}\n{self.said()[-3000:]}")
        return self.ask("errors", project, found[0]["id"])

    def limited(self, project):
        """What a project's groups are, and what was refused: that is written down once a second."""
        refused = lambda: {drop["reason"]: drop["count"] for drop in self.ask("errors", project)["not_taken_in_24h"]}
        self.wait(f"{project} hears that it has had its share", refused, 10)
        return self.ask("errors", project), refused()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            check("the daemon ends when it is told to", self.process.wait(30), 0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            check("the daemon ends when it is told to", "it did not")
        check("the daemon did not panic", re.findall(".*panicked.*", self.said()), [])


def environment(sdk):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SENTRY_") and not name.lower().endswith("_proxy")}
    return kept | {"SENTRY_SDK": sdk, "WHO": "private@example.com", "PYTHONDONTWRITEBYTECODE": "1"}


def send(command, sdk, cwd):
    done = subprocess.run(command, cwd=cwd, env=environment(sdk), capture_output=True, text=True, timeout=120)
    if done.returncode:
        sys.exit(f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def python(daemon, program, sdk, cwd):
    run = lambda what, dsn: send([program, HERE / "sends.py", what, dsn], sdk, cwd)
    run("errors", daemon.dsn(42))
    told = daemon.one("shop", "PriceError")
    error, item, event = told["error"], told["item"], told["events"][-1]
    check("python: one bug is one group, its message without numbers", (error["count"], error["users"]), (4, 3))
    check("python: where and what", (error["culprit"], error["level"], error["platform"]), ("price in " + error["culprit"].split(" in ")[1], "error", "python"))
    check("python: release and environment", (error["releases"], error["environments"]), (["shop@2.1.0"], ["production"]))
    check("python: chained causes, the cause first", [e["type"] for e in item["exceptions"]], ["KeyError", "PriceError"])
    check("python: breadcrumbs", item["breadcrumbs"][-1]["message"], "opened the basket")
    check("python: tags, without the hidden ones", item["tags"], {"queue": "push"})
    lines = [line for frame in item["stacktrace"] for line in frame["context"] if "raise PriceError" in line]
    check("python: the lines around", len(lines), 1)
    frames = event["exception"]["values"][0]["stacktrace"]["frames"]
    check("python: the raw event is kept, local variables too", "basket" in frames[-1]["vars"])
    check("python: nobody is named", [word for word in ("private@example.com", "203.0.113.9", "u-1") if word in json.dumps(told)], [])
    logged = daemon.one("shop", "order 47")
    check("python: a logged message is grouped by its template", logged["error"]["count"], 2)
    run("brotli", daemon.dsn(42))
    check("python: br", daemon.one("shop", "IndexError")["error"]["count"], 1)
    run("big", daemon.dsn(42))
    big = daemon.one("shop", "popitem")
    check("python: a big event is kept whole", len(big["events"][0]["contexts"]["big"]["text"]), 300_000)
    before = len(daemon.groups("shop"))
    run("bad_key", daemon.dsn(42, "0" * 32))
    run("bad_key", daemon.dsn(99))
    check("python: another key, another project", (len(daemon.groups("shop")), daemon.groups("never")), (before, []))
    lost = run("limited", daemon.dsn(45))
    told, drops = daemon.limited("limited-python")
    check("python: a 429 is honoured: nothing more is even sent", (sum(e["count"] for e in told["errors"]), drops), (4, {"limit": 1}))
    check("python: the SDK itself counts what it did not send", int(lost), 12 - 4 - 1)


def node(daemon, program, sdk, cwd):
    run = lambda what, dsn: send([program, HERE / "sends.mjs", what, dsn], sdk, cwd)
    run("errors", daemon.dsn(43))
    told = daemon.one("web", "RangeError")
    error, item, event = told["error"], told["item"], told["events"][-1]
    check("node: one bug is one group", (error["count"], error["users"], error["platform"]), (3, 1, "node"))
    check("node: release and environment", (error["releases"], error["environments"]), (["web@3.0.1"], ["staging"]))
    check("node: chained causes, the cause first", [e["type"] for e in item["exceptions"]], ["TypeError", "RangeError"])
    check("node: its flat breadcrumbs are read", "flat list" in item["breadcrumbs"][0]["message"], True)
    check("node: and kept as they came", isinstance(event["breadcrumbs"], list))
    check("node: where", error["culprit"].startswith("checkout in "))
    check("node: nobody is named", "private@example.com" in json.dumps(told), False)
    check("node: a message", daemon.one("web", "a message")["error"]["level"], "warning")
    check("node: sessions are no errors", len(daemon.groups("web")), 2)
    run("big", daemon.dsn(43))
    crumbs = daemon.one("web", "a big one")["events"][0]["breadcrumbs"]
    check("node: a big event, which comes in gzip", (len(crumbs), len(json.dumps(crumbs)) > 100_000), (100, True))
    run("limited", daemon.dsn(46))
    told, drops = daemon.limited("limited-node")
    check("node: a 429 is honoured: nothing more is even sent", (sum(e["count"] for e in told["errors"]), drops), (4, {"limit": 1}))


def rust(daemon, program, sdk, cwd):
    send([program, daemon.dsn(44)], sdk, cwd)
    groups = daemon.groups("rust")
    check("rust: an error and a panic", sorted(g["title"] for g in groups), ["OrderError: the order cannot be read", "panic: index out of bounds: the len is 3 but the index is 3"])
    told = daemon.one("rust", "panic")
    check("rust: where", "shelf" in told["error"]["culprit"])
    check("rust: release, environment, breadcrumbs", (told["error"]["releases"], told["error"]["environments"]), (["shop-rust@1.4.0"], ["production"]))
    told = daemon.one("rust", "OrderError")
    check("rust: chained causes, the cause first", [e["type"] for e in told["item"]["exceptions"]], ["ParseIntError", "OrderError"])
    check("rust: its message differs, its group does not", (told["error"]["count"], told["error"]["users"]), (2, 1))
    check("rust: breadcrumbs and tags", (told["item"]["breadcrumbs"][0]["message"], told["item"]["tags"]), ("took an order", {"queue": "push"}))
    check("rust: nobody is named", "private@example.com" in json.dumps(told), False)


def work(daemon):
    """Errors became runs, one for each group, and the runs ended well."""
    wanted = len(daemon.groups("shop"))
    ended = lambda: [run for run in daemon.ask("runs")["runs"] if run["outcome"]]
    daemon.wait("every group became a run", lambda: len(ended()) >= wanted)
    runs = ended()
    check("every group became one run that reports it", [run["outcome"] for run in runs], ["reported"] * wanted)


def browser(daemon):
    ask = urllib.request.Request(f"http://127.0.0.1:{daemon.port}/api/42/envelope/?sentry_key={KEY}", method="OPTIONS", headers={"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(ask) as answer:
        check("a browser may send", (answer.status, answer.headers["Access-Control-Allow-Origin"]), (200, "*"))


class Recorder(http.server.BaseHTTPRequestHandler):
    """Takes envelopes and keeps those with an event."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = b""
        if self.headers.get("transfer-encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.bodies.append(body)
        answer = b'{"id":"00000000000000000000000000000000"}'
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def scrubbed(body, places):
    """The envelope's first event, with nothing of this machine in it."""
    head, *rest = body.split(b"\n")
    for header, payload in zip(rest[::2], rest[1::2]):
        kind = json.loads(header)
        if kind["type"] != "event":
            continue
        text = payload.decode()
        for place, name in places:
            text = text.replace(place, name)
        event = json.loads(text)
        for name in ("modules", "server_name"):
            event.pop(name, None)
        for context in ("app", "device", "os", "culture", "cloud_resource", "trace", "runtime"):
            event.get("contexts", {}).pop(context, None)
        event.get("extra", {}).pop("sys.argv", None)
        # The SDK's own integrations, of which there are dozens.
        event.get("sdk", {}).pop("integrations", None)
        for value in event.get("exception", {}).get("values", []):
            for frame in value.get("stacktrace", {}).get("frames", []):
                for address in ("instruction_addr", "image_addr", "symbol_addr"):
                    frame.pop(address, None)
        payload = json.dumps(event, ensure_ascii=False).encode()
        if "length" in kind:
            kind["length"] = len(payload)
        first = {name: value for name, value in json.loads(head).items() if name in ("event_id", "sent_at")}
        return b"\n".join([json.dumps(first).encode(), json.dumps(kind).encode(), payload, b""])
    return None


def record(commands, sdk, cwd):
    places = [(str(HERE), "/srv/shop"), (str(cwd), "/srv/shop"), (str(pathlib.Path(sdk)), "/srv/node_modules/@sentry/node"), (str(pathlib.Path.home()), "/root"), (str(HERE.parents[2]), "/srv")]
    for name, command in commands.items():
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
        server.bodies = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        send([*command, f"http://{KEY}@127.0.0.1:{server.server_port}/42"], sdk, cwd)
        server.shutdown()
        found = [kept for body in server.bodies if (kept := scrubbed(body, places))]
        file = HERE / "golden" / f"{name}.envelope"
        file.parent.mkdir(exist_ok=True)
        found.sort(key=lambda kept: b'"exception"' not in kept)
        file.write_bytes(found[0])
        print(f"wrote golden/{file.name}: {len(found[0])} bytes of {len(found)} events")


def main():
    program, python_, node_, sdk, rust_ = (word for word in sys.argv[1:] if word != "--write")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nightcrew-sentry-") as folder:
        cwd = pathlib.Path(folder) / "programs"
        cwd.mkdir()
        if "--write" in sys.argv:
            commands = {"python": [python_, HERE / "sends.py", "errors"], "node": [node_, HERE / "sends.mjs", "errors"], "rust": [rust_]}
            return record(commands, sdk, cwd)
        daemon = Daemon(program, folder)
        try:
            python(daemon, python_, sdk, cwd)
            node(daemon, node_, sdk, cwd)
            rust(daemon, rust_, sdk, cwd)
            browser(daemon)
            work(daemon)
        finally:
            daemon.stop()
            if failures:
                print(f"the daemon said:\n{daemon.said()[-4000:]}")
    print(f"Sentry's SDKs against the intake: {passed} ok, {len(failures)} FAILED, {time.monotonic() - began:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
