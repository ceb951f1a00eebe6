//! HTTP sources that answer JSON: `{http: BASE_URL, auth: …, paging: …}`, asked with `{http: NAME, get: /path, rows: $.data}`.
//!
//! Only GET, only below the configured address; arguments become the query string. Pages are followed as `paging` says, within the
//! same origin, until there are as many rows as were asked for. What it does not do: repeat a read (the executor does, by the
//! error's kind; only a later page is asked again here, so that the pages before it are not), show a secret.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::rows::{Row, RowsPath, argument, cut};
use crate::base::BoxFuture;
use crate::base::env::Env;
use crate::base::retry::{Backoff, Retry};
use crate::clients::credentials::CredentialError;
use crate::clients::http::{HttpError, Limits};
use crate::clients::json::{JsonError, Page, Service, Url};
use crate::domain::activity::Rows;
use crate::domain::definition::ToolQuery;
use crate::ports::source::{PageSize, Paging, Source, SourceError, SourceKind, SourceQuery, SourceSetup};

pub const KIND: SourceKind =
    SourceKind { name: "http", summary: "an HTTP service that answers JSON", query: "http", make: Some(make) };

/// The most bytes of one answer, and of all pages together.
const CAP: usize = 16 << 20;
const CAP_ALL: usize = 64 << 20;
/// The most pages of one read.
const MOST_PAGES: u32 = 200;
/// All pages may take this many times as long as one.
const LONGER: u32 = 10;
/// Between two tries of a page that is not the first.
const PAGE_BACKOFF: Backoff =
    Backoff { first: Duration::from_secs(1), most: Duration::from_secs(8), total: Duration::from_secs(60) };

fn make(setup: &SourceSetup) -> Result<Arc<dyn Source>, SourceError> {
    let service = service(setup)?;
    let cursor = match &setup.paging {
        Paging::Cursor { at, .. } => Some(RowsPath::parse(at).map_err(|message| SourceError::Missing {
            name: setup.name.clone(),
            message,
            help: format!("correct `sources.{}.paging.cursor.at`", setup.name),
        })?),
        _ => None,
    };
    Ok(Arc::new(Http {
        asked: Asked { name: setup.name.clone(), kind: "http", service },
        paging: setup.paging.clone(),
        cursor,
        timeout: setup.timeout,
        env: setup.outside.env.clone(),
    }))
}

/// The service behind a source that is an address.
pub(super) fn service(setup: &SourceSetup) -> Result<Service, SourceError> {
    let missing =
        |message: String, help: &str| SourceError::Missing { name: setup.name.clone(), message, help: help.to_owned() };
    let base =
        setup.target.as_deref().ok_or_else(|| missing("no address is given".into(), "write `\"https://host\"`"))?;
    Service::new(base, setup.auth.clone(), &setup.outside)
        .map_err(|error| missing(error.to_string(), "correct the address, or repair the machine's TLS certificates"))
}

struct Http {
    asked: Asked,
    paging: Paging,
    /// Where the cursor is.
    cursor: Option<RowsPath>,
    timeout: Duration,
    env: Env,
}

impl Source for Http {
    fn fetch<'a>(&'a self, query: SourceQuery<'a>) -> BoxFuture<'a, Result<Rows, SourceError>> {
        Box::pin(async move {
            let refused = |message: String| self.asked.refused(message);
            let (path, rows) = match (query.query, query.filter) {
                (Some(ToolQuery::HttpGet { path, rows }), _) => (path.as_str(), rows.as_deref().unwrap_or("$")),
                (Some(ToolQuery::Sql { .. } | ToolQuery::Promql { .. }), _) => {
                    return Err(refused("it speaks HTTP: ask it with `http` and `get`".into()));
                }
                (None, Some(path)) => (path, "$"),
                (None, None) => ("", "$"),
            };
            let place = RowsPath::parse(rows).map_err(refused)?;
            let all = self.pages(path, &place, query.args, query.max_rows);
            match tokio::time::timeout(self.timeout * LONGER, all).await {
                Ok(read) => read,
                Err(_) => Err(SourceError::Unavailable {
                    name: self.asked.name.clone(),
                    message: format!("its pages took longer than {:?}", self.timeout * LONGER),
                    after: None,
                }),
            }
        })
    }
}

/// Where the next page is.
enum Next {
    /// The same address with these parameters beside the arguments.
    With(Vec<(String, String)>),
    At(Url),
}

impl Http {
    async fn pages(
        &self,
        path: &str,
        place: &RowsPath,
        args: &Map<String, Value>,
        max_rows: u32,
    ) -> Result<Rows, SourceError> {
        let most = usize::try_from(max_rows).unwrap_or(usize::MAX);
        let first = self.asked.service.below(path).map_err(|message| self.asked.refused(message))?;
        let args = pairs(args);
        let (mut found, mut bytes): (Vec<Row>, usize) = (Vec::new(), 0);
        let mut next = Next::With(self.first());
        let mut seen: Option<String> = None;
        for number in 0..MOST_PAGES {
            let (url, query) = match next {
                Next::With(own) => (
                    first.clone(),
                    args.iter()
                        .filter(|(key, _)| !own.iter().any(|(o, _)| o == key))
                        .cloned()
                        .chain(own.iter().cloned())
                        .collect(),
                ),
                // It holds the arguments already.
                Next::At(url) => (url, Vec::new()),
            };
            let mut page = self.page(number, &url, &query).await?;
            bytes += page.bytes;
            if bytes > CAP_ALL {
                let message = format!("its pages are larger than {} MB together: ask for less", CAP_ALL >> 20);
                return Err(self.asked.refused(message));
            }
            let cursor = self.cursor.as_ref().and_then(|cursor| cursor.one(&page.json)).and_then(word);
            let json = std::mem::take(&mut page.json);
            let rows = place.rows(json).map_err(|message| self.asked.refused(message))?;
            let count = rows.len();
            found.extend(rows);
            let following = self.following(&page, cursor, number, count, found.len(), &mut seen)?;
            let Some(following) = following else {
                let (rows, truncated) = cut(found, max_rows);
                return Ok(Rows { rows, truncated, via: "http".into() });
            };
            if found.len() >= most {
                break;
            }
            next = following;
        }
        let (rows, _) = cut(found, max_rows);
        Ok(Rows { rows, truncated: true, via: "http".into() })
    }

    /// What the first page is asked with.
    fn first(&self) -> Vec<(String, String)> {
        let (param, first, size) = match &self.paging {
            Paging::Page { param, first, size } => (param, *first, size),
            Paging::Offset { param, size } => (param, 0, size),
            Paging::None | Paging::Link | Paging::Cursor { .. } => return Vec::new(),
        };
        self.counted(param, u64::from(first), size.as_ref())
    }

    fn counted(&self, param: &str, number: u64, size: Option<&PageSize>) -> Vec<(String, String)> {
        let size = size.and_then(|size| Some((size.param.clone()?, size.rows.to_string())));
        [(param.to_owned(), number.to_string())].into_iter().chain(size).collect()
    }

    /// The next page, if there is one. `count` rows were on this one, which was the one of that `number`; `all` were found so far.
    fn following(
        &self,
        page: &Page,
        cursor: Option<String>,
        number: u32,
        count: usize,
        all: usize,
        seen: &mut Option<String>,
    ) -> Result<Option<Next>, SourceError> {
        let short =
            |size: &Option<PageSize>| count == 0 || size.as_ref().is_some_and(|size| count < size.rows as usize);
        let next = match &self.paging {
            Paging::None => None,
            Paging::Link => page.next.clone().map(Next::At),
            Paging::Cursor { param, .. } => {
                if cursor.is_some() && *seen == cursor {
                    return Err(self.asked.refused("it gives the same cursor again and again".into()));
                }
                *seen = cursor.clone();
                match (cursor, param) {
                    (None, _) => None,
                    (Some(cursor), Some(param)) => Some(Next::With(vec![(param.clone(), cursor)])),
                    (Some(address), None) => {
                        let url = self.asked.service.after(page, &address);
                        Some(Next::At(url.map_err(|error| self.asked.error(error))?))
                    }
                }
            }
            Paging::Page { size, .. } | Paging::Offset { size, .. } if short(size) => None,
            Paging::Page { param, first, size } => {
                let next = u64::from(*first) + u64::from(number) + 1;
                Some(Next::With(self.counted(param, next, size.as_ref())))
            }
            Paging::Offset { param, size } => Some(Next::With(self.counted(param, all as u64, size.as_ref()))),
        };
        Ok(next)
    }

    /// One page. The first is repeated by the executor if need be, later ones here.
    async fn page(&self, number: u32, url: &Url, query: &[(String, String)]) -> Result<Page, SourceError> {
        let mut waited = Duration::ZERO;
        for attempt in 1.. {
            let error = match self.asked.get(url, query, self.timeout, CAP).await {
                Ok(page) => return Ok(page),
                Err(error) => error,
            };
            let retry = match &error {
                JsonError::Http(error) if number > 0 => error.retry(),
                _ => Retry::Never,
            };
            let Some(pause) = PAGE_BACKOFF.pause(attempt, waited, retry) else { return Err(self.asked.error(error)) };
            tracing::warn!(%error, from = self.asked.name, page = number + 1, "asking for the page again in {pause:?}");
            waited += pause;
            self.env.clock.sleep(pause).await;
        }
        Err(self.asked.refused("no answer".into()))
    }
}

/// A cursor as text; `null`, `false` and an empty text mean that there is none.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::Bool(false) => None,
        other => argument(other).filter(|text| !text.is_empty()),
    }
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

/// A service with the name that the configuration gives it, which all its errors say.
pub(super) struct Asked {
    pub name: String,
    /// The key in the configuration.
    pub kind: &'static str,
    pub service: Service,
}

impl Asked {
    pub async fn get(
        &self,
        url: &Url,
        query: &[(String, String)],
        timeout: Duration,
        cap_bytes: usize,
    ) -> Result<Page, JsonError> {
        let limits = Limits { idle: timeout, total: timeout, cap_bytes };
        self.service.get(&format!("source {}", self.name), url, query, limits).await
    }

    pub fn refused(&self, message: String) -> SourceError {
        SourceError::Refused { name: self.name.clone(), message }
    }

    pub fn error(&self, error: JsonError) -> SourceError {
        let name = self.name.clone();
        let replace = |secret: &str| {
            format!("put a valid one where `secrets.{secret}` says; the runs that wait for it go on by themselves")
        };
        match error {
            JsonError::Refused { secret, message } => {
                let help = replace(&secret);
                SourceError::Credential { name, secret, message: format!("HTTP 401: {message}"), help }
            }
            JsonError::Credential(CredentialError::Refused(known)) => SourceError::Credential {
                name,
                help: replace(&known.secret.name),
                message: format!("{} (not sent again)", known.message),
                secret: known.secret.name,
            },
            error @ JsonError::Credential(CredentialError::Secret(_)) => SourceError::Missing {
                name,
                message: error.to_string(),
                help: "supply it where `secrets:` says".into(),
            },
            JsonError::Limited { after } => {
                SourceError::Unavailable { name, message: format!("it wants a pause of {after:?}"), after: Some(after) }
            }
            error @ JsonError::Elsewhere(_) => SourceError::Refused { name, message: error.to_string() },
            JsonError::Http(error) => self.http_error(error),
        }
    }

    fn http_error(&self, error: HttpError) -> SourceError {
        let name = self.name.clone();
        let retry = error.retry();
        match error {
            HttpError::Status { status: status @ (401 | 403), message, .. } => {
                let help = match self.service.secret() {
                    Some(secret) => format!("check secret `{secret}`: it may be without this right"),
                    None => format!(
                        "the service wants a credential: give `sources.{name}.auth: {{bearer: secret:NAME}}`, or another `auth`"
                    ),
                };
                SourceError::Missing {
                    name,
                    message: format!("the service refused the credential (HTTP {status}: {message})"),
                    help,
                }
            }
            error @ (HttpError::Secret(_) | HttpError::Credential(_)) => SourceError::Missing {
                name,
                message: error.to_string(),
                help: "supply it where `secrets:` says".into(),
            },
            HttpError::Request(message) => {
                let help = format!("correct `sources.{name}.{}`", self.kind);
                SourceError::Missing { name, message, help }
            }
            HttpError::Status { status, message, after } => {
                let message = format!("HTTP {status}: {message}");
                match retry {
                    Retry::Never => SourceError::Refused { name, message },
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
pub(super) mod testing {
    //! A server that answers one request after another with what it was given.

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    pub struct Server {
        listener: tokio::net::TcpListener,
    }

    impl Server {
        pub async fn start() -> Self {
            Self { listener: tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap() }
        }

        pub fn address(&self) -> String {
            format!("http://{}", self.listener.local_addr().unwrap())
        }

        /// Gives `replies` in their order, each on a connection of its own, while `asking` goes on; what was asked is given back.
        pub async fn answer<T>(&self, replies: &[String], asking: impl Future<Output = T>) -> (T, Vec<String>) {
            let mut requests = Vec::new();
            let serve = async {
                for reply in replies {
                    let (mut stream, _) = self.listener.accept().await.unwrap();
                    let mut request = Vec::new();
                    while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                        stream.read_buf(&mut request).await.unwrap();
                    }
                    stream.write_all(reply.as_bytes()).await.unwrap();
                    stream.shutdown().await.unwrap();
                    requests.push(String::from_utf8(request).unwrap());
                }
                std::future::pending::<()>().await;
            };
            let told = tokio::select! {
                told = asking => told,
                () = serve => unreachable!("it serves for ever"),
            };
            (told, requests)
        }
    }

    pub fn reply(status: &str, headers: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{Server, reply};
    use super::*;
    use crate::base::secret::{SecretRef, SecretSource};
    use crate::ports::service::Outside;
    use crate::ports::source::SourceAuth;
    use serde_json::json;

    #[test]
    fn arguments_become_a_query_string() {
        let args = json!({"from": "2026-11-01", "n": 3, "live": true, "none": null, "tag": ["a", "b"]});
        let shown: Vec<_> = pairs(args.as_object().unwrap()).iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(shown, ["from=2026-11-01", "n=3", "live=true", "tag=a", "tag=b"]);
    }

    struct Fixture {
        server: Server,
        folder: tempfile::TempDir,
        setup: SourceSetup,
        secret: SecretRef,
    }

    impl Fixture {
        async fn new() -> Self {
            let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
            let file = folder.path().join("token");
            std::fs::write(&file, "hunter2\n").unwrap();
            let secret = SecretRef { name: "SHOP".into(), source: SecretSource::Files(vec![file]) };
            let setup = SourceSetup {
                target: Some(server.address()),
                timeout: Duration::from_secs(20),
                ..SourceSetup::new("shop", folder.path().to_owned(), Outside::none(Env::system()))
            };
            Self { server, folder, setup, secret }
        }

        async fn ask(&self, replies: &[String], max_rows: u32) -> (Result<Rows, SourceError>, Vec<String>) {
            let source = make(&self.setup).unwrap();
            let query = ToolQuery::HttpGet { path: "/v1/errors".into(), rows: Some("$.data".into()) };
            let args = json!({"from": "2026-11-01", "to": "a&b"});
            let query = SourceQuery { query: Some(&query), filter: None, args: args.as_object().unwrap(), max_rows };
            let (rows, requests) = self.server.answer(replies, source.fetch(query)).await;
            (rows, requests)
        }
    }

    fn ok(body: &str) -> String {
        reply("200 OK", "content-type: application/json\r\n", body)
    }

    fn line(request: &str) -> &str {
        let path = request.split(' ').nth(1).unwrap();
        path.strip_prefix("/v1/errors?from=2026-11-01&to=a%26b").unwrap_or(path)
    }

    fn numbers(rows: &Rows) -> Vec<i64> {
        rows.rows.iter().map(|row| row["n"].as_i64().unwrap()).collect()
    }

    #[tokio::test]
    async fn each_kind_of_credential_travels_as_the_service_wants_it() {
        let mut fixture = Fixture::new().await;
        let secret = fixture.secret.clone();
        let body = r#"{"data":[{"n":1},{"n":2},{"n":3}]}"#;
        for (auth, query, header) in [
            (SourceAuth::None, "", None),
            (SourceAuth::Bearer(secret.clone()), "", Some("authorization: bearer hunter2\r\n")),
            (SourceAuth::Basic(secret.clone()), "", Some("authorization: basic ahvudgvymg==\r\n")),
            (SourceAuth::Header { name: "X-Key".into(), secret: secret.clone() }, "", Some("x-key: hunter2\r\n")),
            (SourceAuth::Query { name: "key".into(), secret }, "&key=hunter2", None),
        ] {
            fixture.setup.auth = auth;
            let (rows, requests) = fixture.ask(&[ok(body)], 2).await;
            let rows = rows.unwrap();
            assert_eq!((rows.rows.len(), rows.truncated), (2, true));
            assert_eq!(line(&requests[0]), query);
            let head = requests[0].to_ascii_lowercase();
            assert!(header.is_none_or(|header| head.contains(header)), "{head}");
            assert_eq!(head.contains("authorization"), header.is_some_and(|header| header.starts_with("auth")));
        }
    }

    #[tokio::test]
    async fn pages_are_followed_in_each_way() {
        let mut fixture = Fixture::new().await;
        let two = |n: i64| format!(r#"{{"data":[{{"n":{n}}},{{"n":{}}}]}}"#, n + 1);
        let size = |param: Option<&str>| Some(PageSize { param: param.map(str::to_owned), rows: 2 });
        let linked = |to: &str, body: &str| reply("200 OK", &format!("link: <{to}>; rel=\"next\"\r\n"), body);
        let with = |next: &str, n: i64| format!(r#"{{"meta":{{"next":{next}}},"data":[{{"n":{n}}}]}}"#);

        fixture.setup.paging = Paging::Link;
        let (rows, asked) = fixture.ask(&[linked("/v2/more?after=2&key=x", &two(1)), ok(&two(3))], 9).await;
        assert_eq!((numbers(&rows.unwrap()), line(&asked[1])), (vec![1, 2, 3, 4], "/v2/more?after=2&key=x"));

        fixture.setup.paging = Paging::Cursor { param: Some("cursor".into()), at: "$.meta.next".into() };
        let (rows, asked) = fixture.ask(&[ok(&with("\"a b\"", 1)), ok(&with("7", 2)), ok(&with("null", 3))], 9).await;
        assert_eq!(numbers(&rows.unwrap()), [1, 2, 3]);
        assert_eq!(asked.iter().map(|r| line(r)).collect::<Vec<_>>(), ["", "&cursor=a+b", "&cursor=7"]);
        let (error, _) = fixture.ask(&[ok(&with("7", 1)), ok(&with("7", 2))], 9).await;
        assert!(error.unwrap_err().to_string().contains("the same cursor"));

        fixture.setup.paging = Paging::Cursor { param: None, at: "$.meta.next".into() };
        let (rows, asked) = fixture.ask(&[ok(&with("\"?page=2\"", 1)), ok(&with("\"\"", 2))], 9).await;
        assert_eq!((numbers(&rows.unwrap()), line(&asked[1])), (vec![1, 2], "/v1/errors?page=2"));

        fixture.setup.paging = Paging::Page { param: "page".into(), first: 1, size: size(Some("per_page")) };
        let (rows, asked) = fixture.ask(&[ok(&two(1)), ok(r#"{"data":[{"n":3}]}"#)], 9).await;
        assert_eq!(numbers(&rows.unwrap()), [1, 2, 3]);
        assert_eq!(asked.iter().map(|r| line(r)).collect::<Vec<_>>(), ["&page=1&per_page=2", "&page=2&per_page=2"]);

        fixture.setup.paging = Paging::Offset { param: "skip".into(), size: None };
        let (rows, asked) = fixture.ask(&[ok(&two(1)), ok(&two(3)), ok(r#"{"data":[]}"#)], 9).await;
        assert_eq!((numbers(&rows.unwrap()), line(&asked[2])), (vec![1, 2, 3, 4], "&skip=4"));

        // As many as were asked for: the next page is not fetched, and it is said that there is more.
        let (rows, asked) = fixture.ask(&[ok(&two(1)), ok(&two(3))], 3).await;
        let rows = rows.unwrap();
        assert_eq!((numbers(&rows), rows.truncated, asked.len()), (vec![1, 2, 3], true, 2));
    }

    #[tokio::test]
    async fn nothing_is_followed_to_another_origin() {
        let mut fixture = Fixture::new().await;
        fixture.setup.auth = SourceAuth::Bearer(fixture.secret.clone());
        fixture.setup.paging = Paging::Link;
        let other = Server::start().await;
        let link = format!("link: <{}/v1/errors?page=2>; rel=\"next\"\r\n", other.address());
        let (error, asked) = fixture.ask(&[reply("200 OK", &link, r#"{"data":[{"n":1}]}"#)], 9).await;
        let error = error.unwrap_err();
        assert!(error.to_string().contains("another origin"), "{error}");
        assert_eq!(asked.len(), 1);
        let moved = format!("location: {}/v1/errors\r\n", other.address());
        let (error, _) = fixture.ask(&[reply("307 Temporary Redirect", &moved, "")], 9).await;
        assert!(error.unwrap_err().to_string().contains("HTTP 307"));
    }

    #[tokio::test]
    async fn a_later_page_is_asked_again_and_the_first_is_not() {
        let mut fixture = Fixture::new().await;
        fixture.setup.paging = Paging::Page { param: "page".into(), first: 1, size: None };
        let limited = reply("429 Too Many Requests", "retry-after: 0\r\n", "slow");
        let replies = [ok(r#"{"data":[{"n":1}]}"#), limited.clone(), ok(r#"{"data":[{"n":2}]}"#), ok(r#"{"data":[]}"#)];
        let (rows, asked) = fixture.ask(&replies, 9).await;
        assert_eq!(numbers(&rows.unwrap()), [1, 2]);
        assert_eq!(asked.iter().map(|r| line(r)).collect::<Vec<_>>(), ["&page=1", "&page=2", "&page=2", "&page=3"]);
        let (error, asked) = fixture.ask(&[limited], 9).await;
        assert!(matches!(error, Err(SourceError::Unavailable { after: Some(_), .. })) && asked.len() == 1);
    }

    #[tokio::test]
    async fn a_pause_that_the_service_wants_holds_for_everybody() {
        let fixture = Fixture::new().await;
        let used_up = reply("200 OK", "x-ratelimit-remaining: 0\r\nx-ratelimit-reset: 3600\r\n", r#"{"data":[]}"#);
        assert!(fixture.ask(&[used_up], 9).await.0.is_ok());
        let (error, asked) = fixture.ask(&[ok(r#"{"data":[]}"#)], 9).await;
        assert!(asked.is_empty(), "nothing was sent");
        let error = error.unwrap_err();
        assert!(
            matches!(&error, SourceError::Unavailable { after: Some(after), .. } if after.as_secs() > 3_500),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn a_refused_secret_is_sent_once_and_again_when_it_was_replaced() {
        let mut fixture = Fixture::new().await;
        fixture.setup.auth = SourceAuth::Bearer(fixture.secret.clone());
        let no = reply("401 Unauthorized", "", "no hunter2 here");
        let (first, asked) = fixture.ask(std::slice::from_ref(&no), 9).await;
        assert_eq!(asked.len(), 1);
        let (second, asked) = fixture.ask(&[no], 9).await;
        assert!(asked.is_empty(), "it is not sent again as it is");
        for error in [first.unwrap_err(), second.unwrap_err()] {
            assert!(matches!(&error, SourceError::Credential { secret, .. } if secret == "SHOP"), "{error:?}");
            assert!(error.to_string().contains("no [secret] here"), "{error}");
        }
        std::fs::write(fixture.folder.path().join("token"), "hunter3").unwrap();
        let (rows, asked) = fixture.ask(&[ok(r#"{"data":[{"n":1}]}"#)], 9).await;
        assert_eq!((rows.unwrap().rows.len(), asked.len()), (1, 1));
    }

    #[tokio::test]
    async fn each_refusal_has_its_kind() {
        let kind = |error: SourceError| match error {
            SourceError::Missing { message, help, .. } => format!("missing: {message} / {help}"),
            SourceError::Credential { message, .. } => format!("credential: {message}"),
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
            let mut fixture = Fixture::new().await;
            fixture.setup.auth = if bearer { SourceAuth::Bearer(fixture.secret.clone()) } else { SourceAuth::None };
            kinds.push(kind(fixture.ask(&[reply(status, headers, body)], 2).await.0.unwrap_err()));
        }
        let shown: Vec<&str> = kinds.iter().map(String::as_str).collect();
        assert_eq!(
            shown[..5],
            [
                "missing: the service refused the credential (HTTP 403: no) / check secret `SHOP`: it may be without this right",
                "missing: the service refused the credential (HTTP 401: no) / the service wants a credential: give \
                 `sources.shop.auth: {bearer: secret:NAME}`, or another `auth`",
                "unavailable: HTTP 429: slow / Some(7s)",
                "unavailable: HTTP 503: down / None",
                "refused: HTTP 404: nothing",
            ]
        );
        assert!(shown[5].starts_with("refused: the answer is not JSON"), "{}", shown[5]);
        assert_eq!(shown[6], "refused: `$.data`: there is no `data` among `rows`");
    }
}
