//! `compute`: what changed against the usual, by arithmetic and not by a model.
//!
//! Rows have a `day`; every other numeric column is a metric `source.column`. A day without a row is an error that names it:
//! late numbers are late, not zero. All results are finite numbers. The series is kept for charts and not shown to models.

use std::collections::{BTreeMap, BTreeSet};

use jiff::ToSpan as _;
use jiff::civil::Date;
use serde_json::{Map, Number, Value, json};

use crate::base::LocalBoxFuture;
use crate::domain::entry::StepEnd;
use crate::expr::types::{Field, Type};
use crate::ports::durable::Stop;
use crate::ports::step::{Checked, KindMistake, Opt, OptType, Sees, StepCall, StepKind};

use super::{E_DATA, data, failed, model};

pub const KIND: StepKind = StepKind {
    name: "compute",
    summary: "compare a day's numbers with the usual",
    options: &[
        Opt { name: "compare", ty: OptType::StepId, required: true, doc: "the step with the rows" },
        Opt { name: "at", ty: OptType::Expr(Sees::Nothing), required: true, doc: "the day that is looked at" },
        Opt { name: "usual", ty: OptType::Word(USUAL), required: true, doc: "what the day is compared with" },
        Opt { name: "flag_when", ty: OptType::Expr(Sees::Item), required: false, doc: "when a metric is flagged" },
    ],
    beside: &[],
    model: false,
    closing: false,
    yields: |_| {
        let field = |name: &str, ty| Field { name: name.into(), ty };
        let item = Type::Map(vec![
            field("metric", Type::String { max: None }),
            field("value", Type::Number),
            field("usual", Type::Number),
            field("change", Type::Number),
            field("change_pct", Type::Number),
            field("flagged", Type::Boolean),
        ]);
        Type::Map(vec![
            field("items", Type::List(Box::new(item))),
            field("count", Type::Integer),
            field("flagged", Type::Integer),
            field("series", Type::Any),
        ])
    },
    check,
    run: Some(run),
    example: "compute: {compare: data, at: params.day, usual: median_same_weekday(8), flag_when: abs(item.change_pct) > 15}\n",
};

const USUAL: &[&str] = &["median_same_weekday(n)", "mean(n)", "previous"];

/// What a value is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Usual {
    /// The median of the same weekday of this many weeks before.
    MedianSameWeekday(u32),
    /// The mean of this many days before.
    Mean(u32),
    /// The last day before that has a value.
    Previous,
}

impl Usual {
    /// Reads it as it is written. Errors: a label for the caret.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        if text == "previous" {
            return Ok(Self::Previous);
        }
        let (name, rest) = text.split_once('(').ok_or("not one of the ways to find the usual")?;
        let make = match name.trim() {
            "median_same_weekday" => Self::MedianSameWeekday,
            "mean" => Self::Mean,
            _ => return Err("not one of the ways to find the usual"),
        };
        let count = rest.strip_suffix(')').and_then(|n| n.trim().parse().ok()).filter(|n| (1..=520).contains(n));
        count.map(make).ok_or("the number in brackets must be from 1 to 520")
    }

    fn of(self, series: &BTreeMap<Date, f64>, at: Date) -> Option<f64> {
        let back = |days: i64| at.checked_sub(days.days()).ok().and_then(|day| series.get(&day).copied());
        match self {
            Self::MedianSameWeekday(n) => median((1..=i64::from(n)).filter_map(|week| back(week * 7)).collect()),
            Self::Mean(n) => {
                let values: Vec<f64> = (1..=i64::from(n)).filter_map(back).collect();
                // Divided before it is summed, so that large values do not overflow.
                (!values.is_empty()).then(|| values.iter().map(|v| v / values.len() as f64).sum())
            }
            Self::Previous => series.range(..at).next_back().map(|(_, value)| *value),
        }
    }
}

/// The middle value; of an even number of values the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some(values[middle - 1] / 2.0 + values[middle] / 2.0),
    }
}

/// Change in per cent: 0 when both are 0, else 100 when the usual is 0 (with the sign of the change).
fn change_pct(value: f64, usual: f64) -> f64 {
    match (value == 0.0, usual == 0.0) {
        (true, true) => 0.0,
        (false, true) => 100.0 * value.signum(),
        // A fall into the negative has the sign of the change, whatever the sign of the usual.
        _ => finite((value / usual.abs() - usual.signum()) * 100.0),
    }
}

/// Overflow is the largest number there is, never an infinity or a NaN.
fn finite(number: f64) -> f64 {
    if number.is_nan() { 0.0 } else { number.clamp(f64::MIN, f64::MAX) }
}

fn check(checked: &Checked<'_>) -> Vec<KindMistake> {
    let mut mistakes = Vec::new();
    if let Some(Err(label)) = checked.options.text("usual").map(Usual::parse) {
        mistakes.push(model::mistake(
            "compute.usual",
            "unknown way to find the usual",
            label,
            Some("`median_same_weekday(8)`, `mean(7)` or `previous`"),
        ));
    }
    if let Some(Some((kind, _))) = checked.options.text("compare").map(|step| (checked.step)(step))
        && kind != "fetch"
    {
        let label = format!("this step is a `{kind}`");
        mistakes.push(model::mistake(
            "compute.compare",
            "nothing to compare",
            &label,
            Some("name an earlier `fetch` step"),
        ));
    }
    mistakes
}

fn run<'a>(call: StepCall<'a>) -> LocalBoxFuture<'a, Result<StepEnd, Stop>> {
    Box::pin(async move { go(&call) })
}

fn go(call: &StepCall<'_>) -> Result<StepEnd, Stop> {
    let compare = call.options.text("compare").unwrap_or_default();
    let result = call.scope.get(compare).cloned().unwrap_or_default();
    if result["ran"] == false {
        return Ok(data::skipped(format!("`{compare}` did not run")));
    }
    let at = call.options.expr("at").map(|expr| data::eval(expr, call.scope)).transpose()?.unwrap_or_default();
    let at = day_of(&at).ok_or_else(|| failed(E_DATA, format!("`at` is not a day: {at}")))?;
    let usual = call.options.text("usual").map_or(Ok(Usual::Previous), Usual::parse);
    let usual = usual.map_err(|message| failed(E_DATA, format!("`usual`: {message}")))?;
    let computed = compute(&tables(compare, &result), at, usual)?;
    let mut items = Vec::new();
    for metric in &computed.metrics {
        let mut item = json!({
            "metric": metric.name,
            "value": number(metric.value),
            "usual": number(metric.usual),
            "change": number(metric.change),
            "change_pct": number(metric.change_pct),
        });
        let flagged = match call.options.expr("flag_when") {
            // Without a history there is nothing to compare with, so nothing has changed.
            Some(flag_when) if metric.history => {
                let mut scope = call.scope.clone();
                scope.set("item", item.clone());
                data::eval_bool(flag_when, &scope)?
            }
            _ => false,
        };
        item["flagged"] = flagged.into();
        items.push(item);
    }
    let no_history: Vec<&str> = computed.metrics.iter().filter(|m| !m.history).map(|m| m.name.as_str()).collect();
    if !no_history.is_empty() {
        call.ctx.note("no_history", json!({"metrics": no_history}));
    }
    if !computed.missing.is_empty() {
        call.ctx.note("no_value", json!({"metrics": computed.missing, "day": at.to_string()}));
    }
    let flagged = items.iter().filter(|item| item["flagged"] == true).count();
    let summary = format!("{} metric{}, {flagged} flagged", items.len(), if items.len() == 1 { "" } else { "s" });
    let mut fields = Map::new();
    fields.insert("count".into(), items.len().into());
    fields.insert("flagged".into(), flagged.into());
    fields.insert("series".into(), computed.series(&items));
    fields.insert("items".into(), items.into());
    fields.insert("no_history".into(), json!(no_history));
    fields.insert("missing".into(), json!(computed.missing));
    Ok(data::done(fields, summary))
}

/// Rows by source.
fn tables(step: &str, result: &Value) -> Vec<(String, Vec<Value>)> {
    let items = result["items"].as_array().cloned().unwrap_or_default();
    let several = !items.is_empty() && items.iter().all(|item| item["rows"].is_array() && item["source"].is_string());
    if !several {
        return vec![(result["source"].as_str().unwrap_or(step).to_owned(), items)];
    }
    let table = |item: &Value| {
        (item["source"].as_str().unwrap_or_default().to_owned(), item["rows"].as_array().cloned().unwrap_or_default())
    };
    items.iter().map(table).collect()
}

/// The day of a value: `YYYY-MM-DD`, also in front of a time.
fn day_of(value: &Value) -> Option<Date> {
    let text = value.as_str()?;
    let day = text.get(..10)?;
    let behind = text[10..].chars().next();
    day.parse().ok().filter(|_| behind.is_none_or(|c| matches!(c, 'T' | ' ')))
}

#[derive(Debug)]
struct Computed {
    metrics: Vec<Metric>,
    /// Metrics without a value on the day.
    missing: Vec<String>,
    days: Vec<Date>,
}

#[derive(Debug)]
struct Metric {
    name: String,
    values: BTreeMap<Date, f64>,
    value: f64,
    usual: f64,
    change: f64,
    change_pct: f64,
    /// There was something to compare with.
    history: bool,
}

fn compute(tables: &[(String, Vec<Value>)], at: Date, usual: Usual) -> Result<Computed, Stop> {
    let mut computed = Computed { metrics: Vec::new(), missing: Vec::new(), days: Vec::new() };
    let mut days = BTreeSet::new();
    for (source, rows) in tables {
        let mut columns: Vec<(String, BTreeMap<Date, f64>)> = Vec::new();
        let mut seen = BTreeSet::new();
        for (n, row) in rows.iter().enumerate() {
            let day = day_of(&row["day"]).ok_or_else(|| {
                failed(E_DATA, format!("row {} of `{source}` has no `day` such as 2026-11-20", n + 1))
            })?;
            if !seen.insert(day) {
                return Err(failed(E_DATA, format!("`{source}` has two rows for {day}")));
            }
            for (name, value) in row.as_object().into_iter().flatten() {
                let Some(value) = value.as_f64().filter(|_| name != "day") else { continue };
                match columns.iter_mut().find(|(known, _)| known == name) {
                    Some((_, values)) => drop(values.insert(day, value)),
                    None => columns.push((name.clone(), BTreeMap::from([(day, value)]))),
                }
            }
        }
        if !seen.contains(&at) {
            let last = seen.last().map_or("it has no rows at all".to_owned(), |day| format!("its last day is {day}"));
            return Err(failed(E_DATA, format!("`{source}` has no row for {at}: {last}")));
        }
        days.extend(seen);
        for (column, values) in columns {
            let name = format!("{source}.{column}");
            let Some(value) = values.get(&at).copied() else {
                computed.missing.push(name);
                continue;
            };
            let known = usual.of(&values, at);
            let usual = known.unwrap_or(value);
            computed.metrics.push(Metric {
                name,
                value,
                usual,
                change: finite(value - usual),
                change_pct: change_pct(value, usual),
                history: known.is_some(),
                values,
            });
        }
    }
    if computed.metrics.is_empty() {
        return Err(failed(E_DATA, format!("there is no number for {at}")));
    }
    computed.days = days.into_iter().filter(|day| *day <= at).collect();
    Ok(computed)
}

impl Computed {
    fn series(&self, items: &[Value]) -> Value {
        let days: Vec<String> = self.days.iter().map(ToString::to_string).collect();
        let metrics = self.metrics.iter().zip(items).map(|(metric, item)| {
            let values: Vec<Value> =
                self.days.iter().map(|day| metric.values.get(day).map_or(Value::Null, |v| number(*v))).collect();
            json!({"metric": metric.name, "values": values, "usual": item["usual"], "flagged": item["flagged"]})
        });
        json!({"days": days, "metrics": metrics.collect::<Vec<_>>()})
    }
}

/// A number for people: at most six decimals, whole numbers without any.
fn number(value: f64) -> Value {
    let value = finite(value);
    let rounded = if value.abs() < 1e9 && value.abs() >= 1e-3 { (value * 1e6).round() / 1e6 } else { value };
    if rounded.fract() == 0.0 && rounded.abs() < 9e15 {
        return Value::from(rounded as i64);
    }
    Number::from_f64(rounded).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> Date {
        text.parse().unwrap()
    }

    fn table(values: &[(&str, Value)]) -> Vec<(String, Vec<Value>)> {
        vec![("s".into(), values.iter().map(|(day, value)| json!({"day": day, "n": value, "label": "x"})).collect())]
    }

    fn message(result: Result<Computed, Stop>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn the_usual_is_the_median_of_the_same_weekday() {
        let rows = table(&[
            ("2026-11-19", json!(1204)),
            ("2026-11-18", json!(5)),
            ("2026-11-12", json!(1000)),
            ("2026-11-05", json!(1040.5)),
            ("2026-10-29", json!(900)),
            ("2026-10-22", json!(1100)),
        ]);
        let usual = |usual| compute(&rows, day("2026-11-19"), usual).unwrap().metrics[0].usual;
        assert_eq!(usual(Usual::MedianSameWeekday(8)), 1020.25);
        assert_eq!(usual(Usual::MedianSameWeekday(3)), 1000.0);
        assert_eq!(usual(Usual::Previous), 5.0);
        assert_eq!(usual(Usual::Mean(7)), 502.5);
        let computed = compute(&rows, day("2026-11-19"), Usual::MedianSameWeekday(8)).unwrap();
        let metric = &computed.metrics[0];
        assert_eq!((metric.name.as_str(), number(metric.change_pct)), ("s.n", json!(18.010292)));
        assert_eq!(computed.days.len(), 6);
    }

    #[test]
    fn a_change_from_zero_is_a_hundred_and_from_nothing_none() {
        assert_eq!(change_pct(0.0, 0.0), 0.0);
        assert_eq!(change_pct(5.0, 0.0), 100.0);
        assert_eq!(change_pct(-5.0, 0.0), -100.0);
        assert_eq!(change_pct(-10.0, -5.0), -100.0);
        assert_eq!(change_pct(5.0, -5.0), 200.0);
        let first = compute(&table(&[("2026-11-19", json!(3))]), day("2026-11-19"), Usual::Mean(7)).unwrap();
        let first = &first.metrics[0];
        assert_eq!((first.usual, first.change, first.change_pct, first.history), (3.0, 0.0, 0.0, false));
    }

    #[test]
    fn late_and_doubled_rows_are_named() {
        let at = day("2026-11-19");
        let late = table(&[("2026-11-18", json!(1))]);
        assert_eq!(
            message(compute(&late, at, Usual::Previous)),
            "`s` has no row for 2026-11-19: its last day is 2026-11-18 (E-DATA)"
        );
        assert_eq!(
            message(compute(&table(&[]), at, Usual::Previous)),
            "`s` has no row for 2026-11-19: it has no rows at all (E-DATA)"
        );
        let twice = table(&[("2026-11-19", json!(1)), ("2026-11-19T00:00:00Z", json!(2))]);
        assert_eq!(message(compute(&twice, at, Usual::Previous)), "`s` has two rows for 2026-11-19 (E-DATA)");
        let none = table(&[("2026-11-19", Value::Null)]);
        assert_eq!(message(compute(&none, at, Usual::Previous)), "there is no number for 2026-11-19 (E-DATA)");
        assert!(
            message(compute(&table(&[("19.11.", json!(1))]), at, Usual::Previous))
                .starts_with("row 1 of `s` has no `day`")
        );
    }

    #[test]
    fn the_usual_is_read_as_it_is_written() {
        assert_eq!(Usual::parse("median_same_weekday(8)"), Ok(Usual::MedianSameWeekday(8)));
        assert_eq!(Usual::parse(" mean( 7 ) "), Ok(Usual::Mean(7)));
        assert_eq!(Usual::parse("previous"), Ok(Usual::Previous));
        for bad in ["median", "mean(0)", "mean(x)", "mean(7", "mode(3)", ""] {
            assert!(Usual::parse(bad).is_err(), "{bad}");
        }
    }

    /// Any numbers at all, of any size and with gaps, give finite results; scaling all of them leaves the percentage alone.
    #[test]
    fn results_are_finite_and_percentages_do_not_depend_on_the_unit() {
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        };
        let at = day("2026-11-19");
        for round in 0..500 {
            let mut rows = vec![];
            for back in 0..60i64 {
                if back > 0 && next() % 4 == 0 {
                    continue;
                }
                let value = match next() % 6 {
                    0 => 0.0,
                    1 => f64::MAX,
                    2 => f64::MIN,
                    3 => f64::MIN_POSITIVE,
                    _ => next() as f64 / 1000.0 - 1e6,
                };
                rows.push(json!({"day": at.checked_sub(back.days()).unwrap().to_string(), "n": value}));
            }
            for usual in [Usual::MedianSameWeekday(8), Usual::Mean(28), Usual::Previous] {
                let computed = compute(&[("s".into(), rows.clone())], at, usual).unwrap();
                let m = &computed.metrics[0];
                for number in [m.value, m.usual, m.change, m.change_pct] {
                    assert!(number.is_finite(), "round {round}: {m:?}");
                }
                let past: Vec<f64> = m.values.range(..at).map(|(_, v)| *v).collect();
                if m.history {
                    let (low, high) = past.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
                    assert!(
                        m.usual >= low * (1.0 + 1e-9 * -low.signum()) && m.usual <= high * (1.0 + 1e-9 * high.signum()),
                        "{m:?}"
                    );
                }
                assert_eq!(
                    m.change_pct == 0.0,
                    m.value == m.usual || m.change_pct == 0.0 && m.change.abs() <= f64::EPSILON * m.usual.abs(),
                    "{m:?}"
                );
            }
        }
        for (value, usual) in [(3.0, 7.0), (-2.0, 9.0), (0.5, 0.25)] {
            let plain = change_pct(value, usual);
            assert!((change_pct(value * 1024.0, usual * 1024.0) - plain).abs() < 1e-9);
        }
    }
}
