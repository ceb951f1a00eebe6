"""A proxy that writes down what a client sends, as shapes: method, path, query, headers, and the body's fields with their types.

Values that differ from run to run become words in angle brackets or braces; values that the protocol fixes (`/bin/bash`, a signal's
name, a content type) stay. Calls that have the same shape are one entry, so the order and number of a scenario's calls do not matter.
"""

import email
import email.policy
import gzip
import http.client
import http.server
import json
import re
import struct
import threading
import urllib.parse

# Of the connection or of the library below, or about the caller's machine: they say nothing about the call.
NO_MATTER = {
    "host", "connection", "content-length", "transfer-encoding", "accept", "accept-encoding", "accept-language", "user-agent",
    "connect-accept-encoding", "browser", "lang", "lang_version", "machine", "os", "package_version", "processor", "publisher",
    "release", "sdk_runtime", "system", "sec-fetch-mode", "integration", "expect",
}  # fmt: skip
# Their values are fixed.
VALUED = {"content-type", "content-encoding", "connect-protocol-version", "keepalive-ping-interval", "e2b-sandbox-port", "authorization",
          "connect-content-encoding"}  # fmt: skip
# So are the ways in which these parts of a query are written.
WRITTEN = {"metadata", "state"}
# Objects whose keys are the caller's.
MAPS = {"metadata", "envVars", "envs"}
# Fields whose values are the protocol's.
LITERAL = {"cmd", "signal", "type", "fromTemplate", "templateID"}


def path_of(path):
    patterns = [
        (r"^/(v2/)?sandboxes/[^/]+", r"/\1sandboxes/{sandbox}"),
        (r"^/templates/aliases/[^/]+", "/templates/aliases/{name}"),
        (r"^/(v2/)?templates/(?!aliases)[^/]+", r"/\1templates/{template}"),
        (r"/builds/[^/]+", "/builds/{build}"),
        (r"/files/[0-9a-f]{16,}", "/files/{hash}"),
    ]
    for pattern, name in patterns:
        path = re.sub(pattern, name, path)
    return path


def shape(value, key=None):
    if isinstance(value, dict):
        if key in MAPS:
            return {"*": "string"} if value else {}
        return {name: shape(inner, name) for name, inner in sorted(value.items())}
    if isinstance(value, list):
        if key == "args" and value[:2] == ["-l", "-c"]:
            return ["-l", "-c", "<command>"]
        shapes = []
        for inner in value:
            if (known := shape(inner)) not in shapes:
                shapes.append(known)
        return shapes
    if key in LITERAL:
        return value
    return {bool: "boolean", int: "number", float: "number", str: "string", type(None): "null"}[type(value)]


def parts_of(body, content_type):
    parsed = email.message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body, policy=email.policy.HTTP)
    names = []
    for part in parsed.iter_parts():
        disposition = part["content-disposition"].params
        entry = {"part": disposition["name"], "filename": "<path>" if "filename" in disposition else None}
        if entry not in names:
            names.append(entry)
    return names


def frames_of(body):
    frames = []
    while body:
        flag, length = struct.unpack(">BI", body[:5])
        message, body = body[5 : 5 + length], body[5 + length :]
        if flag & 1:
            message = gzip.decompress(message)
        entry = {"flag": flag & ~1, "message": shape(json.loads(message or b"{}"))}
        if entry not in frames:
            frames.append(entry)
    return frames


def body_of(body, content_type):
    kind = content_type.split(";")[0]
    if kind == "application/connect+json":
        return {"frames": frames_of(body)}
    if kind == "multipart/form-data":
        return {"parts": parts_of(body, content_type)}
    if kind == "application/json":
        return shape(json.loads(body)) if body else None
    return "<bytes>" if body else None


def entry_of(method, target, headers, body):
    """One call as it is kept."""
    url = urllib.parse.urlsplit(target)
    kept = {}
    for name, value in headers:
        name = name.lower()
        if name in NO_MATTER:
            continue
        if name in VALUED:
            kept[name] = value.split(";")[0]
        elif name.startswith("x-metadata-"):
            kept["x-metadata-*"] = "<value>"
        else:
            kept[name] = "<value>"
    content_type = next((value for name, value in headers if name.lower() == "content-type"), "")
    query = {}
    for pair in filter(None, url.query.split("&")):
        name, _, value = pair.partition("=")
        value = urllib.parse.unquote_plus(value)
        query[name] = ",".join(filter(None, [query.get(name), value])) if name in WRITTEN else "<value>"
    packed = any(name.lower() == "content-encoding" and value == "gzip" for name, value in headers)
    if packed and content_type.startswith("application/"):
        body = gzip.decompress(body)
    # Where archives go is the server's to say.
    upload = method == "PUT" and "x-api-key" not in kept
    return {
        "method": method,
        "path": "{upload}" if upload else path_of(url.path),
        "query": {} if upload else dict(sorted(query.items())),
        "headers": dict(sorted(kept.items())),
        "body": body_of(body, content_type),
    }


class Recorder:
    """Stands between a client and the server at `upstream` (`http://host:port`)."""

    def __init__(self, upstream):
        recorder, self.calls, self.lock = self, [], threading.Lock()
        address = urllib.parse.urlsplit(upstream).netloc

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def body(self):
                if self.headers.get("transfer-encoding", "").lower() != "chunked":
                    return self.rfile.read(int(self.headers.get("content-length") or 0))
                whole = b""
                while length := int(self.rfile.readline().split(b";")[0], 16):
                    whole += self.rfile.read(length)
                    self.rfile.readline()
                self.rfile.readline()
                return whole

            def pass_on(self):
                if self.headers.get("expect", "").lower() == "100-continue":
                    self.send_response_only(100)
                    self.end_headers()
                body = self.body()
                recorder.keep(entry_of(self.command, self.path, self.headers.items(), body))
                connection = http.client.HTTPConnection(address, timeout=120)
                headers = {n: v for n, v in self.headers.items() if n.lower() not in ("connection", "transfer-encoding", "content-length", "expect")}
                # The server names itself in addresses that it hands out: they must lead back here.
                connection.request(self.command, self.path, body=body, headers=headers | {"Content-Length": str(len(body))})
                answer = connection.getresponse()
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection"):
                        self.send_header(name, value)
                if answer.status == 204 or self.command == "HEAD":
                    self.end_headers()
                    return
                # An answer of a known length stays one: a client may take an empty one for what it is.
                whole = answer.getheader("content-length") is not None
                if not whole:
                    self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                while piece := answer.read1(65536):
                    self.wfile.write(piece if whole else b"%x\r\n%s\r\n" % (len(piece), piece))
                    self.wfile.flush()
                if not whole:
                    self.wfile.write(b"0\r\n\r\n")
                connection.close()

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = pass_on

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass  # A client that goes away in the middle of a stream is part of the scenario.

        self.server = Quiet(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def keep(self, entry):
        with self.lock:
            if entry not in self.calls:
                self.calls.append(entry)

    def text(self):
        """What was recorded, in an order that does not depend on time."""
        with self.lock:
            calls = sorted(self.calls, key=lambda call: json.dumps([call["path"], call["method"], call]))
        lines = ",\n".join("  " + json.dumps(call) for call in calls)
        return f"[\n{lines}\n]\n"

    def close(self):
        self.server.shutdown()
        self.server.server_close()
