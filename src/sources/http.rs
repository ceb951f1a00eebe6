//! HTTP sources that answer JSON: `{http: BASE_URL, auth: {bearer: secret:NAME}}`, asked with `{http: NAME, get: /path, rows: $.data}`.
//!
//! Only GET, only below the configured address; arguments become the query string. What it does not do: follow pages, retry
//! (the executor does, by the error's kind), show a secret (`clients::http` reads it at each call).

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::rows::{RowsPath, argument, cut};
use crate::base::BoxFuture;
use crate::base::secret::SecretRef;
use crate::clients::http::{Client, HttpError};
use crate::domain::activity::Rows;
use crate::domain::definition::ToolQuery;
use crate::ports::source::{Source, SourceError, SourceKind, SourceQuery, SourceSetup};

pub const KIND: SourceKind =
    SourceKind { name: "http", summary: "an HTTP service that answers JSON", query: "http", make: Some(make) };

/// The most bytes of one answer.
const CAP: usize = 16 << 20;

fn make(setup: &SourceSetup) -> Result<Arc<dyn Source>, SourceError> {
    let missing =
        |message: String, help: &str| SourceError::Missing { name: setup.name.clone(), message, help: help.to_owned() };
    let base = setup
        .target
        .clone()
        .ok_or_else(|| missing("no address is given".into(), "write `{http: \"https://host\"}`"))?;
    let client = Client::new().map_err(|error| missing(error.to_string(), "repair the machine's TLS certificates"))?;
    Ok(Arc::new(Http { name: setup.name.clone(), base, bearer: setup.bearer.clone(), timeout: setup.timeout, client }))
}

struct Http {
    name: String,
    base: String,
    bearer: Option<SecretRef>,
    timeout: Duration,
    client: Client,
}

impl Source for Http {
    fn fetch<'a>(&'a self, query: SourceQuery<'a>) -> BoxFuture<'a, Result<Rows, SourceError>> {
        Box::pin(async move {
            let refused = |message: String| SourceError::Refused { name: self.name.clone(), message };
            let (path, rows) = match (query.query, query.filter) {
                (Some(ToolQuery::HttpGet { path, rows }), _) => (path.as_str(), rows.as_deref().unwrap_or("$")),
                (Some(ToolQuery::Sql { .. }), _) => {
                    return Err(refused("it speaks HTTP: ask it with `http` and `get`, not with `sql`".into()));
                }
                (None, Some(path)) => (path, "$"),
                (None, None) => ("", "$"),
            };
            let rows = RowsPath::parse(rows).map_err(refused)?;
            let url = join(&self.base, path).map_err(refused)?;
            let answer = self
                .client
                .get_json(&url, &pairs(query.args), self.bearer.as_ref(), self.timeout, CAP)
                .await
                .map_err(|error| self.error(error))?;
            let (rows, truncated) = cut(rows.rows(answer).map_err(refused)?, query.max_rows);
            Ok(Rows { rows, truncated, via: "http".into() })
        })
    }
}

/// The path appended to the configured address. It can only name something below it: a path with `..`, another host or a
/// fragment is refused.
fn join(base: &str, path: &str) -> Result<String, String> {
    if path.is_empty() {
        return Ok(base.to_owned());
    }
    let lower = path.to_ascii_lowercase();
    let climbs = path.split(['/', '\\', '?']).any(|part| {
        let part = part.to_ascii_lowercase().replace("%2e", ".");
        part == ".." || part == "."
    });
    if !path.starts_with('/')
        || path.starts_with("//")
        || climbs
        || lower.contains("%2f..")
        || path.contains(['#', '\\', '\n'])
    {
        return Err(format!("`{path}` is not a path below the source's address: begin with one `/`, without `..`"));
    }
    Ok(format!("{}{path}", base.trim_end_matches('/')))
}

/// Arguments as they stand in a query string: `null` is left out, a list repeats its name.
fn pairs(args: &Map<String, Value>) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for (name, value) in args {
        match value {
            Value::Array(items) => pairs.extend(items.iter().filter_map(argument).map(|text| (name.clone(), text))),
            one => pairs.extend(argument(one).map(|text| (name.clone(), text))),
        }
    }
    pairs
}

impl Http {
    fn error(&self, error: HttpError) -> SourceError {
        let name = self.name.clone();
        let retry = error.retry();
        let secret = match &self.bearer {
            Some(secret) => format!("check secret `{}`: it may be wrong, expired or without this right", secret.name),
            None => format!("the service wants a credential: give `sources.{name}.auth: {{bearer: secret:NAME}}`"),
        };
        match error {
            HttpError::Status { status: status @ (401 | 403), message, .. } => SourceError::Missing {
                name,
                message: format!("the service refused the credential (HTTP {status}: {message})"),
                help: secret,
            },
            error @ (HttpError::Secret(_) | HttpError::Credential(_)) => SourceError::Missing {
                name,
                message: error.to_string(),
                help: "supply it where `secrets:` says".into(),
            },
            HttpError::Request(message) => {
                let help = format!("correct `sources.{name}.http`");
                SourceError::Missing { name, message, help }
            }
            HttpError::Status { status, message, after } => {
                let message = format!("HTTP {status}: {message}");
                match retry {
                    crate::base::retry::Retry::Never => SourceError::Refused { name, message },
                    _ => SourceError::Unavailable { name, message, after },
                }
            }
            HttpError::TooLarge { cap } => SourceError::Refused {
                name,
                message: format!("the answer is larger than {} MB: ask for less", cap >> 20),
            },
            HttpError::NotJson(message) => {
                SourceError::Refused { name, message: format!("the answer is not JSON: {message}") }
            }
            error @ (HttpError::Connect(_) | HttpError::Timeout(_) | HttpError::Broken(_)) => {
                SourceError::Unavailable { name, message: error.to_string(), after: None }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn a_path_stays_below_the_configured_address() {
        assert_eq!(join("https://shop/api/", "/v1/x?y=1"), Ok("https://shop/api/v1/x?y=1".into()));
        assert_eq!(join("https://shop", ""), Ok("https://shop".into()));
        for bad in ["v1", "//evil/x", "/a/../b", "/a/%2E%2e/b", "/a\\b", "@evil/", "/a#b", "/a/.."] {
            assert!(join("https://shop", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn arguments_become_a_query_string() {
        let args = json!({"from": "2026-11-01", "n": 3, "live": true, "none": null, "tag": ["a", "b"]});
        let shown: Vec<_> = pairs(args.as_object().unwrap()).iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(shown, ["from=2026-11-01", "n=3", "live=true", "tag=a", "tag=b"]);
    }

    /// Answers one connection with `reply` and gives back what was asked.
    async fn ask(reply: String, bearer: bool) -> (Result<Rows, SourceError>, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "hunter2\n").unwrap();
        let secret = SecretRef {
            name: "SHOP".into(),
            source: crate::base::secret::SecretSource::Files(vec![folder.path().join("token")]),
        };
        let setup = SourceSetup {
            target: Some(format!("http://{}", listener.local_addr().unwrap())),
            bearer: bearer.then_some(secret),
            timeout: Duration::from_secs(20),
            ..SourceSetup::new(
                "shop",
                folder.path().to_owned(),
                crate::ports::service::Outside::none(crate::base::env::Env::system()),
            )
        };
        let source = make(&setup).unwrap();
        let query = ToolQuery::HttpGet { path: "/v1/errors".into(), rows: Some("$.data".into()) };
        let args = json!({"from": "2026-11-01", "to": "a&b"});
        let query = SourceQuery { query: Some(&query), filter: None, args: args.as_object().unwrap(), max_rows: 2 };
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                stream.read_buf(&mut request).await.unwrap();
            }
            stream.write_all(reply.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            String::from_utf8(request).unwrap()
        };
        tokio::join!(source.fetch(query), serve)
    }

    fn reply(status: &str, headers: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn rows_are_found_and_the_secret_travels_as_bearer() {
        let body = r#"{"data":[{"n":1},{"n":2},{"n":3}]}"#;
        let (rows, request) = ask(reply("200 OK", "content-type: application/json\r\n", body), true).await;
        let rows = rows.unwrap();
        assert_eq!((rows.rows.len(), rows.truncated), (2, true));
        assert!(request.starts_with("GET /v1/errors?from=2026-11-01&to=a%26b HTTP/1.1\r\n"), "{request}");
        assert!(request.to_ascii_lowercase().contains("authorization: bearer hunter2\r\n"), "{request}");
    }

    #[tokio::test]
    async fn each_refusal_has_its_kind() {
        let kind = |error: SourceError| match error {
            SourceError::Missing { message, help, .. } => format!("missing: {message} / {help}"),
            SourceError::Unavailable { message, after, .. } => format!("unavailable: {message} / {after:?}"),
            SourceError::Refused { message, .. } => format!("refused: {message}"),
        };
        let mut kinds = Vec::new();
        for (status, headers, body, bearer) in [
            ("403 Forbidden", "", "no", true),
            ("401 Unauthorized", "", "no", false),
            ("429 Too Many Requests", "retry-after: 7\r\n", "slow", true),
            ("503 Service Unavailable", "", "down", true),
            ("404 Not Found", "", "nothing", true),
            ("200 OK", "", "<html>", true),
            ("200 OK", "", "{\"rows\":[]}", true),
        ] {
            kinds.push(kind(ask(reply(status, headers, body), bearer).await.0.unwrap_err()));
        }
        let shown: Vec<&str> = kinds.iter().map(String::as_str).collect();
        assert_eq!(
            shown[..5],
            [
                "missing: the service refused the credential (HTTP 403: no) / check secret `SHOP`: it may be wrong, expired or \
                 without this right",
                "missing: the service refused the credential (HTTP 401: no) / the service wants a credential: give \
                 `sources.shop.auth: {bearer: secret:NAME}`",
                "unavailable: HTTP 429: slow / Some(7s)",
                "unavailable: HTTP 503: down / None",
                "refused: HTTP 404: nothing",
            ]
        );
        assert!(shown[5].starts_with("refused: the answer is not JSON"), "{}", shown[5]);
        assert_eq!(shown[6], "refused: `$.data`: there is no `data` among `rows`");
    }
}
