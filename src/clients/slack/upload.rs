//! Files: Slack hands out an address, the bytes go there, and a last call puts the file into a thread. Only that one shows.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use super::{Slack, SlackError};
use crate::clients::http::{self, Auth, Call, Limits};

/// Sending the bytes at most.
const TIMEOUT: Duration = Duration::from_secs(60);
/// What the server says of them.
const SAID_CAP: usize = 64 * 1024;

/// A file to show in a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// A channel's id.
    pub channel: String,
    pub thread_ts: String,
    /// By which it is found again in the thread.
    pub name: String,
    pub title: String,
    /// The picture in words.
    pub alt: String,
    pub media_type: &'static str,
    pub bytes: Vec<u8>,
}

impl Slack {
    /// Uploads it and shows it in the thread; its id. Everything before the last call shows nowhere and may be repeated.
    ///
    /// Errors: `Ambiguous` when it may be shown. Not cancel safe.
    pub async fn upload(&self, file: &Upload) -> Result<String, SlackError> {
        let params = [
            ("filename", Some(file.name.clone())),
            ("length", Some(file.bytes.len().to_string())),
            ("alt_txt", Some(file.alt.chars().take(1_000).collect())),
        ];
        let place = self.read("files.getUploadURLExternal", &params).await?;
        let (Some(url), Some(id)) = (place["upload_url"].as_str(), place["file_id"].as_str()) else {
            return Err(unavailable("it names no address for the file"));
        };
        self.send_bytes(url, file).await?;
        let body = json!({
            "files": [{"id": id, "title": file.title}],
            "channel_id": file.channel,
            "thread_ts": file.thread_ts,
        });
        self.write("files.completeUploadExternal", Some(&file.channel), &body).await?;
        Ok(id.to_owned())
    }

    /// The address is a capability of its own: the token does not go there.
    async fn send_bytes(&self, url: &str, file: &Upload) -> Result<(), SlackError> {
        let target = http::parse_url(url).map_err(|error| unavailable(&error.to_string()))?;
        let own = http::parse_url(&self.inner.wire.url).map_err(|error| unavailable(&error.to_string()))?;
        if own.scheme() == "https" && target.scheme() != "https" {
            return Err(unavailable("it names an address for the file without TLS"));
        }
        let call = Call {
            method: Method::POST,
            url: target,
            headers: vec![("content-type".into(), file.media_type.into())],
            auth: Auth::None,
            body: Some(file.bytes.clone().into()),
            limits: Limits { idle: TIMEOUT, total: TIMEOUT, cap_bytes: SAID_CAP },
        };
        let mut answer =
            self.inner.wire.plain.send(call).await.map_err(|error| unavailable(&format!("the file: {error}")))?;
        let mut said = Vec::new();
        loop {
            match answer.more(&mut said).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return Err(unavailable(&format!("the file: {error}"))),
            }
        }
        match answer.status {
            200..=299 => Ok(()),
            status => Err(unavailable(&format!("the file was not taken: HTTP {status}"))),
        }
    }
}

fn unavailable(message: &str) -> SlackError {
    SlackError::Unavailable { message: message.to_owned(), after: None }
}
