use std::sync::Arc;

use serde_json::json;
use serde_json::value::RawValue;

use super::*;
use crate::base::secret::Secret;
use crate::domain::model::{Block, Message, Role, Speaker, StopReason, ToolSpec, Usage};
use crate::policy::redact::Redactor;

fn request(results: &[&str]) -> ModelRequest {
    let tool = ToolSpec { name: "read".into(), description: "reads".into(), input_schema: json!({"type": "object"}) };
    let mut messages = vec![Message::user("go").raw().unwrap()];
    for (n, result) in results.iter().enumerate() {
        let id = format!("t{n}");
        let call = Block::ToolUse { id: id.clone(), name: "read".into(), input: json!({}) };
        let result = Block::ToolResult { tool_use_id: id, content: (*result).into(), is_error: false };
        messages.push(Message { role: Speaker::Assistant, content: vec![call] }.raw().unwrap());
        messages.push(Message { role: Speaker::User, content: vec![result] }.raw().unwrap());
    }
    ModelRequest {
        role: Role::Boss,
        system: "You are careful.".into(),
        tools: Arc::new(vec![tool]),
        messages,
        output_schema: None,
        no_tools: false,
        known_prefix: (0, 0),
        items: Vec::new(),
        from_report_slice: false,
        counts_turn: true,
    }
}

/// A model that says one thing.
struct Says(&'static str);

impl Model for Says {
    fn call<'a>(&'a self, call: ModelCall<'a>) -> BoxFuture<'a, Result<ModelAnswer, ModelError>> {
        Box::pin(async move {
            Ok(ModelAnswer {
                message: RawValue::from_string(self.0.into()).unwrap().into(),
                stop: StopReason::Refusal { why: Some("no: \"never\"".into()) },
                usage: Usage { input: 1, cache_read: 900, output: 7, ..Usage::default() },
                model: format!("{}-20260922", call.model),
                provider: "anthropic".into(),
                fallback: None,
            })
        })
    }
}

async fn ask(model: &dyn Model, path: &str, request: &ModelRequest) -> Result<ModelAnswer, ModelError> {
    model.call(ModelCall { request, model: "claude-opus-5-5", max_output_tokens: 99, path, live: &|_| {} }).await
}

/// Everything that YAML could get wrong, and a secret.
const SAID: &str = r#"{"role":"assistant","content":[{"type":"thinking","thinking":"","signature":"aa=="},{"type":"text","text":"Two lines:\n  - yes: no # 1.10\n\n\ttab «é»\u2028end"},{"type":"text","text":"plain\nlines, 007 and on"},{"type":"text","text":" \n"},{"type":"new_kind","n":1.5,"deep":{"a":[null,true,"~"]}},{"type":"tool_use","id":"t9","name":"read","input":{"path":"x","key":"hunter2-hunter2"}}]}"#;

#[tokio::test]
async fn what_is_recorded_is_played_again_word_for_word_and_at_the_same_price() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("demo.yaml");
    let redactor = Arc::new(Redactor::new(vec![Secret::new("hunter2-hunter2")]));
    let writer = TapeWriter::open(&path, redactor).unwrap();
    let recorder = Recorder::new(Arc::new(Says(SAID)), writer.clone());
    let live = ask(&recorder, "news[a b]/turn-1", &request(&["found"])).await.unwrap();
    ask(&recorder, "news/turn-2", &request(&[])).await.unwrap();
    assert_eq!((live.message.get(), writer.failure()), (SAID, None));

    let tape = Tape::open(&path).unwrap();
    let played = ask(&tape, "news[a b]/turn-1", &request(&["found"])).await.unwrap();
    let expected = SAID.replace("hunter2-hunter2", "[redacted]");
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(value(played.message.get()), value(&expected));
    assert_eq!((played.stop, played.usage, played.model), (live.stop, live.usage, live.model));
    assert_eq!(played.provider, "tape");
}

#[tokio::test]
async fn a_torn_end_is_dropped_and_the_tape_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tape.yaml");
    let open = || TapeWriter::open(&path, Arc::new(Redactor::default()));
    for step in ["a", "b"] {
        ask(&Recorder::new(Arc::new(Says(SAID)), open().unwrap()), step, &request(&[])).await.unwrap();
    }
    let whole = std::fs::read_to_string(&path).unwrap();
    let first = whole.find("\n- path: b").unwrap() + 1;
    for cut in first..whole.len() {
        if !whole.is_char_boundary(cut) {
            continue;
        }
        std::fs::write(&path, &whole[..cut]).unwrap();
        drop(open().unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), whole[..first], "cut at {cut}");
    }
    ask(&Recorder::new(Arc::new(Says(SAID)), open().unwrap()), "b", &request(&[])).await.unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
    std::fs::write(&path, "calls: {}\n").unwrap();
    assert!(open().is_err());
}

#[tokio::test]
async fn a_request_that_is_another_one_ends_with_the_first_difference() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.yaml");
    let writer = TapeWriter::open(&path, Arc::new(Redactor::default())).unwrap();
    let recorder = Recorder::new(Arc::new(Says(SAID)), writer);
    ask(&recorder, "news/turn-2", &request(&["built in 1.2s by rustc 1.89.0"])).await.unwrap();
    let tape = Tape::open(&path).unwrap();
    // Another machine and another day are the same request.
    assert!(ask(&tape, "news/turn-2", &request(&["built in 7s by rustc 1.91.2"])).await.is_ok());

    let mut system = request(&["x"]);
    system.system = "You are bold.".into();
    let mut tools = request(&["built in 1.2s by rustc 1.89.0"]);
    Arc::make_mut(&mut tools.tools)[0].description = "reads more".into();
    let mut closing = request(&["built in 1.2s by rustc 1.89.0"]);
    closing.no_tools = true;
    let mut schema = request(&["built in 1.2s by rustc 1.89.0"]);
    schema.output_schema = Some(Arc::new(json!({})));
    let mut intern = request(&["x"]);
    intern.role = Role::Intern;
    let cases = [
        ("news/turn-3", request(&[]), "not recorded; of this step there are: news/turn-2"),
        ("other", request(&[]), "not recorded, nor any other call of step `other`"),
        ("news/turn-2", intern, "the role differs: recorded `boss`, asked `intern`"),
        ("news/turn-2", system, "which begins \"You are bold.\""),
        ("news/turn-2", tools, "tool 1 differs: recorded `read@"),
        ("news/turn-2", closing, "tool 2 differs: recorded `nothing`, asked `(none may be called)`"),
        ("news/turn-2", schema, "the schema of the answer differs: recorded `none`"),
        ("news/turn-2", request(&[]), "message 2 differs: recorded `assistant: tool_use read`, asked `nothing`"),
        ("news/turn-2", request(&["other"]), "message 3 differs: recorded `user: tool_result "),
    ];
    for (path, request, expected) in cases {
        let error = ask(&tape, path, &request).await.unwrap_err();
        assert!(matches!(&error, ModelError::Tape(text) if text.contains(expected) && text.contains(path)), "{error}");
    }
}

#[tokio::test]
async fn a_tape_written_by_hand_is_played_and_completed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.yaml");
    let text = "# The demo's words.\n- path: words\n  answer: {content: [{json: {verdict: keep, n: 1}}]}\n- path: look\n  answer:\n    content:\n      - text: |-\n          I look.\n          Twice.\n      - {tool: read, input: {path: a}}\n";
    std::fs::write(&path, text).unwrap();
    let blessed = Tape::bless(&path).unwrap();
    let first = ask(&blessed, "words", &request(&[])).await.unwrap();
    let second = ask(&blessed, "look", &request(&["x"])).await.unwrap();
    assert_eq!(
        first.message.get(),
        r#"{"role":"assistant","content":[{"type":"text","text":"{\"verdict\":\"keep\",\"n\":1}"}]}"#
    );
    assert_eq!((first.stop, second.stop.clone()), (StopReason::EndTurn, StopReason::ToolUse));
    assert!(second.usage.cache_read > 0 && second.usage.output > 0, "{:?}", second.usage);
    blessed.save().unwrap();

    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written.starts_with("# The demo's words.\n- path: words\n  role: boss\n"), "{written}");
    let tape = Tape::open(&path).unwrap();
    let again = ask(&tape, "look", &request(&["x"])).await.unwrap();
    assert_eq!((again.usage, again.message.get()), (second.usage, second.message.get()));
    assert!(ask(&tape, "look", &request(&["y"])).await.is_err());
    assert!(matches!((KIND.make)(&ModelSetup {
        base_url: None,
        api_key: None,
        tape: Some(folder.path().join("none.yaml")),
        idle_timeout: std::time::Duration::ZERO,
        total_timeout: std::time::Duration::ZERO,
        env: crate::base::env::Env::system(),
    }), Err(ModelError::Tape(text)) if text.contains("none.yaml")));
}
