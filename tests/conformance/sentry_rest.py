#!/usr/bin/env python3
"""Holds what we take Sentry's API to be, and what we send to it, to Sentry's own description (sentry_rest/openapi.json).

    sentry_rest.py FOLDER      a folder with logs of the stand-in: sentry-*.jsonl, see tests/it/fakes/service.rs

The fixtures of our tests are valid answers. Every request in the logs is one that the description knows: its address, its parameters
and their words, its body. The description asks for every member of every body, so `required` does not count for what is sent.
Comments are in Sentry's urls.py and not in the description: they are named here, and their bodies are checked by hand.

Controls come first: an oracle that accepts everything fails here. Prints a line for each failure and `N passed, N failed`; exits 1 on a
failure, or where there was nothing to check.
"""

import json
import pathlib
import re
import sys
import urllib.parse

from openapi_schema_validator import OAS30Validator

HERE = pathlib.Path(__file__).resolve().parent
SPEC = json.loads((HERE / "sentry_rest" / "openapi.json").read_text())["paths"]
DATA = HERE.parent / "it" / "data" / "sentry"
LIST = "/api/0/organizations/{organization_id_or_slug}/issues/"
ISSUE = LIST + "{issue_id}/"
EVENT = ISSUE + "events/{event_id}/"
COMMENTS = re.compile(r"^/api/0/organizations/[^/]+/issues/\d+/comments/$")


def schema(path, method):
    return SPEC[path][method]["responses"]["200"]["content"]["application/json"]["schema"]


def partial(node):
    """The same without `required`."""
    if isinstance(node, dict):
        return {key: partial(value) for key, value in node.items() if not (key == "required" and isinstance(value, list))}
    return [partial(item) for item in node] if isinstance(node, list) else node


BODY = OAS30Validator({**partial(SPEC[ISSUE]["put"]["requestBody"]["content"]["application/json"]["schema"]), "additionalProperties": False})


def errors(validator, value):
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message[:160]}" for error in validator.iter_errors(value)]


def known(path):
    for name in SPEC:
        pattern = re.sub(r"\\{[a-z_]+\\}", "[^/]+", re.escape(name))
        if re.fullmatch(pattern, path):
            return name
    return None


def request(line):
    """What is wrong with a request."""
    method, path = line["method"].lower(), line["path"]
    query = urllib.parse.parse_qsl(line["query"], keep_blank_values=True)
    if COMMENTS.match(path):
        if method == "get":
            return [f"parameter {name}" for name, _ in query if name != "cursor"]
        body = line["body"]
        good = method == "post" and isinstance(body, dict) and list(body) == ["text"] and isinstance(body["text"], str)
        return [] if good else [f"{method} {body}"]
    name = known(path)
    if name is None or method not in SPEC[name]:
        return [f"{method} {path} is not in the description"]
    given = {parameter["name"]: parameter["schema"] for parameter in SPEC[name][method]["parameters"] if parameter["in"] == "query"}
    wrong = []
    for key, value in query:
        if key not in given:
            wrong.append(f"parameter {key} is not in the description")
            continue
        words = given[key].get("enum") or given[key].get("items", {}).get("enum")
        if words and value not in words:
            wrong.append(f"parameter {key} cannot be {value}")
        if key == "limit" and not 1 <= int(value) <= 100:
            wrong.append(f"limit {value}")
        if key == "statsPeriod" and not re.fullmatch(r"\d+[smhdw]", value):
            wrong.append(f"statsPeriod {value}")
    if method == "put":
        wrong += errors(BODY, line["body"])
    return wrong


def controls():
    issue = json.loads((DATA / "issue.json").read_text())
    listed, event = OAS30Validator(schema(LIST, "get")), OAS30Validator(schema(EVENT, "get"))
    base = "/api/0/organizations/acme/issues/"
    ask = lambda method, path, query="", body=None: request({"method": method, "path": path, "query": query, "body": body})
    return {
        "a count that is a number": errors(listed, [{**issue, "count": 3}]),
        "an issue without its id": errors(listed, [{k: v for k, v in issue.items() if k != "id"}]),
        "tags as pairs": errors(event, {**json.loads((DATA / "event.json").read_text()), "tags": [["a", "b"]]}),
        "an unknown parameter": ask("GET", base, "per_page=3"),
        "an unknown order": ask("GET", base, "sort=age"),
        "too many at once": ask("GET", base, "limit=101"),
        "an unknown address": ask("GET", "/api/0/projects/acme/api/issues/"),
        "an unknown method": ask("POST", base + "7/", body={}),
        "an unknown status": ask("PUT", base + "7/", body={"status": "done"}),
        "an unknown member": ask("PUT", base + "7/", body={"assignee": "x"}),
        "a comment without text": ask("POST", base + "7/comments/", body={"body": "x"}),
    }


def main():
    failed = [f"control: {name} is accepted" for name, found in controls().items() if not found]
    passed = 0
    for name, path in (("issue", LIST), ("event", EVENT)):
        value = json.loads((DATA / f"{name}.json").read_text())
        wrong = errors(OAS30Validator(schema(path, "get")), [value] if name == "issue" else value)
        failed += [f"{name}.json: {error}" for error in wrong]
        passed += not wrong
    requests = 0
    for log in sorted(pathlib.Path(sys.argv[1]).glob("sentry-*.jsonl")):
        for line in map(json.loads, log.read_text().splitlines()):
            if line["kind"] != "request":
                continue
            requests += 1
            wrong = request(line)
            failed += [f"{line['method']} {line['path']}?{line['query']}: {error}" for error in wrong]
            passed += not wrong
    if requests == 0:
        failed.append(f"no requests in {sys.argv[1]}")
    for line in failed:
        print(line)
    print(f"{passed} passed, {len(failed)} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
