//! The holder's side of the control socket.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::protocol::{Line, MAX_LINE, Refusal, Reply, Request, VERSION};
use crate::base::BoxFuture;
use crate::base::scope::Scope;

/// Commands that are connected at the same time; the next one waits.
const MAX_CONNECTIONS: usize = 64;
/// A client that does not read its answer for this long is dropped.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Carries a request out and sends its replies. Runs to its end even when the client has gone.
pub type Handler = Arc<dyn Fn(Request, Replies) -> BoxFuture<'static, ()> + Send + Sync>;

/// Where the answer goes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Replies {
    sender: mpsc::Sender<Reply>,
    stopping: CancellationToken,
}

impl Replies {
    /// Hands one line to the client. A client that has gone is no error: what was asked is done all the same. Cancel safe.
    pub async fn send(&self, reply: Reply) {
        drop(self.sender.send(reply).await);
    }

    /// Resolves when nobody listens any more, or when the holder stops: a long answer should end. Cancel safe.
    pub async fn gone(&self) {
        tokio::select! {
            () = self.sender.closed() => {}
            () = self.stopping.cancelled() => {}
        }
    }
}

/// A bound socket. Only the holder of the journal's lock may bind it.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Binds `control.sock` in `state`, in place of one that a killed holder left. Needs a tokio runtime.
    pub fn bind(state: &Path) -> anyhow::Result<Self> {
        let path = super::socket_path(state);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing the stale socket {}", path.display()));
            }
            _ => {}
        }
        let (reachable, _folder) = super::reachable(state)?;
        let listener =
            UnixListener::bind(&reachable).with_context(|| format!("binding the control socket {}", path.display()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
            .with_context(|| format!("restricting {}", path.display()))?;
        Ok(Self { listener, path })
    }

    /// Answers in tasks of `scope` until it is closed; then the socket's file is removed.
    pub fn serve(self, scope: &Scope, handler: Handler) {
        let (tasks, stopping) = (scope.clone(), scope.token().clone());
        drop(scope.spawn("control socket", async move {
            let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
            loop {
                let accepted = tokio::select! {
                    () = stopping.cancelled() => break,
                    accepted = self.listener.accept() => accepted,
                };
                let stream = match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of file handles, most likely: others must close theirs first.
                        tracing::warn!(%error, "the control socket cannot accept");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        continue;
                    }
                };
                if !is_allowed(&stream) {
                    tracing::warn!("a process of another user knocked at the control socket and was turned away");
                    continue;
                }
                let place = tokio::select! {
                    () = stopping.cancelled() => break,
                    place = places.clone().acquire_owned() => place,
                };
                let (handler, stopping) = (handler.clone(), stopping.clone());
                drop(tasks.spawn("control connection", async move {
                    let _place = place;
                    if let Err(error) = converse(stream, handler, stopping).await {
                        tracing::debug!(%error, "a control connection broke");
                    }
                }));
            }
            if let Err(error) = std::fs::remove_file(&self.path) {
                tracing::debug!(%error, "the control socket's file was already gone");
            }
        }));
    }
}

/// The same user, or root. The file's mode says the same; this holds where a file system ignores modes.
fn is_allowed(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

/// Requests of one connection, one after the other.
async fn converse(stream: UnixStream, handler: Handler, stopping: CancellationToken) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut reader).take(MAX_LINE);
        let read = tokio::select! {
            () = stopping.cancelled() => return Ok(()),
            read = limited.read_until(b'\n', &mut line) => read?,
        };
        if read == 0 {
            return Ok(());
        }
        let request = match understand(&line) {
            Ok(request) => request,
            Err(refusal) => {
                write(&mut writer, Reply::Refused(refusal)).await?;
                return Ok(());
            }
        };
        let (sender, mut receiver) = mpsc::channel(64);
        let replies = Replies { sender, stopping: stopping.clone() };
        let work = handler(request, replies);
        let answer = async {
            // Moved in, so that the handler notices at once when the client has gone.
            let mut receiver = Some(&mut receiver);
            let mut broken = None;
            while let Some(open) = receiver.as_mut() {
                let reply = tokio::select! {
                    reply = open.recv() => reply,
                    // A second request before the first is answered waits in the buffer; an end of file is a client that left.
                    left = reader.fill_buf(), if reader.buffer().is_empty() => match left {
                        Ok([]) | Err(_) => { open.close(); None }
                        Ok(_) => continue,
                    },
                };
                let Some(reply) = reply else { break };
                if let Err(error) = write(&mut writer, reply).await {
                    open.close();
                    broken = Some(error);
                    receiver = None;
                }
            }
            broken
        };
        // The request is carried out to its end whatever becomes of its answer.
        let ((), broken) = tokio::join!(work, answer);
        if let Some(error) = broken {
            return Err(error);
        }
    }
}

fn understand(line: &[u8]) -> Result<Request, Refusal> {
    #[derive(serde::Deserialize)]
    struct Version {
        v: u32,
    }
    let garbage = |error: serde_json::Error| Refusal::new("E-REQUEST", format!("this is no request: {error}"));
    let Version { v } = serde_json::from_slice(line).map_err(garbage)?;
    if v != VERSION {
        let message = format!("the holder of this state directory speaks version {VERSION}, this command version {v}");
        return Err(Refusal::new("E-VERSION", message).help("use the same nightcrew binary as the daemon"));
    }
    serde_json::from_slice::<Line<Request>>(line).map(|line| line.body).map_err(garbage)
}

async fn write(writer: &mut tokio::net::unix::OwnedWriteHalf, reply: Reply) -> std::io::Result<()> {
    let mut text = serde_json::to_vec(&Line { v: VERSION, body: reply })?;
    text.push(b'\n');
    match tokio::time::timeout(WRITE_TIMEOUT, writer.write_all(&text)).await {
        Ok(written) => written,
        Err(_) => Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "the client does not read its answer")),
    }
}
