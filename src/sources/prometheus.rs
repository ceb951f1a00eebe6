//! Prometheus (and what speaks its HTTP API): `{prometheus: BASE_URL, auth: …}`, asked with `{promql: NAME, query: "…", step: 1d}`.
//!
//! With `from` and `to` among the arguments it is a range, else one instant: `at`, or now. A day stands for its end (in UTC), so that
//! `increase(x[1d])` at a day is what that day brought; the last day of a range is in it. Each point is a row: `day`, `time`, the
//! labels, `value`. NaN and infinities have no JSON and come as null. The expression is the YAML's; no argument is written into it.
//!
//! Source: <https://prometheus.io/docs/prometheus/latest/querying/api/>.

use std::sync::Arc;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Map, Value};

use super::http::{Asked, service};
use super::rows::{Row, argument};
use crate::base::BoxFuture;
use crate::clients::http::HttpError;
use crate::clients::json::JsonError;
use crate::domain::activity::Rows;
use crate::domain::definition::ToolQuery;
use crate::ports::source::{Source, SourceError, SourceKind, SourceQuery, SourceSetup};

pub const KIND: SourceKind =
    SourceKind { name: "prometheus", summary: "a Prometheus server", query: "promql", make: Some(make) };

/// The most bytes of one answer.
const CAP: usize = 32 << 20;
const DAY: i64 = 86_400;
/// Where nothing says how far points are apart, a range has about so many.
const POINTS: i64 = 250;
/// Prometheus refuses more points per series.
const MOST_POINTS: i64 = 11_000;

fn make(setup: &SourceSetup) -> Result<Arc<dyn Source>, SourceError> {
    let asked = Asked { name: setup.name.clone(), kind: "prometheus", service: service(setup)? };
    Ok(Arc::new(Prometheus { asked, timeout: setup.timeout }))
}

struct Prometheus {
    asked: Asked,
    timeout: Duration,
}

impl Source for Prometheus {
    fn fetch<'a>(&'a self, query: SourceQuery<'a>) -> BoxFuture<'a, Result<Rows, SourceError>> {
        Box::pin(async move {
            let refused = |message: String| self.asked.refused(message);
            let (text, step) = match (query.query, query.filter) {
                (Some(ToolQuery::Promql { query, step }), _) => (query.as_str(), *step),
                (None, Some(text)) => (text, None),
                (Some(ToolQuery::HttpGet { .. } | ToolQuery::Sql { .. }), _) => {
                    return Err(refused("it speaks PromQL: ask it with `promql` and a `query`".into()));
                }
                (None, None) => return Err(refused("no query is given".into())),
            };
            let time = Time::of(query.args, step).map_err(refused)?;
            let (path, mut pairs) = time.asked();
            pairs.insert(0, ("query".to_owned(), text.to_owned()));
            pairs.push(("timeout".to_owned(), format!("{}s", self.timeout.as_secs().max(1))));
            let url = self.asked.service.below(path).map_err(refused)?;
            let page = self.asked.get(&url, &pairs, self.timeout, CAP).await.map_err(|error| self.error(error))?;
            rows(page.json, query.max_rows).map_err(refused)
        })
    }
}

impl Prometheus {
    /// Prometheus says what it does not like in JSON.
    fn error(&self, error: JsonError) -> SourceError {
        match error {
            JsonError::Http(HttpError::Status { status: status @ (400 | 422), message, .. }) => {
                let said: Option<Value> = serde_json::from_str(&message).ok();
                let said = said.as_ref().and_then(|said| said.get("error")).and_then(Value::as_str);
                self.asked.refused(said.map_or_else(|| format!("HTTP {status}: {message}"), str::to_owned))
            }
            other => self.asked.error(other),
        }
    }
}

/// When the expression is evaluated, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Time {
    Now,
    At(i64),
    Range { from: i64, to: i64, step: i64 },
}

impl Time {
    fn of(args: &Map<String, Value>, step: Option<u64>) -> Result<Self, String> {
        let moment = |name: &str| match args.get(name).and_then(argument) {
            Some(text) => Moment::parse(&text).map(Some).map_err(|why| format!("argument `{name}`: {why}")),
            None => Ok(None),
        };
        let (from, to) = match (moment("from")?, moment("to")?) {
            (Some(from), Some(to)) => (from, to),
            (Some(_), None) => return Err("`from` is given without `to`".into()),
            (None, _) => return Ok(moment("at")?.map_or(Self::Now, |at| Self::At(at.last()))),
        };
        let step = step.and_then(|step| i64::try_from(step).ok());
        let days = matches!((from, to), (Moment::Day(_), Moment::Day(_)));
        let step = match step {
            Some(step) => step,
            None if days => DAY,
            None => ((to.last() - from.first()) / POINTS).max(1),
        };
        // In whole days each point is the end of one.
        let first = if days && step % DAY == 0 { from.last() + (step - DAY) } else { from.first() };
        let last = to.last();
        if last < first {
            return Err("`to` is before `from`".into());
        }
        let points = (last - first) / step + 1;
        if points > MOST_POINTS {
            return Err(format!("{points} points are too many: a longer `step`, or a shorter time"));
        }
        Ok(Self::Range { from: first, to: last, step })
    }

    fn asked(self) -> (&'static str, Vec<(String, String)>) {
        let pair = |name: &str, value: i64| (name.to_owned(), value.to_string());
        match self {
            Self::Now => ("/api/v1/query", Vec::new()),
            Self::At(at) => ("/api/v1/query", vec![pair("time", at)]),
            Self::Range { from, to, step } => {
                ("/api/v1/query_range", vec![pair("start", from), pair("end", to), pair("step", step)])
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Moment {
    Day(Date),
    At(i64),
}

impl Moment {
    fn parse(text: &str) -> Result<Self, String> {
        if let Ok(at) = text.parse::<Timestamp>() {
            return Ok(Self::At(at.as_second()));
        }
        text.parse().map(Self::Day).map_err(|_| format!("`{text}` is neither a day nor a time with its zone"))
    }

    fn first(self) -> i64 {
        match self {
            Self::Day(day) => day.to_zoned(TimeZone::UTC).map_or(0, |at| at.timestamp().as_second()),
            Self::At(at) => at,
        }
    }

    /// Of a day its last second.
    fn last(self) -> i64 {
        match self {
            Self::Day(_) => self.first() + DAY - 1,
            Self::At(at) => at,
        }
    }
}

/// What Prometheus answered as rows.
fn rows(answer: Value, max_rows: u32) -> Result<Rows, String> {
    let shape = || "the answer is not one of Prometheus".to_owned();
    let data = answer.get("data").ok_or_else(shape)?;
    let result = data.get("result").ok_or_else(shape)?;
    let most = usize::try_from(max_rows).unwrap_or(usize::MAX);
    let mut found = Rows { via: "prometheus".into(), ..Rows::default() };
    let mut add = |labels: &Map<String, Value>, point: &Value| {
        if found.rows.len() == most {
            found.truncated = true;
        } else {
            found.rows.push(row(labels, point).ok_or_else(shape)?);
        }
        Ok::<(), String>(())
    };
    match data.get("resultType").and_then(Value::as_str) {
        Some("scalar") => add(&Map::new(), result)?,
        Some("string") => return Err("the expression gives a text, not numbers".into()),
        Some("vector" | "matrix") => {
            for series in result.as_array().ok_or_else(shape)? {
                let labels = series.get("metric").and_then(Value::as_object).ok_or_else(shape)?;
                if series.get("histogram").or(series.get("histograms")).is_some() {
                    return Err("the expression gives histograms: ask for `histogram_quantile(…)` or a sum".into());
                }
                let points = series.get("values").and_then(Value::as_array);
                let one = series.get("value").map(std::slice::from_ref);
                for point in points.map(Vec::as_slice).or(one).ok_or_else(shape)? {
                    add(labels, point)?;
                }
            }
        }
        _ => return Err(shape()),
    }
    Ok(found)
}

/// `[seconds, "value"]` with its labels.
fn row(labels: &Map<String, Value>, point: &Value) -> Option<Row> {
    let seconds = point.get(0)?.as_f64()?;
    let at = Timestamp::UNIX_EPOCH.checked_add(((seconds * 1000.0) as i64).milliseconds()).ok()?;
    let value: f64 = point.get(1)?.as_str()?.parse().ok()?;
    let mut row = Row::new();
    row.insert("day".into(), at.to_zoned(TimeZone::UTC).date().to_string().into());
    row.insert("time".into(), at.to_string().into());
    for (label, value) in labels {
        let name = match label.as_str() {
            "__name__" => "name".to_owned(),
            // Ours stay ours.
            "day" | "time" | "value" | "name" => format!("label_{label}"),
            _ => label.clone(),
        };
        row.insert(name, value.clone());
    }
    row.insert("value".into(), number(value));
    Some(row)
}

/// A whole number without its point; NaN and infinities as null.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9e15 {
        return Value::from(value as i64);
    }
    serde_json::Number::from_f64(value).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use super::super::http::testing::{Server, reply};
    use super::*;
    use crate::base::env::Env;
    use crate::ports::service::Outside;
    use serde_json::json;

    fn time(args: Value, step: Option<u64>) -> Result<Time, String> {
        Time::of(args.as_object().unwrap(), step)
    }

    #[test]
    fn days_stand_for_their_ends() {
        let noon = 1_795_348_800;
        let (from, to) = ("2026-11-18", "2026-11-20");
        let end = "2026-11-18T23:59:59Z".parse::<Timestamp>().unwrap().as_second();
        let days = Time::Range { from: end, to: end + 2 * DAY, step: DAY };
        assert_eq!(time(json!({"from": from, "to": to}), None), Ok(days));
        let start = end + 1 - DAY;
        let hours = Time::Range { from: start, to: end + 2 * DAY, step: 3_600 };
        assert_eq!(time(json!({"from": from, "to": to}), Some(3_600)), Ok(hours));
        let exact = json!({"from": "2026-11-22T12:00:00Z", "to": "2026-11-22T14:00:00+02:00"});
        assert_eq!(time(exact, None), Ok(Time::Range { from: noon, to: noon, step: 1 }));
        assert_eq!(time(json!({"at": from, "x": 1}), None), Ok(Time::At(end)));
        assert_eq!(time(json!({"from": null}), None), Ok(Time::Now));
        for (args, step, why) in [
            (json!({"from": from}), None, "without `to`"),
            (json!({"from": to, "to": from}), None, "is before"),
            (json!({"from": from, "to": to}), Some(1), "too many"),
            (json!({"at": "yesterday"}), None, "neither a day"),
        ] {
            assert!(time(args, step).unwrap_err().contains(why));
        }
    }

    #[test]
    fn every_form_of_answer_becomes_rows() {
        let of = |kind: &str, result: Value| {
            rows(json!({"status": "success", "data": {"resultType": kind, "result": result}}), 3)
        };
        let at = 1_795_262_399; // 2026-11-21T11:59:59Z
        let found = of(
            "matrix",
            json!([
                {"metric": {"__name__": "up", "job": "api", "value": "x"}, "values": [[at, "1.5"], [at + 1, "NaN"]]},
                {"metric": {}, "values": [[at, "+Inf"], [f64::from(at) + 0.5, "2"]]},
            ]),
        )
        .unwrap();
        let (time, next) = ("2026-11-21T11:59:59Z", "2026-11-21T12:00:00Z");
        assert_eq!(
            json!(found.rows),
            json!([
                {"day": "2026-11-21", "time": time, "name": "up", "job": "api", "label_value": "x", "value": 1.5},
                {"day": "2026-11-21", "time": next, "name": "up", "job": "api", "label_value": "x", "value": null},
                {"day": "2026-11-21", "time": time, "value": null},
            ])
        );
        assert!(found.truncated);
        let mut hidden = found.clone();
        hidden.hide(&["JOB".to_owned()]);
        assert!(hidden.rows.iter().all(|row| !row.contains_key("job") && row.contains_key("value")));
        let vector = of("vector", json!([{"metric": {"job": "api"}, "value": [at, "7"]}])).unwrap();
        assert_eq!(json!(vector.rows), json!([{"day": "2026-11-21", "time": time, "job": "api", "value": 7}]));
        let scalar = of("scalar", json!([f64::from(at) + 0.25, "-0.5"])).unwrap();
        assert_eq!((scalar.rows[0]["value"].as_f64(), scalar.truncated), (Some(-0.5), false));
        assert_eq!(of("vector", json!([])).unwrap().rows.len(), 0);
        for (kind, result, why) in [
            ("string", json!([at, "x"]), "a text"),
            ("vector", json!([{"metric": {}, "histogram": [at, {}]}]), "histograms"),
            ("vector", json!([{"metric": {}}]), "not one of Prometheus"),
            ("other", json!([]), "not one of Prometheus"),
        ] {
            assert!(of(kind, result).unwrap_err().contains(why), "{kind}");
        }
    }

    async fn ask(reply: String, args: Value) -> (Result<Rows, SourceError>, String) {
        let server = Server::start().await;
        let setup = SourceSetup {
            target: Some(format!("{}/prom/", server.address())),
            ..SourceSetup::new("metrics", "/", Outside::none(Env::system()))
        };
        let query = ToolQuery::Promql { query: "sum by (job) (x{a=\"b&c\"})".into(), step: None };
        let source = make(&setup).unwrap();
        let query = SourceQuery { query: Some(&query), filter: None, args: args.as_object().unwrap(), max_rows: 9 };
        let (rows, requests) = server.answer(&[reply], source.fetch(query)).await;
        (rows, requests[0].split(' ').nth(1).unwrap().to_owned())
    }

    #[tokio::test]
    async fn it_is_asked_below_its_address_and_its_words_are_told() {
        let empty = r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#;
        let (rows, asked) = ask(reply("200 OK", "", empty), json!({"from": "2026-11-18", "to": "2026-11-18"})).await;
        assert!(rows.unwrap().rows.is_empty());
        let query = "query=sum+by+%28job%29+%28x%7Ba%3D%22b%26c%22%7D%29";
        let end = "2026-11-18T23:59:59Z".parse::<Timestamp>().unwrap().as_second();
        let expected = format!("/prom/api/v1/query_range?{query}&start={end}&end={end}&step=86400&timeout=30s");
        assert_eq!(asked, expected);
        let said = r#"{"status":"error","errorType":"bad_data","error":"1:3: parse error: unexpected <by>"}"#;
        let (error, asked) = ask(reply("400 Bad Request", "", said), json!({})).await;
        assert_eq!(asked, format!("/prom/api/v1/query?{query}&timeout=30s"));
        let error = error.unwrap_err().to_string();
        assert_eq!(error, "source `metrics` refused the query: 1:3: parse error: unexpected <by>");
        let (error, _) = ask(reply("503 Service Unavailable", "", "starting"), json!({})).await;
        assert!(matches!(error, Err(SourceError::Unavailable { .. })));
    }
}
