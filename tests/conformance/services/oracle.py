"""Who judges what was sent: GitHub's published OpenAPI description, and the block models of Slack's own SDK.

    oracle.py OPENAPI LOG... [--messages DIR]

A LOG is what front.py or a stand-in of `tests/it/fakes` has written; DIR holds messages as `chat.postMessage` takes them, one JSON
file each. Every request body to GitHub is validated against the description (OpenAPI 3.0: `nullable`), its path and the names of its
parameters too; every block of every Slack message goes through `slack_sdk` and must come out of it as it went in.
"""

import collections
import json
import logging
import pathlib
import re
import sys
import urllib.parse

from openapi_schema_validator import OAS30Validator
from slack_sdk.models.blocks import Block

# Not part of the description, or of ours: App tokens' own calls are.
CLONES = re.compile(r"\.git/")


class GitHub:
    def __init__(self, description):
        self.paths = []
        for template, methods in json.load(open(description, encoding="utf-8"))["paths"].items():
            # A reference such as heads/nightcrew/x is one parameter with strokes in it, as the real one takes it.
            parts = [re.escape(part) if not part.startswith("{") else "(.+)" if part in ("{ref}", "{path}", "{basehead}") else "([^/]+)" for part in template.split("/")]
            self.paths.append((re.compile("/".join(parts) + "$"), template, methods))
        self.paths.sort(key=lambda path: path[1].count("{"))

    def wrong(self, line):
        """What is wrong with a request, and which operation it is."""
        found = [(template, methods) for pattern, template, methods in self.paths if pattern.match(line["path"])]
        found = [(template, methods[line["method"].lower()]) for template, methods in found if line["method"].lower() in methods]
        if not found:
            return [f"GitHub describes no {line['method']} {line['path']}"], None
        template, operation = found[0]
        known = {parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "query"}
        problems = [f"{template} has no parameter `{name}`" for name, _ in urllib.parse.parse_qsl(line["query"]) if name not in known]
        schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
        if schema and (line["body"] is not None or operation["requestBody"].get("required")):
            problems += [f"{'/'.join(map(str, error.path))}: {error.message[:300]}" for error in OAS30Validator(schema).iter_errors(line["body"])]
            if schema.get("type") == "object" and isinstance(line["body"], dict):
                problems += [f"{template} has no property `{key}`" for key in line["body"] if key not in schema.get("properties", {})]
        elif line["body"] is not None:
            problems.append(f"{template} takes no body")
        return problems, f"{line['method']} {template}"


def blocks_wrong(blocks):
    problems = []
    if len(blocks) > 50:
        problems.append(f"{len(blocks)} blocks")
    for block in blocks:
        try:
            made = Block.parse(block)
            if made is None or type(made) is Block:
                problems.append(f"slack_sdk knows no block {block.get('type')}")
                continue
            made.validate_json()
            if (again := made.to_dict()) != block:
                problems.append(f"slack_sdk makes of it {json.dumps(again)[:300]}, and not {json.dumps(block)[:300]}")
        except Exception as error:  # What its models say of a block.
            problems.append(f"{block.get('type')}: {error!r}"[:400])
    return problems


class Unknown(logging.Handler):
    """slack_sdk only warns of keys that it does not know."""

    def __init__(self):
        super().__init__()
        self.said = []

    def emit(self, record):
        self.said.append(record.getMessage())


def main():
    words = sys.argv[1:]
    folder = pathlib.Path(words[words.index("--messages") + 1]) if "--messages" in words else None
    logs = [word for at, word in enumerate(words[1:], 1) if not word.startswith("--") and words[at - 1] != "--messages"]
    github = GitHub(words[0])
    unknown = Unknown()
    logging.getLogger("slack_sdk").addHandler(unknown)
    wrong, counted, messages = [], collections.Counter(), 0
    sent = [line for log in logs for line in map(json.loads, open(log, encoding="utf-8")) if line["kind"] == "request"]
    service = {log: json.loads(open(log, encoding="utf-8").readline())["service"] for log in logs}
    for log in logs:
        for line in (json.loads(text) for text in open(log, encoding="utf-8")):
            if line["kind"] != "request":
                continue
            if service[log] == "github" and not CLONES.search(line["path"]):
                problems, operation = github.wrong(line)
                counted[operation] += 1
                wrong += [f"{line['method']} {line['path']}: {problem}" for problem in problems]
            if service[log] == "slack" and isinstance(line["body"], dict) and line["body"].get("blocks"):
                messages += 1
                given = line["body"]["blocks"]
                wrong += blocks_wrong(json.loads(given) if isinstance(given, str) else given)
    for path in sorted(folder.rglob("*.json")) if folder else []:
        told = json.loads(path.read_text(encoding="utf-8"))
        for message in told if isinstance(told, list) else [told]:
            messages += 1
            wrong += [f"{path.name}: {problem}" for problem in blocks_wrong(message.get("blocks", message) if isinstance(message, dict) else message)]
    wrong += [f"slack_sdk: {said}" for said in unknown.said]
    for problem in dict.fromkeys(wrong):
        print(f"FAILED {problem}")
    print(f"{sum(counted.values())} of {len(sent)} requests to GitHub, {len(counted)} operations, as its description has them; {messages} Slack messages through slack_sdk; {len(set(wrong))} FAILED")
    return 1 if wrong or not (counted or messages) else 0


if __name__ == "__main__":
    sys.exit(main())
