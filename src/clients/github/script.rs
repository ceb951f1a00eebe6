//! For tests: a server that does as it is told and counts, and a clock on which nobody waits.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::GitHub;
use crate::base::BoxFuture;
use crate::base::clock::{Clock, ManualClock};
use crate::base::env::Env;
use crate::base::ids::SystemIds;
use crate::base::secret::{SecretRef, SecretSource};
use crate::ports::service::{Outside, Service, Services, Shared};

pub(crate) const T0: &str = "2026-11-20T08:00:00Z";

/// Whoever sleeps has slept: time goes on by as much, and it is written down.
#[derive(Clone, Debug)]
pub(crate) struct Swift {
    pub clock: ManualClock,
    pub slept: Arc<Mutex<Vec<Duration>>>,
}

impl Clock for Swift {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.slept.lock().unwrap().push(duration);
        self.clock.advance(duration);
        Box::pin(async {})
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub method: String,
    pub path: String,
    pub authorization: String,
    pub body: Value,
    pub at: Timestamp,
}

#[derive(Clone)]
pub(crate) enum Reply {
    Json(u16, Vec<(&'static str, String)>, Value),
    /// The connection ends without a word.
    Cut,
    /// It ends in the middle of the answer.
    Half(u16),
    /// Whatever bytes.
    Text(u16, String),
    Never,
}

pub(crate) fn ok(body: Value) -> Reply {
    Reply::Json(200, Vec::new(), body)
}

pub(crate) fn no(status: u16, message: &str) -> Reply {
    Reply::Json(status, Vec::new(), json!({"message": message}))
}

/// A server that says what a function says of the request and of how many there were before it.
pub(crate) struct Server {
    pub address: String,
    pub asked: Arc<Mutex<Vec<Asked>>>,
    pub swift: Swift,
}

impl Server {
    pub fn new(script: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static) -> Self {
        let swift = Swift { clock: ManualClock::new(T0.parse().unwrap()), slept: Arc::default() };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (log, clock, script) = (asked.clone(), swift.clone(), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, clock, script) = (log.clone(), clock.clone(), script.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &log, &clock, &*script));
            }
        });
        Self { address, asked, swift }
    }

    pub fn outside(&self, service: Service) -> Outside {
        let mut service = service;
        service.settings.insert("api_url".into(), self.address.clone());
        let env = Env { clock: Arc::new(self.swift.clone()), ids: Arc::new(SystemIds) };
        Outside {
            services: Arc::new(Services { github: Some(service), ..Services::default() }),
            shared: Shared::default(),
            env,
        }
    }

    /// A client with a token in a file.
    pub fn client(&self, folder: &tempfile::TempDir) -> GitHub {
        let file = folder.path().join("token");
        if !file.exists() {
            std::fs::write(&file, "hunter2\n").unwrap();
        }
        GitHub::of(&self.outside(with_secret("token", file))).unwrap()
    }

    /// `METHOD path` of each request.
    pub fn lines(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|asked| format!("{} {}", asked.method, asked.path)).collect()
    }

    pub fn slept(&self) -> Vec<Duration> {
        self.swift.slept.lock().unwrap().clone()
    }
}

pub(crate) fn with_secret(key: &str, file: PathBuf) -> Service {
    let secret = SecretRef { name: "GITHUB".into(), source: SecretSource::Files(vec![file]) };
    Service { secrets: BTreeMap::from([(key.to_owned(), secret)]), ..Service::default() }
}

fn serve(stream: TcpStream, log: &Mutex<Vec<Asked>>, clock: &Swift, script: &dyn Fn(&Asked, usize) -> Reply) {
    let mut out = stream.try_clone().unwrap();
    let mut lines = BufReader::new(stream);
    loop {
        let mut first = String::new();
        if lines.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        let (mut length, mut authorization) = (0, String::new());
        loop {
            let mut line = String::new();
            lines.read_line(&mut line).unwrap();
            match line.trim().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().unwrap(),
                Some((name, value)) if name.eq_ignore_ascii_case("authorization") => authorization = value.to_owned(),
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; length];
        lines.read_exact(&mut body).unwrap();
        let body = serde_json::from_slice(&body).unwrap_or_default();
        let mut words = first.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let asked = Asked { method, path, authorization, body, at: clock.now() };
        let before = {
            let mut log = log.lock().unwrap();
            log.push(asked.clone());
            log.len() - 1
        };
        let head = |status: u16, length: usize| format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n");
        let sent = match script(&asked, before) {
            Reply::Cut => return,
            Reply::Never => {
                std::thread::sleep(Duration::from_secs(5));
                return;
            }
            Reply::Half(status) => {
                out.write_all(format!("{}\r\n{{\"number\": ", head(status, 100)).as_bytes()).unwrap();
                return;
            }
            Reply::Text(status, text) => out.write_all(format!("{}\r\n{text}", head(status, text.len())).as_bytes()),
            Reply::Json(status, headers, body) => {
                let text = body.to_string();
                let mut answer = head(status, text.len());
                headers.iter().for_each(|(name, value)| answer.push_str(&format!("{name}: {value}\r\n")));
                out.write_all(format!("{answer}\r\n{text}").as_bytes())
            }
        };
        sent.unwrap();
    }
}
