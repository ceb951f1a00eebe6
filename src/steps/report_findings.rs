//! What a report is about, one by one: threads and buttons are made of it. Pure.
//!
//! A finding of a report is an item with an identity of which something became: a ticket, a pull request, a fix that is not proved, a
//! failure. Items that were only looked at stand in the report's tables.

use std::collections::BTreeMap;

use jiff::{Timestamp, Zoned};
use serde_json::{Map, Value};

use crate::domain::definition::{Step, StepBody};
use crate::domain::report::{Link, ReportFinding};
use crate::domain::run::RunStart;
use crate::expr::cel::Bindings;
use crate::policy::findings::id;
use crate::render::text;

use super::{each, ledger, model};

/// Findings of one report at most.
const MOST: usize = 50;
/// Within this many days a weekday says when.
const WEEK: i64 = 6;

type Fields = Map<String, Value>;

/// What became of the items of those steps of the run that `from` names.
pub(super) fn of(from: &[String], steps: &[Step], scope: &Bindings, run: &RunStart) -> Vec<ReportFinding> {
    let sources = sources(steps, scope);
    let now = model::local(run);
    let mut found: Vec<ReportFinding> = Vec::new();
    for step in from.iter().filter_map(|name| steps.iter().find(|step| step.id == *name && step.each.is_some())) {
        let Some(result) = scope.get(&step.id).and_then(Value::as_object) else { continue };
        let list = |name: &str| result.get(name).and_then(Value::as_array).into_iter().flatten();
        let items = list("items").map(|item| (item, false)).chain(list("failed").map(|item| (item, true)));
        for (item, failed) in items {
            let Some(fields) = item.as_object() else { continue };
            let keys = ledger::keys(item);
            let Some(first) = keys.first() else { continue };
            let Some(Became { state, links, key }) = became(step, fields, failed) else { continue };
            // A group is known by what its ticket is known by: its members, whatever they are called today.
            let fingerprint = if keys.len() > 1 { key.unwrap_or_else(|| first.clone()) } else { first.clone() };
            if found.len() < MOST && found.iter().all(|known| known.fingerprint != fingerprint) {
                let known = keys.iter().find_map(|key| Some((sources.get(key)?, key)));
                let effects = run.effects.as_str();
                let id = known.map(|(source, key)| id(&run.pipeline, &run.profile, effects, source, key));
                found.push(ReportFinding {
                    fingerprint,
                    id: id.unwrap_or_default(),
                    title: each::title_of(item),
                    lines: lines(item, fields, &now),
                    proof: proof(fields),
                    links,
                    state,
                });
            }
        }
    }
    found
}

/// Under which source the ledger knows each identity.
fn sources(steps: &[Step], scope: &Bindings) -> BTreeMap<String, String> {
    let mut sources = BTreeMap::new();
    for step in steps.iter().filter(|step| step.each.is_none()) {
        let Some(result) = scope.get(&step.id).and_then(Value::as_object) else { continue };
        for (source, item) in ledger::gathered(step, result, "items") {
            for key in ledger::keys(item) {
                sources.entry(key).or_insert_with(|| source.clone());
            }
        }
    }
    sources
}

struct Became {
    state: String,
    links: Vec<Link>,
    /// By which what was published is known.
    key: Option<String>,
}

/// What the steps of an item made of it; `None`: nothing.
fn became(step: &Step, item: &Fields, failed: bool) -> Option<Became> {
    let is_kind = |step: &Step, wanted: &str| matches!(&step.body, StepBody::Kind { kind, .. } if kind == wanted);
    let inner: Vec<&Step> = match &step.body {
        StepBody::Steps(steps) => steps.iter().collect(),
        StepBody::Kind { .. } => Vec::new(),
    };
    let mut links = Vec::new();
    let mut best: Option<(u8, &'static str, Option<String>)> = None;
    for (kind, title) in [("pull_request", "Draft pull request"), ("ticket", "Ticket")] {
        let of_item = is_kind(step, kind).then_some(item);
        let of_steps =
            inner.iter().filter(|step| is_kind(step, kind)).filter_map(|step| item.get(&step.id)?.as_object());
        for fields in of_item.into_iter().chain(of_steps) {
            let Some(published) = fields.get("published").filter(|about| about.is_object()) else { continue };
            let said = published["state"].as_str().unwrap_or_default();
            let Some((rank, state)) = state(kind, said) else { continue };
            let url = fields.get("url").and_then(Value::as_str).unwrap_or_default();
            if !url.is_empty() || said == "would_have" {
                let own = published["title"].as_str().filter(|own| !own.trim().is_empty());
                let title = own.map_or_else(|| title.to_owned(), |own| format!("{title}: {own}"));
                links.push(Link { title, url_or_path: url.to_owned(), preview: said == "would_have" });
            }
            if best.as_ref().is_none_or(|(known, ..)| rank > *known) {
                best = Some((rank, state, published["key"].as_str().map(str::to_owned)));
            }
        }
    }
    if failed {
        return Some(Became { state: "failed".into(), links, key: best.and_then(|(_, _, key)| key) });
    }
    if let Some((_, state, key)) = best {
        return Some(Became { state: state.to_owned(), links, key });
    }
    let fix = inner.iter().filter_map(|step| item.get(&step.id)?.as_object()).find(|fix| fix.contains_key("proved"))?;
    is_true(fix, "ran").then(|| {
        let state = if is_true(fix, "proved") { "declined" } else { "unproved" };
        Became { state: state.into(), links, key: None }
    })
}

/// How it stands, and how much that weighs beside other things that became of the same item.
fn state(kind: &str, said: &str) -> Option<(u8, &'static str)> {
    Some(match (kind, said) {
        ("pull_request", "opened" | "updated" | "unchanged") => (9, "draft"),
        ("pull_request", "would_have") => (8, "would_draft"),
        (_, "opened") => (7, "ticket"),
        (_, "updated") => (6, "updated"),
        (_, "would_have") => (5, "would_ticket"),
        (_, "closed") => (4, "closed"),
        (_, "unchanged") => (3, "unchanged"),
        (_, "left_alone") => (2, "left_alone"),
        (_, "refused") => (1, "declined"),
        _ => return None,
    })
}

/// Where it is, how often and by whom it was seen, and the size of its patch.
fn lines(item: &Value, fields: &Fields, now: &Zoned) -> Vec<String> {
    let number = |value: &Value| value.as_u64().filter(|n| *n > 0);
    let mut lines = Vec::new();
    let place = ledger::seen(item).map(|seen| seen.place).unwrap_or_default();
    lines.extend(Some(place).filter(|place| !place.is_empty()));
    if let Some(times) = number(&item["count"]) {
        let mut line = format!("seen {}", text::counted(times, "time"));
        if let Some(users) = number(&item["users"]) {
            let people = if users == 1 { "person" } else { "people" };
            line.push_str(&format!(" by {} {people}", text::number(users as f64)));
        }
        let since = item["first_seen"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
        line.push_str(&since.map(|since| since_when(since, now)).unwrap_or_default());
        lines.push(line);
    }
    let harm = item["harm"].as_str().map(text::line).filter(|harm| !harm.is_empty());
    lines.extend(harm);
    if let Some(fix) = fix_of(fields).filter(|fix| is_true(fix, "proved")) {
        let count = |name: &str| fix.get(name).and_then(Value::as_u64).unwrap_or(0);
        let files = text::counted(count("files"), "file");
        lines.push(format!("{files}, +{} −{}", count("added"), count("removed")));
    }
    lines
}

/// ` since Tuesday`, ` since 3 Nov`, in the pipeline's zone.
fn since_when(since: Timestamp, now: &Zoned) -> String {
    let since = since.to_zoned(now.time_zone().clone());
    let days = (now.date() - since.date()).get_days();
    let format = match i64::from(days) {
        0 => return " today".into(),
        1..=WEEK => " since %A",
        _ if since.year() == now.year() => " since %-d %b",
        _ => " since %-d %b %Y",
    };
    since.strftime(format).to_string()
}

fn is_true(fields: &Fields, name: &str) -> bool {
    fields.get(name) == Some(&Value::Bool(true))
}

fn fix_of(fields: &Fields) -> Option<&Fields> {
    fields.values().filter_map(Value::as_object).find(|step| step.contains_key("proved") && step.contains_key("proven"))
}

/// What the host has proved, in one sentence.
fn proof(fields: &Fields) -> Option<String> {
    let fix = fix_of(fields).filter(|fix| is_true(fix, "proved"))?;
    let proven = fix.get("proven")?;
    let new = proven["red_then_green"].as_array().map_or(0, Vec::len);
    let by = if new == 1 { "a new test".to_owned() } else { text::counted(new as u64, "new test") };
    let unchanged = text::counted(proven["unchanged"].as_u64().unwrap_or(0), "other test");
    (new > 0).then(|| format!("reproduced by {by}, gone with the patch; {unchanged} unchanged"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{World, pipeline};
    use super::*;
    use crate::domain::activity::Thread;
    use crate::domain::report::ReportBlock;
    use serde_json::json;

    const REPAIR: &str = "  - id: errors
    fetch: {from: sentry}
  - id: repair
    each: e in errors
    steps:
      - id: fix
        fix: {ask: x, given: [e], test_first: true}
      - id: draft
        pull_request: {from: fix}
      - id: ticket
        unless: draft.ran
        ticket: {from: e}
";

    fn found(steps: &str, from: &[&str], results: &[(&str, Value)]) -> Vec<ReportFinding> {
        let mut scope = Bindings::default();
        results.iter().for_each(|(id, result)| scope.set(*id, result.clone()));
        let from: Vec<String> = from.iter().map(|name| (*name).to_owned()).collect();
        of(&from, &pipeline(steps).steps, &scope, &World::new().run)
    }

    #[test]
    fn an_item_of_which_something_became_is_a_finding_with_its_line_in_the_ledger() {
        let published = |state: &str, url: &str| json!({"ran": true, "url": url, "published": {"state": state, "key": "k-1", "title": "T"}});
        let skipped = || json!({"ran": false, "outcome": "skipped"});
        let fix =
            |proved: bool| json!({"ran": true, "proved": proved, "proven": {"red_then_green": ["t"], "unchanged": 2}});
        let keys = ["a", "b", "c", "d", "e"];
        let errors = json!({"ran": true, "source": "sentry", "items": keys.map(|key| json!({"key": key}))});
        let repair = json!({"ran": true, "items": [
            {"key": "a", "title": "A", "fix": fix(true), "draft": published("opened", "https://github.com/x/y/pull/1"), "ticket": skipped()},
            {"key": "b", "title": "B", "fix": fix(false), "draft": skipped(), "ticket": published("would_have", "")},
            {"key": "c", "title": "C", "fix": fix(false), "draft": skipped(), "ticket": skipped()},
            {"key": "d", "title": "D", "fix": skipped(), "draft": skipped(), "ticket": skipped()},
            {"title": "without an identity", "draft": published("opened", "x")},
        ], "failed": [{"key": "e", "title": "E", "reason": "no answer"}]});
        let results = [("errors", errors), ("repair", repair)];
        let all = found(REPAIR, &["repair", "errors"], &results);
        let told: Vec<_> = all.iter().map(|f| (f.fingerprint.as_str(), f.title.as_str(), f.state.as_str())).collect();
        assert_eq!(
            told,
            [("a", "A", "draft"), ("b", "B", "would_ticket"), ("c", "C", "unproved"), ("e", "E", "failed")]
        );
        assert_eq!(all[0].id, id("test", "local", "preview", "sentry", "a"));
        assert_eq!(all[0].links[0].title, "Draft pull request: T");
        assert!(all[1].links[0].preview && all[0].proof.is_some() && all[1].proof.is_none());
        assert!(found(REPAIR, &["errors"], &results).is_empty());
    }

    #[test]
    fn a_group_is_known_by_its_ticket_and_its_first_member_by_the_ledger() {
        let steps = "  - id: real
    scan: {}
  - id: ranked
    boss: {ask: x, given: [real]}
    output: {groups: [{title: string(90), members: [string]}]}
  - id: tickets
    each: {as: group, in: ranked.groups}
    ticket: {from: group, key: group.members}
";
        let real =
            json!({"ran": true, "items": [{"key": "f-1", "scanner": "ruff"}, {"key": "f-2", "scanner": "ruff"}]});
        let ticket = json!({"title": "G", "harm": "It hurts", "members": ["f-2", "f-1"], "url": "out/t.md",
            "published": {"state": "updated", "key": "group-1f", "title": "G"}});
        let results = [("real", real), ("tickets", json!({"ran": true, "items": [ticket]}))];
        let all = found(steps, &["tickets"], &results);
        assert_eq!((all.len(), all[0].fingerprint.as_str(), all[0].state.as_str()), (1, "group-1f", "updated"));
        assert_eq!(
            (all[0].id.clone(), all[0].lines.clone()),
            (id("test", "local", "preview", "real/ruff", "f-2"), vec!["It hurts".to_owned()])
        );
    }

    #[test]
    fn a_delivery_says_how_it_is_threaded_and_what_a_quiet_night_is() {
        let run = |rows: Value, options: &str| {
            let steps = format!(
                "  - {{id: rows, fetch: {{from: signups}}}}\n  - id: post\n    report: {{from: rows{options}}}\n"
            );
            World::new().rows(rows).run(&steps).delivered()
        };
        let of = |rows: Value, options: &str| run(rows, options).first().map(|delivery| delivery.thread);
        assert_eq!(of(json!([{"a": 1}]), ""), Some(Thread::PerRun));
        assert_eq!(of(json!([{"a": 1}]), ", thread: per_finding, when_quiet: edit"), Some(Thread::PerFinding));
        assert_eq!(of(json!([]), ", when_quiet: edit"), Some(Thread::Quiet));
        assert_eq!(of(json!([]), ", when_quiet: post"), Some(Thread::PerRun));
        assert_eq!(of(json!([]), ""), None);
    }

    #[test]
    fn what_is_hidden_is_in_no_report() {
        let rows = json!([{"a": 1, "email": "ada@acme.example"}]);
        let steps = "  - {id: rows, fetch: {from: signups}}\n  - id: post\n    report: {from: rows, to: slack}\n";
        let delivered = World::new().rows(rows).run(steps).delivered();
        assert!(matches!(&delivered[0].report.blocks[0], ReportBlock::Table { columns, .. } if columns == &["a"]));
        assert!(!json!(delivered[0].report).to_string().contains("ada@"));
    }

    #[test]
    fn when_is_said_as_people_say_it() {
        let now: Zoned = "2026-11-20T08:00:00[Europe/Berlin]".parse().unwrap();
        let said = |at: &str| since_when(at.parse().unwrap(), &now);
        let dates = ["2026-11-20T01:00:00Z", "2026-11-17T12:00:00Z", "2026-11-03T12:00:00Z", "2025-12-31T12:00:00Z"];
        assert_eq!(dates.map(said), [" today", " since Tuesday", " since 3 Nov", " since 31 Dec 2025"]);
        // In its zone it is the next day already.
        assert_eq!(said("2026-11-16T23:30:00Z"), " since Tuesday");
    }

    #[test]
    fn how_often_by_whom_and_what_is_proved() {
        let now: Zoned = "2026-11-20T08:00:00[UTC]".parse().unwrap();
        let item = json!({
            "key": "API-4F2", "project": "api", "count": 412, "users": 37, "first_seen": "2026-11-17T12:00:00Z",
            "fix": {"ran": true, "proved": true, "files": 2, "added": 9, "removed": 3,
                "proven": {"red_then_green": ["t::a"], "unchanged": 48}},
        });
        let fields = item.as_object().unwrap();
        let told = ["api", "seen 412 times by 37 people since Tuesday", "2 files, +9 −3"];
        assert_eq!(lines(&item, fields, &now), told);
        let proof = proof(fields).unwrap();
        assert_eq!(proof, "reproduced by a new test, gone with the patch; 48 other tests unchanged");
        let one = json!({"key": 1, "count": 1, "users": 1});
        assert_eq!(lines(&one, one.as_object().unwrap(), &now), ["seen 1 time by 1 person"]);
    }
}
