#!/usr/bin/env python3
"""Holds our model request bodies to the vendors' own SDK types, strictly.

    llm_bodies.py FILE...      each line {"api": KIND, "body": {...}}; other keys of a line are for people and are only shown

KIND is `anthropic` or `openai-chat` (what we send), and for what our scripted model server answers `anthropic-response`,
`anthropic-event`, `openai-chat-response` or `openai-chat-chunk` (one streamed event each).

Two layers. The types reject unknown keys at any depth, wrong types, and values outside an enumeration. They do not know what a model
or the API as a whole refuses (HTTP 400), so RULES below add that: pairs of tool call and result, forced tool choice on models
that always think, schema keywords that structured output does not take. Before any body is looked at, controls prove that
the oracle accepts good bodies and rejects bad ones, each for its own reason: an oracle that accepts everything fails here.

Prints one line per failure and `N passed, N failed`. Exits 1 on a failure, on a failed control, or when there was nothing to check.
"""

import json
import re
import sys
import typing

# The SDKs' TypedDicts say `Iterable[...]`, which pydantic validates lazily: a bad nested block would pass. As a list it is
# looked at at once. This must come before the SDKs are imported.
typing.Iterable = typing.List

from pydantic import TypeAdapter, ValidationError  # noqa: E402
from anthropic.types import Message, RawMessageStreamEvent, message_create_params as anthropic_params  # noqa: E402
from openai.types.chat import ChatCompletion, ChatCompletionChunk, completion_create_params as openai_params  # noqa: E402

TYPES = {
    ("anthropic", False): TypeAdapter(anthropic_params.MessageCreateParamsNonStreaming),
    ("anthropic", True): TypeAdapter(anthropic_params.MessageCreateParamsStreaming),
    ("openai-chat", False): TypeAdapter(openai_params.CompletionCreateParamsNonStreaming),
    ("openai-chat", True): TypeAdapter(openai_params.CompletionCreateParamsStreaming),
    ("anthropic-response", False): TypeAdapter(Message),
    ("anthropic-event", False): TypeAdapter(RawMessageStreamEvent),
    ("openai-chat-response", False): TypeAdapter(ChatCompletion),
    ("openai-chat-chunk", False): TypeAdapter(ChatCompletionChunk),
}
APIS = sorted({api for api, _ in TYPES})

# Always think: a forced tool choice, `disabled` and `enabled` with a budget are refused.
ALWAYS_THINKING = re.compile(r"claude-(opus-5-5|fable-5-[1-9])")
# Take no sampling parameters but the defaults.
NO_SAMPLING = re.compile(r"claude-(sonnet-5|haiku-5|opus-5|fable-5)")
# Structured output of either vendor refuses these, or ignores them; the host checks lengths and ranges itself.
REFUSED_KEYWORDS = {
    "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "maxItems", "uniqueItems",
    "minProperties", "maxProperties",
}


def blocks(content):
    return [{"type": "text", "text": content}] if isinstance(content, str) else content or []


def subschemas(schema):
    """`schema` and every schema inside it; names of properties are not mistaken for keywords."""
    if not isinstance(schema, dict):
        return
    yield schema
    for keyword in ("properties", "$defs", "definitions", "patternProperties"):
        for inner in (schema.get(keyword) or {}).values():
            yield from subschemas(inner)
    for keyword in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for inner in schema.get(keyword) or []:
            yield from subschemas(inner)
    for keyword in ("items", "not", "additionalProperties"):
        yield from subschemas(schema.get(keyword))


def schema_rules(where, schema, all_required):
    for inner in subschemas(schema):
        for keyword in sorted(REFUSED_KEYWORDS & inner.keys()):
            yield f"{where}: `{keyword}` is refused in a structured-output schema"
        if inner.get("type") == "object" or "properties" in inner:
            if inner.get("additionalProperties") is not False:
                yield f"{where}: an object needs `additionalProperties: false`"
            if all_required and set(inner.get("required", [])) != set(inner.get("properties", {})):
                yield f"{where}: strict mode wants every property in `required`"


def tool_rules(tools):
    names = [tool["name"] for tool in tools]
    for name in names:
        if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name):
            yield f"tool name {name!r}"
        if names.count(name) > 1:
            yield f"tool {name!r} is declared twice"


def anthropic_rules(body):
    turns = []  # neighbours of one role are one turn for the API
    for message in body["messages"]:
        if turns and turns[-1][0] == message["role"]:
            turns[-1][1].extend(blocks(message["content"]))
        else:
            turns.append((message["role"], list(blocks(message["content"]))))
    if not turns or turns[0][0] != "user":
        yield "the first message is not the user's"
    for index, (role, content) in enumerate(turns):
        if not content:
            yield f"turn {index} is empty"
        if any(block["type"] == "text" and not block["text"].strip() for block in content):
            yield f"turn {index} has an empty text block"
        calls = [block["id"] for block in content if block["type"] == "tool_use"]
        answers = turns[index + 1][1] if index + 1 < len(turns) else []
        results = [block["tool_use_id"] for block in answers if block["type"] == "tool_result"]
        if sorted(calls) != sorted(results):
            yield f"turn {index} calls {calls}, the next turn answers {results}"
        if any(block["type"] != "tool_result" for block in answers[: len(results)]):
            yield f"turn {index + 1} does not begin with its tool results"
        if role != "assistant" and calls:
            yield f"turn {index} is the user's and calls tools"
        if index == 0 and any(block["type"] == "tool_result" for block in content):
            yield "the first turn answers a call that was never made"
    tools = [tool for tool in body.get("tools", []) if "input_schema" in tool]
    yield from tool_rules(tools)
    for tool in tools:
        if tool["input_schema"].get("type") != "object":
            yield f"tool {tool['name']}: input_schema is not of type object"
        if tool.get("strict"):
            yield from schema_rules(f"tool {tool['name']}", tool["input_schema"], all_required=False)
    format = (body.get("output_config") or {}).get("format")
    if format:
        yield from schema_rules("output_config.format", format["schema"], all_required=False)
    choice = body.get("tool_choice") or {}
    if choice and not tools:
        yield "tool_choice without tools"
    if choice.get("type") == "tool" and choice["name"] not in [tool["name"] for tool in tools]:
        yield f"tool_choice names {choice['name']!r}, which is not declared"
    thinking = body.get("thinking") or {}
    if thinking.get("type") == "enabled" and not 1024 <= thinking["budget_tokens"] < body["max_tokens"]:
        yield "thinking.budget_tokens is outside 1024..max_tokens"
    if ALWAYS_THINKING.match(body["model"]):
        if choice.get("type") in ("any", "tool"):
            yield f"{body['model']} refuses a forced tool_choice"
        if thinking.get("type") in ("disabled", "enabled"):
            yield f"{body['model']} refuses thinking {thinking['type']}"
    if NO_SAMPLING.match(body["model"]):
        for name in ("temperature", "top_p", "top_k"):
            if name in body and not (name == "temperature" and body[name] == 1):
                yield f"{body['model']} refuses {name}"
    marked = json.dumps([body.get(part) for part in ("tools", "system", "messages")]).count('"cache_control": {')
    if marked > 4:
        yield f"{marked} cache breakpoints, at most 4 are taken"
    if not 0 <= body["max_tokens"] <= 128_000:
        yield f"max_tokens is {body['max_tokens']}"


def openai_rules(body):
    open_calls = []
    for index, message in enumerate(body["messages"]):
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_calls:
                yield f"message {index} answers {message['tool_call_id']!r}, which was not called"
            else:
                open_calls.remove(message["tool_call_id"])
            continue
        if open_calls:
            yield f"message {index} comes before the answers to {open_calls}"
        open_calls = [call["id"] for call in message.get("tool_calls") or []]
        for call in message.get("tool_calls") or []:
            if call["type"] == "function" and not is_json_object(call["function"]["arguments"]):
                yield f"message {index}: the arguments of {call['id']} are not a JSON object"
    if open_calls:
        yield f"the calls {open_calls} are not answered"
    functions = [tool["function"] for tool in body.get("tools", []) if tool["type"] == "function"]
    yield from tool_rules(functions)
    for function in functions:
        if function.get("strict"):
            yield from schema_rules(f"tool {function['name']}", function.get("parameters", {}), all_required=True)
    if body.get("tool_choice") not in (None, "none") and not functions:
        yield "tool_choice without tools"
    if "parallel_tool_calls" in body and not functions:
        yield "parallel_tool_calls without tools"
    format = body.get("response_format") or {}
    if format.get("type") == "json_schema":
        if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", format["json_schema"]["name"]):
            yield f"response_format name {format['json_schema']['name']!r}"
        if format["json_schema"].get("strict"):
            yield from schema_rules("response_format", format["json_schema"].get("schema", {}), all_required=True)
    if body["model"].startswith("gpt-"):
        if "max_tokens" in body:
            yield "max_completion_tokens is what this model takes, not max_tokens"
        if "temperature" in body and body.get("reasoning_effort") != "none":
            yield "temperature is taken only with reasoning_effort none"
    if body.get("stream_options") is not None and not body.get("stream"):
        yield "stream_options without stream"


def is_json_object(text):
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


RULES = {"anthropic": anthropic_rules, "openai-chat": openai_rules}


def explain(error, body):
    """At most three lines for an error of pydantic, which reports every branch that it tried of every union.

    A branch whose `type` or `role` is another one was not meant; neither was one that expects a string where a list is.
    """
    errors = error.errors(include_url=False)
    not_meant = {e["loc"][:-1] for e in errors if e["loc"][-1:] in (("type",), ("role",)) and e["type"] == "literal_error"}
    meant = [
        e for e in errors
        if e["type"] not in ("string_type", "list_type", "dict_type", "model_type", "none_required")
        and not any(e["loc"][: len(prefix)] == prefix for prefix in not_meant)
    ]
    lines = []
    for e in sorted(meant or errors, key=lambda e: -len(real_path(e, body))):
        where = ".".join(map(str, real_path(e, body)))
        line = f"{where}: {e['msg']}" if meant else f"{where}: fits none of the shapes that are allowed here"
        if line not in lines:
            lines.append(line)
    return lines[: 3 if meant else 1]


def real_path(error, body):
    """Where in `body` the error is: its `loc` without pydantic's names of union branches, which lead nowhere in `body`."""
    path = []
    for position, step in enumerate(error["loc"]):
        if isinstance(body, list) and isinstance(step, int) and step < len(body):
            body = body[step]
        elif isinstance(body, dict) and step in body:
            body = body[step]
        elif error["type"] != "missing" or position < len(error["loc"]) - 1:
            continue
        path.append(step)
    return path


def mistakes(api, body):
    """Why `body` would be refused; empty when it is good."""
    if api not in APIS:
        return [f"unknown api {api!r}, known are {', '.join(APIS)}"]
    streaming = api in RULES and isinstance(body, dict) and body.get("stream") is True
    try:
        TYPES[api, streaming].validate_json(json.dumps(body), strict=True, extra="forbid")
    except ValidationError as error:
        return explain(error, body)
    return list(RULES[api](body)) if api in RULES else []


# Controls. Good bodies, and for each a list of edits that must be rejected, with a word of the reason that must be given.

SCHEMA = {
    "type": "object",
    "properties": {"headline": {"type": "string"}, "bullets": {"type": "array", "items": {"type": "string"}}},
    "required": ["headline", "bullets"],
    "additionalProperties": False,
}
ANTHROPIC = {
    "model": "claude-opus-5-5",
    "max_tokens": 16000,
    "system": [{"type": "text", "text": "You are the boss.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    "thinking": {"type": "adaptive", "display": "summarized"},
    "output_config": {"effort": "medium", "format": {"type": "json_schema", "schema": SCHEMA}},
    "tools": [{"name": "signups", "description": "Sign-ups a day.", "input_schema": SCHEMA, "strict": True}],
    "tool_choice": {"type": "auto"},
    "messages": [
        {"role": "user", "content": "Explain what is flagged."},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Look.", "signature": "c2ln"},
            {"type": "redacted_thinking", "data": "ZGF0YQ=="},
            {"type": "tool_use", "id": "toolu_1", "name": "signups", "input": {"from": "2026-11-12"}},
            {"type": "tool_use", "id": "toolu_2", "name": "signups", "input": {"from": "2026-11-05"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": "1041"},
            {"type": "tool_result", "tool_use_id": "toolu_2", "content": [{"type": "text", "text": "late"}], "is_error": True},
            {"type": "text", "text": "Go on.", "cache_control": {"type": "ephemeral"}},
        ]},
    ],
}
OPENAI = {
    "model": "gpt-6.1-sol",
    "max_completion_tokens": 4000,
    "stream": True,
    "stream_options": {"include_usage": True},
    "response_format": {"type": "json_schema", "json_schema": {"name": "brief", "strict": True, "schema": SCHEMA}},
    "tools": [{"type": "function", "function": {"name": "signups", "description": "Sign-ups.", "parameters": SCHEMA, "strict": True}}],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "messages": [
        {"role": "system", "content": "You are the reviewer."},
        {"role": "user", "content": [{"type": "text", "text": "Read this."}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "signups", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "1041"},
    ],
}
USAGE = {
    "input_tokens": 1, "output_tokens": 2, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
    "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
}
RESPONSE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-5-5",
    "content": [{"type": "text", "text": "unknown"}], "stop_reason": "end_turn", "stop_sequence": None, "usage": USAGE,
}
EVENT = {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{"}}
COMPLETION = {
    "id": "c", "object": "chat.completion", "created": 1, "model": "gpt-6.1-sol",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "unknown"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}},
}
CHUNK = {
    "id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-6.1-sol",
    "choices": [{"index": 0, "delta": {"content": "un"}, "finish_reason": None}],
}
GONE = object()

# (api, good body, [(path to set, value, a word of the reason)])
CONTROLS = [
    ("anthropic", ANTHROPIC, [
        (["surprise"], 1, "Extra inputs"),
        (["messages", 2, "content", 0, "surprise"], 1, "Extra inputs"),
        (["system", 0, "cache_control", "ttl"], "2h", "ttl"),
        (["output_config", "effort"], "extreme", "effort"),
        (["max_tokens"], "16000", "integer"),
        (["max_tokens"], GONE, "required"),
        (["stream"], "yes", "stream"),
        (["tool_choice"], {"type": "auto", "name": "signups"}, "Extra inputs"),
        (["tool_choice"], "auto", "tool_choice"),
        (["tool_choice"], {"type": "any"}, "forced"),
        (["thinking"], {"type": "enabled", "budget_tokens": 2048}, "refuses thinking"),
        (["thinking"], {"type": "disabled"}, "refuses thinking"),
        (["temperature"], 0.2, "temperature"),
        (["messages", 0, "role"], "boss", "role"),
        (["messages", 1, "content", 0, "signature"], GONE, "signature"),
        (["messages", 1, "content", 1, "type"], "secret_thinking", "content"),
        (["messages", 2, "content", 0, "tool_use_id"], "toolu_9", "answers"),
        (["messages", 2, "content", 1], {"type": "text", "text": "forgotten"}, "answers"),
        (["messages", 2, "content", 0], {"type": "text", "text": "first"}, "begin with"),
        (["tools", 0, "parameters"], {}, "Extra inputs"),
        (["tools", 0, "input_schema"], {"type": "string"}, "of type object"),
        (["tools", 0, "name"], "sign ups", "tool name"),
        (["output_config", "format", "schema", "properties", "headline", "maxLength"], 120, "maxLength"),
        (["output_config", "format", "schema", "additionalProperties"], GONE, "additionalProperties"),
        (["output_config", "format", "name"], "brief", "Extra inputs"),
        (["messages", 0, "content"], [{"type": "text", "text": str(n), "cache_control": {"type": "ephemeral"}} for n in range(3)],
         "breakpoints"),
    ]),
    ("openai-chat", OPENAI, [
        (["surprise"], 1, "Extra inputs"),
        (["messages", 2, "tool_calls", 0, "surprise"], 1, "Extra inputs"),
        (["messages", 2, "tool_calls", 0, "type"], "tool", "type"),
        (["messages", 2, "tool_calls", 0, "function", "arguments"], {}, "arguments"),
        (["messages", 2, "tool_calls", 0, "function", "arguments"], "{", "JSON object"),
        (["messages", 0, "role"], "boss", "role"),
        (["messages", 1, "content", 0, "type"], "input_text", "type"),
        (["messages", 3, "tool_call_id"], "call_9", "not called"),
        (["messages", 3], {"role": "user", "content": "forgotten"}, "before the answers"),
        (["messages", 3], GONE, "not answered"),
        (["tool_choice"], "sometimes", "tool_choice"),
        (["tool_choice"], {"type": "function", "name": "signups"}, "Extra inputs"),
        (["tools", 0, "input_schema"], {}, "Extra inputs"),
        (["tools", 0, "type"], "tool", "type"),
        (["response_format", "type"], "json", "response_format"),
        (["response_format", "json_schema", "name"], "the brief", "name"),
        (["response_format", "json_schema", "schema", "required"], ["headline"], "every property"),
        (["reasoning_effort"], "extreme", "reasoning_effort"),
        (["max_tokens"], 4000, "max_completion_tokens"),
        (["temperature"], 0.2, "temperature"),
        (["stream"], GONE, "without stream"),
    ]),
    ("anthropic-response", RESPONSE, [
        (["stop_reason"], "done", "stop_reason"),
        (["content", 0, "type"], "txt", "content"),
        (["usage", "input_tokens"], "1", "integer"),
        (["usage", "input_tokens"], GONE, "required"),
        (["surprise"], 1, "Extra inputs"),
    ]),
    ("anthropic-event", EVENT, [(["delta", "type"], "json_delta", "delta"), (["type"], "ping", "type")]),
    ("openai-chat-response", COMPLETION, [
        (["choices", 0, "finish_reason"], "end", "finish_reason"),
        (["choices", 0, "message", "role"], "boss", "role"),
        (["usage", "total_tokens"], GONE, "required"),
    ]),
    ("openai-chat-chunk", CHUNK, [(["object"], "chunk", "object"), (["choices", 0, "delta", "surprise"], 1, "Extra inputs")]),
]


def edited(body, path, value):
    body = json.loads(json.dumps(body))  # no shared parts: an edit touches one place
    inner = body
    for step in path[:-1]:
        inner = inner[step]
    if value is GONE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return body


def controls():
    """The number of good and bad controls, and what went wrong with any of them."""
    good, bad, wrong = 0, 0, []
    for api, body, edits in CONTROLS:
        good += 1
        wrong += [f"control {api}: a good body is rejected: {why}" for why in mistakes(api, body)]
        for path, value, reason in edits:
            bad += 1
            found = mistakes(api, edited(body, path, value))
            if not any(reason in why for why in found):
                name = ".".join(map(str, path))
                wrong.append(f"control {api}: bad `{name}` should be rejected for {reason!r}, got {found or 'nothing'}")
    return good, bad, wrong


def main(paths):
    good, bad, wrong = controls()
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"controls: {good} good and {bad} bad bodies, {len(wrong)} judged wrongly")
    passed, failed, apis = 0, 0, {}
    for path in paths:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                entry = json.loads(line)
                found = mistakes(entry.get("api"), entry.get("body"))
                apis[entry.get("api")] = apis.get(entry.get("api"), 0) + 1
                passed, failed = passed + (not found), failed + bool(found)
                about = ", ".join(f"{key} {value}" for key, value in entry.items() if key not in ("api", "body"))
                for why in found:
                    print(f"{path}:{number}: {entry.get('api')}{' (' + about + ')' if about else ''}: {why}", file=sys.stderr)
    if apis:
        print("bodies: " + ", ".join(f"{count} {api}" for api, count in sorted(apis.items(), key=str)))
    print(f"{passed} passed, {failed} failed")
    if paths and not apis:
        print("there was no body to check", file=sys.stderr)
    return 1 if wrong or failed or (paths and not apis) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
