use serde_json::json;

use super::*;

fn roots() -> Vec<String> {
    vec!["/work".into()]
}

/// (rule, place, severity)
fn short(scanned: &Scanned) -> Vec<(String, String, &'static str)> {
    let short = |f: &Found| (f.rule.clone(), format!("{}:{}", f.file, f.line), f.severity);
    scanned.found.iter().map(short).collect()
}

fn some(rule: &str, place: &str, severity: &'static str) -> (String, String, &'static str) {
    (rule.into(), place.into(), severity)
}

/// Real output of `ruff check --output-format sarif .`, version 0.17, without its texts for people.
#[test]
fn ruff_s_sarif_is_read() {
    let all = sarif(include_str!("samples/ruff.sarif"), &roots()).unwrap();
    let [ruff] = &all[..] else { panic!("{all:?}") };
    assert_eq!((ruff.scanner.as_str(), ruff.complete, ruff.outside), ("ruff", true, 0));
    let found = short(ruff);
    for expected in [
        some("F401", "src/app.py:1", "error"),
        some("F401", "src/app.py:2", "error"),
        some("B006", "src/app.py:5", "error"),
        some("E722", "src/app.py:8", "error"),
        some("E741", "src/odd name.py:2", "error"),
    ] {
        assert!(found.contains(&expected), "{expected:?} in {found:?}");
    }
    assert_eq!(ruff.found[0].message, "`os` imported but unused");
    // Seen from another folder nothing of it is in the repository.
    let elsewhere = sarif(include_str!("samples/ruff.sarif"), &["/elsewhere".into()]).unwrap();
    assert_eq!((elsewhere[0].found.len(), elsewhere[0].outside as usize), (0, ruff.found.len()));
}

/// Real output of `cargo clippy --all-targets --message-format=json` and of a `cargo check` that fails.
#[test]
fn cargo_s_messages_are_read_once_for_all_targets() {
    let all = cargo(include_str!("samples/cargo-clippy.jsonl"), &roots()).unwrap();
    assert!(all[0].complete);
    assert_eq!(
        short(&all[0]),
        [
            some("unused_mut", "src/duration.rs:2", "warning"),
            some("unused_variables", "src/lib.rs:4", "warning"),
            some("unused_variables", "src/lib.rs:5", "warning"),
            some("clippy::needless_return", "src/duration.rs:6", "warning"),
            some("clippy::len_zero", "src/duration.rs:3", "warning"),
        ]
    );
    let broken = cargo(include_str!("samples/cargo-check.jsonl"), &roots()).unwrap();
    assert!(!broken[0].complete, "what comes after an error was not looked at");
    assert!(short(&broken[0]).contains(&some("E0308", "src/duration.rs:8", "error")), "{:?}", short(&broken[0]));
    assert!(cargo("Compiling sample\n", &roots()).unwrap_err().contains("--message-format=json"));
    assert!(cargo("", &roots()).is_err());
}

#[test]
fn a_warning_in_a_macro_from_elsewhere_stands_where_the_macro_is_used() {
    let message = json!({"reason": "compiler-message", "message": {"message": "m", "level": "warning", "code": null, "spans": [{
        "file_name": "/registry/src/dep/lib.rs", "line_start": 7, "column_start": 1, "is_primary": true,
        "expansion": {"span": {"file_name": "src/a.rs", "line_start": 3, "column_start": 1, "is_primary": false}}}]}});
    let outside = json!({"reason": "compiler-message", "message": {"message": "m", "level": "warning", "spans": [
        {"file_name": "/registry/src/dep/lib.rs", "line_start": 7, "column_start": 1, "is_primary": true}]}});
    let text = format!("{message}\n{outside}\nnoise\n{{\"reason\":\"build-finished\",\"success\":true}}");
    let all = cargo(&text, &roots()).unwrap();
    assert_eq!(short(&all[0]), [some("warning", "src/a.rs:3", "warning")]);
    assert_eq!(all[0].outside, 1);
}

fn result(extra: serde_json::Value) -> serde_json::Value {
    let mut result = json!({"ruleId": "R1", "message": {"text": "bad"}, "locations": [
        {"physicalLocation": {"artifactLocation": {"uri": "src/a.c"}, "region": {"startLine": 4}}}]});
    result.as_object_mut().unwrap().extend(extra.as_object().cloned().unwrap());
    result
}

fn log(results: Vec<serde_json::Value>) -> String {
    json!({"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "My Tool", "rules": [
        {"id": "R0"}, {"id": "R1", "defaultConfiguration": {"level": "note"}, "shortDescription": {"text": "short"},
         "messageStrings": {"default": {"text": "call of {0} with {1} and {x}"}}}]},
        "extensions": [{"name": "more", "rules": [{"id": "X9", "defaultConfiguration": {"level": "error"}}]}]},
        "originalUriBaseIds": {"ROOT": {"uri": "file:///work/"}, "SRC": {"uri": "lib/", "uriBaseId": "ROOT"}, "LOOP": {"uri": "x", "uriBaseId": "LOOP"}, "OPEN": {}},
        "artifacts": [{"location": {"uri": "src/from-artifacts.c"}}],
        "results": results}]})
    .to_string()
}

fn one(extra: serde_json::Value) -> Option<Found> {
    let mut all = sarif(&log(vec![result(extra)]), &roots()).unwrap();
    all[0].found.pop()
}

fn at(location: serde_json::Value) -> Option<String> {
    let place =
        json!({"locations": [{"physicalLocation": {"artifactLocation": location, "region": {"startLine": 1}}}]});
    one(place).map(|found| found.file)
}

#[test]
fn uris_of_every_kind_become_paths_in_the_repository() {
    for (location, expected) in [
        (json!({"uri": "src/a.c"}), Some("src/a.c")),
        (json!({"uri": "./src//x/../a.c"}), Some("src/a.c")),
        (json!({"uri": "src/with%20blank%C3%BC.c"}), Some("src/with blankü.c")),
        (json!({"uri": "file:///work/src/a.c"}), Some("src/a.c")),
        (json!({"uri": "file:/work/src/a.c"}), Some("src/a.c")),
        (json!({"uri": "file://host/work/src/a.c"}), Some("src/a.c")),
        (json!({"uri": "/work/src/a.c"}), Some("src/a.c")),
        (json!({"uri": "a.c", "uriBaseId": "SRC"}), Some("lib/a.c")),
        (json!({"uri": "a.c", "uriBaseId": "ROOT"}), Some("a.c")),
        (json!({"uri": "a.c", "uriBaseId": "OPEN"}), Some("a.c")),
        (json!({"uri": "a.c", "uriBaseId": "unknown"}), Some("a.c")),
        (json!({"index": 0}), Some("src/from-artifacts.c")),
        (json!({"uri": "src\\win\\a.c"}), Some("src/win/a.c")),
        (json!({"uri": "file:///etc/passwd"}), None),
        (json!({"uri": "/workshop/a.c"}), None),
        (json!({"uri": "../a.c"}), None),
        (json!({"uri": "src/../../a.c"}), None),
        (json!({"uri": "file:///work/../etc/passwd"}), None),
        (json!({"uri": "file:///work/"}), None),
        (json!({"uri": ".git/config"}), None),
        (json!({"uri": "https://example.com/a.c"}), None),
        (json!({"uri": "a%00b"}), None),
        (json!({"uri": "bad%FF"}), None),
        (json!({"index": 7}), None),
        (json!({}), None),
    ] {
        assert_eq!(at(location.clone()).as_deref(), expected, "{location}");
    }
    // A circle of bases ends.
    assert!(at(json!({"uri": "a.c", "uriBaseId": "LOOP"})).is_some());
}

#[test]
fn levels_messages_and_symbols_come_from_the_result_or_its_rule() {
    let severity = |extra| one(extra).unwrap().severity;
    assert_eq!(severity(json!({})), "note", "the rule's own level");
    assert_eq!(severity(json!({"level": "error"})), "error");
    assert_eq!(severity(json!({"ruleId": "other"})), "warning");
    assert_eq!(severity(json!({"ruleId": "R1/7"})), "note", "a case of the rule");
    assert_eq!(severity(json!({"ruleId": null, "ruleIndex": 1})), "note");
    let extension = json!({"ruleId": null, "rule": {"index": 0, "toolComponent": {"index": 0}}});
    let found = one(extension).unwrap();
    assert_eq!((found.rule.as_str(), found.severity), ("X9", "error"));

    let message = |message| one(json!({ "message": message })).unwrap().message;
    assert_eq!(message(json!({"text": "a\u{1b}[2Jb\nc"})), "a [2Jb c");
    assert_eq!(message(json!({"id": "default", "arguments": ["{1}", "y"]})), "call of {1} with y and {x}");
    assert_eq!(message(json!({})), "short");
    assert_eq!(message(json!({"text": "x".repeat(5_000)})).len(), MOST_MESSAGE);

    let mut place = result(json!({}))["locations"].clone();
    place[0]["logicalLocations"] = json!([{"name": "f", "fullyQualifiedName": "a::f"}]);
    assert_eq!(one(json!({"locations": place, "occurrenceCount": 9})).unwrap().symbol.as_deref(), Some("a::f"));
}

#[test]
fn what_is_suppressed_passed_or_gone_is_no_finding() {
    let results = vec![
        result(json!({"suppressions": [{"kind": "inSource"}]})),
        result(json!({"suppressions": [{"kind": "external", "status": "accepted"}]})),
        result(json!({"suppressions": [{"kind": "external", "status": "rejected"}], "ruleId": "kept-1"})),
        result(json!({"suppressions": [], "ruleId": "kept-2"})),
        result(json!({"suppressions": null, "fingerprints": null, "ruleId": "kept-3"})),
        result(json!({"kind": "pass"})),
        result(json!({"kind": "informational"})),
        result(json!({"kind": "review", "ruleId": "kept-4"})),
        result(json!({"baselineState": "absent"})),
        result(json!({"baselineState": "unchanged", "ruleId": "kept-5"})),
        result(json!({"locations": []})),
        result(json!({"locations": null})),
    ];
    let all = sarif(&log(results), &roots()).unwrap();
    let rules: Vec<_> = all[0].found.iter().map(|found| found.rule.as_str()).collect();
    assert_eq!(rules, ["kept-1", "kept-2", "kept-3", "kept-4", "kept-5"]);
    assert_eq!((all[0].suppressed, all[0].outside, all[0].complete), (2, 2, true));
}

#[test]
fn several_runs_of_one_tool_are_one_scanner_and_a_run_that_did_not_finish_is_not_complete() {
    let run = |name: &str, more: serde_json::Value| {
        let mut run = json!({"tool": {"driver": {"name": name}}, "results": [result(json!({}))]});
        run.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        run
    };
    let failed = json!({"invocations": [{"executionSuccessful": false}]});
    let text = json!({"runs": [run("A b", json!({})), run("c", failed), run("A-B", json!({})), run("d", json!({"results": null}))]});
    let all = sarif(&text.to_string(), &roots()).unwrap();
    let told: Vec<_> = all.iter().map(|s| (s.scanner.as_str(), s.found.len(), s.complete)).collect();
    assert_eq!(told, [("a-b", 2, true), ("c", 1, false), ("d", 0, false)]);
    for bad in ["", "no json", "{}", "{\"runs\": []}", "[1]", "{\"runs\": [{}]}"] {
        assert!(sarif(bad, &roots()).is_err(), "{bad}");
    }
}

#[test]
fn too_many_findings_are_cut_and_then_nothing_is_complete() {
    let text = log((0..MOST_FINDINGS + 1).map(|_| result(json!({}))).collect());
    let all = sarif(&text, &roots()).unwrap();
    assert_eq!((all[0].found.len(), all[0].complete), (MOST_FINDINGS, false));
}

#[test]
fn lines_of_json_are_read_in_the_usual_field_names() {
    let text = r#"
{"file": "/work/a.py", "line": 3, "rule": "x", "message": "m", "severity": "HIGH"}
{"filename": "b.py", "location": {"row": "7", "column": 1}, "code": "E1", "msg": "n", "level": "info"}
{"path": "c.go", "start": {"line": 2}, "check_id": "go.x", "extra": {"message": "deep", "severity": "ERROR"}}
{"summary": true}
{"file": "/etc/passwd", "line": 1, "message": "m"}
"#;
    let all = jsonl(text, "/usr/bin/My.Scanner", &roots()).unwrap();
    let expected = [some("x", "a.py:3", "error"), some("E1", "b.py:7", "note"), some("go.x", "c.go:2", "error")];
    assert_eq!((short(&all[0]), all[0].outside), (expected.to_vec(), 2));
    assert_eq!((all[0].scanner.as_str(), all[0].found[2].message.as_str()), ("usr-bin-my-scanner", "deep"));
    let list = jsonl(r#"[{"file": "a", "message": "m"}]"#, "x", &roots()).unwrap();
    assert_eq!(short(&list[0]), [some("finding", "a:0", "warning")]);
    assert!(jsonl("{\"file\": \"a\"}\noops", "x", &roots()).unwrap_err().contains("line 2"));
    assert_eq!(jsonl("", "x", &roots()).unwrap()[0].found, []);
}

#[test]
fn a_pattern_is_quoted_for_the_shell_and_its_lines_are_read() {
    assert_eq!(pattern_command("it's"), r"grep -rnIE --null --exclude-dir=.git -e 'it'\''s' .");
    let all = pattern("./src/a:b.c\u{0}12:  TODO: x\n./b\u{0}1:TODO\n", "TODO", &roots()).unwrap();
    assert_eq!(short(&all[0]), [some("TODO", "src/a:b.c:12", "warning"), some("TODO", "b:1", "warning")]);
    assert_eq!(pattern("", "TODO", &roots()).unwrap()[0].found, []);
    assert!(pattern("grep: bad\n", "TODO", &roots()).is_err());
    // One odd name does not hide what is in the others.
    let odd = pattern("./a\nb\u{0}1:TODO\n./c\u{0}2:TODO\n", "TODO", &roots()).unwrap();
    assert_eq!((odd[0].found.len(), odd[0].found[0].file.as_str(), odd[0].outside), (1, "c", 1));
    assert!(pattern("./a\nb", "TODO", &roots()).is_err());
}

#[test]
fn a_scanner_is_called_by_its_program() {
    assert_eq!(program("ruff check ."), "ruff");
    assert_eq!(program("A=1 B_2=x /usr/bin/semgrep --json"), "semgrep");
    assert_eq!(program(""), "");
}

fn found(line: u32) -> Found {
    Found { rule: "R".into(), file: "a.c".into(), line, message: "m".into(), severity: "error", ..Found::default() }
}

#[test]
fn a_key_outlives_moved_lines_and_tells_equal_findings_apart() {
    let line = |text: &str| Some(text.to_owned());
    let before = keys(&[found(10), found(20), found(30)], &[line("  x = 1;"), line("y"), line("x = 1;")]);
    assert!(before[0].starts_with("R-") && before[0].len() == 14, "{before:?}");
    assert_eq!(before[2], format!("{}~2", before[0]), "the second of two equal ones");
    // Two lines further down, indented, and reported in another order.
    let after = keys(&[found(32), found(22), found(12)], &[line("x  =  1;"), line("\ty"), line("x = 1;")]);
    assert_eq!([&after[2], &after[1], &after[0]], [&before[0], &before[1], &before[2]]);
    // Anything else about it makes it another one.
    let one = |found: Found, text: &str| keys(&[found], &[line(text)]).remove(0);
    assert_ne!(one(found(1), "x"), one(found(1), "y"));
    assert_ne!(one(found(1), "x"), one(Found { rule: "S".into(), ..found(1) }, "x"));
    assert_ne!(one(found(1), "x"), one(Found { file: "b.c".into(), ..found(1) }, "x"));
    assert_ne!(one(found(1), "x"), one(Found { symbol: Some("f".into()), ..found(1) }, "x"));
    assert_eq!(one(found(1), "x"), one(Found { message: "other words".into(), ..found(2) }, "x"));
    // Without a line the message counts, without its figures.
    let told = |message: &str| keys(&[Found { message: message.into(), ..found(0) }], &[None]).remove(0);
    assert_eq!(told("took 12.5 s"), told("took 13.25 s"));
    assert_ne!(told("took 12 s"), told("lost 12 s"));
    // A name that is no path stays out of keys.
    assert!(one(Found { rule: "a/b [c]".into(), ..found(1) }, "x").starts_with("a-b--c--"));
}

#[test]
fn a_tool_s_own_fingerprint_counts_only_if_it_is_one() {
    let identity = |extra| one(extra).unwrap().identity;
    let hash = "0123456789abcdef0123";
    assert_eq!(identity(json!({"fingerprints": {"v1": hash}})).as_deref(), Some(hash));
    assert_eq!(identity(json!({"fingerprints": {"matchBasedId/v1": "requires login"}})), None);
    assert_eq!(identity(json!({"partialFingerprints": {"v1": hash}})), None, "its line says more");
    let without_line = json!({"partialFingerprints": {"v1": hash}, "locations": [
        {"physicalLocation": {"artifactLocation": {"uri": "a"}}}]});
    assert_eq!(identity(without_line).as_deref(), Some(hash));
}
