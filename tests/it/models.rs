//! The model providers against a scripted server over real HTTP: what is sent, what is understood, and that nothing broken is
//! ever taken for an answer. What belongs here: everything between a `ModelRequest` and a `ModelAnswer`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use nightcrew::base::env::Env;
use nightcrew::base::secret::{SecretRef, SecretSource};
use nightcrew::domain::model::{
    Block, Message, ModelAnswer, ModelRequest, RawMessage, Role, Speaker, StopReason, ToolSpec, Usage,
};
use nightcrew::models::{anthropic, openai};
use nightcrew::ports::model::{Model, ModelCall, ModelError, ModelKind, ModelSetup};
use serde_json::{Value, json};

use crate::fakes::model::{self as fake, Api, ModelServer, Reply, Tokens};

const BOTH: [(ModelKind, &str); 2] = [(anthropic::KIND, "claude-opus-5-5"), (openai::KIND, "qwen3")];

fn setup(server: &ModelServer) -> ModelSetup {
    ModelSetup {
        base_url: Some(server.url()),
        api_key: None,
        tape: None,
        idle_timeout: Duration::from_secs(20),
        total_timeout: Duration::from_secs(60),
        env: Env::system(),
    }
}

fn provider(kind: ModelKind, server: &ModelServer) -> Arc<dyn Model> {
    (kind.make)(&setup(server)).unwrap()
}

fn tool(name: &str) -> ToolSpec {
    let input_schema = json!({"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"], "additionalProperties": false});
    ToolSpec { name: name.into(), description: format!("{name} something"), input_schema }
}

fn request(messages: Vec<RawMessage>) -> ModelRequest {
    ModelRequest {
        role: Role::Boss,
        system: "You are careful.".into(),
        tools: Arc::new(vec![tool("read"), tool("search")]),
        messages,
        output_schema: None,
        no_tools: false,
        known_prefix: (0, 0),
        items: Vec::new(),
        from_report_slice: false,
        counts_turn: true,
    }
}

fn first() -> ModelRequest {
    request(vec![Message::user("Why did sign-ups fall?").raw().unwrap()])
}

async fn ask(model: &dyn Model, name: &str, request: &ModelRequest) -> Result<ModelAnswer, ModelError> {
    model.call(ModelCall { request, model: name, max_output_tokens: 4000, path: "news/turn-1", live: &|_| {} }).await
}

fn blocks(answer: &ModelAnswer) -> Vec<Block> {
    Message::from_raw(&answer.message).unwrap().content
}

fn short(error: &ModelError) -> String {
    let text = format!("{error:?}");
    text.split([' ', '(']).next().unwrap_or_default().to_owned()
}

/// Text, an accent that is cut by the pieces, and two calls at once.
fn rich() -> Reply {
    Reply::text("I look — «é».")
        .and_call("read", &json!({"path": "a\n\"b\"", "n": 1.50}))
        .and_call("search", &json!({"path": "{}"}))
        .piece(5)
}

#[tokio::test]
async fn an_answer_is_the_same_neutral_message_from_either_api() {
    for (kind, name) in BOTH {
        let server =
            ModelServer::queue([rich().tokens(Tokens { input: 100, cache_write: 0, cache_read: 40, output: 9 })]);
        let seen = Mutex::new(String::new());
        let request = first();
        let call = ModelCall {
            request: &request,
            model: name,
            max_output_tokens: 4000,
            path: "p",
            live: &|piece: &str| seen.lock().unwrap().push_str(piece),
        };
        let answer = provider(kind, &server).call(call).await.unwrap();
        let [Block::Text { text }, Block::ToolUse { name: read, input, .. }, Block::ToolUse { name: search, .. }] =
            &blocks(&answer)[..]
        else {
            panic!("{:?}", answer.message)
        };
        assert_eq!((text.as_str(), read.as_str(), search.as_str()), ("I look — «é».", "read", "search"));
        assert_eq!(input, &json!({"path": "a\n\"b\"", "n": 1.50}));
        assert_eq!((answer.stop, answer.provider.as_str()), (StopReason::ToolUse, kind.name));
        assert_eq!(answer.usage, Usage { input: 100, cache_read: 40, output: 9, ..Usage::default() });
        assert_eq!(seen.into_inner().unwrap(), "I look — «é».");
        server.assert_clean();
    }
}

#[tokio::test]
async fn an_answer_cut_at_any_byte_is_broken_or_whole_and_never_a_part() {
    for (kind, name) in BOTH {
        let whole = ModelServer::queue([rich()]);
        let expected = ask(&*provider(kind, &whole), name, &first()).await.unwrap();
        let sent = whole.requests().remove(0);
        let reply = rich();
        let length: usize =
            fake::events(&sent, &reply, whole.tokens()[0]).iter().map(|event| event.to_string().len() + 64).sum();
        // The number of the request is the place of the cut; ids are made of it, so they are left out of the comparison.
        let server = ModelServer::script(|request| rich().cut_at(request.number));
        let model = provider(kind, &server);
        let request = first();
        let outcomes: Vec<_> = futures_util::stream::iter(0..length)
            .map(|_| ask(&*model, name, &request))
            .buffer_unordered(16)
            .collect()
            .await;
        let (mut whole, mut broken) = (0, 0);
        for outcome in outcomes {
            match outcome {
                Ok(answer) => {
                    assert_eq!(strip_ids(&answer), strip_ids(&expected), "{name}");
                    whole += 1;
                }
                Err(ModelError::Broken { .. }) => broken += 1,
                Err(other) => panic!("{name}: {other:?}"),
            }
        }
        assert!(broken > 500 && whole > 0, "{name}: {broken} broken, {whole} whole");
        server.assert_clean();
    }
}

fn strip_ids(answer: &ModelAnswer) -> Vec<Block> {
    let mut blocks = blocks(answer);
    for block in &mut blocks {
        if let Block::ToolUse { id, .. } = block {
            id.clear();
        }
    }
    blocks
}

/// A stream of hand-written events.
fn stream(events: &[Value]) -> Reply {
    let text: String = events
        .iter()
        .map(|event| match event["type"].as_str() {
            Some(name) => format!("event: {name}\ndata: {event}\n\n"),
            None => format!("data: {event}\n\n"),
        })
        .collect();
    Reply::raw(200, "text/event-stream", text)
}

fn start() -> Value {
    json!({"type": "message_start", "message": {"id": "m", "type": "message", "role": "assistant", "model": "claude-opus-5-5",
        "content": [], "usage": {"input_tokens": 10, "output_tokens": 1}}})
}
fn open(index: usize, block: Value) -> Value {
    json!({"type": "content_block_start", "index": index, "content_block": block})
}
fn text_block(index: usize) -> Value {
    open(index, json!({"type": "text", "text": ""}))
}
fn call_block(index: usize, id: &str) -> Value {
    open(index, json!({"type": "tool_use", "id": id, "name": "read", "input": {}}))
}
fn delta(index: usize, delta: Value) -> Value {
    json!({"type": "content_block_delta", "index": index, "delta": delta})
}
fn piece(index: usize, text: &str) -> Value {
    delta(index, json!({"type": "input_json_delta", "partial_json": text}))
}
fn close(index: usize) -> Value {
    json!({"type": "content_block_stop", "index": index})
}
fn stop(reason: &str) -> Value {
    json!({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 5}})
}
fn end() -> Value {
    json!({"type": "message_stop"})
}
fn called(input: &str) -> Vec<Value> {
    vec![start(), call_block(0, "t1"), piece(0, input), close(0), stop("tool_use"), end()]
}

#[tokio::test]
async fn a_bad_stream_of_events_is_refused_with_the_usage_that_was_reported() {
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(500), "]".repeat(500));
    let error = |kind: &str| json!({"type": "error", "error": {"type": kind, "message": "m"}});
    let mut bad_start = start();
    bad_start["message"]["usage"]["input_tokens"] = json!(-1);
    let mut huge = start();
    huge["message"]["usage"]["input_tokens"] = json!(u64::MAX);
    let mut other_model = start();
    other_model["message"]["model"] = json!("claude-haiku-5-5");
    let mut no_model = start();
    no_model["message"].as_object_mut().unwrap().remove("model");
    let text = |reply: &str| Reply::raw(200, "text/event-stream", reply);
    let cases: Vec<(&str, Reply, &str)> = vec![
        ("nothing", text(""), "Broken"),
        ("blank lines", text("\n\n\n\n"), "Broken"),
        ("only comments", text(": hi\n\n: hi\n\n"), "Broken"),
        ("only a ping", stream(&[json!({"type": "ping"})]), "Broken"),
        ("no JSON", text("event: message_start\ndata: hello\n\n"), "Garbage"),
        ("half JSON", text("event: message_start\ndata: {\"type\":\n\n"), "Garbage"),
        ("a list", text("data: []\n\n"), "Garbage"),
        ("null", text("data: null\n\n"), "Garbage"),
        ("a number", text("data: 7\n\n"), "Garbage"),
        (
            "no text",
            Reply::raw(200, "text/event-stream", vec![b'd', b'a', b't', b'a', b':', 0xff, 0xfe, b'\n', b'\n']),
            "Garbage",
        ),
        ("HTML", Reply::raw(200, "text/html", "<html>login</html>"), "Garbage"),
        ("plain JSON", Reply::raw(200, "application/json", "{\"content\":[]}"), "Garbage"),
        ("ends at the start", stream(&[start()]), "Broken"),
        ("no start", stream(&[text_block(0), close(0), stop("end_turn"), end()]), "Garbage"),
        ("only the end", stream(&[end()]), "Garbage"),
        ("two starts", stream(&[start(), start()]), "Garbage"),
        ("a start without a message", stream(&[json!({"type": "message_start"})]), "Garbage"),
        ("a start without a model", stream(&[no_model]), "Garbage"),
        ("another model", stream(&[other_model]), "Garbage"),
        ("negative tokens", stream(&[bad_start]), "Garbage"),
        ("too many tokens", stream(&[huge]), "Garbage"),
        ("a delta without a block", stream(&[start(), piece(0, "{}")]), "Garbage"),
        ("a delta for a closed block", stream(&[start(), text_block(0), close(0), piece(0, "x")]), "Garbage"),
        ("a delta for another block", stream(&[start(), text_block(0), piece(3, "x")]), "Garbage"),
        ("a delta without index", stream(&[start(), json!({"type": "content_block_delta", "delta": {}})]), "Garbage"),
        ("a block out of order", stream(&[start(), text_block(1)]), "Garbage"),
        ("a block twice", stream(&[start(), text_block(0), text_block(0)]), "Garbage"),
        ("a block without type", stream(&[start(), open(0, json!({"text": "x"}))]), "Garbage"),
        ("a block that is null", stream(&[start(), open(0, Value::Null)]), "Garbage"),
        ("a block that ends twice", stream(&[start(), text_block(0), close(0), close(0)]), "Garbage"),
        ("a block that never ends", stream(&[start(), text_block(0), stop("end_turn"), end()]), "Garbage"),
        (
            "a call that never ends",
            stream(&[start(), call_block(0, "t"), piece(0, "{}"), stop("tool_use"), end()]),
            "Garbage",
        ),
        ("no stop reason", stream(&[start(), text_block(0), close(0), end()]), "Broken"),
        ("no message_stop", stream(&[start(), text_block(0), close(0), stop("end_turn")]), "Broken"),
        ("a block after the stop", stream(&[start(), stop("end_turn"), text_block(0)]), "Garbage"),
        ("half a call", stream(&called("{\"path\":\"a")), "Garbage"),
        ("a call that is a list", stream(&called("[1]")), "Garbage"),
        ("a call that is a string", stream(&called("\"x\"")), "Garbage"),
        ("a call with more behind", stream(&called("{} {}")), "Garbage"),
        ("a call with a comma", stream(&called("{\"a\":1,}")), "Garbage"),
        ("a call that is too deep", stream(&called(&deep)), "Garbage"),
        ("a call with half a character", stream(&called("{\"a\":\"\\ud800\"}")), "Garbage"),
        (
            "a call without id",
            stream(&[start(), call_block(0, ""), piece(0, "{}"), close(0), stop("tool_use"), end()]),
            "Garbage",
        ),
        (
            "a call without name",
            stream(&[
                start(),
                open(0, json!({"type": "tool_use", "id": "t", "input": {}})),
                close(0),
                stop("tool_use"),
                end(),
            ]),
            "Garbage",
        ),
        (
            "two calls with one id",
            stream(&[start(), call_block(0, "t"), close(0), call_block(1, "t"), close(1), stop("tool_use"), end()]),
            "Garbage",
        ),
        ("a stop for a call that is not there", stream(&[start(), stop("tool_use"), end()]), "Garbage"),
        ("overloaded before the start", stream(&[error("overloaded_error")]), "Overloaded"),
        ("limited before the start", stream(&[error("rate_limit_error")]), "Limited"),
        ("a wrong key before the start", stream(&[error("authentication_error")]), "Credential"),
        ("an unknown error", stream(&[error("new_error")]), "Overloaded"),
        ("overloaded in the middle", stream(&[start(), text_block(0), error("overloaded_error")]), "Broken"),
        ("an error that is no JSON", text("event: error\ndata: oops\n\n"), "Overloaded"),
        ("hung up", Reply::hang_up(), "Broken"),
    ];
    assert!(cases.len() >= 40);
    for (what, reply, expected) in cases {
        let server = ModelServer::queue([reply]);
        let error = ask(&*provider(anthropic::KIND, &server), "claude-opus-5-5", &first()).await.unwrap_err();
        assert_eq!(short(&error), expected, "{what}: {error:?}");
        if what.ends_with("in the middle") {
            let ModelError::Broken { usage, .. } = error else { panic!("{what}") };
            assert_eq!(usage, Some(Usage { input: 10, output: 1, ..Usage::default() }));
        }
    }
}

fn chunk(delta: Value, finish: Option<&str>) -> Value {
    json!({"id": "c", "object": "chat.completion.chunk", "model": "qwen3",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
}

#[tokio::test]
async fn a_bad_stream_of_chunks_is_refused() {
    let done = "data: [DONE]\n\n";
    let with_done = |events: &[Value]| {
        let text: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
        Reply::raw(200, "text/event-stream", text + done)
    };
    let call = |arguments: &str| json!({"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "read", "arguments": arguments}}]});
    let cases: Vec<(&str, Reply, &str)> = vec![
        ("only done", with_done(&[]), "Broken"),
        ("no finish", with_done(&[chunk(json!({"content": "a"}), None)]), "Broken"),
        ("half a call", with_done(&[chunk(call("{\"path\":"), None), chunk(json!({}), Some("tool_calls"))]), "Garbage"),
        (
            "a call that is a list",
            with_done(&[chunk(call("[]"), None), chunk(json!({}), Some("tool_calls"))]),
            "Garbage",
        ),
        (
            "a call without name",
            with_done(&[
                chunk(json!({"tool_calls": [{"index": 0, "id": "c"}]}), None),
                chunk(json!({}), Some("tool_calls")),
            ]),
            "Garbage",
        ),
        ("no call at all", with_done(&[chunk(json!({"content": "a"}), Some("tool_calls"))]), "Garbage"),
        (
            "text after the end",
            with_done(&[chunk(json!({}), Some("stop")), chunk(json!({"content": "a"}), None)]),
            "Garbage",
        ),
        ("a call after the end", with_done(&[chunk(json!({}), Some("stop")), chunk(call("{}"), None)]), "Garbage"),
        ("an error first", with_done(&[json!({"error": {"message": "boom", "code": 503}})]), "Overloaded"),
        (
            "an error at last",
            with_done(&[chunk(json!({"content": "a"}), None), json!({"error": {"message": "boom"}})]),
            "Broken",
        ),
        ("finished with an error", with_done(&[chunk(json!({"content": "a"}), Some("error"))]), "Broken"),
        ("no JSON", Reply::raw(200, "text/event-stream", "data: {\n\n"), "Garbage"),
        ("another model", with_done(&[json!({"model": "qwen3-mini", "choices": []})]), "Garbage"),
    ];
    for (what, reply, expected) in cases {
        let server = ModelServer::queue([reply]);
        let error = ask(&*provider(openai::KIND, &server), "qwen3", &first()).await.unwrap_err();
        assert_eq!(short(&error), expected, "{what}: {error:?}");
    }
}

#[tokio::test]
async fn the_habits_of_compatible_servers_are_understood() {
    // No index, the name repeated, the arguments as an object, no id, no `[DONE]`, `stop` for calls, no usage.
    let events = [
        chunk(json!({"tool_calls": [{"id": "a", "function": {"name": "read", "arguments": "{\"path\""}}]}), None),
        chunk(json!({"tool_calls": [{"id": "a", "function": {"name": "read", "arguments": ":\"x\"}"}}]}), None),
        chunk(json!({"tool_calls": [{"index": 1, "function": {"name": "search", "arguments": {"path": "y"}}}]}), None),
        chunk(json!({"reasoning": "hm", "reasoning_content": "hm"}), None),
        chunk(json!({}), Some("stop")),
    ];
    let server = ModelServer::queue([stream(&events)]);
    let answer = ask(&*provider(openai::KIND, &server), "qwen3", &first()).await.unwrap();
    assert_eq!(
        blocks(&answer),
        [
            Block::ToolUse { id: "a".into(), name: "read".into(), input: json!({"path": "x"}) },
            Block::ToolUse { id: "call_1_1".into(), name: "search".into(), input: json!({"path": "y"}) },
        ]
    );
    assert_eq!(answer.stop, StopReason::ToolUse);
    // Money is never under-booked: at least the bytes that were sent and received.
    assert!(answer.usage.input > 300 && answer.usage.output > 20, "{:?}", answer.usage);
}

#[tokio::test]
async fn every_stop_reason_has_its_meaning() {
    let refusal = StopReason::Refusal { why: Some("cyber: not this".into()) };
    let anthropic_cases = [
        (Reply::text("a"), StopReason::EndTurn),
        (Reply::text("a").stop("max_tokens"), StopReason::MaxTokens),
        (Reply::text("a").stop("stop_sequence"), StopReason::StopSequence),
        (Reply::text("a").stop("pause_turn"), StopReason::PauseTurn),
        (Reply::default().refusal("cyber", "not this"), refusal),
        (Reply::text("a").stop("model_context_window_exceeded"), StopReason::ContextExceeded),
        (Reply::text("a").stop("new_reason"), StopReason::Other("new_reason".into())),
    ];
    let openai_cases = [
        (Reply::text("a"), StopReason::EndTurn),
        (Reply::text("a").stop("length"), StopReason::MaxTokens),
        (Reply::text("a").stop("content_filter"), StopReason::Refusal { why: Some("content_filter".into()) }),
        (Reply::default().and_raw_block(json!({"refusal": "no"})), StopReason::Refusal { why: Some("no".into()) }),
    ];
    let cases = anthropic_cases.map(|c| (BOTH[0], c)).into_iter().chain(openai_cases.map(|c| (BOTH[1], c)));
    for ((kind, name), (reply, expected)) in cases {
        let server = ModelServer::queue([reply]);
        let answer = ask(&*provider(kind, &server), name, &first()).await.unwrap();
        assert_eq!(answer.stop, expected);
    }
}

#[tokio::test]
async fn a_call_that_the_output_limit_cuts_off_is_no_call() {
    for ((kind, name), stop) in BOTH.into_iter().zip(["max_tokens", "length"]) {
        for cut in ["", "{\"path\":\"a", "{"] {
            let reply =
                Reply::text("I will").and_raw_call("read", "{\"path\":\"a\"}").and_raw_call("read", cut).stop(stop);
            let server = ModelServer::queue([reply]);
            let answer = ask(&*provider(kind, &server), name, &first()).await.unwrap();
            assert_eq!(answer.stop, StopReason::MaxTokens);
            assert_eq!(blocks(&answer).len(), 2, "{name} {cut}: {:?}", answer.message);
        }
    }
}

#[tokio::test]
async fn silence_slowness_and_endless_answers_come_to_an_end() {
    let quick = |server: &ModelServer, kind: ModelKind, idle: u64, total: u64| {
        let setup = ModelSetup {
            idle_timeout: Duration::from_millis(idle),
            total_timeout: Duration::from_millis(total),
            ..setup(server)
        };
        (kind.make)(&setup).unwrap()
    };
    let ms = Duration::from_millis;
    for (kind, name) in BOTH {
        let server = ModelServer::queue([Reply::text("a").delay(Duration::from_secs(60))]);
        let error = ask(&*quick(&server, kind, 50, 60_000), name, &first()).await.unwrap_err();
        assert!(matches!(error, ModelError::Timeout(after) if after == ms(50)), "{error:?}");
        let server = ModelServer::queue([Reply::text("a long answer").stall_at(150)]);
        let error = ask(&*quick(&server, kind, 50, 60_000), name, &first()).await.unwrap_err();
        assert!(matches!(error, ModelError::Timeout(after) if after == ms(50)), "{error:?}");
        let server = ModelServer::queue([Reply::endless_pings()]);
        let error = ask(&*quick(&server, kind, 60_000, 100), name, &first()).await.unwrap_err();
        assert!(matches!(error, ModelError::Timeout(after) if after == ms(100)), "{error:?}");
        let server = ModelServer::queue([Reply::endless()]);
        let error = ask(&*quick(&server, kind, 60_000, 60_000), name, &first()).await.unwrap_err();
        assert!(matches!(error, ModelError::Garbage { .. }), "{error:?}");
        // Slow but never silent is fine.
        let server = ModelServer::queue([Reply::text("slowly, slowly").piece(1).between(ms(5))]);
        assert!(ask(&*quick(&server, kind, 5_000, 60_000), name, &first()).await.is_ok());
    }
}

#[tokio::test]
async fn the_errors_of_the_api_say_what_to_do() {
    let s = Duration::from_secs;
    let limited = || Reply::status(429, "rate_limit_error", "slow down");
    let cases: Vec<(Reply, &str)> = vec![
        (
            Reply::status(400, "invalid_request_error", "bad"),
            "Rejected { status: 400, message: \"invalid_request_error: bad\" }",
        ),
        (Reply::status(401, "authentication_error", "bad"), "Credential("),
        (Reply::status(402, "billing_error", "bad"), "Billing("),
        (Reply::status(403, "permission_error", "bad"), "Credential("),
        (Reply::status(404, "not_found_error", "bad"), "Rejected { status: 404"),
        (Reply::status(413, "request_too_large", "bad"), "Rejected { status: 413"),
        (limited(), "Limited { after: None }"),
        (limited().header("retry-after", "7"), "Limited { after: Some(7s) }"),
        (limited().header("retry-after", "7").header("retry-after-ms", "250"), "Limited { after: Some(250ms) }"),
        (limited().header("x-should-retry", "false"), "Rejected { status: 429"),
        (Reply::status(500, "api_error", "bad"), "Overloaded { status: 500, after: None }"),
        (
            Reply::status(503, "api_error", "bad").header("retry-after", "2"),
            "Overloaded { status: 503, after: Some(2s) }",
        ),
        (Reply::status(529, "overloaded_error", "bad"), "Overloaded { status: 529, after: None }"),
        (Reply::raw(502, "text/html", "<html>bad gateway</html>"), "Overloaded { status: 502"),
        (Reply::raw(302, "text/plain", "").header("location", "http://127.0.0.1:1/"), "Rejected { status: 302"),
    ];
    for (reply, expected) in cases {
        for (kind, name) in BOTH {
            let server = ModelServer::queue([reply.clone()]);
            let error = ask(&*provider(kind, &server), name, &first()).await.unwrap_err();
            assert!(format!("{error:?}").starts_with(expected), "{name}: {error:?}, expected {expected}");
        }
    }
    assert_eq!(ModelError::Limited { after: Some(s(7)) }.retry(), nightcrew::base::retry::Retry::After(s(7)));
    // Nobody listens.
    let server = ModelServer::queue([]);
    let setup = setup(&server);
    drop(server);
    let error = ask(&*(anthropic::KIND.make)(&setup).unwrap(), "claude-opus-5-5", &first()).await.unwrap_err();
    assert!(matches!(error, ModelError::Connect(_)), "{error:?}");
}

#[tokio::test]
async fn a_key_is_sent_and_read_again_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "sk-very-secret-1\n").unwrap();
    let key = SecretRef { name: "KEY".into(), source: SecretSource::Files(vec![file.clone()]) };
    for (kind, name) in BOTH {
        std::fs::write(&file, "sk-very-secret-1\n").unwrap();
        let server = ModelServer::setup(|_| Reply::text("ok")).key("sk-very-secret-2").start();
        let model = (kind.make)(&ModelSetup { api_key: Some(key.clone()), ..setup(&server) }).unwrap();
        // The server repeats the wrong key in its refusal.
        let error = ask(&*model, name, &first()).await.unwrap_err();
        assert!(matches!(&error, ModelError::Credential(text) if text.contains("invalid key: [secret]")), "{error:?}");
        std::fs::write(&file, "sk-very-secret-2").unwrap();
        assert!(ask(&*model, name, &first()).await.is_ok());
        std::fs::remove_file(&file).unwrap();
        let error = ask(&*model, name, &first()).await.unwrap_err();
        assert!(matches!(&error, ModelError::Credential(text) if text.contains("`KEY`")), "{error:?}");
    }
    // The vendors' own hosts are not asked without a key.
    let none = ModelSetup { base_url: None, ..setup(&ModelServer::queue([])) };
    assert!(matches!((anthropic::KIND.make)(&none), Err(ModelError::Credential(_))));
}

#[tokio::test]
async fn a_long_conversation_reads_its_beginning_from_the_cache_and_keeps_one_connection() {
    // 25 calls in one turn are more blocks than the API looks back over.
    let script = |request: &fake::Request| match request.turn() {
        turn @ 0..12 => {
            let reply = Reply::default().and_thinking(format!("thought {turn}")).and_text("Next.");
            let calls = if turn == 5 { 25 } else { 2 };
            (0..calls).fold(reply, |reply, n| reply.and_call("read", &json!({"path": format!("{turn}/{n}")})))
        }
        _ => Reply::text("done"),
    };
    let server = ModelServer::script(script);
    let model = provider(anthropic::KIND, &server);
    let mut request = first();
    request.system = "The rules. ".repeat(300).into();
    let mut usage = Usage::default();
    loop {
        let answer = ask(&*model, "claude-opus-5-5", &request).await.unwrap();
        usage += answer.usage;
        request.messages.push(answer.message.clone());
        if answer.stop != StopReason::ToolUse {
            break;
        }
        let results = blocks(&answer).into_iter().filter_map(|block| match block {
            Block::ToolUse { id, .. } => {
                Some(Block::ToolResult { tool_use_id: id, content: "line\n".repeat(20), is_error: false })
            }
            _ => None,
        });
        request.messages.push(Message { role: Speaker::User, content: results.collect() }.raw().unwrap());
    }
    server.assert_clean();
    assert_eq!((server.count(), server.connections()), (13, 1));
    // What a turn adds is written once and then only read: nothing is ever sent fresh twice.
    let (read, all) = (usage.cache_read as f64, usage.total_input() as f64);
    assert_eq!(usage.input, 0, "{usage:?}");
    for (n, tokens) in server.tokens().iter().enumerate().skip(1) {
        let before = server.tokens()[n - 1];
        assert!(
            tokens.cache_read + 2 >= before.cache_read + before.cache_write,
            "turn {n}: {tokens:?} after {before:?}"
        );
    }
    assert!(read / all > 0.80, "{}", read / all);
}

#[tokio::test]
async fn an_intern_does_not_pay_for_writing_its_item_to_the_cache() {
    let server = ModelServer::script(|_| Reply::json(&json!({"verdict": "keep"})));
    let model = provider(anthropic::KIND, &server);
    let mut request = first();
    request.role = Role::Intern;
    request.tools = Arc::default();
    for item in ["one", "two"] {
        request.messages = vec![Message::user(item).raw().unwrap()];
        ask(&*model, "claude-opus-5-5", &request).await.unwrap();
    }
    let [first, second] = server.tokens()[..] else { panic!() };
    assert!(first.cache_write > 0 && first.input > 0 && second.cache_read == first.cache_write, "{first:?} {second:?}");
    assert_eq!(second.cache_write, 0);
}

#[tokio::test]
async fn a_server_that_refuses_the_name_of_the_limit_is_asked_with_the_other_one() {
    let server = ModelServer::setup(|_| Reply::text("ok")).refuses("max_tokens").start();
    let model = provider(openai::KIND, &server);
    assert!(ask(&*model, "qwen3", &first()).await.is_ok());
    assert!(ask(&*model, "qwen3", &first()).await.is_ok());
    // Twice for the first call, once for the second: it is remembered.
    assert_eq!(server.count(), 3);
    server.assert_clean();
}

#[tokio::test]
async fn a_model_that_is_another_one_is_no_answer() {
    for (kind, name) in BOTH {
        let server =
            ModelServer::queue([Reply::text("a").model("cheap"), Reply::text("a").model(&format!("{name}-20260922"))]);
        let model = provider(kind, &server);
        let error = ask(&*model, name, &first()).await.unwrap_err();
        assert!(matches!(&error, ModelError::Garbage { message, .. } if message.contains("`cheap`")), "{error:?}");
        assert_eq!(ask(&*model, name, &first()).await.unwrap().model, format!("{name}-20260922"));
    }
}

#[tokio::test]
async fn blocks_that_nobody_knows_are_kept_and_blank_text_is_left_out() {
    let unknown = json!({"type": "server_note", "data": {"b": 1, "a": [1.0]}});
    let server = ModelServer::queue([Reply::text("  ").and_raw_block(unknown).and_text("x")]);
    let answer = ask(&*provider(anthropic::KIND, &server), "claude-opus-5-5", &first()).await.unwrap();
    assert_eq!(
        answer.message.get(),
        r#"{"role":"assistant","content":[{"type":"server_note","data":{"b":1,"a":[1.0]}},{"type":"text","text":"x"}]}"#
    );
}

#[tokio::test]
async fn requests_for_conformance() {
    let Ok(file) = std::env::var("NIGHTCREW_DUMP") else { return };
    let mut lines = Vec::new();
    let schema = json!({"type": "object", "required": ["groups"], "properties": {
        "groups": {"type": "array", "maxItems": 5, "items": {"type": "object", "required": ["title"], "properties": {
            "title": {"type": "string", "maxLength": 90}, "share": {"type": "number", "minimum": 0, "maximum": 1}}}}}});
    for (kind, name) in [(anthropic::KIND, "claude-opus-5-5"), (openai::KIND, "gpt-6.1-sol")] {
        let server = ModelServer::setup(|request| match (request.turn(), request.may_call()) {
            (0, true) => rich().and_thinking("hm"),
            (_, true) => Reply::calls([("read", json!({"path": "b"}))]),
            (_, false) => Reply::json(&json!({"groups": []})),
        });
        // As OpenAI itself: it takes only the new name of the limit.
        let server = if kind.name == "openai" { server.refuses("max_tokens").start() } else { server.start() };
        let model = provider(kind, &server);
        let mut request = first();
        for turn in 0..4 {
            if turn == 3 {
                request.no_tools = true;
                request.output_schema = Some(Arc::new(schema.clone()));
            }
            let answer = ask(&*model, name, &request).await.unwrap();
            let mut content: Vec<_> = blocks(&answer)
                .into_iter()
                .filter_map(|block| match block {
                    Block::ToolUse { id, .. } => {
                        Some(Block::ToolResult { tool_use_id: id, content: "found".into(), is_error: turn == 1 })
                    }
                    _ => None,
                })
                .collect();
            content.push(Block::Text { text: "Go on.".into() });
            request.messages.push(answer.message);
            request.messages.push(Message { role: Speaker::User, content }.raw().unwrap());
        }
        // An intern: no tools, a schema, one message.
        let mut intern = first();
        intern.role = Role::Intern;
        intern.tools = Arc::default();
        intern.output_schema = Some(Arc::new(schema.clone()));
        ask(&*model, name, &intern).await.unwrap();
        server.assert_clean();
        for sent in server.requests() {
            let (api, event_api) = match sent.api {
                Api::Anthropic => ("anthropic", "anthropic-event"),
                Api::OpenAi => ("openai-chat", "openai-chat-chunk"),
            };
            lines.push(json!({"api": api, "body": sent.body}));
            if sent.number < 2 {
                let reply = if sent.api == Api::Anthropic { rich().and_thinking("hm") } else { rich() };
                let events = fake::events(&sent, &reply, Tokens { input: 5, output: 7, ..Tokens::default() });
                // A ping is not in the SDK's union: it goes by the name of the event.
                let events = events.into_iter().filter(|event| event["type"] != "ping");
                lines.extend(events.map(|event| json!({"api": event_api, "body": event})));
            }
        }
    }
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(file, text).unwrap();
}
