"""The whole way, by the built program: errors come in through Sentry's own SDK, and end as one draft pull request and one message.

    run.py NIGHTCREW PYTHON NODE EMULATE OPENAPI

PYTHON has sentry-sdk, slack_sdk and openapi-schema-validator; NODE runs EMULATE, vercel-labs/emulate 0.12.2, which stands for GitHub
and Slack. What emulate lacks, and what of it is used otherwise than it ships:
  - no `git clone`, no GET on some methods of Slack, any token for the first user: see front.py, which stands before it;
  - it finds no duplicate pull request and no missing branch, has no rate limits and checks no blocks: the stand-ins of `tests/it` do;
  - its auth.test names no bot, and a bot that it does not know is its first user; so the bot is that user.
The pipelines are those that ship. Of their YAML `effects` is live, `debounce` is five seconds, and the environment is this sample's.
The model is a script (repositories.py); the judge of exactly-once is auditor.py, which reads what front.py has recorded.
"""

import base64
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import repositories
from front import Front
from repositories import ROOT, Model, calls, check, command, says

GITHUB = "ghp_" + "conformance" + "0" * 25
SLACK = "xoxb-" + "1" * 12 + "-" + "2" * 12 + "-conformance"
INTAKE = "5f0c" * 8
REPO = "acme/api"

# --- the program with a bug ------------------------------------------------------------------------------------------------------

WINDOW = '''"""Quiet hours such as 22:00-07:00."""


def minutes(text):
    hours, _, rest = text.partition(":")
    return int(hours) * 60 + int(rest)


def length(window):
    """How many minutes a window lasts."""
    begin, end = window.split("-")
    return minutes(end) - minutes(begin)


def share(window):
    """Which part of an hour one minute of the window is."""
    return 60 / length(window)
'''
TEST = '''from src.window import length, share


def test_a_window_lasts_until_its_end():
    assert length("13:00-14:30") == 90


def test_a_share_of_an_hour():
    assert share("13:00-14:00") == 1
'''
PROGRAM = '''"""Reports what it cannot do to Sentry; the address is the only thing that says where that is."""

import sys

import sentry_sdk

from src.window import share

sentry_sdk.init(dsn=sys.argv[1], release="api@1.3.2", environment="production", in_app_include=["src"])
for user in range(4):
    with sentry_sdk.new_scope() as scope:
        scope.set_user({"id": f"u-{user}"})
        try:
            share("12:00-12:00")
        except ZeroDivisionError as error:
            sentry_sdk.capture_exception(error)
sentry_sdk.flush(10)
'''
OLD = "    return 60 / length(window)\n"
NEW = "    return 60 / length(window) if length(window) else 0\n"
NEW_TEST = '''from src.window import share


def test_an_empty_window_has_no_share():
    assert share("12:00-12:00") == 0
'''
ENVIRONMENT = """tools: [python]
setup: [{run: "python3 -m venv .venv && .venv/bin/pip install --quiet pytest==9.1.0 ruff==0.17.5", reads: []}]
network: {setup: [pypi], run: []}
checks: [".venv/bin/python -m pytest --collect-only -q"]
test: ".venv/bin/python -m pytest -q --junitxml=$JUNIT"
scanners: {sarif: [{run: ".venv/bin/ruff check --no-cache --isolated --select F,E7 --exclude .venv --output-format sarif .", ok_exit: [0, 1]}]}
"""

FIX = repositories.fixer(
    ["src/window.py"],
    [{"path": "tests/test_empty.py", "content": NEW_TEST}, {"path": "src/window.py", "old": OLD, "new": NEW}],
    {
        "title": "Give an empty window no share", "summary": "A window without a minute has no share of an hour.",
        "root_cause": "share divides by the length of a window, which may be 0.", "limits": ["Windows over midnight were not looked at."],
    },
    {"root_cause": "share divides by zero where a window is empty", "files": ["src/window.py"], "risk": "low"},
)


def script(system, messages, turn):
    """All three pipelines."""
    if "Explain only what is flagged" in system:
        return says({"causes": []})
    if "One headline, then at most five bullets" in system:
        return says({"headline": "Sign-ups moved, and the data does not say why", "bullets": ["Nobody knows the cause yet"]})
    if "Real defect, false positive or style" in system or "Merge findings with one root cause" in system:
        return repositories.judge(system, messages, turn)
    return FIX(system, messages, turn)


# --- GitHub and Slack -------------------------------------------------------------------------------------------------------------


def free_ports():
    """Two in a row: emulate gives each service the next one."""
    for port in range(20_000, 60_000, 7):
        try:
            for number in (port, port + 1):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", number))
            return port
        except OSError:
            continue
    sys.exit("no two free ports in a row")


def ask(method, url, body=None, token=None, kind="application/json"):
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {token}", "content-type": kind, "user-agent": "conformance"}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=30) as answer:
        return json.loads(answer.read() or b"null")


class Outside:
    """The emulators, what stands before them, and the repository on both sides."""

    def __init__(self, work, node, emulate):
        port = free_ports()
        seed = {
            "tokens": {GITHUB: {"login": "crew-bot", "scopes": ["repo"]}},
            "github": {
                "users": [{"login": "crew-bot", "name": "Crew"}, {"login": "ada", "name": "Ada"}],
                "orgs": [{"login": "acme", "name": "Acme", "members": [{"login": "crew-bot", "role": "admin"}, {"login": "ada"}]}],
                "repos": [{"owner": "acme", "name": "api", "default_branch": "main", "auto_init": True, "private": True}],
            },
            "slack": {"team": {"name": "Acme", "domain": "acme"}, "users": [{"name": "ada", "real_name": "Ada"}]},
        }
        (work / "seed.yaml").write_text(json.dumps(seed))
        self.log = open(work / "emulate.log", "wb")
        arguments = [node, emulate, "start", "-p", str(port), "-s", "github,slack", "--seed", work / "seed.yaml"]
        self.process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, cwd=work)
        self.bare = work / "api.git"
        self.github = Front("github", port, work / "github.jsonl", {GITHUB}, self.bare)
        self.slack = Front("slack", port + 1, work / "slack.jsonl", {SLACK})
        self.direct, self.desk = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}/api"
        for _ in range(300):
            try:
                ask("GET", f"{self.direct}/user", token=GITHUB)
                break
            except OSError:
                time.sleep(0.1)
        else:
            sys.exit(f"emulate does not come up:\n{(work / 'emulate.log').read_text()[-2000:]}")
        names = {}
        for name in ("api-oncall", "platform", "growth"):
            made = self.slack_call("conversations.create", {"name": name, "is_private": True})
            names[made["channel"]["id"]] = name
        self.slack.name(names)
        self.channels = {name: id for id, name in names.items()}

    def slack_call(self, method, body):
        told = ask("POST", f"{self.desk}/{method}", body, SLACK)
        if not told["ok"]:
            sys.exit(f"emulate's {method}: {told}")
        return told

    def messages(self, name):
        return self.slack_call("conversations.history", {"channel": self.channels[name], "include_all_metadata": True, "limit": 100})["messages"]

    def api(self, method, path, body=None):
        return ask(method, f"{self.direct}/repos/{REPO}{path}", body, GITHUB)

    def pulls(self):
        return self.api("GET", "/pulls?state=all&per_page=100")

    def issues(self):
        return [issue for issue in self.api("GET", "/issues?state=all&per_page=100") if "pull_request" not in issue]

    def push(self, folder):
        """The newest commit of a folder's main, to both sides: the same objects, so the same ids."""
        git = ["git", "-C", folder]
        if not self.bare.exists():
            command("git", "clone", "-q", "--bare", folder, self.bare)
            for name, value in (("uploadpack.allowFilter", "true"), ("uploadpack.allowAnySHA1InWant", "true")):
                command("git", "-C", self.bare, "config", name, value)
        else:
            command("git", "-C", self.bare, "fetch", "-q", folder, "+main:main")
        facts = command(*git, "log", "-1", "--format=%H%x00%T%x00%P%x00%an%x00%ae%x00%aI%x00%B", "main").stdout.split("\0")
        sha, tree, parents, name, address, date, message = facts
        entries = []
        for line in command(*git, "ls-tree", "-r", "main").stdout.splitlines():
            (mode, kind, _), path = line.split("\t")[0].split(), line.split("\t")[1]
            content = base64.b64encode((folder / path).read_bytes()).decode()
            blob = self.api("POST", "/git/blobs", {"content": content, "encoding": "base64"})
            entries.append({"path": path, "mode": mode, "type": kind, "sha": blob["sha"]})
        made = self.api("POST", "/git/trees", {"tree": entries})
        who = {"name": name, "email": address, "date": date}
        body = {"message": message.rstrip("\n") + "\n", "tree": made["sha"], "parents": parents.split(), "author": who, "committer": who}
        commit = self.api("POST", "/git/commits", body)
        if (made["sha"], commit["sha"]) != (tree, sha):
            sys.exit(f"emulate's ids are not git's: tree {made['sha']} for {tree}, commit {commit['sha']} for {sha}")
        self.api("PATCH", "/git/refs/heads/main", {"sha": sha, "force": True})
        return sha

    def stop(self):
        self.process.terminate()
        self.process.wait(20)


# --- the daemon -------------------------------------------------------------------------------------------------------------------


class Place:
    """A user's folder, and what is run in it."""

    def __init__(self, folder, nightcrew, model, outside, intake, effects="live"):
        self.folder, self.nightcrew = folder, nightcrew
        (folder / "config").mkdir(parents=True)
        shutil.copytree(ROOT / "pipelines", folder / "pipelines")
        (folder / "pipelines/environments/api.yaml").write_text(ENVIRONMENT)
        for path in (folder / "pipelines").glob("*.yaml"):
            text = re.sub(r"^effects: preview", f"effects: {effects}", path.read_text(), flags=re.M).replace("debounce: 10m", "debounce: 5s")
            if "effects:" not in text:
                text = text.replace("\nlimits:", f"\neffects: {effects}\nlimits:", 1)
            path.write_text(text)
        for name, secret in (("github", GITHUB), ("slack", SLACK), ("intake", INTAKE), ("model", "sk-conformance-0123456789abcdef")):
            path = folder / "config" / f"{name}.key"
            path.write_text(secret)
            path.chmod(0o600)
        shutil.copy(ROOT / "config/prices.yaml", folder / "config/prices.yaml")
        samples = ROOT / "tests/samples/analytics"
        shutil.copy(samples / "checkout.json", folder / "checkout.json")
        with sqlite3.connect(folder / "warehouse.db") as database:
            database.executescript((samples / "warehouse.sql").read_text())
        key = "api_key: secret:MODEL, max_output_tokens: 4000"
        (folder / "config/nightcrew.yaml").write_text(
            f"""version: 1
effects: {effects}
secrets: {{MODEL: {{file: model.key}}, GITHUB: {{file: github.key}}, SLACK: {{file: slack.key}}, INTAKE: {{file: intake.key}}}}
models:
  boss:     {{provider: anthropic, model: claude-opus-5-5, base_url: "{model.url}", {key}}}
  intern:   {{provider: anthropic, model: claude-haiku-5-5, base_url: "{model.url}", {key}}}
  reviewer: {{provider: anthropic, model: claude-sonnet-5-5, base_url: "{model.url}", {key}}}
prices: prices.yaml
services:
  github: {{api_url: "{outside.github.url}", git_url: "{outside.github.url}", token: secret:GITHUB}}
  slack:  {{api_url: "{outside.slack.url}/api", bot_token: secret:SLACK, users: [U000000001]}}
intake: {{listen: "127.0.0.1:{intake}", projects: [{{id: 42, name: api, key: secret:INTAKE}}]}}
http: {{listen: "127.0.0.1:0"}}
limits: {{max_budget_usd: 10, max_per_day_usd: 100, max_per_month_usd: 1000, max_concurrent_runs: 4}}
profiles:
  cloud:
    repository: clone
    tools: clone
    sandbox: sandboxd
    sources: {{warehouse: {{sqlite: ../warehouse.db}}, shop: {{files: ../checkout.json}}}}
    sinks: {{slack: slack, tickets: github, pull_requests: github}}
"""
        )
        self.base = [nightcrew, "--config", folder / "config/nightcrew.yaml", "--state", folder / "state", "--json"]

    def serve(self):
        self.log = open(self.folder / "serve.log", "ab")
        self.daemon = subprocess.Popen([*self.base, "serve"], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, cwd=self.folder)

    def said(self):
        return (self.folder / "serve.log").read_text(errors="replace")[-6000:]

    def stop(self):
        self.daemon.send_signal(signal.SIGTERM)
        return self.daemon.wait(60)

    def run(self, *words):
        """A command, and its answer as JSON."""
        done = command(*self.base, *words, cwd=self.folder, fails=True)
        try:
            return json.loads(done.stdout), done
        except json.JSONDecodeError:
            return None, done

    def once(self, *words):
        """One run: its record, and all that was said."""
        seen, done = self.run("run", *words)
        told = (done.stdout + done.stderr)[-6000:]
        return (seen["runs"][0] if seen and seen.get("runs") else {}), told

    def ended(self, pipeline, count, seconds):
        """The runs of a pipeline, once so many have ended."""
        until = time.monotonic() + seconds
        while True:
            seen, _ = self.run("runs")
            runs = seen if isinstance(seen, list) else (seen or {}).get("runs", [])
            runs = [run for run in runs if run.get("pipeline") == pipeline and run.get("outcome")]
            if len(runs) >= count or time.monotonic() > until or self.daemon.poll() is not None:
                return runs
            time.sleep(0.5)


def report_errors(python, folder, intake):
    dsn = f"http://{INTAKE}@127.0.0.1:{intake}/42"
    until = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", intake), 1).close()
            break
        except OSError:
            if time.monotonic() > until:
                return
            time.sleep(0.1)
    command(python, "-B", folder / "program.py", dsn, cwd=folder)


# --- what is seen -----------------------------------------------------------------------------------------------------------------


def errors(place, outside, model, python, repository, intake):
    print("errors through Sentry's SDK, live", flush=True)
    place.serve()
    report_errors(python, repository, intake)
    runs = place.ended("error-to-pr", 1, 180)
    told = (runs, model.problems, place.said())
    check("the daemon's run acted", [run["outcome"] for run in runs] == ["acted"], told)
    pulls = outside.pulls()
    check("one draft pull request on GitHub", [pull["draft"] for pull in pulls] == [True], (pulls, told))
    if pulls:
        body = pulls[0]["body"]
        check("its body has the proof: red on the base, green with the patch", all(word in body.lower() for word in ("proof", "red", "green")), body)
        check("its body has a marker by which it is found again", "<!-- nightcrew" in body, body)
        branch = pulls[0]["head"]["ref"]
        files = outside.api("GET", f"/git/trees/{pulls[0]['head']['sha']}?recursive=1")["tree"]
        check("its branch holds the fix and its test", branch.startswith("nightcrew/") and "tests/test_empty.py" in {file["path"] for file in files}, (branch, files))
        changed = outside.api("GET", "/contents/src/window.py?ref=" + branch)
        check("the fix is what the model proposed", base64.b64decode(changed["content"]).decode() == WINDOW.replace(OLD, NEW), changed)
    top = [message for message in outside.messages("api-oncall") if message.get("thread_ts", message["ts"]) == message["ts"] and message.get("blocks")]
    check("one message in Slack", len(top) == 1, top)
    if top:
        check("the message leads to the pull request", f"/{REPO}/pull/" in json.dumps(top[0]), top[0])
    calls, published, said = model.calls, len(outside.pulls()) + len(outside.issues()), len(outside.messages("api-oncall"))
    report_errors(python, repository, intake)
    time.sleep(6)
    runs = place.ended("error-to-pr", 1, 20)
    check("the same error again is no work", all(run["outcome"] in ("acted", "nothing_new") for run in runs) and model.calls == calls, (runs, place.said()))
    check("the same error again adds nothing", (len(outside.pulls()) + len(outside.issues()), len(outside.messages("api-oncall"))) == (published, said))
    check("the daemon ends in order", place.stop() == 0, place.said())


def preview(place, outside, model):
    print("error-to-pr in preview", flush=True)
    before = [outside.pulls(), outside.issues(), outside.api("GET", "/git/matching-refs/heads/")], len(outside.messages("api-oncall"))
    run, told = place.once("error-to-pr", "--profile", "cloud", "--effects", "preview")
    check("the preview reports", run.get("outcome") == "reported" and not model.problems, (model.problems, told))
    check("nothing is published on GitHub", [outside.pulls(), outside.issues(), outside.api("GET", "/git/matching-refs/heads/")] == before[0])
    new = outside.messages("api-oncall")[: len(outside.messages("api-oncall")) - before[1]]
    check("its report shows what would have been", any("would have" in json.dumps(message) for message in new), (new, told))


def health(place, outside, model, repository):
    print("code-health, live", flush=True)
    run, told = place.once("code-health", "--profile", "cloud")
    check("the first night records what exists", run.get("outcome") == "nothing_new", told)
    text = (repository / "src/window.py").read_text()
    (repository / "src/window.py").write_text(text + "\n\ndef first(windows):\n    try:\n        return windws[0]\n    except:\n        return None\n")
    commit(repository, "Look at the first window")
    outside.push(repository)
    run, told = place.once("code-health", "--profile", "cloud")
    issues = outside.issues()
    check("its finding becomes one ticket", run.get("outcome") == "acted" and len(issues) == 1, (issues, model.problems, told))
    if issues:
        check("the ticket has its label and its marker", [label["name"] for label in issues[0]["labels"]] == ["tech-debt"] and "<!-- nightcrew" in issues[0]["body"], issues[0])
    run, told = place.once("code-health", "--profile", "cloud")
    check("a second run adds nothing", run.get("outcome") == "nothing_new" and len(outside.issues()) == 1, told)


def analytics(place, outside, model):
    print("analytics-report", flush=True)
    run, told = place.once("analytics-report", "--profile", "cloud", "--set", "day=2026-11-19")
    check("the report is made", run.get("outcome") == "reported" and not model.problems, (model.problems, told))
    messages = outside.messages("growth")
    check("it is one message", len([message for message in messages if message.get("blocks")]) == 1, messages)
    uploads = [line for line in recorded(outside) if line["path"].endswith("files.completeUploadExternal") and line["status"] == 200]
    check("its chart is posted", len(uploads) == 1, messages)


def recorded(outside):
    from front import lines
    return [line for front in (outside.github, outside.slack) for line in lines(front.log.name) if line["kind"] == "request"]


def commit(folder, message):
    git = ["git", "-c", "user.name=Mika Rossi", "-c", "user.email=mika@example.org", "-C", folder]
    environment = dict(os.environ, GIT_AUTHOR_DATE="2026-11-18T10:00:00+00:00", GIT_COMMITTER_DATE="2026-11-18T10:00:00+00:00", GIT_CONFIG_GLOBAL="/dev/null")
    command(*git, "add", "-A", env=environment)
    command(*git, "commit", "-q", "-m", message, env=environment)


def main():
    nightcrew, python, node, emulate, openapi = sys.argv[1:6]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nightcrew-services-") as folder:
        work = pathlib.Path(folder)
        work.chmod(0o755)
        repository = work / "api"
        for path, text in (("src/__init__.py", ""), ("src/window.py", WINDOW), ("tests/__init__.py", ""), ("tests/test_window.py", TEST), ("program.py", PROGRAM), (".gitignore", ".venv/\n__pycache__/\n.pytest_cache/\n")):
            (repository / path).parent.mkdir(parents=True, exist_ok=True)
            (repository / path).write_text(text)
        command("git", "init", "-q", "-b", "main", repository)
        commit(repository, "Quiet hours")
        outside = Outside(work, node, emulate)
        try:
            outside.push(repository)
            model = Model(script)
            place = Place(work / "user", nightcrew, model, outside, free_ports())
            intake = int(re.search(r"intake: {listen: \"127.0.0.1:(\d+)", (work / "user/config/nightcrew.yaml").read_text())[1])
            errors(place, outside, model, python, repository, intake)
            preview(place, outside, model)
            health(place, outside, model, repository)
            analytics(place, outside, model)
            logs = [outside.github.log.name, outside.slack.log.name]
            allowed = ["--allow", f"repository:{REPO}", "--allow", "base:main"]
            for name in ("api-oncall", "platform", "growth"):
                allowed += ["--allow", f"channel:{name}"]
            judged = command(sys.executable, "-B", HERE.parent / "auditor.py", *allowed, *logs, fails=True)
            check(f"the auditor finds nothing ({judged.stderr.strip()})", judged.returncode == 0, judged.stdout + judged.stderr)
            seen = command(python, "-B", HERE / "oracle.py", openapi, *logs, fails=True)
            check(f"GitHub's description and slack_sdk agree ({(seen.stdout.strip().splitlines() or [''])[-1]})", seen.returncode == 0, seen.stdout + seen.stderr)
            print(f"  {outside.slack.turned} GETs of Slack's went on as POSTs", flush=True)
        finally:
            outside.stop()
    failed = len(repositories.FAILED)
    print(f"the whole way over emulated GitHub and Slack: {repositories.COUNTED - failed} ok, {failed} FAILED, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
