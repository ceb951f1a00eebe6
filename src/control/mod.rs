//! The control socket: how commands reach whoever holds a state directory.
//!
//! A Unix socket `control.sock` in the state directory, mode 0600, and the peer's user id is checked as well. One line of JSON
//! asks, one or more lines of JSON answer. What a verb does is the daemon's business; here are only the words ([`Request`],
//! [`Reply`]), the holder's side ([`Server`]) and the commands' side ([`Client`]).
//!
//! Invariants: only the holder of the journal's lock binds the socket, so a file that is already there is stale and may be
//! removed; no line longer than [`MAX_LINE`] is read; a connection that says nothing sensible is answered and closed.

mod client;
mod protocol;
mod server;

pub use client::{Client, Error};
pub use protocol::{MAX_LINE, Refusal, Reply, Request, RunRequest, Status, VERSION};
pub use server::{Handler, Replies, Server};

use std::path::{Path, PathBuf};

/// The socket of a state directory.
pub fn socket_path(state: &Path) -> PathBuf {
    state.join("control.sock")
}

/// A path that fits into a socket address (108 bytes on Linux). A longer one is reached through an open handle of its
/// folder, which must be kept until the socket is bound or connected.
fn reachable(state: &Path) -> std::io::Result<(PathBuf, Option<std::fs::File>)> {
    let path = socket_path(state);
    if path.as_os_str().len() < 100 {
        return Ok((path, None));
    }
    use std::os::fd::AsRawFd as _;
    let folder = std::fs::File::open(state)?;
    Ok((PathBuf::from(format!("/proc/self/fd/{}/control.sock", folder.as_raw_fd())), Some(folder)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

    use super::*;
    use crate::base::ids::RunId;
    use crate::base::scope::Scope;
    use crate::domain::run::Outcome;

    fn handler() -> Handler {
        Arc::new(|request, replies: Replies| {
            Box::pin(async move {
                match request {
                    Request::Wait { run } => {
                        replies.send(Reply::Text { run, path: "why".into(), text: "…".into() }).await;
                        replies.send(Reply::Ended { outcome: Some(Outcome::Reported) }).await;
                    }
                    _ => replies.send(Reply::Refused(Refusal::new("E-TEST", "no"))).await,
                }
            })
        })
    }

    #[tokio::test]
    async fn a_command_asks_and_the_holder_answers_until_it_is_done() {
        let state = tempfile::tempdir().unwrap();
        assert!(Client::connect(state.path()).await.unwrap().is_none(), "nobody holds it yet");
        // What a killed holder leaves behind.
        drop(std::os::unix::net::UnixListener::bind(socket_path(state.path())).unwrap());
        assert!(Client::connect(state.path()).await.unwrap().is_none(), "a stale socket is nobody");

        let scope = Scope::new(tokio::runtime::Handle::current());
        Server::bind(state.path()).unwrap().serve(&scope, handler());
        let mut client = Client::connect(state.path()).await.unwrap().expect("a holder");
        let run = RunId("01JD".into());
        let first = client.ask(&Request::Wait { run: run.clone() }).await.unwrap();
        assert_eq!(first, Reply::Text { run, path: "why".into(), text: "…".into() });
        assert_eq!(client.next().await.unwrap(), Reply::Ended { outcome: Some(Outcome::Reported) });
        assert!(matches!(client.ask(&Request::Status).await, Err(Error::Refused(r)) if r.code == "E-TEST"));
        assert!(scope.close(Duration::from_secs(5)).await.is_empty());
        assert!(!socket_path(state.path()).exists(), "the socket goes with its holder");
    }

    #[tokio::test]
    async fn another_version_and_garbage_are_answered_not_obeyed() {
        let state = tempfile::tempdir().unwrap();
        let scope = Scope::new(tokio::runtime::Handle::current());
        Server::bind(state.path()).unwrap().serve(&scope, handler());
        for (line, code) in [("{\"v\":99,\"verb\":\"status\"}\n", "E-VERSION"), ("hello\n", "E-REQUEST")] {
            let mut stream = tokio::net::UnixStream::connect(socket_path(state.path())).await.unwrap();
            stream.write_all(line.as_bytes()).await.unwrap();
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer).await.unwrap();
            assert!(answer.contains(code), "{answer}");
        }
        assert!(scope.close(Duration::from_secs(5)).await.is_empty());
    }

    #[tokio::test]
    async fn a_state_directory_with_a_long_name_has_a_socket_too() {
        let state = tempfile::tempdir().unwrap();
        let deep = state.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let scope = Scope::new(tokio::runtime::Handle::current());
        Server::bind(&deep).unwrap().serve(&scope, handler());
        assert!(Client::connect(&deep).await.unwrap().is_some());
        assert!(scope.close(Duration::from_secs(5)).await.is_empty());
    }
}
