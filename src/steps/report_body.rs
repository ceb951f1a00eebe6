//! From data to the body of a report. Pure: a headline, a paragraph for a text, bullets for a list of texts, a table for a list
//! of maps, links for tickets and pull requests.

use serde_json::{Map, Value};

use crate::domain::report::{Chart, Link, ReportBlock, Series};
use crate::domain::run::Effects;

use super::data::Datum;
use super::report_items;

/// Rows and columns of one table at most.
const MOST_ROWS: usize = 200;
const MOST_COLUMNS: usize = 12;
/// Reasons of one fix at most.
const MOST_REASONS: usize = 3;
/// Between a fix and why it is not proved.
const NOT_FIXED: &str = ": not fixed: ";
/// Notices about single problems at most.
const MOST_NOTICES: usize = 10;
/// Fields that say how a step or item went; not content.
const ABOUT: [&str; 4] = ["ran", "failure", "headline", "left_behind"];
/// How links to what was opened begin.
const DRAFT: &str = "Draft pull request: ";
const TICKET: &str = "Ticket: ";

/// The first headline, and everything else as blocks.
pub(super) struct Body {
    pub headline: Option<String>,
    pub blocks: Vec<ReportBlock>,
}

/// Renders the data in its order.
pub(super) fn body(from: &[Datum], effects: Effects) -> Body {
    let mut body = Body { headline: None, blocks: Vec::new() };
    for datum in from.iter().filter(|datum| !datum.is_empty()) {
        if let Some(fields) = datum.value.as_object() {
            let headline = fields.get("headline").and_then(Value::as_str).filter(|text| !text.trim().is_empty());
            if let (None, Some(headline)) = (&body.headline, headline) {
                body.headline = Some(headline.to_owned());
            }
            body.blocks.extend(blocks_of(fewer_tests(fields).into_iter().collect()));
            if let Some(found) = became(&datum.label, fields, effects) {
                body.blocks.extend(blocks_of(vec![found]));
                continue;
            }
            body.blocks.extend(map(&datum.label, fields));
        } else {
            body.blocks.extend(block(&datum.label, &datum.value));
        }
        body.blocks.extend(links(&datum.value, effects));
    }
    body
}

fn map(label: &str, fields: &Map<String, Value>) -> Vec<ReportBlock> {
    let mut blocks = Vec::new();
    let mut scalars = Vec::new();
    for (name, value) in fields.iter().filter(|(name, _)| !ABOUT.contains(&name.as_str())) {
        match value {
            Value::Number(_) | Value::Bool(_) => scalars.push(vec![Value::from(name.as_str()), value.clone()]),
            Value::Object(inner) => blocks.extend(map(name, inner)),
            value => blocks.extend(block(name, value)),
        }
    }
    if !scalars.is_empty() {
        let columns = vec!["field".to_owned(), "value".to_owned()];
        blocks.push(ReportBlock::Table { title: label.to_owned(), columns, rows: scalars });
    }
    blocks
}

fn block(label: &str, value: &Value) -> Option<ReportBlock> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Some(ReportBlock::Paragraph { text: text.clone() }),
        Value::Array(items) if items.iter().any(Value::is_object) => Some(table(label, items)),
        Value::Array(items) if !items.is_empty() => {
            let text = |item: &Value| item.as_str().map_or_else(|| item.to_string(), str::to_owned);
            Some(ReportBlock::Bullets { items: items.iter().map(text).collect() })
        }
        Value::Number(_) | Value::Bool(_) => Some(ReportBlock::Paragraph { text: format!("{label}: {value}") }),
        _ => None,
    }
}

fn table(label: &str, items: &[Value]) -> ReportBlock {
    let title = match items.len() {
        n if n > MOST_ROWS => format!("{label} (the first {MOST_ROWS} of {n})"),
        _ => label.to_owned(),
    };
    if let Some(table) = report_items::table(&title, &items[..items.len().min(MOST_ROWS)]) {
        return table;
    }
    let mut columns: Vec<String> = Vec::new();
    for (name, value) in items.iter().filter_map(Value::as_object).flatten() {
        let flat = !value.is_object()
            && !matches!(value, Value::Array(inner) if inner.iter().any(|v| v.is_object() || v.is_array()));
        let usual = name == "outcome" && items.iter().all(|item| item["outcome"] == "done");
        if flat && !usual && !ABOUT.contains(&name.as_str()) && columns.len() < MOST_COLUMNS && !columns.contains(name)
        {
            columns.push(name.clone());
        }
    }
    let cell = |item: &Value, name: &String| match &item[name.as_str()] {
        Value::Array(values) => {
            let texts: Vec<String> =
                values.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
            Value::from(texts.join(", "))
        }
        Value::Object(_) => Value::Null,
        scalar => scalar.clone(),
    };
    let rows = items.iter().take(MOST_ROWS).map(|item| columns.iter().map(|name| cell(item, name)).collect());
    ReportBlock::Table { title, rows: rows.collect(), columns }
}

/// What became of a ticket or pull request, where a step's result says.
enum Became {
    Link(Link),
    /// A fix that is not proved, with the reasons; a proposal that was held back.
    Not(String),
}

/// A ticket or pull request: a step's result with `url`. One that preview only would have opened has none.
fn became(title: &str, fields: &Map<String, Value>, effects: Effects) -> Option<Became> {
    if fields.get("proved") == Some(&Value::Bool(false)) {
        return not_proved(title, fields).map(Became::Not);
    }
    let url = fields.get("url").and_then(Value::as_str)?;
    let text = |name: &str| fields.get("published").and_then(|about| about[name].as_str()).unwrap_or_default();
    let own = text("title");
    let title = if own.trim().is_empty() { title } else { own };
    let link = |title: String, preview| Some(Became::Link(Link { title, url_or_path: url.to_owned(), preview }));
    let what = fields.get("receipts").and_then(|receipts| receipts[0]["kind"].as_str());
    let titled = match what {
        Some("pull_request") => format!("{DRAFT}{title}"),
        Some("ticket") => format!("{TICKET}{title}"),
        _ => title.to_owned(),
    };
    match text("state") {
        "would_have" => link(titled, true),
        "opened" => link(titled, false),
        "updated" => link(format!("{titled} (updated)"), false),
        "closed" => link(format!("{titled} (closed)"), false),
        "unchanged" => link(format!("{titled} (as before)"), false),
        "left_alone" => Some(Became::Not(format!("{title}: left alone, {}", text("note")))),
        _ => {
            let acted = ["opened", "updated"].iter().any(|name| fields.get(*name) == Some(&Value::Bool(true)));
            if acted && !url.is_empty() { link(titled, effects == Effects::Preview) } else { None }
        }
    }
}

/// A suite that has lost tests since an earlier run, as a fix saw it on the base.
fn fewer_tests(fields: &Map<String, Value>) -> Option<Became> {
    let fewer = fields.get("fewer_tests").filter(|fewer| fewer.is_object())?;
    let (before, now) = (fewer["before"].as_i64()?, fewer["now"].as_i64()?);
    Some(Became::Not(format!("fewer tests: an earlier run saw {before} on the base, this one {now}")))
}

/// Why a fix is not proved, and what policy refused in it.
fn not_proved(title: &str, fields: &Map<String, Value>) -> Option<String> {
    let texts = |name: &str| {
        let list = fields.get(name).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    let mut why: Vec<String> = texts("why").into_iter().take(MOST_REASONS).collect();
    why.extend(texts("refused").into_iter().take(MOST_REASONS).map(|refused| format!("refused: {refused}")));
    if why.is_empty() {
        why.extend(fields.get("outcome").and_then(Value::as_str).map(|word| word.replace('_', " ")));
    }
    (!why.is_empty()).then(|| format!("{title}{NOT_FIXED}{}", why.join("; ")))
}

/// The tickets, pull requests and unproved fixes of children.
fn links(value: &Value, effects: Effects) -> Vec<ReportBlock> {
    let mut found = Vec::new();
    for item in value.as_array().into_iter().flatten().filter_map(Value::as_object) {
        let title = ["title", "message", "name", "key"].iter().find_map(|name| item.get(*name).and_then(Value::as_str));
        // An item with its step's own fields: its title is the item's, unless the step says another.
        found.extend(became(title.unwrap_or("item"), item, effects));
        for (id, step) in item.iter().filter_map(|(id, value)| Some((id, value.as_object()?))) {
            found.extend(fewer_tests(step));
            found.extend(became(title.unwrap_or(id), step, effects));
        }
    }
    blocks_of(found)
}

fn blocks_of(found: Vec<Became>) -> Vec<ReportBlock> {
    let (mut items, mut nots) = (Vec::new(), Vec::new());
    for became in found {
        match became {
            Became::Link(link) => items.push(link),
            Became::Not(text) => nots.push(text),
        }
    }
    let links = (!items.is_empty()).then_some(ReportBlock::Links { items });
    let nots = (!nots.is_empty()).then_some(ReportBlock::Bullets { items: nots });
    links.into_iter().chain(nots).collect()
}

/// The same words wherever a problem is told, so that no surface tells it twice.
pub(super) fn problem_line((path, outcome, reason): &(String, String, String)) -> String {
    format!("{path}: {outcome}: {reason}")
}

/// One line about what was opened, for a report whose models say none: `4 tickets: One malformed line ends the server, …`.
pub(super) fn headline(blocks: &[ReportBlock]) -> Option<String> {
    let links = blocks.iter().filter_map(|block| match block {
        ReportBlock::Links { items } => Some(items),
        _ => None,
    });
    let links: Vec<&Link> = links.flatten().collect();
    let titles = |what: &str| links.iter().filter_map(|link| link.title.strip_prefix(what)).collect::<Vec<_>>();
    let (drafts, tickets) = (titles(DRAFT), titles(TICKET));
    let count = |n: usize, what: &str| (n > 0).then(|| format!("{n} {what}{}", if n == 1 { "" } else { "s" }));
    let counts = [count(drafts.len(), "draft pull request"), count(tickets.len(), "ticket")];
    let counts = counts.into_iter().flatten().collect::<Vec<_>>().join(" and ");
    let Some(first) = drafts.first().or(tickets.first()) else {
        // Else what came of the first fix.
        return blocks.iter().find_map(|block| match block {
            ReportBlock::Bullets { items } => items.iter().find(|item| item.contains(NOT_FIXED)).cloned(),
            _ => None,
        });
    };
    let preview = if links.iter().all(|link| link.preview) { "Would have opened " } else { "" };
    let more = if drafts.len() + tickets.len() > 1 { ", …" } else { "" };
    Some(format!("{preview}{counts}: {first}{more}"))
}

/// What went wrong, as the host says it.
pub(super) fn problems(problems: &[(String, String, String)], missing: &[String]) -> Vec<ReportBlock> {
    let notice = |text: String| ReportBlock::Notice { text };
    let mut blocks: Vec<ReportBlock> =
        problems.iter().take(MOST_NOTICES).map(|problem| notice(problem_line(problem))).collect();
    if problems.len() > MOST_NOTICES {
        blocks.push(notice(format!("and {} more problems", problems.len() - MOST_NOTICES)));
    }
    blocks.extend(missing.iter().map(|text| notice(format!("left out of this report: {text}"))));
    blocks
}

/// The last `days` of a computed series, flagged metrics first.
pub(super) fn chart(title: &str, result: &Value, days: usize) -> Option<Chart> {
    let all: Vec<String> = serde_json::from_value(result["series"]["days"].clone()).ok()?;
    let from = all.len().saturating_sub(days);
    let series = |metric: &Value| Series {
        metric: metric["metric"].as_str().unwrap_or_default().to_owned(),
        values: metric["values"].as_array().into_iter().flatten().skip(from).map(Value::as_f64).collect(),
        usual: metric["usual"].as_f64(),
        flagged: metric["flagged"] == true,
    };
    let mut all_series: Vec<Series> = result["series"]["metrics"].as_array()?.iter().map(series).collect();
    all_series.sort_by_key(|series| !series.flagged);
    (!all_series.is_empty()).then(|| Chart { title: title.to_owned(), days: all[from..].to_vec(), series: all_series })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn datum(label: &str, value: Value) -> Datum {
        Datum { label: label.into(), value, skipped: false }
    }

    #[test]
    fn texts_are_paragraphs_lists_bullets_and_maps_tables_in_their_order() {
        let from = [
            datum("brief", json!({"headline": "Up", "bullets": ["a", "b"], "note": "A text."})),
            datum("why", json!({"causes": [{"metric": "m", "cause": "c", "tags": ["x", "y"], "more": {"deep": 1}}]})),
            Datum { label: "gone".into(), value: Value::Null, skipped: true },
            datum("delta", json!([{"ran": true, "outcome": "done", "metric": "m", "value": 1.5}, {"metric": "n"}])),
        ];
        let body = body(&from, Effects::Preview);
        assert_eq!(body.headline.as_deref(), Some("Up"));
        let table = |title: &str, columns: &[&str], rows: Value| ReportBlock::Table {
            title: title.into(),
            columns: columns.iter().map(|c| (*c).to_owned()).collect(),
            rows: serde_json::from_value(rows).unwrap(),
        };
        assert_eq!(
            body.blocks,
            [
                ReportBlock::Bullets { items: vec!["a".into(), "b".into()] },
                ReportBlock::Paragraph { text: "A text.".into() },
                table("causes", &["metric", "cause", "tags"], json!([["m", "c", "x, y"]])),
                table("delta", &["outcome", "metric", "value"], json!([["done", "m", 1.5], [null, "n", null]])),
            ]
        );
    }

    #[test]
    fn a_suite_that_lost_tests_is_told() {
        let fix = json!({"ran": true, "proved": true, "fewer_tests": {"before": 50, "now": 48}});
        let told =
            ReportBlock::Bullets { items: vec!["fewer tests: an earlier run saw 50 on the base, this one 48".into()] };
        let items = json!([{"key": "1", "title": "One", "fix": fix}]);
        assert!(body(&[datum("repair", items)], Effects::Preview).blocks.contains(&told));
        assert!(body(&[datum("fix", fix)], Effects::Preview).blocks.contains(&told));
    }

    #[test]
    fn where_nothing_was_opened_the_first_line_is_what_came_of_the_first_fix() {
        let fix =
            json!([{"key": "1", "title": "One", "fix": {"ran": true, "proved": false, "why": ["no test fails"]}}]);
        let found = body(&[datum("repair", fix)], Effects::Preview);
        assert_eq!(headline(&found.blocks).as_deref(), Some("One: not fixed: no test fails"));
        assert_eq!(headline(&body(&[datum("x", json!({"note": "A: not a link"}))], Effects::Live).blocks), None);
    }

    #[test]
    fn what_would_have_been_opened_is_a_link_marked_as_preview() {
        let child = json!([{"key": "k1", "title": "Bug", "ticket": {"ran": true, "opened": true, "url": "out/t1.md"}}]);
        let body = body(&[datum("repair", child)], Effects::Preview);
        let link = Link { title: "Bug".into(), url_or_path: "out/t1.md".into(), preview: true };
        assert_eq!(body.blocks.last(), Some(&ReportBlock::Links { items: vec![link] }));
    }

    #[test]
    fn tickets_drafts_and_unproved_fixes_of_items_are_told_with_their_own_words() {
        let published = |state: &str, kind: &str, note: &str| {
            json!({"ran": true, "outcome": "acted", "opened": state == "opened", "updated": state == "updated", "url": "out/x",
                "published": {"state": state, "key": "k", "title": "T", "note": note}, "receipts": [{"kind": kind}]})
        };
        let children = json!([
            {"key": "1", "title": "One", "draft": published("opened", "pull_request", "")},
            {"key": "2", "title": "Two", "fix": {"ran": true, "proved": false, "why": ["no test fails"], "refused": ["ci"]},
                "ticket": published("updated", "ticket", "")},
            {"key": "3", "title": "Three", "ticket": published("left_alone", "ticket", "a person closed `k`")},
            {"key": "4", "title": "Four", "ticket": published("would_have", "ticket", "preview")},
            {"key": "5", "title": "Five", "fix": {"ran": false, "outcome": "skipped"}},
        ]);
        let body = body(&[datum("repair", children)], Effects::Preview);
        let link = |title: &str, preview| Link { title: title.into(), url_or_path: "out/x".into(), preview };
        let tail = &body.blocks[body.blocks.len() - 2..];
        assert_eq!(
            tail,
            [
                ReportBlock::Links {
                    items: vec![
                        link("Draft pull request: T", false),
                        link("Ticket: T (updated)", false),
                        link("Ticket: T", true),
                    ]
                },
                ReportBlock::Bullets {
                    items: vec![
                        "Two: not fixed: no test fails; refused: ci".into(),
                        "T: left alone, a person closed `k`".into(),
                    ]
                },
            ]
        );
    }

    #[test]
    fn without_a_models_headline_the_first_line_is_what_was_opened() {
        let link = |title: &str, preview| Link { title: title.into(), url_or_path: "out/x".into(), preview };
        let of = |items: Vec<Link>| headline(&[ReportBlock::Links { items }]);
        assert_eq!(of(vec![link("Ticket: A", false)]).as_deref(), Some("1 ticket: A"));
        assert_eq!(
            of(vec![link("Ticket: A", false), link("Draft pull request: B", true), link("Ticket: C", true)]).as_deref(),
            Some("1 draft pull request and 2 tickets: B, …")
        );
        assert_eq!(of(vec![link("Ticket: A", true)]).as_deref(), Some("Would have opened 1 ticket: A"));
        assert_eq!((of(vec![link("other", false)]), headline(&[])), (None, None));
    }
}
