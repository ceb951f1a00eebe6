"""The two pipelines that work on code, on repositories that nobody here wrote.

  inflection 0.5.1 (Python, PyPI)     camelize("", False) throws IndexError            error-to-pr
  fast-uri 3.1.0 (JavaScript, npm)    parse("http://a/#%") throws URIError             error-to-pr
  tabulate 0.8.10 -> 0.9.0 (PyPI)     what ruff (SARIF) finds new in the later one     code-health

The packages are taken as their registries hand them out and committed to a git repository as they are. The bugs are theirs. The
error events are those that Sentry's own SDKs make of the real exception. The model is a script behind Anthropic's protocol over
HTTP; everything else is the built binary: clone, sandbox, setup through the allowed network, proof, ticket, branch, page.

Run by tests/conformance/run. Arguments: the nightcrew binary, a folder for downloads that is kept between runs.
"""

import http.server
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading

ROOT = pathlib.Path(__file__).resolve().parents[2]
FAILED = []
COUNTED = 0


def check(what, holds, seen=""):
    global COUNTED
    COUNTED += 1
    print(f"  {'ok  ' if holds else 'FAIL'} {what}" + ("" if holds else f"\n       {str(seen)[-3000:]}"), flush=True)
    if not holds:
        FAILED.append(what)


def command(*words, cwd=None, env=None, fails=False):
    done = subprocess.run([str(w) for w in words], cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode != 0 and not fails:
        sys.exit(f"{' '.join(map(str, words))} ended with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done


# --- the scripted model -------------------------------------------------------------------------------------------------


class Model:
    """Answers by what the system text asks for. `script` yields a reply from (system, messages, turn)."""

    def __init__(self, script):
        model = self
        self.calls = 0
        self.problems = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                model.calls += 1
                system = body.get("system", "")
                system = system if isinstance(system, str) else "\n".join(block["text"] for block in system)
                turn = sum(message["role"] == "assistant" for message in body["messages"])
                try:
                    content = script(system, body["messages"], turn)
                except Exception as error:  # The run then fails with this text.
                    model.problems.append(repr(error))
                    content = [{"type": "text", "text": f"the script failed: {error!r}"}]
                stop = "tool_use" if any(block["type"] == "tool_use" for block in content) else "end_turn"
                events = [
                    {
                        "type": "message_start",
                        "message": {
                            "id": f"msg_{model.calls}", "type": "message", "role": "assistant", "model": body["model"],
                            "content": [], "stop_reason": None, "stop_sequence": None,
                            "usage": {"input_tokens": 1000, "output_tokens": 1},
                        },
                    }
                ]
                for index, block in enumerate(content):
                    if block["type"] == "text":
                        start, delta = {"type": "text", "text": ""}, {"type": "text_delta", "text": block["text"]}
                    else:
                        start = {"type": "tool_use", "id": f"toolu_{model.calls}_{index}", "name": block["name"], "input": {}}
                        delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
                    events.append({"type": "content_block_start", "index": index, "content_block": start})
                    events.append({"type": "content_block_delta", "index": index, "delta": delta})
                    events.append({"type": "content_block_stop", "index": index})
                events.append(
                    {"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None}, "usage": {"output_tokens": 200}}
                )
                events.append({"type": "message_stop"})
                data = "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events).encode()
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


def says(value):
    return [{"type": "text", "text": json.dumps(value)}]


def calls(*pairs):
    return [{"type": "tool_use", "name": name, "input": value} for name, value in pairs]


def fixer(files, edits, answer, cause):
    """The model of an error-to-pr run: triage, cause after reading, fix by edits, review."""

    def script(system, messages, turn):
        if "How hard is this to fix" in system:
            return says({"class": "simple", "confidence": 0.93, "why": "one function, one missing case"})
        if "Find the root cause" in system:
            if turn == 0:
                return calls(*[("read", {"path": path}) for path in files], ("tree", {}))
            return says(cause)
        if "# Review of a fix" in system:
            answer_type = system[system.index("Type of the answer:"):]
            if "verdict" in answer_type:
                return says({"verdict": "approve", "findings": []})
            return says({"findings": []})
        if "# Smallest fix" in system:
            steps = [calls(*[("read", {"path": path}) for path in files])]
            steps += [calls(("edit", edit)) for edit in edits]
            steps += [calls(("run_tests", {}))]
            return steps[turn] if turn < len(steps) else says(answer)
        return says({"text": "nothing to add"})

    return script


def judge(system, messages, turn):
    """The model of a code-health run: every finding is real, its first line of source is the quote, one group for all."""
    if "Real defect, false positive or style" in system:
        text = messages[0]["content"] if isinstance(messages[0]["content"], str) else messages[0]["content"][0]["text"]
        found = re.search(r'"source":"((?:[^"\\]|\\.)*)"', text)
        source = json.loads(f'"{found.group(1)}"')
        quote = next(line.strip() for line in source.splitlines() if line.strip())
        return says({"verdict": "real", "confidence": 0.9, "quote": quote[:280]})
    if "Merge findings with one root cause" in system:
        text = json.dumps(messages[0])
        keys = list(dict.fromkeys(re.findall(r'\\"key\\":\\"((?:[^"\\]|\\\\.)*?)\\"', text)))
        group = {
            "title": "Errors are hidden", "harm": "A failure goes unnoticed and wrong output is shown.", "severity": "medium",
            "members": keys, "accept": ["ruff reports none of these rules"],
        }
        return says({"groups": [group]})
    return says({"text": "nothing to add"})


# --- a place to run in --------------------------------------------------------------------------------------------------


class Place:
    def __init__(self, folder, nightcrew, model, pipeline, environment, repository, paths=()):
        self.folder, self.nightcrew = folder, nightcrew
        (folder / "config").mkdir(parents=True)
        shutil.copytree(ROOT / "pipelines", folder / "pipelines")
        for other in (folder / "pipelines").glob("*.yaml"):
            if other.stem != pipeline:
                other.unlink()
        # What a user fits to the repository: the environment, and which files a fix may touch.
        (folder / "pipelines" / "environments" / "api.yaml").write_text(environment)
        text = (folder / "pipelines" / f"{pipeline}.yaml").read_text()
        shipped = '["src/**", "tests/**"]'
        assert not paths or shipped in text
        (folder / "pipelines" / f"{pipeline}.yaml").write_text(text.replace(shipped, json.dumps(list(paths))))
        shutil.copy(ROOT / "config" / "prices.yaml", folder / "config" / "prices.yaml")
        key = "api_key: secret:KEY, max_output_tokens: 4000"
        (folder / "config" / "nightcrew.yaml").write_text(
            f"""version: 1
effects: preview
models:
  boss:     {{provider: anthropic, model: claude-opus-5-5, base_url: "{model.url}", {key}}}
  intern:   {{provider: anthropic, model: claude-haiku-5-5, base_url: "{model.url}", {key}}}
  reviewer: {{provider: anthropic, model: claude-sonnet-5-5, base_url: "{model.url}", {key}}}
prices: prices.yaml
secrets:
  KEY: {{env: NIGHTCREW_CONFORMANCE_KEY}}
limits: {{max_budget_usd: 10, max_per_day_usd: 100, max_per_month_usd: 1000, max_concurrent_runs: 4}}
profiles:
  local:
    repository: {{path: "{repository}"}}
    tools: native
    sandbox: sandboxd
    sources: {{sentry: {{files: "{folder}/events/*.json"}}}}
    sinks: {{slack: files, tickets: files, pull_requests: local_branch}}
"""
        )

    def run(self, *words):
        env = dict(os.environ, NIGHTCREW_CONFORMANCE_KEY="sk-conformance-0123456789abcdef")
        base = [self.nightcrew, "--config", self.folder / "config" / "nightcrew.yaml", "--state", self.folder / "state", "--json"]
        done = command(*base, *words, cwd=self.folder, env=env, fails=True)
        try:
            return json.loads(done.stdout), done
        except json.JSONDecodeError:
            return None, done


def commit(repository, source, message):
    """The whole of `source` as the next commit."""
    repository.mkdir(exist_ok=True)
    git = ["git", "-c", "user.name=Upstream", "-c", "user.email=upstream@example.org", "-c", "init.defaultBranch=main"]
    if not (repository / ".git").exists():
        command(*git, "init", "-q", cwd=repository)
    for old in repository.iterdir():
        if old.name != ".git":
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    shutil.copytree(source, repository, dirs_exist_ok=True)
    command(*git, "add", "-A", cwd=repository)
    command(*git, "commit", "-q", "-m", message, cwd=repository)


def from_pypi(downloads, name, version):
    folder = downloads / f"{name}-{version}"
    if not folder.exists():
        command(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:",
                "-d", downloads, f"{name}=={version}")
        with tarfile.open(downloads / f"{name}-{version}.tar.gz") as archive:
            archive.extractall(downloads, filter="data")
    return folder


def from_npm(downloads, name, version):
    folder = downloads / f"{name}-{version}"
    if not folder.exists():
        command("npm", "pack", "--silent", f"{name}@{version}", cwd=downloads)
        with tarfile.open(downloads / f"{name}-{version}.tgz") as archive:
            archive.extractall(folder, filter="data")
    return folder / "package"


# --- error-to-pr --------------------------------------------------------------------------------------------------------

PYTHON_EVENT = """
import json, sys, sentry_sdk
from sentry_sdk.transport import Transport
kept = []
class Keep(Transport):
    def capture_envelope(self, envelope):
        kept.extend(item.payload.json for item in envelope.items if item.type == "event")
sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", transport=Keep, release="shop@4.2.0", in_app_include=["inflection"])
sys.path.insert(0, sys.argv[1])
import inflection
for user in range(4):
    with sentry_sdk.new_scope() as scope:
        scope.set_user({"id": str(user)})
        try:
            inflection.camelize("", False)
        except IndexError as error:
            sentry_sdk.capture_exception(error)
sentry_sdk.flush()
print(json.dumps(kept))
"""

NODE_EVENT = """
const Sentry = require('@sentry/node')
const kept = []
Sentry.init({dsn: 'http://key@127.0.0.1:9/1', release: 'shop@4.2.0', defaultIntegrations: false, beforeSend: e => { kept.push(e); return null }})
const uri = require(process.argv[1])
for (let user = 0; user < 4; user++) {
  Sentry.withScope(scope => {
    scope.setUser({id: String(user)})
    try { uri.parse('http://example.org/list#100%') } catch (error) { Sentry.captureException(error) }
  })
}
Sentry.flush(2000).then(() => { console.log(JSON.stringify(kept)); process.exit() })
"""


def error_to_pr(name, place, model, events, expected_file):
    (place.folder / "events").mkdir()
    (place.folder / "events" / "events.json").write_text(events)
    seen, done = place.run("run", "error-to-pr")
    told = (done.stdout + done.stderr)[-6000:]
    check(f"{name}: the run ends", seen is not None and not model.problems, (model.problems, told))
    if not seen:
        return
    run = seen["runs"][0]
    check(f"{name}: it acted", run["outcome"] == "acted", told)
    pulls = [receipt for receipt in run["receipts"] if receipt["kind"] == "pull_request"]
    check(f"{name}: one draft pull request", len(pulls) == 1, run)
    if pulls:
        page = pathlib.Path(pulls[0]["url_or_path"])
        page = page if page.is_absolute() else place.folder / page
        text = page.read_text()
        check(f"{name}: its page shows the changed file and the proof", expected_file in text and "red" in text.lower(), text)
        check(f"{name}: its page needs nothing from outside", not re.search(r'(src|href)="https?:', text))
    before = model.calls
    seen, done = place.run("run", "error-to-pr")
    told = (done.stdout + done.stderr)[-3000:]
    run = seen["runs"][0] if seen else {}
    check(f"{name}: the second run is nothing new", run.get("outcome") == "nothing_new", told)
    check(f"{name}: the second run asks no model and costs nothing", model.calls == before and run.get("cost_usd") == 0, told)


def python(nightcrew, downloads, work):
    source = from_pypi(downloads, "inflection", "0.5.1")
    commit(work / "inflection", source, "inflection 0.5.1")
    events = command(sys.executable, "-c", PYTHON_EVENT, source).stdout
    old = "        return string[0].lower() + camelize(string)[1:]"
    init = "inflection/__init__.py"
    test = "import inflection\n\n\ndef test_camelize_of_nothing_is_nothing():\n    assert inflection.camelize(\"\", False) == \"\"\n"
    model = Model(
        fixer(
            [init],
            [
                {"path": "test_camelize_empty.py", "content": test},
                {"path": init, "old": old, "new": old.replace("string[0]", "string[:1]")},
            ],
            {
                "title": "Let camelize take an empty string", "summary": "A slice instead of an index takes the first letter.",
                "root_cause": "camelize takes string[0] of an empty string.", "limits": ["None was not tried."],
            },
            {"root_cause": "camelize indexes an empty string", "files": [init], "risk": "low"},
        )
    )
    environment = """tools: [python]
setup: [{run: "python3 -m venv .venv && .venv/bin/pip install --quiet pytest", reads: [setup.py]}]
network: {setup: [pypi], run: []}
checks: [".venv/bin/python -m pytest --collect-only -q"]
test: ".venv/bin/python -m pytest -q --junitxml=$JUNIT"
"""
    place = Place(work / "python", nightcrew, model, "error-to-pr", environment, work / "inflection", ["inflection/**", "test_*.py"])
    error_to_pr("python", place, model, events, init)


def javascript(nightcrew, downloads, work):
    source = from_npm(downloads, "fast-uri", "3.1.0")
    commit(work / "fast-uri", source, "fast-uri 3.1.0")
    sentry = downloads / "sentry-node"
    if not (sentry / "node_modules").exists():
        sentry.mkdir(exist_ok=True)
        (sentry / "package.json").write_text('{"private": true}')
        command("npm", "install", "--silent", "--no-audit", "--no-fund", "@sentry/node@10.20.0", cwd=sentry)
    events = command("node", "-e", NODE_EVENT, source, cwd=sentry).stdout
    old = "        parsed.fragment = encodeURI(decodeURIComponent(parsed.fragment))\n"
    assert old in (source / "index.js").read_text()
    new = """        try {
          parsed.fragment = encodeURI(decodeURIComponent(parsed.fragment))
        } catch {
          parsed.error = parsed.error || 'URI malformed'
        }
"""
    test = """'use strict'

const { test } = require('node:test')
const assert = require('node:assert')
const fastURI = require('..')

test('a fragment with a lone percent sign is an error of the URI, not an exception', () => {
  assert.strictEqual(fastURI.parse('http://example.org/list#100%').error, 'URI malformed')
})
"""
    model = Model(
        fixer(
            ["index.js"],
            [{"path": "test/malformed-fragment.test.js", "content": test}, {"path": "index.js", "old": old, "new": new}],
            {
                "title": "Report a malformed fragment instead of throwing", "summary": "parse reports it as its other errors.",
                "root_cause": "decodeURIComponent throws for a lone percent sign.", "limits": [],
            },
            {"root_cause": "decodeURIComponent throws on malformed input", "files": ["index.js"], "risk": "low"},
        )
    )
    environment = """tools: [node]
setup: [{run: "npm install --no-save --no-package-lock --ignore-scripts --no-audit --no-fund tape@5 ajv@8", reads: [package.json]}]
network: {setup: [npm], run: []}
checks: ["node -e \\"require('.')\\""]
test: "node --test --test-reporter=junit --test-reporter-destination=$JUNIT test/*.test.js"
"""
    place = Place(work / "javascript", nightcrew, model, "error-to-pr", environment, work / "fast-uri", ["index.js", "test/**"])
    error_to_pr("javascript", place, model, events, "index.js")


# --- code-health --------------------------------------------------------------------------------------------------------


def ruff(nightcrew, downloads, work):
    repository = work / "tabulate"
    commit(repository, from_pypi(downloads, "tabulate", "0.8.10"), "tabulate 0.8.10")
    model = Model(judge)
    environment = """tools: [python]
setup: [{run: "python3 -m venv .venv && .venv/bin/pip install --quiet ruff==0.17.5", reads: []}]
network: {setup: [pypi], run: []}
scanners: {sarif: [{run: ".venv/bin/ruff check --no-cache --isolated --select E7,F,B,S1,BLE --exclude .venv --output-format sarif .", ok_exit: [0, 1]}]}
"""
    place = Place(work / "ruff", nightcrew, model, "code-health", environment, repository)
    told = ""

    def run():
        nonlocal told
        seen, done = place.run("run", "code-health")
        told = (done.stdout + done.stderr)[-6000:]
        return seen["runs"][0] if seen else {}

    first = run()
    check("ruff: the first night records the baseline", first.get("outcome") == "nothing_new" and model.calls == 0, told)
    unchanged = run()
    check("ruff: an unchanged second run costs nothing", unchanged.get("outcome") == "nothing_new" and unchanged.get("cost_usd") == 0, told)
    commit(repository, from_pypi(downloads, "tabulate", "0.9.0"), "tabulate 0.9.0")
    third = run()
    check("ruff: the model's script held", not model.problems, model.problems)
    check("ruff: what is new becomes a ticket", third.get("outcome") == "acted", told)
    tickets = [receipt for receipt in third.get("receipts", []) if receipt["kind"] == "ticket"]
    check("ruff: one ticket for one group", len(tickets) == 1, third)
    before = model.calls
    fourth = run()
    check("ruff: and once only, at no cost", fourth.get("outcome") == "nothing_new" and model.calls == before and fourth.get("cost_usd") == 0, told)


def main():
    nightcrew, downloads = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
    downloads.mkdir(parents=True, exist_ok=True)
    only = sys.argv[3:]
    with tempfile.TemporaryDirectory(prefix="nightcrew-repositories-") as work:
        for scenario in (python, javascript, ruff):
            if only and scenario.__name__ not in only:
                continue
            print(f"{scenario.__name__}:", flush=True)
            folder = pathlib.Path(work) / f"{scenario.__name__}-scenario"
            folder.mkdir()
            scenario(nightcrew, downloads, folder)
            if FAILED and os.environ.get("KEEP"):
                shutil.copytree(folder, pathlib.Path(os.environ["KEEP"]) / scenario.__name__, dirs_exist_ok=True, symlinks=True)
    print(f"{'FAILED: ' + '; '.join(FAILED) if FAILED else 'repositories: everything holds'}")
    sys.exit(1 if FAILED else 0)


if __name__ == "__main__":
    main()
