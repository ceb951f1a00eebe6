"""Holds nightcrew's Socket Mode to Slack's official client: one server, which both connect to, and which treats both alike.

    slack_socket.py NIGHTCREW

NIGHTCREW is the built program. The server speaks Socket Mode as Slack documents it, over the `websockets` package (so that our frames
are judged by somebody else's implementation) and a small Web API. First slack_sdk's SocketModeClient goes through the scenario: it
receives a command and the press of an Approve button, acknowledges both, and moves to another connection when it is told to. Then
the real nightcrew daemon goes through the same one, with a real run that waits for that button. What nightcrew acknowledges must
have the shape of what the SDK acknowledges. Exits 1 on any difference.
"""

import http.server
import json
import pathlib
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

from slack_sdk.socket_mode.builtin import SocketModeClient
from slack_sdk.socket_mode.response import SocketModeResponse
from slack_sdk.web import WebClient
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

APP_TOKEN, BOT_TOKEN = "xapp-1-A0CREW-1-c0ffee", "xoxb-1-c0ffee"
APP, TEAM, USER = "A0CREW", "T0ACME", "U0ADA"
PATIENCE = 120


class Slack:
    """Web API on one port, WebSockets on another."""

    def __init__(self):
        self.lock = threading.Condition()
        self.connections, self.live, self.acks, self.answers, self.wrong = 0, None, [], [], []
        self.tickets, self.pings = set(), 0
        self.web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.web.daemon_threads = True
        self.sockets = serve(self.connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.web.server_port}"
        self.socket_url = "ws://127.0.0.1:%d" % self.sockets.socket.getsockname()[1]
        for loop in (self.web.serve_forever, self.sockets.serve_forever):
            threading.Thread(target=loop, daemon=True).start()

    def handler(self):
        slack = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                length = int(self.headers.get("content-length") or 0)
                body = slack.call(self.command, self.path, self.headers, self.rfile.read(length))
                text = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_POST = do_GET = answer

            def log_message(self, *_):
                pass

        return Handler

    def call(self, verb, path, headers, body):
        path = urllib.parse.urlsplit(path).path
        token = (headers.get("authorization") or "").removeprefix("Bearer ")
        if path == "/api/apps.connections.open":
            if verb != "POST" or token != APP_TOKEN:
                return {"ok": False, "error": "not_allowed_token_type" if token else "not_authed"}
            with self.lock:
                ticket = f"ticket-{len(self.tickets) + 1}"
                self.tickets.add(ticket)
            return {"ok": True, "url": f"{self.socket_url}/link/?ticket={ticket}&app_id={APP}"}
        if path == "/api/auth.test":
            ok = {"ok": True, "url": self.url, "team": "acme", "user": "crew", "team_id": TEAM, "user_id": "U0CREW", "bot_id": "B0CREW"}
            return ok if token == BOT_TOKEN else {"ok": False, "error": "invalid_auth"}
        if path.startswith("/response/"):
            with self.lock:
                self.answers.append((path.removeprefix("/response/"), json.loads(body)))
                self.lock.notify_all()
            return {"ok": True}
        return {"ok": False, "error": "unknown_method"}

    def connected(self, socket):
        """One connection: hello, envelopes as they are sent, acknowledgements as they come."""
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(socket.request.path).query)
        with self.lock:
            ticket = query.get("ticket", [""])[0]
            if ticket not in self.tickets:
                self.wrong.append(f"a connection with the ticket {ticket!r}, which is spent or none")
            self.tickets.discard(ticket)
            self.connections += 1
            self.live = socket
            self.lock.notify_all()
        hello = {"type": "hello", "num_connections": 1, "connection_info": {"app_id": APP}, "debug_info": {"host": "applink-1", "approximate_connection_time": 18060}}
        try:
            socket.send(json.dumps(hello))
            for message in socket:
                with self.lock:
                    self.acks.append(json.loads(message))
                    self.lock.notify_all()
        except ConnectionClosed:
            pass
        with self.lock:
            if self.live is socket:
                self.live = None
            self.lock.notify_all()

    def until(self, what, fact):
        deadline = time.monotonic() + PATIENCE
        with self.lock:
            while not (found := fact()):
                if not self.lock.wait(max(0.0, min(1.0, deadline - time.monotonic()))) and time.monotonic() > deadline:
                    raise TimeoutError(what)
            return found

    def send(self, envelope):
        """Sends it over the connection that stands and waits for its acknowledgement."""
        live = self.until("a connection", lambda: self.live)
        live.send(json.dumps(envelope))
        id = envelope["envelope_id"]
        return self.until(f"an acknowledgement of {id}", lambda: [ack for ack in self.acks if ack.get("envelope_id") == id])[0]

    def replace(self):
        """Asks for another connection, as Slack does now and then, and ends this one."""
        before, live = self.connections, self.until("a connection", lambda: self.live)
        live.send(json.dumps({"type": "disconnect", "reason": "refresh_requested", "debug_info": {"host": "applink-1"}}))
        self.until("another connection", lambda: self.connections > before and self.live not in (None, live))
        live.close()

    def ping(self):
        """Whether the other side answers a ping."""
        self.until("a connection", lambda: self.live).ping().wait(PATIENCE) or self.wrong.append("a ping is not answered")


def command(slack, text, id):
    payload = {
        "token": "t", "team_id": TEAM, "team_domain": "acme", "channel_id": "C0OPS", "channel_name": "ops", "user_id": USER,
        "user_name": "ada", "command": "/nightcrew", "text": text, "api_app_id": APP, "is_enterprise_install": "false",
        "response_url": f"{slack.url}/response/{id}", "trigger_id": f"13345224609.738474920.{id}",
    }
    return {"type": "slash_commands", "envelope_id": id, "payload": payload, "accepts_response_payload": True}


def press(slack, value, id):
    payload = {
        "type": "block_actions", "team": {"id": TEAM, "domain": "acme"}, "api_app_id": APP, "token": "t",
        "user": {"id": USER, "username": "ada", "name": "ada", "team_id": TEAM}, "trigger_id": f"1.2.{id}",
        "container": {"type": "message", "message_ts": "1763640000.000100", "channel_id": "C0OPS", "is_ephemeral": False},
        "channel": {"id": "C0OPS", "name": "ops"}, "response_url": f"{slack.url}/response/{id}", "state": {"values": {}},
        "actions": [{
            "type": "button", "action_id": "run.approve", "block_id": "b", "value": value, "style": "primary",
            "text": {"type": "plain_text", "text": "Approve", "emoji": True}, "action_ts": "1763640001.000200",
        }],
    }
    return {"type": "interactive", "envelope_id": id, "payload": payload, "accepts_response_payload": False}


def by_the_sdk(slack):
    """The official client in our place. Answers the acknowledgements of a command and of a button."""
    received = queue.Queue()

    def listener(client, request):
        text = {"response_type": "ephemeral", "text": "▶ Begun"} if request.accepts_response_payload else None
        client.send_socket_mode_response(SocketModeResponse(envelope_id=request.envelope_id, payload=text))
        received.put(request)

    client = SocketModeClient(app_token=APP_TOKEN, web_client=WebClient(base_url=f"{slack.url}/api/"))
    client.socket_mode_request_listeners.append(listener)
    client.connect()
    acks = [slack.send(command(slack, "run ask", "sdk-1"))]
    slack.ping()
    slack.replace()
    acks.append(slack.send(press(slack, "{}", "sdk-2")))
    seen = [received.get(timeout=PATIENCE) for _ in acks]
    client.close()
    told = [(request.type, request.payload.get("text") or request.payload["actions"][0]["action_id"]) for request in seen]
    assert told == [("slash_commands", "run ask"), ("interactive", "run.approve")], told
    return acks


ASK = """version: 1
name: ask
summary: A person decides.
steps:
  - id: ok
    approve: {ask: "May I go on?", expires: 1h, on_expiry: skip}
  - id: post
    report: {from: [ok], to: files, when_quiet: post}
"""


def by_nightcrew(slack, program):
    """The real daemon, and a run that waits for the button."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "config").mkdir()
        (folder / "pipelines").mkdir()
        (folder / "pipelines/ask.yaml").write_text(ASK)
        (folder / "config/app").write_text(APP_TOKEN)
        (folder / "config/bot").write_text(BOT_TOKEN)
        (folder / "config/nightcrew.yaml").write_text(
            "version: 1\nsecrets: {APP: {file: app}, BOT: {file: bot}}\nhttp: {listen: \"127.0.0.1:0\"}\n"
            f"services: {{slack: {{api_url: \"{slack.url}/api\", app_token: secret:APP, bot_token: secret:BOT, users: [{USER}]}}}}\n"
        )

        def nightcrew(*words):
            command = [program, "--state", folder / "state", *words]
            return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout

        before = slack.connections
        with open(folder / "log", "w") as log:
            daemon = subprocess.Popen([program, "--state", folder / "state", "serve", "--profile", "local"], cwd=folder, stderr=log, stdin=subprocess.DEVNULL)
        try:
            slack.until("nightcrew's connection", lambda: slack.connections > before and slack.live)
            acks = [slack.send(command(slack, "run ask", "own-1"))]
            slack.ping()
            slack.replace()
            value = None
            deadline = time.monotonic() + PATIENCE
            while value is None and time.monotonic() < deadline:
                for run in json.loads(nightcrew("--json", "runs"))["runs"]:
                    for line in nightcrew("--json", "logs", run["id"]).splitlines():
                        payload = json.loads(line)["payload"]
                        question = (payload.get("report") or {}).get("question") if isinstance(payload, dict) else None
                        if question:
                            value = json.dumps({"run": run["id"], "path": question["path"], "hash": question["hash"]})
                time.sleep(0.1)
            acks.append(slack.send(press(slack, value, "own-2")))
            slack.send(press(slack, value, "own-3"))
            answers = slack.until("both answers", lambda: len(slack.answers) >= 1 and list(slack.answers))
            while (run := json.loads(nightcrew("--json", "runs"))["runs"])[0]["outcome"] is None and time.monotonic() < deadline:
                time.sleep(0.1)
            assert [found["outcome"] for found in run] == ["reported"], run
            assert answers[0] == ("own-2", {"response_type": "ephemeral", "replace_original": False, "text": "✅ You approved: May I go on?"}), answers
            assert acks[0]["payload"]["text"].startswith("▶ Begun: `ask` run "), acks
        except TimeoutError as error:
            sys.exit(f"never came: {error}\n{(folder / 'log').read_text()}")
        finally:
            daemon.send_signal(signal.SIGTERM)
            code = daemon.wait(PATIENCE)
            said = (folder / "log").read_text()
        assert code == 0, said
        assert not re.search(r"ticket-\d", said), "a ticket stands in the log"
        return acks


def shape(value):
    return {name: shape(inner) for name, inner in sorted(value.items())} if isinstance(value, dict) else type(value).__name__


def main():
    slack = Slack()
    theirs = by_the_sdk(slack)
    ours = by_nightcrew(slack, pathlib.Path(sys.argv[1]).resolve())
    wrong = slack.wrong
    for name, their, our in zip(("a command", "a button"), theirs, ours, strict=True):
        if shape(their) != shape(our):
            wrong.append(f"{name} is acknowledged as {shape(our)}, by the SDK as {shape(their)}")
    unknown = [ack for ack in slack.acks if not ack.get("envelope_id", "").startswith(("sdk-", "own-"))]
    wrong += [f"an acknowledgement of nothing: {ack}" for ack in unknown]
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"slack's socket mode: slack_sdk and nightcrew went through {slack.connections} connections and {len(slack.acks)} acknowledgements, {len(wrong)} differences")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
