"""What stands before the emulators: it records every request as the stand-ins of `tests/it/fakes` do, and adds what emulate 0.12.2 lacks.

  GitHub  `git clone`: emulate has no smart HTTP, so `/{owner}/{name}.git/…` goes to `git http-backend` on a bare repository, with the
          token asked for as GitHub asks for it (Basic). Unknown tokens are 401: emulate takes any for the first user.
  Slack   emulate answers 404 to GET on auth.test, conversations.*, users.info and files.getUploadURLExternal, which Slack takes: such
          a GET goes on as a POST of the same arguments as a form.

Neither changes a body or an answer.
"""

import base64
import http.client
import http.server
import json
import os
import pathlib
import subprocess
import threading
import time
import urllib.parse


class Front:
    def __init__(self, service, port, log, tokens, bare=None):
        self.service, self.port, self.tokens, self.bare = service, port, tokens, bare
        self.log, self.lock, self.n, self.turned = open(log, "w", encoding="utf-8"), threading.Lock(), 0, 0
        self.write({"kind": "start", "service": service, "at_ms": self.now(), "secrets": sorted(tokens)})
        front = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_all(self):
                front.handle(self)

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = handle_all

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @staticmethod
    def now():
        return int(time.time() * 1000)

    def write(self, line):
        self.log.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.log.flush()

    def handle(self, request):
        body = self.body(request)
        at = self.now()
        status, headers, answer = self.answered(request, body)
        request.send_response(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server", "content-encoding"):
                request.send_header(name, value)
        if status not in (204, 304):
            request.send_header("content-length", str(len(answer)))
        request.end_headers()
        if status not in (204, 304):
            request.wfile.write(answer)
        self.record(request, body, status, headers, answer, at)

    @staticmethod
    def body(request):
        if "chunked" in (request.headers.get("transfer-encoding") or ""):
            parts = []
            while length := int(request.rfile.readline().split(b";")[0], 16):
                parts.append(request.rfile.read(length))
                request.rfile.readline()
            request.rfile.readline()
            return b"".join(parts)
        return request.rfile.read(int(request.headers.get("content-length") or 0))

    def answered(self, request, body):
        path = urllib.parse.urlsplit(request.path)
        if self.service == "github":
            if ".git/" in path.path and self.bare:
                return self.clone(request, path, body)
            given = (request.headers.get("authorization") or "").split(" ")[-1]
            if given not in self.tokens:
                return 401, [("content-type", "application/json")], b'{"message": "Bad credentials", "status": "401"}'
        method, target, headers = request.command, request.path, {}
        for name in ("authorization", "content-type", "accept", "user-agent", "x-github-api-version"):
            if request.headers.get(name):
                headers[name] = request.headers[name]
        if self.service == "slack" and method == "GET":
            method, target, body = "POST", path.path, path.query.encode()
            headers["content-type"] = "application/x-www-form-urlencoded"
            self.turned += 1
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, target, body or None, headers)
        answer = connection.getresponse()
        data = answer.read()
        here, there = self.url.encode(), [f"http://{host}:{self.port}".encode() for host in ("localhost", "127.0.0.1")]
        for name in there:
            data = data.replace(name, here)
        links = [(name, value.replace(there[0].decode(), self.url).replace(there[1].decode(), self.url)) for name, value in answer.getheaders()]
        return answer.status, links, data

    def clone(self, request, path, body):
        asks = [("www-authenticate", 'Basic realm="GitHub"'), ("content-type", "text/plain")]
        scheme, _, given = (request.headers.get("authorization") or "").partition(" ")
        token = base64.b64decode(given).decode().partition(":")[2] if scheme == "Basic" else ""
        if token not in self.tokens:
            return 401, asks, b"Repository not found."
        repository, _, rest = path.path.partition(".git/")
        if "receive-pack" in request.path:
            return 403, [("content-type", "text/plain")], b"Write access to repository not granted."
        environment = {
            "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(self.bare), "GIT_HTTP_EXPORT_ALL": "1", "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null", "PATH_INFO": f"/{rest}", "REQUEST_METHOD": request.command, "QUERY_STRING": path.query,
            "CONTENT_LENGTH": str(len(body)), "CONTENT_TYPE": request.headers.get("content-type") or "",
            "HTTP_CONTENT_ENCODING": request.headers.get("content-encoding") or "", "GIT_PROTOCOL": request.headers.get("git-protocol") or "",
        }
        done = subprocess.run(["git", "http-backend"], env=environment, input=body, capture_output=True, check=True).stdout
        head, _, data = done.partition(b"\r\n\r\n")
        headers = [tuple(line.split(": ", 1)) for line in head.decode().split("\r\n")]
        status = next((int(value.split()[0]) for name, value in headers if name == "Status"), 200)
        return status, [pair for pair in headers if pair[0] != "Status"], data

    # --- the log --------------------------------------------------------------------------------------------------------------

    def record(self, request, body, status, headers, answer, at):
        path = urllib.parse.urlsplit(request.path)
        kind = request.headers.get("content-type") or ""
        if ".git/" in path.path or path.path.startswith("/upload"):
            said = f"{len(body)} bytes"
        elif kind.startswith("application/x-www-form-urlencoded"):
            said = dict(urllib.parse.parse_qsl(body.decode()))
            said.pop("token", None)
        else:
            said = json.loads(body) if body else None
        try:
            told = json.loads(answer)
        except ValueError:
            told = None
        wrong = status >= 400 or (isinstance(told, dict) and told.get("ok") is False)
        word = next((told[key] for key in ("error", "message", "detail") if isinstance(told.get(key), str)), None) if wrong and isinstance(told, dict) else None
        with self.lock:
            self.n += 1
            if not wrong:
                for effect, fields in self.effects(request.command, path.path, said, told):
                    self.write({"kind": "effect", "service": self.service, "n": self.n, "at_ms": at, "effect": effect} | fields)
            self.write({
                "kind": "request", "service": self.service, "n": self.n, "at_ms": at, "who": "bot", "method": request.command, "path": path.path,
                "query": path.query, "body": said, "status": status, "ended": "answered", "word": word, "reset_ms": None,
                "retry_after": next((int(value) for name, value in headers if name.lower() == "retry-after"), None),
            })

    def effects(self, method, path, said, told):
        parts = path.strip("/").split("/")
        if self.service == "slack":
            if path.endswith("/chat.postMessage"):
                yield "message.create", {key: said.get(key) for key in ("thread_ts", "text", "blocks", "metadata")} | {"channel": self.channel(told["channel"]), "ts": told["ts"]}
            elif path.endswith("/files.completeUploadExternal") and (said.get("channel_id") or said.get("channels")):
                yield "file.share", {"channel": self.channel(said.get("channel_id")), "thread_ts": said.get("thread_ts"), "files": told["files"], "text": ""}
        elif method == "POST" and parts[:1] == ["repos"]:
            repository, rest = "/".join(parts[1:3]), parts[3:]
            if rest == ["pulls"]:
                yield "pull_request.create", {"repository": repository, "number": told["number"]} | {key: said.get(key) for key in ("head", "base", "title", "body", "draft")}
            elif rest == ["issues"]:
                yield "issue.create", {"repository": repository, "number": told["number"], "title": said["title"], "body": said.get("body"), "labels": said.get("labels")}
            elif rest == ["git", "refs"]:
                yield "ref.create", {"repository": repository, "ref": said["ref"], "sha": said["sha"]}
            elif len(rest) == 3 and rest[0] == "issues" and rest[2] == "comments":
                yield "comment.create", {"repository": repository, "number": int(rest[1]), "id": told["id"], "body": said["body"]}

    channels = {}

    def channel(self, id):
        return self.channels.get(id, id)

    def name(self, channels):
        """The names of channels by id."""
        self.channels = channels
        for id, name in channels.items():
            self.write({"kind": "channel", "id": id, "channel": name})


def lines(path):
    return [json.loads(line) for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines()]
