//! Every kind of message against Slack's limits, and hostile text in every place.

use std::collections::BTreeMap;

use super::*;
use crate::base::env::process_variable;
use crate::domain::activity::Complaint;
use crate::ports::service::{Service, Services};
use crate::sinks::sample;

fn hosts() -> Hosts {
    let service = || Some(Service { settings: BTreeMap::new(), ..Service::default() });
    Hosts::of(&Services { github: service(), sentry: service(), ..Services::default() })
}

fn a_finding() -> ReportFinding {
    ReportFinding {
        fingerprint: "3f9c".into(),
        id: "a1b2c3d4e5f6".into(),
        title: "parse_duration drops the sign of negative values".into(),
        lines: vec!["seen 412 times by 37 people since Tue 17 Nov".into(), "2 files, +9 −3".into()],
        proof: Some("reproduced by a new test on `main`, gone with the patch; 48 other tests unchanged".into()),
        links: vec![Link {
            title: "Draft pull request: parse_duration keeps the sign".into(),
            url_or_path: "https://github.com/acme/api/pull/214".into(),
            preview: false,
        }],
        state: "draft".into(),
    }
}

fn question() -> Question {
    Question {
        path: "repair[3f9c]/ask".into(),
        signal: "approve".into(),
        ask: "May I add a dependency (`chrono-tz`)?".into(),
        given: vec![("The exact change".into(), "-chrono = \"0.4\"\n+chrono = \"0.4\"\n+chrono-tz = \"0.10\"".into())],
        expires_at: Some("2026-11-20T13:00:00Z".parse().unwrap()),
        on_expiry: "no".into(),
        hash: "9f3c0b".into(),
        answered: None,
    }
}

/// What people get to see, by name.
fn samples() -> Vec<(String, Message)> {
    let hosts = hosts();
    let mut all = Vec::new();
    let mut add = |name: &str, found: Rendered| {
        all.push((name.to_owned(), found.main));
        all.extend(
            found.thread.into_iter().enumerate().map(|(n, message)| (format!("{name}-thread-{}", n + 1), message)),
        );
    };
    add("analytics", report(&sample::report(), &hosts, true));
    let base = Report {
        pipeline: "error-to-pr".into(),
        summary: "Turn a production error into a tested draft pull request, or else into a ticket.".into(),
        blocks: Vec::new(),
        chart: None,
        effects: Effects::Live,
        ..sample::report()
    };
    let link = |title: &str, url: &str, preview| Link { title: title.into(), url_or_path: url.into(), preview };
    let links = vec![
        link("Draft pull request: parse_duration keeps the sign", "https://github.com/acme/api/pull/214", true),
        link("Ticket: A blank day ends the import", "out/tickets/blank-day-1f.md", true),
        link("Ticket: Totals are off by one", "https://evil.example/x", true),
    ];
    let preview = Report {
        headline: "1 draft pull request and 2 tickets: parse_duration keeps the sign, …".into(),
        outcome: Some(Outcome::Reported),
        effects: Effects::Preview,
        blocks: vec![ReportBlock::Links { items: links }],
        findings: (0..5).map(|n| ReportFinding { fingerprint: n.to_string(), ..a_finding() }).collect(),
        ..base.clone()
    };
    add("preview", report(&preview, &hosts, true));
    let mut blocked = Report {
        pipeline: "code-health".into(),
        headline: "Could not run: `scan`: the sandbox has no `cargo-audit`".into(),
        outcome: Some(Outcome::Blocked),
        blocks: vec![ReportBlock::Notice { text: "scan: blocked: the sandbox has no `cargo-audit`".into() }],
        ..base.clone()
    };
    blocked.footer.help =
        vec!["add to environments/api.yaml: `setup: [{run: \"cargo install cargo-audit --locked\"}]`".into()];
    blocked.footer.complaints = vec![Complaint {
        kind: "tool".into(),
        need: "cargo-audit".into(),
        evidence: "error: no such command: `audit`".into(),
        step: "scan".into(),
    }];
    blocked.footer.refused = vec!["push to main".into()];
    add("blocked", report(&blocked, &hosts, true));
    let quiet = Report { headline: "Nothing new".into(), outcome: Some(Outcome::NothingNew), ..base.clone() };
    add("quiet", report(&quiet, &hosts, true));
    let asks = Report {
        headline: "error-to-pr asks: may I add a dependency (chrono-tz)?".into(),
        outcome: None,
        question: Some(question()),
        ..base.clone()
    };
    add("question", report(&asks, &hosts, true));
    let answered = Question { answered: Some(("approved".into(), "ada (U024BE7LH)".into())), ..question() };
    add("answered", report(&Report { question: Some(answered), ..asks }, &hosts, true));
    let states = ["draft", "would_draft", "ticket", "updated", "closed", "left_alone", "unproved", "failed", "novel"];
    for state in states {
        let found = ReportFinding { state: state.into(), ..a_finding() };
        all.push((format!("finding-{state}"), finding(&base, &found, &hosts)));
        all.push((format!("moved-{state}"), moved(&found, &hosts)));
    }
    all
}

/// Every string in it, with the key under which it stands.
fn texts<'v>(value: &'v Value, key: &'v str, into: &mut Vec<(&'v str, &'v str)>) {
    match value {
        Value::String(text) => into.push((key, text)),
        Value::Array(items) => items.iter().for_each(|item| texts(item, key, into)),
        Value::Object(fields) => fields.iter().for_each(|(key, value)| texts(value, key, into)),
        _ => {}
    }
}

fn holds(message: &Message, name: &str) {
    assert!(!message.blocks.is_empty() && message.blocks.len() <= 50, "{name}: {} blocks", message.blocks.len());
    assert!(kit::length(&message.text) <= 4 * NOTIFIED, "{name}");
    let tables = message.blocks.iter().filter(|block| block["type"] == "table").count();
    assert!(tables <= 1, "{name}: {tables} tables");
    for block in &message.blocks {
        let kind = block["type"].as_str().unwrap();
        let known = ["header", "context", "rich_text", "actions", "table"];
        assert!(known.contains(&kind), "{name}: {kind}");
        let mut all = Vec::new();
        texts(block, "", &mut all);
        for (key, text) in &all {
            let most = match (kind, *key) {
                ("header", _) => 150,
                ("actions", "text") => 75,
                ("actions", "value") => 2_000,
                ("actions", "action_id") => 255,
                _ => 3_000,
            };
            assert!(kit::length(text) <= most, "{name}: {kind}.{key} has {}", kit::length(text));
            assert!(!text.is_empty() || *key != "text", "{name}: an empty text in {kind}");
            assert_ne!((*key, *text), ("type", "mrkdwn"), "{name}");
            assert!(text.chars().all(crate::render::text::is_visible), "{name}: {text:?}");
        }
        match kind {
            "context" => assert!(block["elements"].as_array().unwrap().len() <= 10),
            "actions" => {
                let elements = block["elements"].as_array().unwrap();
                let ids: std::collections::BTreeSet<&str> =
                    elements.iter().map(|element| element["action_id"].as_str().unwrap()).collect();
                assert!(elements.len() <= 25 && ids.len() == elements.len(), "{name}");
            }
            "table" => {
                let rows = block["rows"].as_array().unwrap();
                let whole: usize =
                    all.iter().filter(|(key, _)| *key == "text").map(|(_, text)| kit::length(text)).sum();
                let widths: Vec<usize> = rows.iter().map(|row| row.as_array().unwrap().len()).collect();
                assert!(
                    rows.len() <= 100 && widths[0] <= 20 && whole <= 10_000,
                    "{name}: {} rows, {whole}",
                    rows.len()
                );
                assert!(widths.iter().all(|width| *width == widths[0]), "{name}");
            }
            _ => {}
        }
    }
}

#[test]
fn every_message_is_within_slacks_limits() {
    for (name, message) in samples() {
        holds(&message, &name);
        if let Some(folder) = process_variable("NIGHTCREW_DUMP_SLACK") {
            std::fs::create_dir_all(&folder).unwrap();
            let text = serde_json::to_string_pretty(&json!({"text": message.text, "blocks": message.blocks})).unwrap();
            std::fs::write(format!("{folder}/{name}.json"), text).unwrap();
        }
    }
}

#[test]
fn the_first_line_says_what_happened_and_buttons_have_the_agreed_names() {
    let samples: BTreeMap<String, Message> = samples().into_iter().collect();
    let first = |name: &str| samples[name].blocks[0]["text"]["text"].as_str().unwrap().to_owned();
    assert_eq!(
        first("finding-draft"),
        "✅ Draft PR ready for review: parse_duration drops the sign of negative values"
    );
    assert_eq!(first("blocked"), "⛔ Could not run: `scan`: the sandbox has no `cargo-audit`");
    assert_eq!(first("quiet"), "🌙 Nothing new");
    assert_eq!(first("question"), "✋ error-to-pr asks: may I add a dependency (chrono-tz)?");
    assert!(first("analytics").starts_with("📊 Sign-ups fell to 724"));
    assert_eq!(
        samples["preview"].blocks[1]["elements"][0]["text"],
        "👁 Preview: would have opened 1 draft PR and 2 tickets"
    );
    let actions = |name: &str| {
        let block = samples[name].blocks.iter().find(|block| block["type"] == "actions");
        let elements = block.map(|block| block["elements"].as_array().unwrap().clone()).unwrap_or_default();
        let told = |e: &Value| {
            [&e["text"]["text"], &e["action_id"], &e["value"], &e["url"]].map(|v| v.as_str().unwrap_or("").to_owned())
        };
        elements.iter().map(told).collect::<Vec<_>>()
    };
    let own = |texts: [&str; 4]| texts.map(str::to_owned);
    assert_eq!(
        actions("finding-draft"),
        [
            own(["Review PR #214", "link.0", "", "https://github.com/acme/api/pull/214"]),
            own(["Wrong cause", "finding.wrong_cause", "a1b2c3d4e5f6", ""]),
            own(["Won't fix", "finding.wont_fix", "a1b2c3d4e5f6", ""]),
        ]
    );
    let value = format!(r#"{{"run":"{}","path":"repair[3f9c]/ask","hash":"9f3c0b"}}"#, sample::RUN);
    assert_eq!(
        actions("question"),
        [own(["Approve", "run.approve", &value, ""]), own(["Deny", "run.deny", &value, ""])]
    );
    assert!(actions("answered").is_empty());
    assert!(Value::from(samples["answered"].blocks.clone()).to_string().contains("✅ Approved by ada (U024BE7LH)"));
}

#[test]
fn a_path_and_a_foreign_address_are_text() {
    let samples: BTreeMap<String, Message> = samples().into_iter().collect();
    let text = Value::from(samples["preview"].blocks.clone()).to_string();
    assert!(text.contains(r#"{"type":"text","text":"out/tickets/blank-day-1f.md","style":{"code":true}}"#));
    assert!(text.contains(r#"{"type":"text","text":"https://evil.example/x","style":{"code":true}}"#));
    assert!(!text.contains(r#""url":"https://evil"#));
}

const EVIL: &[&str] = &[
    "<!channel> <!here> <@U024BE7LH> <#C024BE7LH> <!subteam^S1>",
    "<https://evil.example/?q=secret|Review PR #214> https://evil.example/x.png",
    "*bold* _it_ ~s~ `code` ```pre``` > quote &lt;!channel&gt; &amp;",
    "![x](https://evil.example/x.png) [a](javascript:alert(1)) javascript%3Aalert",
    "a\u{202e}b\u{200b}c\u{e0041}\u{e007f}\u{1b}[31m\u{feff}\u{ad}\u{2066}\u{0}",
    "e\u{301}\u{1100}\u{1161} @channel @here #general :rotating_light:",
    "{\"type\": \"image\", \"image_url\": \"https://evil.example/x.png\"}",
];

#[test]
fn hostile_text_is_inert_wherever_it_stands() {
    let hosts = hosts();
    for evil in EVIL {
        let evil = (*evil).to_owned();
        let mut bad = sample::report();
        bad.headline = evil.clone();
        bad.pipeline = evil.clone();
        bad.run = evil.clone();
        bad.date = evil.clone();
        bad.profile = evil.clone();
        bad.blocks = vec![
            ReportBlock::Paragraph { text: evil.clone() },
            ReportBlock::Bullets { items: vec![evil.clone(); 9] },
            ReportBlock::Table {
                title: evil.clone(),
                columns: vec![evil.clone()],
                rows: vec![vec![evil.clone().into()]],
            },
            ReportBlock::Links { items: vec![Link { title: evil.clone(), url_or_path: evil.clone(), preview: true }] },
            ReportBlock::Notice { text: evil.clone() },
        ];
        bad.footer.problems = vec![evil.clone()];
        bad.footer.help = vec![evil.clone()];
        bad.footer.refused = vec![evil.clone()];
        bad.footer.stand_ins = vec![evil.clone()];
        bad.footer.complaints =
            vec![Complaint { kind: evil.clone(), need: evil.clone(), evidence: evil.clone(), step: evil.clone() }];
        bad.question = Some(Question {
            path: evil.clone(),
            ask: evil.clone(),
            given: vec![(evil.clone(), evil.clone())],
            on_expiry: evil.clone(),
            hash: evil.clone(),
            ..question()
        });
        let found = ReportFinding {
            fingerprint: evil.clone(),
            id: evil.clone(),
            title: evil.clone(),
            lines: vec![evil.clone()],
            proof: Some(evil.clone()),
            links: vec![Link { title: evil.clone(), url_or_path: evil.clone(), preview: false }],
            state: evil.clone(),
        };
        bad.findings = vec![found.clone()];
        let rendered = report(&bad, &hosts, true);
        let mut messages = vec![rendered.main, finding(&bad, &found, &hosts), moved(&found, &hosts)];
        messages.extend(rendered.thread);
        for message in messages {
            holds(&message, &evil);
            // The one field that Slack reads as markup has none of it.
            assert!(!message.text.contains(['<', '>']), "{}", message.text);
            let all = Value::from(message.blocks).to_string();
            for markup in [
                r#""type":"link""#,
                r#""type":"user""#,
                r#""type":"broadcast""#,
                r#""type":"image""#,
                r#""url":"#,
                "image_url\":",
            ] {
                assert!(!all.replace("\\\"", "").contains(markup), "{markup} in {all}");
            }
        }
    }
    assert_eq!(kit::line("e\u{301}\u{1100}\u{1161}"), "é가");
}

#[test]
fn long_reports_are_parted_and_nothing_of_a_text_is_lost() {
    let hosts = hosts();
    let words: String = (0..4_000).map(|n| format!("word{n} ")).collect();
    let mut long = sample::report();
    long.chart = None;
    long.headline =
        "A headline that is far longer than the hundred and fifty characters which Slack takes in a header. ".repeat(4);
    let columns: Vec<String> = (0..30).map(|n| format!("column {n}")).collect();
    let row: Vec<Value> = (0..30).map(|n| format!("a cell with the number {n}").into()).collect();
    long.blocks = vec![
        ReportBlock::Paragraph { text: words.clone() },
        ReportBlock::Bullets { items: (0..300).map(|n| format!("bullet {n}")).collect() },
        ReportBlock::Table { title: "wide".into(), columns, rows: vec![row; 300] },
        ReportBlock::Table { title: "second".into(), columns: vec!["a".into()], rows: vec![vec![1.into()]; 200] },
    ];
    long.findings = (0..60).map(|_| a_finding()).collect();
    let rendered = report(&long, &hosts, true);
    holds(&rendered.main, "main");
    rendered.thread.iter().for_each(|message| holds(message, "thread"));
    let mut all = Vec::new();
    let blocks: Vec<Value> = rendered.thread.iter().map(|message| Value::from(message.blocks.clone())).collect();
    blocks.iter().for_each(|blocks| texts(blocks, "", &mut all));
    let together = all.iter().map(|(_, text)| *text).collect::<Vec<_>>().join(" ");
    assert!((0..4_000).all(|n| together.contains(&format!("word{n}"))));
    let bullets = Value::from(rendered.main.blocks.clone()).to_string() + &together;
    assert!((0..300).all(|n| bullets.contains(&format!("bullet {n}"))));
    assert!(together.contains("101 more rows not shown here"), "{}", rendered.thread.len());
    assert!(rendered.thread.len() < 20, "{}", rendered.thread.len());
}
