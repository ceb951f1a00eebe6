//! From data to the body of a report. Pure: a headline, a paragraph for a text, bullets for a list of texts, a table for a list
//! of maps, links for tickets and pull requests.

use serde_json::{Map, Value};

use crate::domain::report::{Chart, Link, ReportBlock, Series};
use crate::domain::run::Effects;

use super::data::Datum;

/// Rows and columns of one table at most.
const MOST_ROWS: usize = 200;
const MOST_COLUMNS: usize = 12;
/// Notices about single problems at most.
const MOST_NOTICES: usize = 10;
/// Fields that say how a step or item went; not content.
const ABOUT: [&str; 4] = ["ran", "failure", "headline", "left_behind"];

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
            if let Some(link) = link(&datum.label, fields, effects) {
                body.blocks.push(ReportBlock::Links { items: vec![link] });
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
    let title = match items.len() {
        n if n > MOST_ROWS => format!("{label} (the first {MOST_ROWS} of {n})"),
        _ => label.to_owned(),
    };
    ReportBlock::Table { title, rows: rows.collect(), columns }
}

/// A ticket or pull request: a step's result with `url`.
fn link(title: &str, fields: &Map<String, Value>, effects: Effects) -> Option<Link> {
    let url = fields.get("url").and_then(Value::as_str).filter(|url| !url.is_empty())?;
    let acted = ["opened", "updated"].iter().any(|name| fields.get(*name) == Some(&Value::Bool(true)));
    acted.then(|| Link { title: title.to_owned(), url_or_path: url.to_owned(), preview: effects == Effects::Preview })
}

/// The tickets and pull requests of children.
fn links(value: &Value, effects: Effects) -> Option<ReportBlock> {
    let mut items = Vec::new();
    for item in value.as_array().into_iter().flatten().filter_map(Value::as_object) {
        let title = ["title", "message", "name", "key"].iter().find_map(|name| item.get(*name).and_then(Value::as_str));
        items.extend(link(title.unwrap_or("item"), item, effects));
        for (id, step) in item.iter().filter_map(|(id, value)| Some((id, value.as_object()?))) {
            items.extend(link(title.unwrap_or(id), step, effects));
        }
    }
    (!items.is_empty()).then_some(ReportBlock::Links { items })
}

/// What went wrong, as the host says it.
pub(super) fn problems(problems: &[(String, String, String)], missing: &[String]) -> Vec<ReportBlock> {
    let notice = |text: String| ReportBlock::Notice { text };
    let mut blocks: Vec<ReportBlock> = problems
        .iter()
        .take(MOST_NOTICES)
        .map(|(path, outcome, reason)| notice(format!("{path} {outcome}: {reason}")))
        .collect();
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
    fn what_would_have_been_opened_is_a_link_marked_as_preview() {
        let child = json!([{"key": "k1", "title": "Bug", "ticket": {"ran": true, "opened": true, "url": "out/t1.md"}}]);
        let body = body(&[datum("repair", child)], Effects::Preview);
        let link = Link { title: "Bug".into(), url_or_path: "out/t1.md".into(), preview: true };
        assert_eq!(body.blocks.last(), Some(&ReportBlock::Links { items: vec![link] }));
    }
}
