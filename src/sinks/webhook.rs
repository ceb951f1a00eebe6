//! A signed webhook out: `sinks: {ops_hook: {webhook: "https://…", secret: secret:NAME}}`. The report as it is, as Markdown, and the
//! key of its delivery.
//!
//! Whether it arrived cannot be looked up, so it is sent again while that is not known, under an id made of the key and the
//! content: the receiver takes each id once. A report that changed (a capped run that went on) has the same key and another id.

use std::sync::Arc;

use serde_json::json;

use super::markdown;
use crate::base::BoxFuture;
use crate::base::hash::Hash;
use crate::base::secret::SecretRef;
use crate::clients::credentials::CredentialError;
use crate::clients::webhook::{self, WebhookError};
use crate::domain::activity::{Delivery, Receipt};
use crate::ports::service::Outside;
use crate::ports::sink::{Earlier, Sink, SinkError, SinkKind, SinkSetup};

pub const KIND: SinkKind = SinkKind { name: "webhook", summary: "a signed webhook to an address", make: Some(make) };

fn make(setup: &SinkSetup) -> Arc<dyn Sink> {
    let (url, secret) = (setup.target.clone(), setup.secret.clone());
    Arc::new(Webhook { url, secret, outside: setup.outside.clone() })
}

struct Webhook {
    url: Option<String>,
    secret: Option<SecretRef>,
    outside: Outside,
}

impl Sink for Webhook {
    fn deliver<'a>(&'a self, delivery: &'a Delivery, earlier: Earlier) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            let (Some(url), Some(secret)) = (&self.url, &self.secret) else {
                return Err(SinkError::Missing {
                    message: "the webhook has no address or no secret".into(),
                    help: "write `sinks: {NAME: {webhook: \"https://…\", secret: secret:NAME}}`".into(),
                });
            };
            let (id, body) = message(delivery);
            webhook::send(url, secret, &id, body, &self.outside).await.map_err(|error| refusal(error, secret))?;
            Ok(Receipt {
                kind: "report".into(),
                destination: "webhook".into(),
                // Of the address only what is no secret.
                url_or_path: format!("{} ({id})", place(url)),
                key: delivery.key.clone(),
                found: earlier == Earlier::Unknown,
            })
        })
    }
}

/// The id and the body, which are the same whenever the report is.
fn message(delivery: &Delivery) -> (String, Vec<u8>) {
    let report = &delivery.report;
    let body = json!({
        "type": "nightcrew.report",
        "key": delivery.key,
        "channel": delivery.channel,
        "headline": report.headline,
        "markdown": markdown::render(report),
        "report": report,
    });
    let body = body.to_string().into_bytes();
    let id = Hash::of_parts([delivery.key.as_bytes(), &body]).to_string();
    (format!("msg_{}", &id[..32]), body)
}

/// Scheme and host.
fn place(url: &str) -> &str {
    let from = url.find("://").map_or(0, |at| at + 3);
    url[from..].find(['/', '?', '#']).map_or(url, |at| &url[..from + at])
}

fn refusal(error: WebhookError, secret: &SecretRef) -> SinkError {
    let message = error.to_string();
    match error {
        WebhookError::Refused { .. } | WebhookError::Credential(CredentialError::Refused(_)) => SinkError::Credential {
            secret: secret.name.clone(),
            message,
            help: format!(
                "give both sides the same secret; the runs that wait for `{}` go on by themselves",
                secret.name
            ),
        },
        WebhookError::Credential(CredentialError::Secret(_)) => {
            SinkError::Missing { message, help: "supply it where `secrets:` says".into() }
        }
        WebhookError::Request(_) => SinkError::Missing { message, help: "correct the address under `sinks:`".into() },
        WebhookError::Status { .. } => SinkError::Refused { message, help: "see what the receiver says".into() },
        WebhookError::Unavailable { after, .. } => SinkError::Unavailable { message, after },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::env::Env;
    use crate::base::secret::SecretSource;
    use crate::sinks::sample;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn delivery() -> Delivery {
        Delivery {
            sink: "ops_hook".into(),
            channel: Some("ops".into()),
            report: Box::new(sample::report()),
            key: "r/post/ops_hook".into(),
            thread: Default::default(),
        }
    }

    /// Answers with these status lines, one connection each; gives back the heads and bodies that came.
    async fn receive(listener: &tokio::net::TcpListener, answers: &[&str]) -> Vec<(String, String)> {
        let mut received = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            let (head, body) = loop {
                stream.read_buf(&mut request).await.unwrap();
                let text = String::from_utf8_lossy(&request).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = head.to_ascii_lowercase().split("content-length: ").nth(1).unwrap().to_owned();
                if body.len() >= length.split("\r\n").next().unwrap().parse::<usize>().unwrap() {
                    break (head.to_owned(), body.to_owned());
                }
            };
            let reply = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(reply.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            received.push((head, body));
        }
        received
    }

    async fn deliver(answers: &[&str]) -> (Result<Receipt, SinkError>, Vec<(String, String)>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("hook"), "hunter2").unwrap();
        let secret = SecretRef { name: "HOOK".into(), source: SecretSource::Files(vec![folder.path().join("hook")]) };
        let setup = SinkSetup {
            target: Some(format!("http://{}/in/token?x=1", listener.local_addr().unwrap())),
            secret: Some(secret),
            ..SinkSetup::local(folder.path(), Outside::none(Env::system()))
        };
        let (sink, delivery) = (make(&setup), delivery());
        tokio::join!(sink.deliver(&delivery, Earlier::None), receive(&listener, answers))
    }

    fn header<'a>(head: &'a str, name: &str) -> &'a str {
        head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap()
    }

    #[tokio::test]
    async fn it_is_sent_again_under_the_same_id_until_it_is_taken() {
        let (receipt, received) = deliver(&["503 Service Unavailable", "200 OK"]).await;
        let receipt = receipt.unwrap();
        let ids: Vec<&str> = received.iter().map(|(head, _)| header(head, "webhook-id")).collect();
        assert_eq!((ids[0], &received[0].1), (ids[1], &received[1].1));
        assert!(receipt.url_or_path.ends_with(&format!(" ({})", ids[0])) && !receipt.url_or_path.contains("token"));
        assert!(received[0].0.starts_with("POST /in/token?x=1 HTTP/1.1"));
        let body: serde_json::Value = serde_json::from_str(&received[1].1).unwrap();
        assert_eq!((body["type"].as_str(), body["key"].as_str()), (Some("nightcrew.report"), Some("r/post/ops_hook")));
        assert!(body["markdown"].as_str().unwrap().starts_with("# Sign-ups fell"));
        assert_eq!(body["report"]["pipeline"], "analytics-report");
    }

    #[tokio::test]
    async fn what_the_receiver_refuses_is_not_sent_again() {
        for (answer, expected) in [
            ("410 Gone", "the receiver answers HTTP 410: "),
            ("307 Temporary Redirect\r\nlocation: /elsewhere", "the receiver answers HTTP 307: "),
        ] {
            let (error, received) = deliver(&[answer]).await;
            let error = error.unwrap_err();
            assert!(matches!(error, SinkError::Refused { .. }) && received.len() == 1);
            assert_eq!(error.to_string(), expected);
        }
        let (error, _) = deliver(&["401 Unauthorized"]).await;
        assert!(matches!(error.unwrap_err(), SinkError::Credential { secret, .. } if secret == "HOOK"));
    }

    #[test]
    fn a_changed_report_has_the_same_key_and_another_id() {
        let (one, again) = (message(&delivery()), message(&delivery()));
        assert_eq!(one, again);
        let mut changed = delivery();
        changed.report.headline = "other".into();
        assert_ne!(message(&changed).0, one.0);
        assert_eq!(place("https://h:1/a/b"), "https://h:1");
        assert_eq!(place("https://h?x"), "https://h");
    }
}
