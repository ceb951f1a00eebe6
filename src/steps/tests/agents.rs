//! What agents do with their turns, money, tools and evidence.

use std::cell::RefCell;
use std::rc::Rc;

use serde_json::{Value, json};

use super::super::testing::{Ran, Says, World, calls, capped, says};
use crate::domain::activity::{Activity, ToolAnswer};
use crate::domain::code::TreeId;
use crate::domain::model::{Role, StopReason};
use crate::domain::run::{Failure, Outcome};
use crate::ports::durable::Stop;

const WHY: &str = "
  - id: rows
    fetch: {from: signups}
  - id: why
    boss: {ask: \"Explain what moved.\", given: [rows], tools: [signups, checkout]}
    output: {cause: string(300)}
  - id: news
    report: {from: [why]}
";

fn world() -> World {
    World::new().rows(json!([{"key": "r1", "day": "2026-11-19", "n": 1204}]))
}

fn cause(text: &str) -> Says {
    says(json!({"cause": text}))
}

#[test]
fn the_boss_calls_tools_side_by_side_and_answers_in_its_type() {
    let ran = world()
        .tool(|request| Ok(json!({"tool": request.tool, "input": request.input}).to_string()))
        .answer(
            "why/turn-1",
            [Says::Calls(vec![
                ("signups".into(), json!({"from": "2026-11-01", "to": "2026-11-19"})),
                ("checkout".into(), json!({})),
                ("budget".into(), json!({})),
            ])],
        )
        .answer("why/turn-2", [cause("unknown")])
        .run(WHY);
    assert_eq!(ran.result("why"), json!({"ran": true, "outcome": "done", "cause": "unknown"}));
    assert_eq!(ran.paths("tool"), ["why/turn-1/call-1", "why/turn-1/call-2"]);
    assert_eq!(ran.paths("account")[0], "why/turn-1/call-3");
    assert_eq!(ran.step("why").summary, "2 turns");
    let second = ran.request("why/turn-2");
    assert_eq!((second.known_prefix.1, second.messages.len(), second.counts_turn), (1, 3, true));
    assert!(second.messages[2].get().contains("2 of 12 turns are used; $0.010 of $0.51 are spent"));
    // The prefix of the second request is the first one, byte for byte.
    assert_eq!(second.messages[0].get(), ran.request("why/turn-1").messages[0].get());
    let names: Vec<&str> = second.tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["signups", "checkout", "complain", "budget", "artifact_read", "artifact_search"]);
}

#[test]
fn a_model_sees_exactly_what_is_given_in_a_fence() {
    let ran = world().answer("why/turn-1", [cause("x")]).run(WHY);
    let prompt = ran.prompt("why/turn-1");
    assert!(prompt.contains("of=\\\"rows\\\"") && prompt.contains("1204"), "{prompt}");
    assert!(!prompt.contains("Berlin") && !prompt.contains("Explain"), "only data stands in the message");
    let request = ran.request("why/turn-1");
    assert!(request.system.contains("Explain what moved.") && !request.system.contains("1204"));
    assert_eq!(request.output_schema.unwrap()["properties"]["cause"]["type"], "string");
    assert_eq!(ran.world.told.borrow().len(), 1);
}

#[test]
fn a_wrong_answer_is_corrected_once() {
    let ran = world().answer("why/turn-1", [says(json!({"cause": 7}))]).answer("why/turn-2", [cause("ok")]).run(WHY);
    assert_eq!(ran.result("why")["cause"], "ok");
    assert!(ran.prompt("why/turn-2").contains("`cause` must be a text"));
    let ran = world().model(|_, _| says(json!({"cause": 7}))).run(WHY);
    assert_eq!(ran.paths("model").len(), 2);
    let end = ran.end.clone().unwrap();
    assert_eq!((end.outcome, end.failure.unwrap().code.as_str()), (Outcome::Failed, "E-OUTPUT"));
}

#[test]
fn at_the_cap_one_closing_call_concludes_and_the_report_tells_it() {
    let ran = world()
        .tool(|_| Ok("{}".into()))
        .answer("why/turn-1", [calls("checkout", json!({}))])
        .answer("why/turn-2", [capped()])
        .answer("why/closing", [cause("perhaps the sale")])
        .run(WHY);
    let closing = ran.request("why/closing");
    assert!(closing.no_tools && closing.from_report_slice);
    assert_eq!(
        (&ran.result("why")["outcome"], &ran.result("why")["cause"]),
        (&json!("capped"), &json!("perhaps the sale"))
    );
    let end = ran.end.clone().unwrap();
    assert_eq!((end.outcome, end.failure.unwrap().code.as_str()), (Outcome::Capped, "E-BUDGET"));
    let report = &ran.delivered()[0].report;
    assert!(report.headline.starts_with("Stopped at a limit in `why`"), "{}", report.headline);
    assert!(serde_json::to_string(&report.blocks).unwrap().contains("perhaps the sale"));
}

#[test]
fn a_cap_without_a_conclusion_is_capped_all_the_same() {
    for closing in [capped(), Says::Text("half {".into()), calls("checkout", json!({}))] {
        let ran = world().answer("why/turn-1", [capped()]).answer("why/closing", [closing]).run(WHY);
        assert_eq!((ran.outcome(), ran.delivered().len()), ("capped", 1));
        assert_eq!(ran.result("why").get("cause"), None);
    }
}

#[test]
fn a_steps_own_max_turns_is_never_exceeded() {
    let steps = WHY.replace("tools: [signups, checkout]}", "tools: [signups, checkout], max_turns: 3}");
    let days = RefCell::new(0);
    let ran = world()
        .tool(|_| Ok("{}".into()))
        .model(move |_, request| {
            *days.borrow_mut() += 1;
            match request.no_tools {
                true => cause("so far"),
                false => calls("checkout", json!({"to": format!("2026-11-{:02}", days.borrow())})),
            }
        })
        .run(&steps);
    assert_eq!(ran.paths("model"), ["why/turn-1", "why/turn-2", "why/turn-3"]);
    assert_eq!((&ran.result("why")["outcome"], &ran.result("why")["cause"]), (&json!("capped"), &json!("so far")));
}

#[test]
fn every_stop_reason_has_an_end() {
    let text = |text: &str| json!([{"type": "text", "text": text}]);
    let good = || cause("ok");
    // Paused: the message goes back and the model goes on.
    let paused = Says::Raw(text("thinking"), StopReason::PauseTurn);
    let ran = world().answer("why/turn-1", [paused.clone()]).answer("why/turn-2", [good()]).run(WHY);
    assert_eq!((ran.outcome(), ran.request("why/turn-2").messages.len()), ("reported", 2));
    assert_eq!(world().model(move |_, _| paused.clone()).run(WHY).result("why")["failure"]["code"], "E-LOOP");
    // Refused.
    let refused = Says::Raw(json!([]), StopReason::Refusal { why: Some("policy".into()) });
    let failure = world().answer("why/turn-1", [refused]).run(WHY).result("why")["failure"].clone();
    assert_eq!(failure, json!({"code": "E-REFUSED", "message": "the model declined to answer: policy"}));
    // Cut off: once more, shorter; a call that was cut off is never performed.
    let half = json!([{"type": "tool_use", "id": "t", "name": "checkout", "input": {"from": "2026"}}]);
    let cut = Says::Raw(half, StopReason::MaxTokens);
    let ran = world().answer("why/turn-1", [cut.clone()]).answer("why/turn-2", [good()]).run(WHY);
    assert_eq!((ran.outcome(), ran.paths("tool").len()), ("reported", 0));
    assert_eq!(world().model(move |_, _| cut.clone()).run(WHY).result("why")["failure"]["code"], "E-LENGTH");
    // Too long, with nothing to compact.
    let long = Says::Raw(json!([]), StopReason::ContextExceeded);
    assert_eq!(world().answer("why/turn-1", [long]).run(WHY).result("why")["failure"]["code"], "E-CONTEXT");
    // A reason that we do not know, with an answer.
    let other = Says::Raw(text(r#"{"cause": "ok"}"#), StopReason::Other("new".into()));
    assert_eq!(world().answer("why/turn-1", [other]).run(WHY).outcome(), "reported");
}

#[test]
fn a_transcript_that_is_too_long_is_compacted_once_into_artifacts() {
    let big = |n: u32| (0..200).map(|line| format!("run {n} line {line}")).collect::<Vec<_>>().join("\n");
    let n = RefCell::new(0);
    let ran = world()
        .tool(move |_| {
            *n.borrow_mut() += 1;
            Ok(big(*n.borrow()))
        })
        .model(|path, request| match path {
            "why/turn-5" => Says::Stop(Stop::Failed(Failure::new("E-CONTEXT", "too long"))),
            "why/turn-6" => {
                let text: String = request.messages.iter().map(|m| m.get().to_owned()).collect();
                assert!(
                    text.contains("moved to artifact")
                        && !text.contains("run 1 line 150")
                        && text.contains("run 4 line 150")
                );
                let id = text.split("moved to artifact `").nth(1).unwrap().split('`').next().unwrap().to_owned();
                calls("artifact_search", json!({"id": id, "text": "line 150"}))
            }
            "why/turn-7" => {
                assert!(request.messages.last().unwrap().get().contains("run 1 line 150"));
                cause("found")
            }
            path => calls("checkout", json!({"to": format!("2026-11-{:0>2}", path.rsplit('-').next().unwrap())})),
        })
        .run(WHY);
    assert_eq!(ran.result("why")["cause"], "found");
    assert_eq!(ran.notes("compacted")[0]["results"], 2);
}

#[test]
fn a_large_result_is_stored_shown_in_part_and_condensed_by_an_intern() {
    let rows: String = (0..5000).map(|n| format!("{{\"n\":{n},\"what\":\"row\"}}\n")).collect();
    let ran = world()
        .tool(move |_| Ok(rows.clone()))
        .answer("why/turn-1", [calls("checkout", json!({}))])
        .answer("why/turn-1/call-1/condense/turn-1", [says(json!({"text": "Five thousand rows."}))])
        .model(|path, request| {
            let last = request.messages.last().unwrap().get();
            match path {
                "why/turn-2" => {
                    assert!(
                        last.len() < 8_000 && last.contains("5000 lines") && last.contains("Five thousand rows."),
                        "{last}"
                    );
                    let id = last.split("artifact `").nth(1).unwrap().split('`').next().unwrap().to_owned();
                    calls("artifact_read", json!({"id": id, "from_line": 4001, "lines": 1}))
                }
                _ => {
                    assert!(last.contains("4001: {\\\\\\\"n\\\\\\\":4000") || last.contains("4001: "), "{last}");
                    cause("ok")
                }
            }
        })
        .run(WHY);
    assert_eq!(ran.result("why")["cause"], "ok");
    let condense = ran.request("why/turn-1/call-1/condense/turn-1");
    assert!(
        condense.role == Role::Intern && condense.tools.is_empty() && condense.system.contains("Explain what moved.")
    );
    // Going without the digest is no failure.
    let rows = "x\n".repeat(20_000);
    let ran = world()
        .tool(move |_| Ok(rows.clone()))
        .answer("why/turn-1", [calls("checkout", json!({}))])
        .answer("why/turn-1/call-1/condense/turn-1", [capped()])
        .answer("why/turn-2", [cause("ok")])
        .run(WHY);
    assert_eq!((ran.outcome(), ran.notes("not_condensed").len()), ("reported", 1));
}

#[test]
fn an_agent_that_lacks_something_says_so_and_is_blocked_only_if_it_cannot_answer() {
    let complain =
        || calls("complain", json!({"kind": "secret", "need": "a token for the shop", "evidence": "HTTP 401"}));
    let ran = world().answer("why/turn-1", [complain()]).answer("why/turn-2", [cause("unknown")]).run(WHY);
    assert_eq!((ran.outcome(), ran.world.complaints.borrow()[0].step.as_str()), ("reported", "why"));
    assert_eq!(ran.delivered()[0].report.footer.complaints[0].need, "a token for the shop");
    let ran =
        world().answer("why/turn-1", [complain()]).answer("why/turn-2", [Says::Text("I cannot.".into())]).run(WHY);
    let end = ran.end.clone().unwrap();
    assert_eq!(end.outcome, Outcome::Blocked);
    assert_eq!(
        end.failure.unwrap(),
        Failure::new("E-LACKING", "the agent lacks secret: a token for the shop").help("HTTP 401")
    );
}

#[test]
fn a_person_steers_between_turns() {
    let ran = world()
        .tool(|_| Ok("{}".into()))
        .signal("why:steer", json!({"text": "look at Safari"}))
        .answer("why/turn-1", [cause("Safari")])
        .run(WHY);
    assert!(ran.prompt("why/turn-1").contains("A person who runs this pipeline says: look at Safari"));
    assert_eq!(ran.world.told.borrow().len(), 2);
}

/// Answers a boss that works on code: the base is tree 0, and every edit makes the tree of its `content`.
fn code_world() -> World {
    world().work(|activity| {
        Ok(match activity {
            Activity::Workspace { .. } => json!({
                "origin": "acme/api", "reference": "main", "commit": tree(9), "tree": tree(0), "bound": "path"
            }),
            Activity::Tool(request) => {
                let at = request.code.as_ref().unwrap();
                assert_eq!(at.base, tree(0));
                match request.input["content"].as_str() {
                    Some("bad") => json!(ToolAnswer::mistake("no such file")),
                    Some(content) => json!(ToolAnswer {
                        text: "changed".into(),
                        is_error: false,
                        tree: Some(tree(content.parse().unwrap())),
                    }),
                    None => json!(ToolAnswer::text(format!("at {}", &at.tree.as_str()[39..]))),
                }
            }
            other => panic!("not asked for here: {other:?}"),
        })
    })
}

fn tree(n: u8) -> TreeId {
    format!("{n:040}").parse().unwrap()
}

const ON_CODE: &str = "
  - id: rows
    fetch: {from: signups}
  - id: why
    boss: {ask: \"Find it.\", given: [rows], tools: [read, edit]}
    output: {cause: string(200)}
";

fn read() -> (String, Value) {
    ("read".into(), json!({"path": "a"}))
}

fn write(content: &str) -> (String, Value) {
    ("edit".into(), json!({"path": "a", "content": content}))
}

#[test]
fn calls_of_one_message_see_the_edits_before_them_and_so_does_the_next_turn() {
    let ran = code_world()
        .answer("why/turn-1", [Says::Calls(vec![read(), write("1"), read(), write("bad"), write("2")])])
        .answer("why/turn-2", [Says::Calls(vec![read()])])
        .answer("why/turn-3", [cause("unknown")])
        .run(ON_CODE);
    assert_eq!(ran.outcome(), "nothing_new", "{:?}", ran.reason("why"));
    let asked = ran.world.asked.borrow();
    let seen: Vec<(String, u8)> = asked
        .iter()
        .filter_map(|(path, activity)| match activity {
            Activity::Tool(request) => {
                Some((path.clone(), request.code.as_ref().unwrap().tree.as_str()[39..].parse().unwrap()))
            }
            _ => None,
        })
        .collect();
    let wanted = [
        ("why/turn-1/call-1", 0),
        ("why/turn-1/call-2", 0),
        ("why/turn-1/call-3", 1),
        ("why/turn-1/call-4", 1),
        ("why/turn-1/call-5", 1),
        ("why/turn-2/call-1", 2),
    ];
    assert_eq!(seen, wanted.map(|(path, at)| (path.to_owned(), at)));
    // What stands in a file is data.
    assert!(ran.prompt("why/turn-2").contains(r#"of=\"tool read\">\nat 1\n</data "#), "{}", ran.prompt("why/turn-2"));
}

#[test]
fn the_same_look_is_another_one_after_an_edit_and_a_loop_without_one() {
    let turns = |calls: Vec<Vec<(String, Value)>>| {
        let mut world = code_world();
        for (n, calls) in calls.into_iter().enumerate() {
            world = world.answer(&format!("why/turn-{}", n + 1), [Says::Calls(calls)]);
        }
        world.answer("why/turn-4", [cause("unknown")]).run(ON_CODE)
    };
    let ran = turns(vec![vec![read()], vec![write("1"), read()], vec![write("2"), read()]]);
    assert_eq!(ran.result("why")["outcome"], "done", "{}", ran.reason("why"));
    let ran = turns(vec![vec![read()], vec![read()], vec![read()]]);
    assert_eq!(ran.reason("why"), "the model made the same call 3 times: `read` {\"path\":\"a\"}");
}

#[test]
fn a_playbook_is_an_instruction() {
    let steps = WHY.replace("ask: \"Explain what moved.\"", "playbook: playbooks/book.md");
    let ran = world().answer("why/turn-1", [cause("x")]).run(&steps);
    assert!(ran.request("why/turn-1").system.contains("Follow the book."));
}

const CHECKED: &str = "
  - id: rows
    fetch: {from: signups}
  - id: why
    boss: {ask: \"At most 3 causes.\", given: [rows], tools: [checkout]}
    output: {headline: string(120), bullets: [string(160)]}
    check: {figures_from: [rows]}
";

fn brief(headline: &str, bullets: &[&str]) -> Says {
    says(json!({"headline": headline, "bullets": bullets}))
}

#[test]
fn figures_are_corrected_once_and_then_their_sentence_is_dropped() {
    let ran = world()
        .answer("why/turn-1", [brief("1,204 on 19 Nov", &["Up 77 %. Fine."])])
        .answer("why/turn-2", [brief("1,204 on 19 Nov", &["Up 78 %. Fine.", "99 more"])])
        .run(CHECKED);
    assert!(ran.prompt("why/turn-2").contains("`bullets[0]`: the figure `77 %` does not stand in the data"));
    let why = ran.result("why");
    assert_eq!((&why["headline"], &why["bullets"]), (&json!("1,204 on 19 Nov"), &json!(["Fine."])));
    assert_eq!(ran.notes("figures_checked"), [json!({"n": 4})]);
    assert_eq!(ran.notes("sentence_dropped"), [json!({"sentence": "Up 78 %."}), json!({"sentence": "99 more"})]);
    // The correction helped.
    let ran = world()
        .answer("why/turn-1", [brief("77", &[])])
        .answer("why/turn-2", [brief("1204, 3 causes", &[])])
        .run(CHECKED);
    assert_eq!(
        (ran.result("why")["headline"].clone(), ran.notes("sentence_dropped").len()),
        (json!("1204, 3 causes"), 0)
    );
    // The correction was no answer at all: what stands of the first one counts.
    for second in [Says::Text("no".into()), capped()] {
        let ran = world()
            .answer("why/turn-1", [brief("1204", &["77 more", "ok"])])
            .answer("why/turn-2", [second])
            .run(CHECKED);
        assert_eq!(ran.result("why")["bullets"], json!(["ok"]));
    }
}

#[test]
fn what_the_steps_own_tools_returned_counts_as_data() {
    let ran = world()
        .tool(|_| Ok("{\"n\": 4711}\n{\"n\": 0.25}\n".into()))
        .answer("why/turn-1", [calls("checkout", json!({}))])
        .answer("why/turn-2", [brief("4,711 at 25 %", &[])])
        .run(CHECKED);
    assert_eq!(ran.result("why")["headline"], "4,711 at 25 %");
    assert_eq!(ran.paths("model").len(), 2);
}

#[test]
fn quotes_must_stand_literally() {
    let steps = "
  - id: found
    fetch: {from: signups}
  - id: real
    each: finding in found
    intern: {task: filter, ask: \"Real? Quote it.\", keep: output.verdict == \"real\"}
    output: {verdict: real | style, quote: string(300)}
    check: {quotes_from: finding.source}
";
    let answer = |quote: &str| says(json!({"verdict": "real", "quote": quote}));
    let world = World::new().rows(json!([{"key": "f", "source": "if x < 0 { return -x }"}]));
    let ran =
        world.answer("real[f]/turn-1", [answer("if x > 0")]).answer("real[f]/turn-2", [answer("return -x")]).run(steps);
    assert_eq!(ran.result("real")["items"][0]["quote"], "return -x");
}

const MEASURED: &str = "
  - id: found
    fetch: {from: signups}
  - id: real
    each: f in found
    intern: {task: filter, ask: \"Real?\", keep: output.verdict == \"real\", escalate_when: output.confidence < 0.7, audit: 100%}
    output: {verdict: real | style, confidence: 0..1, why: string(100)}
";

#[test]
fn interns_are_escalated_and_audited_and_the_boss_has_the_last_word() {
    let verdict =
        |verdict: &str, confidence: f64| says(json!({"verdict": verdict, "confidence": confidence, "why": "w"}));
    let ran = World::new()
        .rows(json!([{"key": "a"}, {"key": "b"}, {"key": "c"}]))
        .answer("real[a]/turn-1", [verdict("real", 0.5)])
        .answer("real[a]/escalation/turn-1", [verdict("style", 0.9)])
        .answer("real[b]/turn-1", [verdict("real", 0.9)])
        .answer("real[b]/audit/turn-1", [verdict("real", 0.8)])
        .answer("real[c]/turn-1", [verdict("style", 0.9)])
        .answer("real[c]/audit/turn-1", [verdict("real", 0.9)])
        .run(MEASURED);
    let real = ran.result("real");
    assert_eq!(real["audit"], json!({"items": 3, "escalated": 1, "audited": 2, "disagreed": 1}));
    let keys: Vec<&str> = real["items"].as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap()).collect();
    assert_eq!((keys, &real["dropped"]), (vec!["b", "c"], &json!(1)));
    assert!(!real.to_string().contains('#'));
    assert_eq!(ran.notes("escalated"), [json!({"key": "a"})]);
    assert_eq!(ran.notes("audited")[0], json!({"key": "b", "agreed": true}));
    assert_eq!(ran.notes("audited")[1]["agreed"], false);
    let boss = ran.request("real[a]/escalation/turn-1");
    assert!(boss.role == Role::Boss && !boss.counts_turn && boss.tools.is_empty(), "the boss's money, but no turn");
    assert_eq!(boss.messages[0].get(), ran.request("real[a]/turn-1").messages[0].get(), "the same question");
    assert_eq!(ran.step("real").summary, "3 items, 2 real, 1 dropped, 1 escalated, 2 audited, 1 disagreed");
}

#[test]
fn an_audit_that_cannot_be_afforded_is_no_failure() {
    let ran = World::new()
        .rows(json!([{"key": "a"}]))
        .answer("real[a]/turn-1", [says(json!({"verdict": "real", "confidence": 0.9, "why": "w"}))])
        .answer("real[a]/audit/turn-1", [capped()])
        .run(MEASURED);
    assert_eq!((ran.result("real")["count"].clone(), ran.notes("not_audited").len()), (json!(1), 1));
}

#[test]
fn a_sample_is_the_same_in_every_run() {
    let audited = || {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let into = seen.clone();
        let steps = MEASURED.replace("audit: 100%", "audit: 30%");
        let rows: Vec<Value> = (0..40).map(|n| json!({"key": format!("k{n}")})).collect();
        let _ran: Ran = World::new()
            .rows(Value::Array(rows))
            .model(move |path, _| {
                into.borrow_mut().extend(path.contains("audit").then(|| path.to_owned()));
                says(json!({"verdict": "real", "confidence": 0.9, "why": "w"}))
            })
            .run(&steps);
        seen.take()
    };
    let first = audited();
    assert!((4..22).contains(&first.len()), "{}", first.len());
    assert_eq!(first, audited());
}

#[test]
fn members_are_named_by_the_keys_that_the_model_sees() {
    let steps = "
  - id: real
    fetch: {from: signups}
  - id: ranked
    boss: {ask: \"Merge.\", given: [real]}
    output: {groups: [{title: string(90), members: [key(real)]}]}
";
    let groups = |key: &str| says(json!({"groups": [{"title": "t", "members": [key]}]}));
    let world = || World::new().rows(json!([{"key": "src/a.rs:1", "n": 1}, {"n": 2}]));
    let ran = world()
        .answer("ranked/turn-1", [groups("invented")])
        .answer("ranked/turn-2", [groups("src/a.rs:1")])
        .run(steps);
    assert_eq!(ran.result("ranked")["groups"][0]["members"], json!(["src/a.rs:1"]));
    let prompt = ran.prompt("ranked/turn-1");
    assert_eq!(prompt.matches("\\\"key\\\":").count(), 2, "an item without a key is shown with one: {prompt}");
}
