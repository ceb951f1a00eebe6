//! The commands' side of the control socket.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::protocol::{Line, MAX_LINE, Refusal, Reply, Request, VERSION};

/// The holder answers a request within this, or says nothing sensible any more. Waiting for a run has no such limit.
const ANSWER: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The holder said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the control socket `{}` cannot be reached", path.display())]
    Connect { path: PathBuf, source: std::io::Error },
    /// It went away in the middle: stopped, or killed.
    #[error("the daemon closed the connection")]
    Closed,
    #[error("the daemon does not answer")]
    Silent,
    #[error("the daemon's answer makes no sense")]
    Garbage(#[source] serde_json::Error),
}

/// A connection to the holder of a state directory.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to whoever holds `state`; `None` when nobody does (no socket, or a stale one).
    pub async fn connect(state: &Path) -> Result<Option<Self>, Error> {
        let (path, _folder) = match super::reachable(state) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Connect { path: super::socket_path(state), source }),
        };
        match UnixStream::connect(path).await {
            Ok(stream) => Ok(Some(Self { stream: BufReader::new(stream) })),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
            Err(source) => Err(Error::Connect { path: super::socket_path(state), source }),
        }
    }

    /// Sends a request and returns the first reply; a refusal is an error. Not cancel safe: what was asked happens.
    pub async fn ask(&mut self, request: &Request) -> Result<Reply, Error> {
        let endless = matches!(request, Request::Wait { .. } | Request::Live { .. });
        self.send(request).await?;
        if endless {
            return self.next().await;
        }
        tokio::time::timeout(ANSWER, self.next()).await.map_err(|_| Error::Silent)?
    }

    /// Sends a request whose replies are taken with [`Client::next`]. Not cancel safe.
    pub async fn send(&mut self, request: &Request) -> Result<(), Error> {
        let mut text = serde_json::to_vec(&Line { v: VERSION, body: request }).map_err(Error::Garbage)?;
        text.push(b'\n');
        self.stream.get_mut().write_all(&text).await.map_err(|_| Error::Closed)
    }

    /// The next reply of a request that has several. Not cancel safe: half a line may be lost.
    pub async fn next(&mut self) -> Result<Reply, Error> {
        let mut line = Vec::new();
        let read = (&mut self.stream).take(MAX_LINE).read_until(b'\n', &mut line).await;
        match read {
            Ok(0) | Err(_) => Err(Error::Closed),
            Ok(_) => match serde_json::from_slice::<Line<Reply>>(&line).map_err(Error::Garbage)?.body {
                Reply::Refused(refusal) => Err(Error::Refused(refusal)),
                reply => Ok(reply),
            },
        }
    }
}
