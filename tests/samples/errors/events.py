#!/usr/bin/env python3
"""Makes errors.json: the events that the sample `bug` really throws, as Sentry's SDK for Rust sends them.

Builds the sample as it is shipped, gives it what its users gave it, and reads the panic's message and backtrace (or the error) from
what it prints. Only who, when and the breadcrumbs are made up. Needs cargo. Run it again after a change of the sample's sources;
without `--write` it only says whether errors.json is still true.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SAMPLE = HERE.parent / "bug"
OUT = HERE / "errors.json"

# user, when, quiet hours, time of day, what is in the way
REQUESTS = [
    ("u-1043", "2026-11-17T22:15:08Z", "22:00-07:00", "23:15", None),
    ("u-1107", "2026-11-18T03:02:44Z", "23:00-06:30", "04:02", None),
    ("u-0871", "2026-11-18T21:31:19Z", "21:30-06:00", "22:31", None),
    ("u-1043", "2026-11-18T22:40:51Z", "22:00-07:00", "23:40", None),
    ("u-0990", "2026-11-19T00:05:30Z", "22:30-08:00", "01:05", None),
    ("u-1219", "2026-11-19T05:58:02Z", "20:00-07:00", "06:58", None),
    ("u-0412", "2026-11-18T09:00:03Z", "13:00-14:30", "10:00", "worker 4121 of 1.3.2"),
    ("u-1043", "2026-11-18T09:00:04Z", "12:00-13:00", "10:00", "worker 4121 of 1.3.2"),
    ("u-0655", "2026-11-19T09:00:02Z", "13:00-15:00", "10:00", "worker 3987 of 1.3.2"),
    ("u-1310", "2026-11-19T14:20:37Z", "7pm-11pm", "15:20", None),
]


def context(file, line):
    lines = (SAMPLE / file).read_text().splitlines()
    return {"pre_context": lines[max(0, line - 4):line - 1], "context_line": lines[line - 1], "post_context": lines[line:line + 3]}


def frames(backtrace):
    found = []
    for match in re.finditer(r"^ *\d+: (.+)\n(?: +at (.+):(\d+):\d+\n)?", backtrace, re.M):
        function, file, line = match.group(1), match.group(2), match.group(3)
        frame = {"function": re.sub(r"::h[0-9a-f]{16}$", "", function)}
        if file:
            # What is before says on which machine it was built.
            file = re.sub(r"^(/rustc/[0-9a-f]+|.*/rustlib/src/rust)/", "", file)
            own = not file.startswith(("library/", "/"))
            frame |= {"filename": file.removeprefix("./"), "lineno": int(line), "in_app": own}
            if own:
                frame |= context(frame["filename"], int(line))
        else:
            frame["in_app"] = False
        if frame["in_app"] and "::" in function:
            frame["module"] = function.rsplit("::", 1)[0]
        found.append(frame)
    # The SDK leaves out the machinery around `main`, and sends the oldest call first.
    last = max(i for i, frame in enumerate(found) if frame["in_app"])
    return found[last::-1]


def thrown(program, request, lock):
    with tempfile.TemporaryDirectory() as folder:
        outbox = Path(folder) / "outbox"
        if lock:
            Path(f"{outbox}.lock").write_text(lock)
        env = {"PATH": os.environ["PATH"], "RUST_BACKTRACE": "1"}
        run = subprocess.run([program, outbox], input=request, capture_output=True, text=True, env=env, cwd=SAMPLE)
    panic = re.search(r"^thread '.*' (?:\(\d+\) )?panicked at .*:\n(.*)\n", run.stderr, re.M)
    if panic:
        return {"type": "panic", "value": panic.group(1), "mechanism": {"type": "panic", "handled": False},
                "stacktrace": {"frames": frames(run.stderr)}}
    error = re.search(r"^quiethours: (.*)$", run.stderr, re.M)
    kind = "OutboxError" if "outbox" in error.group(1) else "ParseError"
    return {"type": kind, "value": error.group(1), "mechanism": {"type": "generic", "handled": True}}


def main():
    target = tempfile.mkdtemp()
    manifest = SAMPLE / "Cargo.toml"
    subprocess.run(["cargo", "build", "--release", "--offline", "--quiet", "--manifest-path", manifest, "--target-dir", target], check=True)
    events = []
    for number, (user, at, quiet, time, lock) in enumerate(REQUESTS, 1):
        exception = thrown(f"{target}/release/quiethours", f"{user} {quiet} {time}\n", lock)
        events.append({
            "event_id": f"{number:032x}",
            "timestamp": at,
            "platform": "native",
            "level": "fatal" if exception["type"] == "panic" else "error",
            "release": "quiethours@1.4.0",
            "environment": "production",
            "transaction": "deliver",
            "server_name": f"worker-{1 + number % 3}",
            "sdk": {"name": "sentry.rust", "version": "0.49.0"},
            "user": {"id": user},
            "tags": {"quiet": quiet, "queue": "push"},
            "breadcrumbs": {"values": [
                {"timestamp": at, "category": "queue", "level": "info", "message": "took a notification", "data": {"quiet": quiet, "at": time}},
            ]},
            "exception": {"values": [exception]},
        })
    text = "[\n" + ",\n".join(json.dumps(event, ensure_ascii=False) for event in events) + "\n]\n"
    if "--write" in sys.argv:
        OUT.write_text(text)
    elif OUT.read_text() != text:
        sys.exit("errors.json is not what the sample throws; run events.py --write")


if __name__ == "__main__":
    main()
