"""The judge of exactly-once. It reads the logs of the stand-ins (or of a recorder that writes the same lines) and nothing else.

    auditor.py [--allow KIND:NAME]... [--effects] LOG...

`--allow` says what the configuration names: `repository:acme/api`, `channel:api-oncall`, `base:main`, `organization:acme`. Every
broken rule is a line of JSON on standard output, `{"rule", "service", "n", "what"}`; the end is 0 where there is none, else 1. With
`--effects` the lines are what came to be, without what tells runs apart, for a comparison with another run's.

The rules, by name:
  once         one pull request, ticket, comment, message, file and note per intent (its marker, its metadata, its branch)
  unmarked     what we write can be found again: pull requests, tickets and comments bear a marker, messages metadata
  resent       no write that may have happened is sent again without a look in between (B16)
  spacing      one message a second per channel
  limits       nobody asks before a rate limit is over: as long as it says, else a minute (GitHub) or a second
  storm        what is refused with 401 is not asked again and again; nothing is tried more than a dozen times
  destination  no request about a repository, channel or organisation that nobody named; no branch but ours, no base but the named
  draft        pull requests are drafts
  secret       no credential in a body, a path or a query, whatever it is encoded in
  loud         nothing rings: no @channel, no person, no unfurl
"""

import argparse
import base64
import collections
import json
import re
import sys
import urllib.parse

# A credential by its looks, whoever it belongs to.
LOOKS = re.compile(r"gh[pousr]_[A-Za-z0-9]{30,}|xox[abp]-[0-9A-Za-z-]{20,}|xapp-[0-9A-Za-z-]{20,}|sk-ant-[A-Za-z0-9-]{16,}|sntry[us]_[A-Za-z0-9]{30,}")
MARKER = re.compile(r"<!--\s*nightcrew\b(.*?)-->", re.S)
PREFIX = "refs/heads/nightcrew/"
# Between two messages of a channel; clocks are not that exact.
SPACE_MS = 980
# What was under way when the limit came may still arrive.
UNDER_WAY_MS = 400
MOST_TRIES = 12

# Writes that are the same when they are repeated: objects by their content, sets, places for files.
REPEATABLE = re.compile(r"/git/(blobs|trees|commits)$|/requested_reviewers$|/labels$|/assignees$|/access_tokens$|/git-upload-pack$")
SLACK_WRITES = {"chat.postMessage", "chat.postEphemeral", "files.completeUploadExternal"}
SLACK_LOOKS = {"conversations.history", "conversations.replies"}
SLACK_UNSURE = {"fatal_error", "internal_error", "service_unavailable", "request_timeout"}


def marker(text):
    """What is hidden in a body, by which it is found again: its key, or all of it."""
    found = MARKER.findall(text or "")
    if not found:
        return None
    inner = found[-1].strip()
    start = inner.find("{")
    if start >= 0:
        try:
            told = json.loads(inner[start:])
            return told.get("key") or inner
        except ValueError:
            pass
    return inner


def mark_of(metadata):
    payload = (metadata or {}).get("event_payload") or {}
    return (metadata or {}).get("event_type"), payload.get("key"), payload.get("part")


class Judge:
    def __init__(self, allowed):
        self.allowed = allowed
        self.broken = []

    def say(self, rule, line, what):
        self.broken.append({"rule": rule, "service": line["service"], "n": line.get("n"), "what": what})

    def judge(self, lines):
        by_service = collections.defaultdict(list)
        for line in lines:
            by_service[line["service"]].append(line)
        secrets = sorted({secret for line in lines for secret in line.get("secrets", [])})
        for service, lines in by_service.items():
            effects = [line for line in lines if line["kind"] == "effect" and line.get("n") is not None]
            requests = sorted((line for line in lines if line["kind"] == "request"), key=lambda line: line["n"])
            self.once(effects)
            self.resent(service, requests)
            self.spacing(requests)
            self.limits(service, requests)
            self.storm(requests)
            self.destinations(service, lines, effects, requests)
            self.secrets(secrets, lines)
            self.loud(service, requests)

    # --- one per intent -------------------------------------------------------------------------------------------------------

    def once(self, effects):
        seen = {}
        for line in effects:
            for intent in self.intents(line):
                if intent is None:
                    self.say("unmarked", line, f"{line['effect']} bears nothing by which it could be found again")
                elif intent in seen:
                    self.say("once", line, f"{line['effect']} a second time for {intent[1:]}; the first was by request {seen[intent]}")
                else:
                    seen[intent] = line["n"]

    def intents(self, line):
        effect = line["effect"]
        if effect == "pull_request.create":
            yield ("pull_request by branch", line["repository"], line["head"])
            found = marker(line.get("body"))
            yield ("pull_request", line["repository"], found) if found else None
            if line.get("draft") is not True:
                self.say("draft", line, f"pull request {line['number']} is no draft")
        elif effect == "issue.create":
            found = marker(line.get("body"))
            yield ("issue", line["repository"], found) if found else None
        elif effect == "comment.create":
            found = marker(line.get("body"))
            yield ("comment", line["repository"], line["number"], found, line["body"]) if found else None
        elif effect == "message.create":
            kind, key, part = mark_of(line.get("metadata"))
            yield ("message", line["channel"], kind, key, part) if kind and key else None
        elif effect == "file.share":
            for file in line["files"]:
                yield ("file", line["channel"], line.get("thread_ts"), file.get("name"), file.get("title"))
        elif effect == "note.create":
            yield ("note", line["issue"], line["text"])
        elif effect == "external_issue.create":
            yield ("link", line["issue"], line["url"])
        elif effect == "ref.create":
            yield ("ref", line["repository"], line["ref"])

    # --- B16 ------------------------------------------------------------------------------------------------------------------

    def intent_of_request(self, service, line):
        """What a write is meant to make, if repeating it makes a second one; `None`: it may be repeated."""
        if line["method"] != "POST" or REPEATABLE.search(line["path"]):
            return None
        body = line["body"] if isinstance(line["body"], dict) else {}
        if service == "slack":
            method = line["path"].rsplit("/", 1)[-1]
            if method not in SLACK_WRITES:
                return None
            metadata = body.get("metadata")
            if isinstance(metadata, str):
                metadata = json.loads(metadata)
            kind, key, part = mark_of(metadata)
            where = body.get("channel") or body.get("channel_id")
            return (method, where, kind, key, part) if key else (method, where, json.dumps(body, sort_keys=True))
        named = body.get("head") or body.get("ref") or marker(body.get("body")) or body.get("title") or json.dumps(body, sort_keys=True)
        return (line["path"], named)

    def unsure(self, service, line):
        """Whether who sent it cannot know that nothing was done."""
        if line["ended"] in ("cut", "lost", "failed", "torn"):
            return True
        if line["ended"] == "slow" and line.get("given_up"):
            return True
        if line["status"] is None or line["status"] >= 500:
            return True
        return service == "slack" and line.get("word") in SLACK_UNSURE

    def looks(self, service, line, intent):
        """Whether this request reads what such a write would have made."""
        if not 200 <= (line["status"] or 0) < 300 or line["ended"] not in ("answered", "slow"):
            # A look that fails tells nothing, but for a branch that is not there.
            if not (service == "github" and line["method"] == "GET" and line["status"] == 404 and "/git/ref/" in line["path"]):
                return False
        if service == "slack":
            return line["path"].rsplit("/", 1)[-1] in SLACK_LOOKS and line.get("word") is None
        if line["method"] != "GET":
            return False
        path = intent[0]
        if path.endswith("/git/refs"):
            base = path[: -len("/git/refs")]
            return any(line["path"].startswith(base + rest) for rest in ("/git/ref/", "/git/matching-refs/", "/branches", "/pulls"))
        if path.endswith(("/comments", "/notes")):
            return line["path"].rstrip("/") == path.rstrip("/") or line["path"].rstrip("/").endswith(("/timeline", "/activities"))
        if path.endswith("/external-issues/"):
            return "/issues/" in line["path"]
        return line["path"].startswith(path)

    def resent(self, service, requests):
        waiting = {}
        for line in requests:
            intent = self.intent_of_request(service, line)
            if intent is not None:
                if intent in waiting:
                    self.say("resent", line, f"{intent} may have happened by request {waiting[intent]}, and nobody looked")
                if self.unsure(service, line):
                    waiting[intent] = line["n"]
                else:
                    waiting.pop(intent, None)
                continue
            for intent in [intent for intent in waiting if self.looks(service, line, intent)]:
                waiting.pop(intent)

    # --- time -----------------------------------------------------------------------------------------------------------------

    def spacing(self, requests):
        last = {}
        for line in requests:
            if line["service"] != "slack" or not line["path"].endswith("/chat.postMessage") or not isinstance(line["body"], dict):
                continue
            channel = line["body"].get("channel")
            if channel in last and line["at_ms"] - last[channel] < SPACE_MS:
                self.say("spacing", line, f"{line['at_ms'] - last[channel]} ms after the last message in {channel}")
            last[channel] = line["at_ms"]

    def limits(self, service, requests):
        until = {}
        for line in requests:
            method = line["path"] if service == "slack" else ""
            key = (line["who"], method)
            if key in until:
                since, end = until[key]
                if since + UNDER_WAY_MS < line["at_ms"] < end - 50:
                    self.say("limits", line, f"{line['method']} {line['path']} {end - line['at_ms']} ms before the limit was over")
            word = (line.get("word") or "").lower()
            limited = line["status"] == 429 or (line["status"] == 403 and "rate limit" in word)
            if limited:
                asked = line.get("retry_after")
                pause = 1000 * asked if asked is not None else 60_000 if service == "github" else 1_000
                end = line["at_ms"] + pause
                if asked is None and line.get("reset_ms"):
                    end = line["reset_ms"]
                until[key] = (line["at_ms"], max(end, until.get(key, (0, 0))[1]))

    def storm(self, requests):
        refused, tried = collections.Counter(), collections.Counter()
        for line in requests:
            what = (line["who"], line["method"], line["path"], line["query"], json.dumps(line["body"], sort_keys=True))
            denied = line["status"] == 401 or line.get("word") in ("invalid_auth", "token_revoked", "account_inactive", "not_authed")
            if denied:
                refused[what] += 1
                if refused[what] == 4:
                    self.say("storm", line, f"{line['method']} {line['path']} asked again and again with a secret that is refused")
            bad = line["status"] is None or line["status"] >= 429
            tried[what] = tried[what] + 1 if bad else 0
            if tried[what] == MOST_TRIES + 1:
                self.say("storm", line, f"{line['method']} {line['path']} tried more than {MOST_TRIES} times")

    # --- where to -------------------------------------------------------------------------------------------------------------

    def destinations(self, service, lines, effects, requests):
        names = {line["id"]: line["channel"] for line in lines if line["kind"] == "channel"}
        for line in requests:
            for kind, name in self.named(service, line):
                name = names.get(name, name)
                if name not in self.allowed[kind]:
                    self.say("destination", line, f"{line['method']} {line['path']} is about the {kind} {name}")
        for line in effects:
            if line["effect"] in ("ref.create", "ref.update", "ref.delete") and not line["ref"].startswith(PREFIX):
                self.say("destination", line, f"{line['effect']} of {line['ref']}")
            if line["effect"] == "pull_request.create" and line["base"] not in self.allowed["base"]:
                self.say("destination", line, f"a pull request onto {line['base']}")

    def named(self, service, line):
        parts = line["path"].strip("/").split("/")
        body = line["body"] if isinstance(line["body"], dict) else {}
        if service == "github":
            if parts[0] == "repos" and len(parts) >= 3:
                yield "repository", "/".join(parts[1:3])
            elif len(parts) >= 3 and parts[1].endswith(".git"):
                yield "repository", f"{parts[0]}/{parts[1][:-4]}"
            elif parts == ["graphql"]:
                yield "repository", "(GraphQL)"
        elif service == "slack":
            query = dict(urllib.parse.parse_qsl(line["query"]))
            for key in ("channel", "channel_id", "channels"):
                name = body.get(key) or query.get(key)
                if name:
                    yield "channel", str(name).lstrip("#")
            if line["path"].endswith(("conversations.open", "im.open")):
                yield "channel", "(a person)"
        elif service == "sentry" and parts[:3] == ["api", "0", "organizations"] and len(parts) > 3:
            yield "organization", parts[3]

    # --- what is said ---------------------------------------------------------------------------------------------------------

    def secrets(self, secrets, lines):
        shapes = {}
        for secret in secrets:
            raw = secret.encode()
            forms = {secret, raw.hex(), secret[::-1], urllib.parse.quote(secret, safe="")}
            for shift in range(3):
                # The middle of it, whatever stands before and after.
                text = base64.b64encode(b"\0" * shift + raw).decode().rstrip("=")
                forms.add(text[4:-2])
                forms.add(text[4:-2].replace("+", "-").replace("/", "_"))
            shapes[secret] = {form for form in forms if len(form) >= 12}
        for line in lines:
            if line["kind"] not in ("request", "effect"):
                continue
            text = json.dumps(line, ensure_ascii=False)
            for secret, forms in shapes.items():
                if any(form in text for form in forms):
                    self.say("secret", line, f"the secret {secret[:6]}… stands in a {line['kind']}")
            found = LOOKS.search(text)
            if found and found.group(0) not in shapes:
                self.say("secret", line, f"what looks like a credential, {found.group(0)[:6]}…, stands in a {line['kind']}")

    def loud(self, service, requests):
        if service != "slack":
            return
        for line in requests:
            if not line["path"].endswith(("/chat.postMessage", "/chat.update")) or not isinstance(line["body"], dict):
                continue
            text = json.dumps({key: line["body"].get(key) for key in ("text", "blocks", "attachments")}, ensure_ascii=False)
            for cry in ("<!channel", "<!here", "<!everyone", "<!subteam", "<@"):
                if cry in text:
                    self.say("loud", line, f"{cry}> rings people")
            if line["path"].endswith("/chat.postMessage"):
                for key in ("unfurl_links", "unfurl_media"):
                    if line["body"].get(key) is not False:
                        self.say("loud", line, f"{key} is not switched off")


# --- what came to be ------------------------------------------------------------------------------------------------------------


def plain(text):
    """Without what tells runs apart: numbers, ids, hashes."""
    text = re.sub(r"\b[0-9A-HJKMNP-TV-Z]{26}\b|\b[0-9a-f]{7,64}\b", "…", text or "")
    return re.sub(r"\d+([.,]\d+)*", "#", text)


def effects_of(lines):
    """What there is in the end, as sorted lines."""
    things, found = {}, []
    titles = {}
    tops = {(line["channel"], line["ts"]) for line in lines if line["kind"] == "effect" and line["effect"] == "message.create" and not line.get("thread_ts")}
    for line in lines:
        if line["kind"] != "effect" or line.get("n") is None:
            continue
        effect = line["effect"]
        if effect in ("pull_request.create", "issue.create"):
            kind = effect.split(".")[0]
            key = (line["repository"], line["number"])
            things[key] = {"kind": kind, "repository": line["repository"], "title": line["title"], "state": "open"}
            if kind == "pull_request":
                things[key] |= {"head": line["head"], "base": line["base"], "draft": line["draft"]}
            else:
                things[key]["labels"] = sorted(line.get("labels") or [])
        elif effect in ("pull_request.update", "issue.update"):
            if effect == "issue.update" and "number" not in line:
                found.append({"kind": "sentry", "issue": line["issue"], "change": line["change"]})
            elif (line["repository"], line["number"]) in things:
                things[line["repository"], line["number"]]["title"] = line["title"]
        elif effect in ("pull_request.close", "issue.close", "pull_request.reopen", "issue.reopen"):
            if (line["repository"], line["number"]) in things:
                things[line["repository"], line["number"]]["state"] = "closed" if effect.endswith("close") else "open"
        elif effect == "labels.change" and (line["repository"], line["number"]) in things:
            things[line["repository"], line["number"]]["labels"] = sorted(line["labels"])
        elif effect == "review.request":
            titles[line["repository"], line["number"]] = sorted(line["reviewers"] + line["teams"])
        elif effect == "comment.create":
            found.append({"kind": "comment", "repository": line["repository"], "body": plain(line["body"].splitlines()[0])})
        elif effect == "message.create":
            kind, _, _ = mark_of(line.get("metadata"))
            top = (line["channel"], line["ts"]) in tops
            found.append({"kind": "message", "channel": line["channel"], "event": kind, "top": top, "text": plain(line["text"].splitlines()[0] if line["text"] else "")})
        elif effect == "file.share":
            found.extend({"kind": "file", "channel": line["channel"], "name": plain(file["name"])} for file in line["files"])
        elif effect == "note.create":
            found.append({"kind": "note", "issue": line["issue"], "text": plain(line["text"])})
        elif effect == "external_issue.create":
            found.append({"kind": "link", "issue": line["issue"], "name": line["name"]})
    for key, reviewers in titles.items():
        if key in things:
            things[key]["reviewers"] = reviewers
    return sorted(json.dumps(thing, sort_keys=True, ensure_ascii=False) for thing in [*things.values(), *found])


def read(path):
    """The lines of a log, each with the service that its first line names."""
    lines, service = [], None
    with open(path, encoding="utf-8") as file:
        for text in file:
            line = json.loads(text)
            service = line.get("service") or service
            line["service"] = service
            lines.append(line)
    return lines


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--allow", action="append", default=[])
    parser.add_argument("--effects", action="store_true")
    parser.add_argument("logs", nargs="+")
    given = parser.parse_args()
    allowed = collections.defaultdict(set)
    for word in given.allow:
        kind, name = word.split(":", 1)
        allowed[kind].add(name)
    lines = [line for path in given.logs for line in read(path)]
    if given.effects:
        print("\n".join(effects_of(lines)))
        return 0
    judge = Judge(allowed)
    judge.judge(lines)
    for broken in judge.broken:
        print(json.dumps(broken, ensure_ascii=False))
    counted = collections.Counter(line["kind"] for line in lines)
    print(f"{counted['request']} requests, {counted['effect']} effects, {len(judge.broken)} rules broken", file=sys.stderr)
    return 1 if judge.broken else 0


if __name__ == "__main__":
    sys.exit(main())
