//! The client against a server whose every answer a test decides.

use std::collections::BTreeMap;
use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::base::BoxFuture;
use crate::base::clock::Clock;
use crate::base::ids::SystemIds;
use crate::base::scope::Scope;
use crate::base::secret::SecretSource;
use crate::ports::service::{Service, Services, Shared};

/// Time that passes where somebody sleeps, and nowhere else.
#[derive(Clone, Debug, Default)]
struct JumpClock(Arc<Mutex<Duration>>);

impl JumpClock {
    fn passed(&self) -> Duration {
        *self.0.lock().unwrap()
    }
}

impl Clock for JumpClock {
    fn now(&self) -> Timestamp {
        "2026-11-20T08:00:00Z".parse::<Timestamp>().unwrap() + self.passed()
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        *self.0.lock().unwrap() += duration;
        Box::pin(tokio::task::yield_now())
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
struct Asked {
    line: String,
    token: String,
    body: String,
    at: Duration,
}

/// What is written back, as bytes.
type Answer = Box<dyn Fn(&[Asked]) -> String + Send + Sync>;

struct Stand {
    slack: Slack,
    clock: JumpClock,
    asked: Arc<Mutex<Vec<Asked>>>,
    folder: tempfile::TempDir,
    _scope: Scope,
}

impl Stand {
    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
    fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line).collect()
    }
}

fn outside(url: &str, token: &Path, env: Env) -> Outside {
    let secret = SecretRef { name: "SLACK".into(), source: SecretSource::Files(vec![token.to_owned()]) };
    let service = Service {
        settings: BTreeMap::from([("api_url".to_owned(), url.to_owned())]),
        secrets: BTreeMap::from([("bot_token".to_owned(), secret)]),
        ..Service::default()
    };
    let services = Services { slack: Some(service), ..Services::default() };
    Outside { services: Arc::new(services), shared: Shared::default(), env }
}

async fn stand(answer: impl Fn(&[Asked]) -> String + Send + Sync + 'static) -> Stand {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/api/", listener.local_addr().unwrap());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), "xoxb-first\n").unwrap();
    let clock = JumpClock::default();
    let env = Env { clock: Arc::new(clock.clone()), ids: Arc::new(SystemIds) };
    let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
    let scope = Scope::new(tokio::runtime::Handle::current());
    let (list, time, answer, inner) =
        (asked.clone(), clock.clone(), Arc::<Answer>::new(Box::new(answer)), scope.clone());
    drop(scope.spawn("stand", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (list, time, answer) = (list.clone(), time.clone(), answer.clone());
            drop(inner.spawn("connection", async move { serve(stream, list, time, answer).await }));
        }
    }));
    let slack = Slack::of(&outside(&url, &folder.path().join("token"), env)).unwrap();
    Stand { slack, clock, asked, folder, _scope: scope }
}

/// One request a connection; an empty answer is a cut connection.
async fn serve(mut stream: TcpStream, list: Arc<Mutex<Vec<Asked>>>, time: JumpClock, answer: Arc<Answer>) {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some(end) = text.find("\r\n\r\n") else { continue };
        let head = text[..end].to_owned();
        let length: usize = header(&head, "content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
        break (head, end + 4 + length);
    };
    while bytes.len() < length {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let reply = {
        let mut list = list.lock().unwrap();
        list.push(Asked {
            line: head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned(),
            token: header(&head, "authorization").unwrap_or_default(),
            body: text[head.len() + 4..].to_owned(),
            at: time.passed(),
        });
        answer(&list)
    };
    drop(stream.write_all(reply.as_bytes()).await);
}

fn header(head: &str, name: &str) -> Option<String> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).next()
}

fn http(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
    )
}

fn said(body: &Value) -> String {
    http("200 OK", "", &body.to_string())
}

fn message(channel: &str) -> NewMessage {
    NewMessage { channel: channel.into(), text: "hello".into(), ..NewMessage::default() }
}

fn ok_post(_: &[Asked]) -> String {
    said(&json!({"ok": true, "channel": "C1", "ts": "1.000001", "message": {"bot_id": "B1"}}))
}

#[tokio::test]
async fn a_channel_gets_one_message_a_second_in_order_and_channels_do_not_wait_for_each_other() {
    let stand = stand(ok_post).await;
    for _ in 0..3 {
        stand.slack.post(&message("C00000001")).await.unwrap();
    }
    stand.slack.update("1.000001", &message("C00000001")).await.unwrap();
    let before = stand.clock.passed();
    stand.slack.post(&message("C00000002")).await.unwrap();
    let times: Vec<u64> = stand.asked().iter().map(|asked| asked.at.as_secs()).collect();
    assert_eq!((times, stand.clock.passed()), (vec![0, 1, 2, 3, 3], before));
    let first: Value = serde_json::from_str(&stand.asked()[0].body).unwrap();
    let quiet = ["unfurl_links", "unfurl_media", "link_names"].map(|name| first[name].clone());
    assert_eq!(quiet, [false, false, false].map(Value::from));
}

#[tokio::test]
async fn what_is_asked_for_at_once_is_sent_in_the_order_of_asking() {
    let stand = stand(ok_post).await;
    let posts = (0..5).map(|n| {
        let (slack, message) = (stand.slack.clone(), NewMessage { text: n.to_string(), ..message("C00000001") });
        async move { slack.post(&message).await.unwrap() }
    });
    futures_util::future::join_all(posts).await;
    let texts: Vec<Value> =
        stand.asked().iter().map(|asked| serde_json::from_str::<Value>(&asked.body).unwrap()["text"].clone()).collect();
    assert_eq!(texts, ["0", "1", "2", "3", "4"]);
}

#[tokio::test]
async fn a_rate_limit_is_obeyed_with_and_without_a_time_and_holds_for_everybody() {
    let stand = stand(|asked| match asked.len() {
        1 => http("429 Too Many Requests", "retry-after: 30\r\n", r#"{"ok":false,"error":"ratelimited"}"#),
        2 => http("429 Too Many Requests", "", r#"{"ok":false,"error":"ratelimited"}"#),
        _ => ok_post(asked),
    })
    .await;
    let (one, two) = (message("C00000001"), message("C00000002"));
    let (first, second) = tokio::join!(stand.slack.post(&one), async {
        tokio::task::yield_now().await;
        stand.slack.post(&two).await
    });
    assert!(first.is_ok() && second.is_ok());
    let times: Vec<u64> = stand.asked().iter().map(|asked| asked.at.as_secs()).collect();
    // The second channel may have been on its way when the first was told; nobody else asks before the time is over.
    let early = times.iter().filter(|at| **at < 30).count();
    assert!((4..=5).contains(&times.len()) && (1..=2).contains(&early), "{times:?}");
}

#[tokio::test]
async fn a_limit_without_end_is_given_up_after_a_bounded_time_and_number_of_calls() {
    let stand = stand(|_| http("429 Too Many Requests", "", r#"{"ok":false,"error":"ratelimited"}"#)).await;
    let error = stand.slack.post(&message("C00000001")).await.unwrap_err();
    assert!(matches!(error, SlackError::Unavailable { after: Some(_), .. }), "{error:?}");
    assert!(stand.asked().len() <= 12 && stand.clock.passed() <= Duration::from_secs(301), "{}", stand.asked().len());
}

#[tokio::test]
async fn no_is_a_failure_and_a_write_without_an_end_is_sent_once() {
    let stand = stand(|asked| match asked.len() {
        1 => said(&json!({"ok": false, "error": "missing_scope", "needed": "chat:write", "provided": "x"})),
        2 => said(&json!({"ok": false, "error": "token_revoked"})),
        3 => http("503 Service Unavailable", "", "{}"),
        4 => String::new(),
        5 => "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"ok\":tr".into(),
        6 => said(&json!({"ok": false, "error": "fatal_error"})),
        7 => http("200 OK", "", "<html>"),
        _ => said(&json!({"hello": 1})),
    })
    .await;
    let mut errors = Vec::new();
    for n in 1..=8 {
        errors.push(stand.slack.post(&message("C00000001")).await.unwrap_err());
        assert_eq!(stand.asked().len(), n);
    }
    assert!(
        matches!(&errors[0], SlackError::Refused { word, needed: Some(needed) } if word == "missing_scope" && needed == "chat:write")
    );
    assert!(matches!(&errors[1], SlackError::Credential { secret, .. } if secret == "SLACK"));
    for error in &errors[2..] {
        assert!(matches!(error, SlackError::Ambiguous { .. }), "{error:?}");
        assert!(!error.to_string().contains("xoxb"), "{error}");
    }
}

#[tokio::test]
async fn a_read_is_repeated_over_what_passes_and_a_new_token_is_read_at_once() {
    let stand = stand(|asked| match asked.len() {
        1 => http("500 Internal Server Error", "", "{}"),
        2 => String::new(),
        3 => said(&json!({"ok": true, "permalink": "https://x.slack.com/archives/C1/p1"})),
        _ => said(&json!({"ok": false, "error": "invalid_auth"})),
    })
    .await;
    let link = stand.slack.permalink("C1", "1.2").await.unwrap();
    assert_eq!(link, "https://x.slack.com/archives/C1/p1");
    assert_eq!(stand.lines(), vec!["GET /api/chat.getPermalink?channel=C1&message_ts=1.2"; 3]);
    std::fs::write(stand.folder.path().join("token"), "xoxb-second").unwrap();
    let error = stand.slack.permalink("C1", "1.2").await.unwrap_err();
    assert!(matches!(error, SlackError::Credential { .. }));
    let tokens: Vec<String> = stand.asked().into_iter().map(|asked| asked.token).collect();
    assert_eq!(tokens.last().unwrap(), "Bearer xoxb-second");
    assert!(tokens[..3].iter().all(|token| token == "Bearer xoxb-first"));
    std::fs::remove_file(stand.folder.path().join("token")).unwrap();
    assert!(matches!(stand.slack.permalink("C1", "1.2").await.unwrap_err(), SlackError::Missing { .. }));
}

#[tokio::test]
async fn a_channel_is_found_over_pages_and_kept_for_ten_minutes() {
    let stand = stand(|asked| {
        let line = &asked.last().unwrap().line;
        if line.contains("conversations.info") {
            return said(&json!({"ok": true, "channel": {"id": "C0PARTNERS", "name": "partners", "is_private": true, "is_ext_shared": true}}));
        }
        if line.contains("cursor=two") {
            return said(&json!({"ok": true, "channels": [{"id": "C00000002", "name": "api-oncall", "is_private": true, "is_member": true}]}));
        }
        said(&json!({"ok": true, "channels": [{"id": "C00000001", "name": "general", "is_member": true}],
            "response_metadata": {"next_cursor": "two"}}))
    })
    .await;
    let oncall = stand.slack.channel("#api-oncall").await.unwrap();
    assert_eq!(
        oncall,
        Channel { id: "C00000002".into(), name: "api-oncall".into(), is_private: true, is_member: true }
    );
    assert!(!stand.slack.channel("general").await.unwrap().is_private);
    assert_eq!(stand.slack.channel("C00000002").await.unwrap(), oncall);
    assert_eq!(stand.asked().len(), 2);
    // Private, but another organisation is in it.
    assert!(!stand.slack.channel("C0PARTNERS").await.unwrap().is_private);
    drop(stand.clock.sleep(KEPT));
    stand.slack.channel("general").await.unwrap();
    assert_eq!(stand.asked().len(), 4);
    let error = stand.slack.channel("gone").await.unwrap_err();
    assert!(matches!(error, SlackError::Refused { word, .. } if word == "channel_not_found"));
}

#[tokio::test]
async fn history_is_read_with_its_metadata_the_newest_first() {
    let stand = stand(|asked| {
        if asked.last().unwrap().line.contains("cursor=more") {
            return said(&json!({"ok": true, "messages": [{"ts": "1700000001.000100", "text": "old", "user": "U1",
                "blocks": [{"type": "of_the_future"}]}]}));
        }
        said(&json!({"ok": true, "has_more": true, "response_metadata": {"next_cursor": "more"}, "messages": [
            {"ts": "1700000002.000100", "text": "ours", "bot_id": "B1", "files": [{"name": "a.png"}],
             "metadata": {"event_type": "nightcrew_report", "event_payload": {"key": "k"}}}]}))
    })
    .await;
    let found = stand.slack.history("C1", None, Timestamp::UNIX_EPOCH, 10).await.unwrap();
    let texts: Vec<&str> = found.iter().map(|posted| posted.text.as_str()).collect();
    assert_eq!(texts, ["ours", "old"]);
    assert_eq!(found[0].metadata, Some(("nightcrew_report".into(), json!({"key": "k"}))));
    assert_eq!((found[0].files.as_slice(), found[0].bot_id.as_str()), (&["a.png".to_owned()][..], "B1"));
    stand.slack.history("C1", Some("1700000001.000100"), Timestamp::UNIX_EPOCH, 1).await.unwrap();
    let line = stand.lines().pop().unwrap();
    assert!(
        line.contains("/api/conversations.replies?channel=C1&ts=1700000001.000100&limit=1&include_all_metadata=true")
    );
}

#[tokio::test]
async fn a_file_goes_to_its_own_address_without_the_token_and_is_shown_in_the_thread() {
    let stand = stand(|asked| {
        let Asked { line, body, .. } = asked.last().unwrap();
        if line.contains("getUploadURLExternal") {
            assert!(line.contains("filename=chart.png") && line.contains("length=3"), "{line}");
            return said(&json!({"ok": true, "upload_url": "http://127.0.0.1:1/none", "file_id": "F1"}));
        }
        assert!(line.contains("completeUploadExternal"), "{line}");
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body, json!({"files": [{"id": "F1", "title": "T"}], "channel_id": "C1", "thread_ts": "1.2"}));
        said(&json!({"ok": true, "files": []}))
    })
    .await;
    let file = Upload {
        channel: "C1".into(),
        thread_ts: "1.2".into(),
        name: "chart.png".into(),
        title: "T".into(),
        alt: "A line".into(),
        media_type: "image/png",
        bytes: vec![1, 2, 3],
    };
    // Nobody listens there: nothing is shown.
    assert!(matches!(stand.slack.upload(&file).await.unwrap_err(), SlackError::Unavailable { .. }));
    assert!(!stand.lines().iter().any(|line| line.contains("completeUploadExternal")));
}

#[tokio::test]
async fn rights_are_what_the_header_lists() {
    let stand = stand(|_| {
        let body =
            json!({"ok": true, "user": "nightcrew", "user_id": "U9", "bot_id": "B1", "team": "Acme", "team_id": "T1"});
        http("200 OK", "x-oauth-scopes: chat:write,channels:read, files:write\r\n", &body.to_string())
    })
    .await;
    let rights = stand.slack.me().await.unwrap();
    assert_eq!((rights.bot_id.as_str(), rights.scopes.len()), ("B1", 3));
    assert_eq!(stand.slack.me().await.unwrap(), rights);
    assert_eq!(stand.lines(), ["POST /api/auth.test"]);
}

#[test]
fn without_a_place_for_a_token_it_says_what_to_write() {
    let error = Slack::of(&Outside::none(Env::system())).unwrap_err();
    assert!(matches!(error, SlackError::Missing { help, .. } if help.contains("bot_token")));
}
