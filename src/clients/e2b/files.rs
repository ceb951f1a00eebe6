//! Files of a sandbox.

use std::path::Path;
use std::time::Duration;

use reqwest::{Method, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::clients::http::Answer;

use super::Envd;
use super::call::{Payload, Plan, Resend, Wait};
use super::envd::REQUEST_TIMEOUT;
use super::error::{Error, Plane};
use super::wire::{Entry, Nothing};

/// No byte of a download for this long: the connection is dead. As E2B's clients have it.
const IDLE: Duration = Duration::from_secs(60);
/// What every upload reaches; slower is taken for stuck.
const SLOWEST_BYTES_PER_S: u64 = 128 * 1024;
const OCTETS: &str = "application/octet-stream";

/// A file that is coming.
#[derive(Debug)]
pub struct Download {
    answer: Answer,
}

impl Download {
    /// Appends the next piece; `false` at its end. Cancel safe.
    pub async fn more(&mut self, into: &mut Vec<u8>) -> Result<bool, Error> {
        self.answer.more(into).await.map_err(Error::from)
    }
}

#[derive(Serialize)]
struct At<'a> {
    path: &'a str,
}

#[derive(Deserialize)]
struct One {
    entry: Entry,
}

#[derive(Deserialize)]
struct Many {
    #[serde(default)]
    entries: Vec<Entry>,
}

impl Envd {
    /// A file, whole.
    ///
    /// Errors: `NotFound`; `TooLarge` where it has more than `cap_bytes`; `Rejected` where it is no file.
    pub async fn read(&self, path: &str, cap_bytes: usize) -> Result<Vec<u8>, Error> {
        match self.downloader()?.whole(self.download(path, cap_bytes)?).await {
            Ok(reply) => Ok(reply.body),
            Err(error) => Err(self.explain(error).await),
        }
    }

    /// A file as it comes, of any length.
    pub async fn open(&self, path: &str) -> Result<Download, Error> {
        match self.downloader()?.opened(self.download(path, usize::MAX)?).await {
            Ok(answer) => Ok(Download { answer }),
            Err(error) => Err(self.explain(error).await),
        }
    }

    fn download(&self, path: &str, cap_bytes: usize) -> Result<Plan<'_>, Error> {
        Ok(Plan {
            plane: Plane::Sandbox,
            resend: Resend::Safe,
            method: Method::GET,
            url: self.files_url(Some(path))?,
            headers: self.headers(),
            auth: self.auth(),
            body: Payload::None,
            wait: Wait::Stream { head: REQUEST_TIMEOUT, idle: IDLE },
            cap_bytes,
        })
    }

    fn files_url(&self, path: Option<&str>) -> Result<Url, Error> {
        let mut url = self.url(&["files"])?;
        let pairs = [("path", path), ("username", self.user())];
        let pairs = pairs.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let mut query = url.query_pairs_mut();
        pairs.for_each(|(name, value)| {
            query.append_pair(name, value);
        });
        drop(query);
        Ok(url)
    }

    /// Makes or replaces a file, and the folders above it.
    pub async fn write(&self, path: &str, bytes: &[u8]) -> Result<(), Error> {
        self.write_many(&[(path, bytes)]).await
    }

    /// Makes or replaces many files, in one request.
    pub async fn write_many(&self, files: &[(&str, &[u8])]) -> Result<(), Error> {
        // In a part's head some characters cannot stand as they are, and the other side does not decode them.
        let odd = |path: &str| path.contains(['"', '\\']) || path.contains(char::is_control);
        let (alone, together): (Vec<_>, Vec<_>) = files.iter().partition(|(path, _)| odd(path));
        if !together.is_empty() {
            self.write_parts(&together).await?;
        }
        for file in alone {
            self.write_parts(&[file]).await?;
        }
        Ok(())
    }

    async fn write_parts(&self, files: &[(&str, &[u8])]) -> Result<(), Error> {
        let boundary = format!("nightcrew-{:032x}", self.caller.env.ids.random());
        let bytes: usize = files.iter().map(|(path, bytes)| path.len() + bytes.len() + 200).sum();
        let mut body = Vec::with_capacity(bytes);
        for (path, content) in files {
            let shown: String =
                path.chars().map(|c| if c.is_control() || c == '"' || c == '\\' { '_' } else { c }).collect();
            body.extend_from_slice(
                format!(
                    "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{shown}\"\r\n\
                     Content-Type: {OCTETS}\r\n\r\n"
                )
                .as_bytes(),
            );
            body.extend_from_slice(content);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
        let path = if let [(path, _)] = files { Some(*path) } else { None };
        let length = body.len() as u64;
        self.put(path, format!("multipart/form-data; boundary={boundary}"), body.into(), length).await
    }

    /// Makes or replaces a file with what a local file holds, read as it is sent. Not sent twice.
    pub async fn write_file(&self, path: &str, local: &Path) -> Result<(), Error> {
        let file = tokio::fs::File::open(local).await.map_err(Error::Read)?;
        let length = file.metadata().await.map_err(Error::Read)?.len();
        self.put(Some(path), OCTETS.to_owned(), Payload::Once(file.into()), length).await
    }

    async fn put(&self, path: Option<&str>, content_type: String, body: Payload, length: u64) -> Result<(), Error> {
        let mut headers = self.headers();
        headers.push(("content-type".into(), content_type.into()));
        let plan = Plan {
            plane: Plane::Sandbox,
            resend: Resend::Safe,
            method: Method::POST,
            url: self.files_url(path)?,
            headers,
            auth: self.auth(),
            body,
            wait: Wait::Whole(REQUEST_TIMEOUT + Duration::from_secs(length / SLOWEST_BYTES_PER_S)),
            cap_bytes: super::call::ANSWER_CAP,
        };
        match self.caller.whole(plan).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.explain(error).await),
        }
    }

    /// What stands at `path`, links not followed.
    pub async fn stat(&self, path: &str) -> Result<Entry, Error> {
        self.filesystem::<One>("Stat", &At { path }, Resend::Safe).await.map(|one| one.entry)
    }

    /// What is in a folder, and in those below it down to `depth` (at least 1).
    pub async fn list_dir(&self, path: &str, depth: u32) -> Result<Vec<Entry>, Error> {
        #[derive(Serialize)]
        struct Body<'a> {
            path: &'a str,
            depth: u32,
        }
        let body = Body { path, depth: depth.max(1) };
        self.filesystem::<Many>("ListDir", &body, Resend::Safe).await.map(|many| many.entries)
    }

    /// Makes a folder and those above it. `false`: it was there.
    pub async fn make_dir(&self, path: &str) -> Result<bool, Error> {
        match self.filesystem::<Nothing>("MakeDir", &At { path }, Resend::Safe).await {
            Ok(_) => Ok(true),
            Err(Error::Rejected { status: 409, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a file, or a folder with all in it.
    pub async fn remove(&self, path: &str) -> Result<(), Error> {
        self.filesystem::<Nothing>("Remove", &At { path }, Resend::Safe).await.map(drop)
    }

    pub async fn rename(&self, source: &str, destination: &str) -> Result<Entry, Error> {
        #[derive(Serialize)]
        struct Body<'a> {
            source: &'a str,
            destination: &'a str,
        }
        let body = Body { source, destination };
        self.filesystem::<One>("Move", &body, Resend::Asked).await.map(|one| one.entry)
    }

    async fn filesystem<T: DeserializeOwned>(
        &self,
        method: &str,
        body: &impl Serialize,
        resend: Resend,
    ) -> Result<T, Error> {
        self.rpc("filesystem.Filesystem", method, body, resend).await
    }
}
