//! The sandbox server over HTTP, as a client meets it: one file per group of calls.
//!
//! [`Bench`] is a server in this process over a folder that goes away; [`Call`] is one request. What belongs here is what the protocol
//! says and what the server promises beyond it; how commands are confined is in `isolation/`.

mod attached;
mod chaos;
mod escape;
mod files;
mod lifecycle;
mod process;
mod list;
mod states;
mod streams;
mod templates;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};

use nightcrew::base::env::Env;
use nightcrew::base::scope::Scope;
use nightcrew::base::secret::Secret;
use nightcrew::clients::e2b::wire;
use nightcrew::isolation::Tier;
use nightcrew::sandboxd::{Server, Settings};

pub const KEY: &str = "e2b_0123456789abcdef";

/// A server that answers on loopback.
pub struct Bench {
    /// Held for its end.
    _directory: tempfile::TempDir,
    pub folder: PathBuf,
    pub server: Server,
    pub scope: Scope,
    pub url: String,
}

impl Bench {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// Held to a tier; `None` with the reason printed where this machine does not have it.
    pub async fn held_to(tier: Tier) -> Option<Self> {
        match Self::begin(|settings| settings.tier = Some(tier), Env::system()).await {
            Ok(bench) => Some(bench),
            Err(error) => {
                println!("skipped: {error:#}");
                None
            }
        }
    }

    /// With other settings than the usual.
    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::begin(change, Env::system()).await.unwrap()
    }

    /// With other settings and another clock.
    pub async fn begin(change: impl FnOnce(&mut Settings), env: Env) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir().unwrap();
        // The last tier gives commands a user of their own where the tests run as root: it must be able to get here.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(directory.path(), mode).unwrap();
        let folder = directory.path().canonicalize().unwrap().join("sandboxd");
        Self::over(directory, folder, change, env).await
    }

    /// Over a folder that is there already, as after a restart.
    pub async fn over(
        directory: tempfile::TempDir,
        folder: PathBuf,
        change: impl FnOnce(&mut Settings),
        env: Env,
    ) -> anyhow::Result<Self> {
        let mut settings = settings(&folder);
        change(&mut settings);
        let scope = Scope::new(tokio::runtime::Handle::current());
        let server = Server::begin(settings, env, scope.clone()).await?;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let serving = server.clone();
        drop(scope.spawn("http", async move { serving.serve(listener).await.unwrap() }));
        Ok(Self { _directory: directory, folder, server, scope, url })
    }

    /// A call of the control plane, with the key.
    pub fn call(&self, method: &str, path: &str) -> Call {
        Call::new(method, format!("{}{path}", self.url)).header("x-api-key", KEY)
    }

    /// A call of the in-sandbox daemon, as the SDKs address it.
    pub fn inside(&self, sandbox: &wire::Created, method: &str, path: &str) -> Call {
        Call::new(method, format!("{}{path}", self.url))
            .header("e2b-sandbox-id", &sandbox.sandbox_id)
            .header("e2b-sandbox-port", "49983")
            .header("x-access-token", sandbox.envd_access_token.as_deref().unwrap())
    }

    /// A sandbox from the usual template.
    pub async fn create(&self) -> wire::Created {
        self.create_with(json!({})).await
    }

    /// A sandbox; `more` is added to the request.
    pub async fn create_with(&self, more: Value) -> wire::Created {
        let mut body = json!({"templateID": "base", "timeout": 300});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = self.call("POST", "/v2/sandboxes").json(&body).send().await;
        assert_eq!(answer.status, 201, "{answer:?}");
        serde_json::from_value(answer.json()).unwrap()
    }

    /// What `GET /sandboxes/{id}` says, if there is such a sandbox.
    pub async fn info(&self, id: &str) -> Option<wire::Info> {
        let answer = self.call("GET", &format!("/sandboxes/{id}")).send().await;
        match answer.status {
            200 => Some(serde_json::from_value(answer.json()).unwrap()),
            404 => None,
            _ => panic!("{answer:?}"),
        }
    }

    /// The folder of one sandbox on the host.
    pub fn folder_of(&self, id: &str) -> Option<PathBuf> {
        find(&self.folder, id)
    }

    /// Ends the server; nothing of any sandbox may be left. Answers the directory, for a server after it.
    pub async fn close(self) -> tempfile::TempDir {
        self.server.close().await;
        assert_eq!(self.scope.close(Duration::from_secs(30)).await, Vec::<String>::new(), "tasks that do not end");
        let left: Vec<_> = sandbox_folders(&self.folder);
        assert!(left.is_empty(), "folders of sandboxes stay behind: {left:?}");
        self._directory
    }
}

/// The settings of a server over `folder`.
pub fn settings(folder: &Path) -> Settings {
    let mut settings = Settings::new(folder, Secret::new(KEY));
    settings.program = Some(env!("CARGO_BIN_EXE_nightcrew").into());
    settings
}

/// Folders of sandboxes below the folder of a server, which are called by their ids.
pub fn sandbox_folders(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(folder, &mut |path| {
        let name = path.file_name().unwrap().to_string_lossy();
        let ours = name.len() > 20 && name.starts_with('i') && name.chars().all(|c| c.is_ascii_alphanumeric());
        if ours {
            found.push(path.to_owned());
        }
        !ours
    });
    found
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    sandbox_folders(folder).into_iter().find(|path| path.ends_with(name))
}

/// Goes through folders for as long as `into` says so. What vanishes meanwhile is none.
fn walk(folder: &Path, into: &mut dyn FnMut(&Path) -> bool) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && into(&entry.path()) {
            walk(&entry.path(), into);
        }
    }
}

/// Waits until something is so, and fails after a time that no machine needs.
pub async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    for _ in 0..3000 {
        if so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited in vain: {what}");
}

/// One request.
pub struct Call {
    request: reqwest::RequestBuilder,
}

/// Its answer, whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

/// No proxy of this machine, whatever its variables say.
fn client() -> &'static reqwest::Client {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    CLIENT.get_or_init(|| {
        nightcrew::clients::install_tls();
        // Each test has a runtime of its own, and a connection belongs to one.
        reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap()
    })
}

impl Call {
    pub fn new(method: &str, url: String) -> Self {
        Self { request: client().request(method.parse().unwrap(), url) }
    }

    pub fn header(self, name: &str, value: &str) -> Self {
        Self { request: self.request.header(name, value) }
    }

    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    pub fn body(self, body: impl Into<reqwest::Body>) -> Self {
        Self { request: self.request.body(body) }
    }

    /// One message of a Connect stream as its body (`Start`, `Connect`, `WatchDir`).
    pub fn message(self, message: &Value) -> Self {
        self.header("content-type", "application/connect+json")
            .header("connect-protocol-version", "1")
            .body(wire::frame(0, message.to_string().as_bytes()))
    }

    /// The answer as it comes, for streams.
    pub async fn open(self) -> reqwest::Response {
        self.request.send().await.unwrap()
    }

    /// Sends what cannot be sent to its end.
    pub async fn fails(self) {
        self.request.send().await.unwrap_err();
    }

    pub async fn send(self) -> Answer {
        let response = self.open().await;
        let headers = response.headers().iter();
        let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
        Answer { status: response.status().as_u16(), headers, body: response.bytes().await.unwrap().to_vec() }
    }
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The frames of a Connect stream: flag and JSON.
    #[track_caller]
    pub fn frames(&self) -> Vec<(u8, Value)> {
        let (mut rest, mut frames) = (&self.body[..], Vec::new());
        while let Some((head, after)) = rest.split_at_checked(5) {
            let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
            let (message, after) = after.split_at_checked(length).expect("a whole frame");
            frames.push((head[0], serde_json::from_slice(message).unwrap()));
            rest = after;
        }
        assert!(rest.is_empty(), "{rest:?} after the last frame");
        frames
    }
}
