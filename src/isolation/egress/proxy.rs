//! One connection of a confined command: what it asks for, whether it may have it, and the bytes to and fro.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Word;
use super::hosts::{Host, Rules, Target};
use super::machine::{Reach, Upstream};

/// The largest head of a request, or of an answer of the machine's own proxy.
const HEAD: usize = 32 << 10;
/// How long a head may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long resolving may take, and connecting to one address.
const CONNECT: Duration = Duration::from_secs(15);
/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(120);
/// What one command may fetch, and send: requests are small, so what sends more does something else.
const MOST_FETCHED: u64 = 16 << 30;
const MOST_SENT: u64 = 256 << 20;
/// How many refusals are kept.
const MOST_REFUSED: usize = 32;

/// What one command may reach, and what it was refused.
pub(super) struct Gate {
    pub rules: Rules,
    pub reach: Reach,
    pub secure: Option<Upstream>,
    pub plain: Option<Upstream>,
    refused: Mutex<BTreeSet<String>>,
    fetched: AtomicU64,
    sent: AtomicU64,
}

/// Why a request is not served: the status, and a line for whoever reads the client's error.
struct No(&'static str, String);

/// A request that was read: its first line and the other lines of its head, and what came behind it.
struct Head {
    method: String,
    target: String,
    lines: Vec<String>,
    rest: Vec<u8>,
}

impl Gate {
    pub(super) fn new(rules: Rules, reach: Reach) -> Result<Self, String> {
        let (secure, plain) = (reach.upstream(true)?, reach.upstream(false)?);
        let (fetched, sent) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { rules, reach, secure, plain, refused: Mutex::default(), fetched, sent })
    }

    /// What was refused so far: `host:port (why)`, by name.
    pub(super) fn refused(&self) -> Vec<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Serves one connection to its end. Cancel safe: dropped, it closes both sides.
    pub(super) async fn serve(&self, mut client: TcpStream, word: Option<Word>) {
        if let Some(word) = word {
            let mut said = Word::default();
            if !matches!(timeout(PATIENCE, client.read_exact(&mut said)).await, Ok(Ok(_))) || said != word {
                return;
            }
        }
        // A client or a server that goes away is its own business; the command sees it.
        let Ok(Ok(head)) = timeout(PATIENCE, read_head(&mut client)).await else { return };
        let answer = if head.method == "CONNECT" { self.tunnel(&head).await } else { self.fetch(&head).await };
        match answer {
            Ok((mut server, to_client, to_server)) => {
                if client.write_all(&to_client).await.is_err() || server.write_all(&to_server).await.is_err() {
                    return;
                }
                let tunnel = head.method == "CONNECT";
                drop(self.relay(client, server, tunnel).await);
            }
            Err(No(status, why)) => {
                // The reason stands in the first line as well: most clients show nothing else.
                let text = format!(
                    "HTTP/1.1 {status} {why}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{why}\n",
                    why.len() + 1
                );
                drop(timeout(PATIENCE, client.write_all(text.as_bytes())).await);
                drop(timeout(PATIENCE, client.shutdown()).await);
            }
        }
    }

    /// `CONNECT host:port`: answers with the connection, and what is to be said first to the client and to the server.
    async fn tunnel(&self, head: &Head) -> Result<(TcpStream, Vec<u8>, Vec<u8>), No> {
        let target = self.admit(&head.target, None)?;
        let established = b"HTTP/1.1 200 Connection established\r\n\r\n".to_vec();
        let Some(upstream) = self.through(&target, self.secure.as_ref()) else {
            return Ok((self.connect(&target).await?, established, head.rest.clone()));
        };
        let failed = |why: &str| No("502", format!("nightcrew: this machine's proxy {why}"));
        let mut stream = dial_upstream(upstream).await.map_err(|_| failed("cannot be reached"))?;
        let ask = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{}\r\n", credentials(upstream));
        let asked = async {
            stream.write_all(ask.as_bytes()).await?;
            read_head(&mut stream).await
        };
        let answer =
            timeout(PATIENCE, asked).await.ok().and_then(Result::ok).ok_or_else(|| failed("did not answer"))?;
        // Of `HTTP/1.1 200 …` the second word.
        if !answer.target.starts_with('2') {
            let status: String = answer.target.chars().filter(char::is_ascii_digit).take(3).collect();
            return Err(failed(&format!("refused {target} ({status})")));
        }
        Ok((stream, [established, answer.rest].concat(), head.rest.clone()))
    }

    /// `GET http://host/path`: one request, without a body, after which the connection is closed.
    async fn fetch(&self, head: &Head) -> Result<(TcpStream, Vec<u8>, Vec<u8>), No> {
        let no = |status, why: &str| No(status, format!("nightcrew: {why}"));
        if !["GET", "HEAD"].contains(&head.method.as_str()) {
            return Err(no("405", "only CONNECT, and GET and HEAD of http addresses"));
        }
        let rest = head.target.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://"));
        let rest = rest.and_then(|_| head.target.get(7..)).ok_or_else(|| no("400", "not an http address"))?;
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let target = self.admit(authority, Some(80))?;
        let mut lines = Vec::new();
        for line in &head.lines {
            let (name, value) = line.split_once(':').ok_or_else(|| no("400", "a header cannot be read"))?;
            match name.to_ascii_lowercase().as_str() {
                "content-length" if value.trim() == "0" => {}
                "content-length" | "transfer-encoding" => return Err(no("400", "a request with a body")),
                "host" | "connection" | "keep-alive" | "te" | "trailer" | "upgrade" | "expect" => {}
                name if name.starts_with("proxy-") => {}
                // No blank may stand before the colon, nor control characters anywhere.
                name if !name.is_empty()
                    && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) =>
                {
                    lines.push(format!("{line}\r\n"));
                }
                _ => return Err(no("400", "a header cannot be read")),
            }
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        // The host that was judged is the one that is asked for.
        let host = if target.port == 80 { target.host.to_string() } else { target.to_string() };
        let (stream, location, extra) = match self.through(&target, self.plain.as_ref()) {
            None => (self.connect(&target).await?, format!("{slash}{path}"), String::new()),
            Some(upstream) => {
                let stream = dial_upstream(upstream).await;
                let stream = stream.map_err(|_| no("502", "this machine's proxy cannot be reached"))?;
                (stream, format!("http://{host}{slash}{path}"), credentials(upstream))
            }
        };
        let request = format!(
            "{} {location} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{extra}{}\r\n",
            head.method,
            lines.concat()
        );
        Ok((stream, Vec::new(), request.into_bytes()))
    }

    /// The target if it is among the hosts.
    fn admit(&self, text: &str, port: Option<u16>) -> Result<Target, No> {
        let Some(target) = Target::parse(text, port) else {
            return Err(self.refuse("an address that cannot be read", "not a host and a port"));
        };
        match self.rules.most(&target) {
            Some(_) => Ok(target),
            None => Err(self.refuse(&target.to_string(), "not in network.setup")),
        }
    }

    fn refuse(&self, what: &str, why: &str) -> No {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() < MOST_REFUSED && refused.insert(format!("{what} ({why})")) {
            tracing::info!(host = what, why, "a sandbox was refused a connection");
        }
        No("403", format!("nightcrew refused {what} ({why})"))
    }

    /// The machine's proxy, where it is used for this target. It resolves the name itself, so that only the name was judged.
    fn through<'a>(&self, target: &Target, upstream: Option<&'a Upstream>) -> Option<&'a Upstream> {
        let here = self.rules.most(target) == Some(super::address::Place::Loopback);
        upstream.filter(|_| !here && !self.reach.direct(target))
    }

    /// Connects to the first address of the target that may be reached and answers. What is connected to is what was judged: the
    /// name is not resolved again.
    async fn connect(&self, target: &Target) -> Result<TcpStream, No> {
        let failed = |why: &str| No("502", format!("nightcrew: {target} {why}"));
        let addresses: Vec<IpAddr> = match &target.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => match self.reach.addresses.get(name) {
                Some(known) => known.clone(),
                None => {
                    let found = timeout(CONNECT, tokio::net::lookup_host((name.as_str(), target.port))).await;
                    let found = found.ok().and_then(Result::ok).ok_or_else(|| failed("cannot be resolved"))?;
                    found.map(|address| address.ip()).collect()
                }
            },
        };
        let most = self.rules.most(target).ok_or_else(|| self.refuse(&target.to_string(), "not in network.setup"))?;
        let (open, closed): (Vec<_>, Vec<_>) =
            addresses.into_iter().partition(|address| self.rules.lets(most, *address, target.port));
        if let (true, Some(address)) = (open.is_empty(), closed.first()) {
            return Err(self.refuse(&target.to_string(), &format!("{address} is not a public address")));
        }
        for address in open {
            if let Ok(Ok(stream)) = timeout(CONNECT, TcpStream::connect(SocketAddr::new(address, target.port))).await {
                drop(stream.set_nodelay(true));
                return Ok(stream);
            }
        }
        Err(failed("cannot be reached"))
    }

    /// Bytes in both directions until both have ended, one is too much, or nothing moves any more. But for a tunnel only those of the
    /// server: what a client says behind a request may be another, which nobody judged.
    async fn relay(&self, mut client: TcpStream, mut server: TcpStream, tunnel: bool) -> io::Result<()> {
        let moved = AtomicU64::new(0);
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let down = pour(&mut from_server, &mut to_client, &self.fetched, MOST_FETCHED, &moved);
        if !tunnel {
            return down.await;
        }
        let up = pour(&mut from_client, &mut to_server, &self.sent, MOST_SENT, &moved);
        tokio::try_join!(up, down).map(drop)
    }
}

async fn pour(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    total: &AtomicU64,
    most: u64,
    moved: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let before = moved.load(Ordering::Relaxed);
        let count = match timeout(IDLE, from.read(&mut buffer)).await {
            Ok(read) => read?,
            // Silent in this direction, but not in the other.
            Err(_) if moved.load(Ordering::Relaxed) != before => continue,
            Err(silent) => return Err(silent.into()),
        };
        if count == 0 {
            return to.shutdown().await;
        }
        if total.fetch_add(count as u64, Ordering::Relaxed) + count as u64 > most {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        timeout(IDLE, to.write_all(buffer.get(..count).unwrap_or_default())).await??;
        moved.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reads up to the empty line: a head of at most [`HEAD`] bytes whose lines hold no control characters.
async fn read_head(stream: &mut TcpStream) -> io::Result<Head> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let mut read = Vec::new();
    let end = loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if read.len() > HEAD || stream.read_buf(&mut read).await? == 0 {
            return Err(invalid());
        }
    };
    let rest = read.get(end + 4..).unwrap_or_default().to_vec();
    let text = std::str::from_utf8(read.get(..end).unwrap_or_default()).map_err(|_| invalid())?;
    let mut lines = text.split("\r\n").map(str::to_owned);
    let first = lines.next().ok_or_else(invalid)?;
    if text.replace("\r\n", "").chars().any(|c| c.is_control() && c != '\t') {
        return Err(invalid());
    }
    let mut words = first.split(' ').map(str::to_owned);
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Err(invalid()) };
    Ok(Head { method, target, lines: lines.collect(), rest })
}

async fn dial_upstream(upstream: &Upstream) -> io::Result<TcpStream> {
    let at = &upstream.at;
    match &at.host {
        Host::Address(address) => timeout(CONNECT, TcpStream::connect(SocketAddr::new(*address, at.port))).await?,
        Host::Name(name) => timeout(CONNECT, TcpStream::connect((name.as_str(), at.port))).await?,
    }
}

fn credentials(upstream: &Upstream) -> String {
    upstream.authorization.as_ref().map(|value| format!("Proxy-Authorization: {value}\r\n")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn what_is_too_much_does_not_pass() {
        let (mut far, mut from) = duplex(64);
        let (mut to, mut there) = duplex(64);
        far.write_all(&[1; 40]).await.unwrap();
        let (total, moved) = (AtomicU64::new(70), AtomicU64::new(0));
        let error = pour(&mut from, &mut to, &total, 100, &moved).await.unwrap_err();
        drop(to);
        assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
        assert_eq!(there.read(&mut [0; 64]).await.unwrap(), 0);
    }
}
