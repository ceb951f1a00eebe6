//! Messages of E2B's control plane and of its in-sandbox daemon, as JSON. Plain data for both ends of the wire.
//!
//! What neither of our ends reads is left out; readers take no offence at fields that they do not know.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The version of the in-sandbox daemon that we speak, and that our server says it is.
pub const ENVD_VERSION: &str = "0.6.4";
/// The port of the in-sandbox daemon.
pub const ENVD_PORT: u16 = 49_983;

/// `POST /v2/sandboxes`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewSandbox {
    #[serde(rename = "templateID")]
    pub template_id: String,
    /// Seconds from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_pause: Option<bool>,
    #[serde(default, rename = "allow_internet_access", skip_serializing_if = "Option::is_none")]
    pub allow_internet_access: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env_vars: BTreeMap<String, String>,
}

/// What a sandbox may reach.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Hosts, addresses and ranges; they win over `deny_out`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_out: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny_out: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_public_traffic: Option<bool>,
    /// What else was said, for the server to refuse by name: `rules`, `egressProxy`, `maskRequestHost`.
    #[serde(flatten)]
    pub more: More,
}

/// Settings that neither our client sends nor our server has. `Debug` shows their names alone: a proxy's address may hold a password.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct More(pub BTreeMap<String, serde_json::Value>);

impl std::fmt::Debug for More {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A sandbox as `create` and `connect` answer. `Debug` shows no token.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Created {
    #[serde(rename = "templateID")]
    pub template_id: String,
    #[serde(rename = "sandboxID")]
    pub sandbox_id: String,
    #[serde(rename = "clientID", default)]
    pub client_id: String,
    pub envd_version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// The in-sandbox daemon asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envd_access_token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_access_token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
}

impl std::fmt::Debug for Created {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Created")
            .field("sandbox_id", &self.sandbox_id)
            .field("template_id", &self.template_id)
            .field("envd_version", &self.envd_version)
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

/// `running`, `paused`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Running,
    Paused,
}

impl State {
    /// As it stands in a query.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
        }
    }
}

/// A sandbox as `GET /sandboxes/{id}` and the list tell of it. `Debug` shows no token.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Info {
    #[serde(rename = "templateID")]
    pub template_id: String,
    #[serde(rename = "sandboxID")]
    pub sandbox_id: String,
    #[serde(rename = "clientID", default)]
    pub client_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    pub started_at: Timestamp,
    pub end_at: Timestamp,
    pub state: State,
    #[serde(rename = "cpuCount")]
    pub cpu_count: u32,
    #[serde(rename = "memoryMB")]
    pub memory_mb: u64,
    #[serde(rename = "diskSizeMB")]
    pub disk_size_mb: u64,
    pub envd_version: String,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envd_access_token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_internet_access: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
}

impl std::fmt::Debug for Info {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Info")
            .field("sandbox_id", &self.sandbox_id)
            .field("template_id", &self.template_id)
            .field("state", &self.state)
            .field("started_at", &self.started_at)
            .field("end_at", &self.end_at)
            .field("metadata", &self.metadata)
            .finish_non_exhaustive()
    }
}

/// `GET /templates/aliases/{alias}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TemplateAlias {
    #[serde(rename = "templateID")]
    pub template_id: String,
    #[serde(default)]
    pub public: bool,
}

/// `POST /v3/templates`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewTemplate {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_count: Option<u32>,
    #[serde(default, rename = "memoryMB", skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
}

/// What that answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestedTemplate {
    #[serde(rename = "templateID")]
    pub template_id: String,
    #[serde(rename = "buildID")]
    pub build_id: String,
    #[serde(default)]
    pub public: bool,
    #[serde(default)]
    pub names: Vec<String>,
    #[serde(default)]
    pub aliases: Vec<String>,
    #[serde(default)]
    pub tags: Vec<String>,
}

/// `GET /templates/{id}/files/{hash}`: where to put the archive, if it is not there yet.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct FileUpload {
    pub present: bool,
    /// A credential of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// To be sent with it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// `POST /v2/templates/{id}/builds/{build}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartBuild {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_image: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_template: Option<String>,
    #[serde(default)]
    pub force: bool,
    #[serde(default)]
    pub steps: Vec<BuildStep>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_cmd: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_cmd: Option<String>,
}

/// `COPY [source, destination, user, mode]`, `RUN [command, user?]`, `ENV [name, value, …]`, `WORKDIR [path]`, `USER [name]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildStep {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_hash: Option<String>,
    #[serde(default)]
    pub force: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BuildStatus {
    Building,
    Waiting,
    Ready,
    Error,
}

/// `GET /templates/{id}/builds/{build}/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildInfo {
    #[serde(rename = "templateID")]
    pub template_id: String,
    #[serde(rename = "buildID")]
    pub build_id: String,
    pub status: BuildStatus,
    #[serde(default)]
    pub logs: Vec<String>,
    #[serde(default)]
    pub log_entries: Vec<LogEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<BuildReason>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogEntry {
    pub timestamp: Timestamp,
    pub message: String,
    /// `debug`, `info`, `warn`, `error`.
    pub level: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
}

/// Why a build failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildReason {
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_entries: Vec<LogEntry>,
}

/// An error of the control plane, and of `/files`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApiError {
    pub code: u16,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
}

/// An error of a Connect call: `not_found`, `invalid_argument`, `already_exists`, `deadline_exceeded`, `unauthenticated`, ….
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectError {
    pub code: String,
    #[serde(default)]
    pub message: String,
}

/// The largest message of a Connect stream that is read, in bytes.
pub const MOST_MESSAGE: usize = 16 << 20;
/// The flag of the frame that ends a stream.
pub const END_OF_STREAM: u8 = 2;

/// One frame of a Connect stream: flag, length, JSON.
pub fn frame(flag: u8, json: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(json.len() + 5);
    framed.push(flag);
    framed.extend_from_slice(&u32::try_from(json.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(json);
    framed
}

/// `POST /process.Process/Start`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StartProcess {
    pub process: ProcessConfig,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pty: Option<Pty>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessConfig {
    pub cmd: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub envs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pty {
    pub size: PtySize,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PtySize {
    pub cols: u32,
    pub rows: u32,
}

/// One message of `Start` and of `Connect`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartResponse {
    pub event: ProcessEvent,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProcessEvent {
    Start { pid: u32 },
    Data(ProcessData),
    End(ProcessEnd),
    Keepalive {},
}

/// Bytes in base64.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProcessData {
    Stdout(String),
    Stderr(String),
    Pty(String),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProcessEnd {
    /// Left out by protobuf's JSON where it is 0; -1 where a signal ended it.
    pub exit_code: i32,
    pub exited: bool,
    /// As Go writes it: `exit status 3`, `signal: killed`.
    pub status: String,
    /// Our server: `limit: memory` where a limit ended it (`wall cpu memory processes file_size disk`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Nothing {}

/// Which process a call is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProcessSelector {
    Pid(u32),
    Tag(String),
}

/// `POST /process.Process/Connect`: its stream is that of `Start`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectProcess {
    pub process: ProcessSelector,
}

/// What `POST /process.Process/List` answers; it asks with `{}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Listed {
    #[serde(default)]
    pub processes: Vec<ListedProcess>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListedProcess {
    pub config: ProcessConfig,
    pub pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// `POST /process.Process/SendInput`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SendInput {
    pub process: ProcessSelector,
    pub input: ProcessInput,
}

/// Bytes in base64.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProcessInput {
    Stdin(String),
    Pty(String),
}

/// `POST /process.Process/CloseStdin`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CloseStdin {
    pub process: ProcessSelector,
}

/// `POST /process.Process/SendSignal`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SendSignal {
    pub process: ProcessSelector,
    pub signal: Signal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Signal {
    #[serde(rename = "SIGNAL_SIGTERM")]
    Term,
    #[serde(rename = "SIGNAL_SIGKILL")]
    Kill,
}

/// What a file system call tells of one entry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Entry {
    pub name: String,
    /// `FILE_TYPE_FILE`, `FILE_TYPE_DIRECTORY`, `FILE_TYPE_SYMLINK`, `FILE_TYPE_UNSPECIFIED`.
    #[serde(rename = "type")]
    pub kind: String,
    pub path: String,
    /// A number in a string.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub size: String,
    pub mode: u32,
    pub permissions: String,
    pub owner: String,
    pub group: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modified_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symlink_target: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// `GET /nightcrew/report`, of our server alone: how it confines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `bubblewrap`, `namespaces`, `landlock`; `None`: nothing works here, and every sandbox is refused.
    pub isolation: Option<String>,
    /// What that leaves open, one line each.
    pub gaps: Vec<String>,
    /// Whether processes see a file system of their own, so that a path in one sandbox is the same in the next.
    pub own_file_system: bool,
    /// Whether processes have a loopback network.
    pub loopback: bool,
    /// Toolchains that sandboxes find, with where they lie: `rust`, `python`, `node`, `git`.
    pub toolchains: BTreeMap<String, String>,
    /// Further programs of the host's, on `PATH`.
    pub images: Vec<String>,
    /// What is in the way where `isolation` is none, and the fix.
    pub missing: Option<String>,
    pub help: Option<String>,
    pub version: String,
}

/// The request header of a template build that names the hosts or registries that its `RUN` steps may reach, separated by commas. Our
/// server gives them none without it; others do not know it.
pub const BUILD_NETWORK: &str = "x-nightcrew-network";
