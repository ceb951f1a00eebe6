//! One command in one folder: confined, watched, and told truthfully in a receipt.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::base::env::Env;
use crate::base::hash::{Hash, Hasher};
use crate::domain::code::TreeId;
use crate::domain::definition::{Environment, ServiceCommand};
use crate::domain::sandbox::CommandReceipt;
use crate::isolation::{Chunk, Command, Finished, Isolation, Limits, Spec, Stopped, Tier, Writable};
use crate::ports::sandbox::SandboxError;

use super::folder::Folder;
use super::needs::isolation_error;
use super::{PROVIDER, services};

/// What is taken of `$JUNIT`.
const MOST_RESULTS: u64 = 8 << 20;
/// What is kept of each output.
const MOST_OUTPUT: u64 = 512 << 10;
/// How long a command may take that nobody gave another limit.
pub(super) const WALL: Duration = Duration::from_secs(600);
/// A setup command builds and installs.
pub(super) const WALL_SETUP: Duration = Duration::from_secs(1800);
/// The longest that anybody can ask for.
const WALL_MOST: Duration = Duration::from_secs(6 * 3600);
/// How much of a failed command's output goes into the error, in bytes from its end.
const SHOWN: usize = 4000;

/// Where results stand inside.
const RESULTS: &str = "/results";

/// What a command of an environment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Setup,
    Check,
    Run,
}

impl Phase {
    /// `setup`, `check`, `run`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Check => "check",
            Self::Run => "run",
        }
    }
}

/// What happens, for whoever watches. A watcher that does not take it slows the command down.
#[derive(Clone, Debug)]
pub enum Progress {
    Began { phase: Phase, command: String },
    Output(Chunk),
    Ended(Box<CommandReceipt>),
}

/// Somebody who watches, or nobody.
pub type Watcher = Option<mpsc::Sender<Progress>>;

/// One command to be run.
pub(super) struct Act<'a> {
    pub environment: &'a Environment,
    pub phase: Phase,
    pub command: &'a str,
    pub tree: &'a TreeId,
    pub hash: Hash,
    pub fresh: bool,
    pub wall: Duration,
    pub watcher: &'a Watcher,
}

/// What came of it.
pub(super) struct Acted {
    pub receipt: CommandReceipt,
    pub stdout: String,
    pub stderr: String,
    pub junit: Option<String>,
}

impl Act<'_> {
    /// Runs it to its end. Cancel safe: dropped, the command ends.
    pub(super) async fn run(&self, isolation: &Isolation, folder: &Folder, env: &Env) -> Result<Acted, SandboxError> {
        let report = isolation.report();
        let tier = report.tier.ok_or_else(|| isolation_error(crate::isolation::Error::NoTier, isolation))?;
        folder.clear_results().map_err(|error| failed(format!("the folder of results: {error}")))?;
        let at = env.now();
        let spec = self.spec(tier, folder);
        self.tell(|| Progress::Began { phase: self.phase, command: self.command.to_owned() }).await;
        let mut running = isolation.start(spec).await.map_err(|error| isolation_error(error, isolation))?;
        if self.watcher.is_some() {
            while let Some(chunk) = running.next().await {
                self.tell(|| Progress::Output(chunk)).await;
            }
        }
        let finished = running.wait().await.map_err(|error| isolation_error(error, isolation))?;
        let results = folder.results();
        let read = tokio::task::spawn_blocking(move || {
            let service = read_file(&results.join(services::FAILED), 200)?.kept;
            Ok::<_, std::io::Error>((service, read_file(&results.join("junit.xml"), MOST_RESULTS)?))
        });
        let read = read.await.unwrap_or_else(|lost| Err(std::io::Error::other(lost)));
        let (service, junit) = read.map_err(|error| failed(format!("reading what `$JUNIT` names: {error}")))?;
        if let (Some(service), false) = (service, self.services().is_empty()) {
            let name = String::from_utf8_lossy(&service).trim().to_owned();
            let said = tail(&finished.stderr.text(), SHOWN);
            return Err(failed(format!("the service `{name}` of the environment did not get ready: {said}")));
        }
        let receipt = self.receipt(&finished, junit.hash, &report, at);
        self.tell(|| Progress::Ended(Box::new(receipt.clone()))).await;
        let mut stderr = finished.stderr.text();
        if !finished.refused.is_empty() {
            stderr.push_str(&format!(
                "\n[refused, because `network.setup` does not allow it: {}]\n",
                finished.refused.join(", ")
            ));
        }
        if junit.left_out {
            stderr.push_str("\n[what $JUNIT names is larger than 8 MiB and was not read]\n");
        }
        let junit = junit.kept.map(|text| String::from_utf8_lossy(&text).into_owned());
        Ok(Acted { receipt, stdout: finished.stdout.text(), stderr, junit })
    }

    async fn tell(&self, progress: impl FnOnce() -> Progress) {
        if let Some(watcher) = self.watcher {
            // Who has stopped watching misses nothing.
            drop(watcher.send(progress()).await);
        }
    }

    fn services(&self) -> &[(String, ServiceCommand)] {
        match self.phase {
            // They may need what setup installs.
            Phase::Setup => &[],
            Phase::Check | Phase::Run => &self.environment.services,
        }
    }

    fn egress(&self) -> &[String] {
        match self.phase {
            Phase::Setup => &self.environment.network_setup,
            Phase::Check | Phase::Run => &[],
        }
    }

    fn spec(&self, tier: Tier, folder: &Folder) -> Spec {
        let results = tier.shown_at(&folder.results(), Path::new(RESULTS)).display().to_string();
        let command = match self.services() {
            [] => Command::Shell(self.command.to_owned()),
            services => Command::Argv(services::words(&results, self.command, services)),
        };
        let mut spec = confined(tier, folder, self.environment, command);
        spec.egress = self.egress().to_vec();
        let wall = self.wall.min(WALL_MOST);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let cpu = wall.saturating_mul(u32::try_from(cores).unwrap_or(1));
        spec.limits = Limits { wall, cpu, output_bytes: MOST_OUTPUT, ..Limits::default() };
        if let Some(room) = room(&folder.work()) {
            spec.limits.file_bytes = spec.limits.file_bytes.min(room);
        }
        spec.environment.insert("JUNIT".into(), format!("{results}/junit.xml"));
        if !spec.egress.is_empty() {
            spec.environment.insert("CARGO_NET_OFFLINE".into(), "false".into());
        }
        spec
    }

    fn receipt(
        &self,
        finished: &Finished,
        junit: Hash,
        report: &crate::isolation::Report,
        at: jiff::Timestamp,
    ) -> CommandReceipt {
        let parts = [finished.stdout.hash, finished.stderr.hash, junit].map(|hash| hash.to_string());
        CommandReceipt {
            command: self.command.to_owned(),
            tree: self.tree.clone(),
            exit: finished.exit,
            signal: finished.signal,
            stopped: finished.stopped.map(|stopped| stopped_name(stopped).to_owned()),
            duration_ms: u64::try_from(finished.duration.as_millis()).unwrap_or(u64::MAX),
            output: Hash::of_parts(parts.iter().map(|part| part.as_bytes())),
            environment: self.hash,
            provider: PROVIDER.to_owned(),
            template: String::new(),
            sandbox: String::new(),
            isolation: finished.tier.name().to_owned(),
            gaps: report.gaps.iter().map(|gap| gap.summary().to_owned()).collect(),
            network: match self.egress() {
                [] => "none".to_owned(),
                hosts => hosts.join(", "),
            },
            fresh: self.fresh,
            at,
        }
    }
}

/// How large a file of a command may become, so that it leaves some of the disk to the daemon's journal. `None`: nobody knows.
fn room(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize) / 4 * 3)
}

/// A command in a folder, with the home and the variables that all commands of an environment have.
pub(super) fn confined(tier: Tier, folder: &Folder, environment: &Environment, command: Command) -> Spec {
    let mut spec = Spec::new(command, folder.work());
    spec.home = Some(folder.home());
    spec.writable.push(Writable { host: folder.results(), inside: RESULTS.into() });
    // Many tools ask questions, draw progress bars or write snapshots unless they know that nobody is there.
    spec.environment.insert("CI".into(), "true".into());
    if !environment.network_setup.is_empty() {
        // What setup downloads goes into the home; the host's own cache is read-only.
        let home = folder.home();
        let home = tier.shown_at(&home, Path::new("/home/user"));
        spec.environment.insert("CARGO_HOME".into(), home.join(".cargo").display().to_string());
    }
    spec
}

/// A failed setup command or check as an error.
pub(super) fn broken(phase: Phase, acted: Acted) -> SandboxError {
    let receipt = acted.receipt;
    let how = match (&receipt.stopped, receipt.exit, receipt.signal) {
        (Some(limit), _, _) => format!("was stopped by the limit `{limit}`"),
        (None, Some(code), _) => format!("failed with exit code {code}"),
        (None, None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None, None) => "failed".to_owned(),
    };
    let mut output = acted.stdout;
    if !output.is_empty() && !output.ends_with('\n') {
        output.push('\n');
    }
    output.push_str(&acted.stderr);
    SandboxError::Broken {
        what: format!("{how} ({})", phase.name()),
        receipt: Box::new(receipt),
        output: tail(&output, SHOWN),
    }
}

pub(super) fn failed(message: String) -> SandboxError {
    SandboxError::Failed { message }
}

/// As receipts write it.
fn stopped_name(stopped: Stopped) -> &'static str {
    match stopped {
        Stopped::Wall => "wall",
        Stopped::Cpu => "cpu",
        Stopped::Memory => "memory",
        Stopped::Processes => "processes",
        Stopped::FileSize => "file_size",
        Stopped::Disk => "disk",
        Stopped::Caller => "caller",
    }
}

/// The end of a text, from the beginning of a line if one begins there; without what could move a cursor.
fn tail(text: &str, most: usize) -> String {
    let plain: String = text.trim_end().chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
    if plain.len() <= most {
        return plain;
    }
    let from = (plain.len() - most..plain.len()).find(|at| plain.is_char_boundary(*at)).unwrap_or(plain.len());
    let end = plain.get(from..).unwrap_or_default();
    let end = end.split_once('\n').map_or(end, |(_, lines)| lines);
    format!("[…]\n{end}")
}

/// What a command left in a file.
struct Left {
    kept: Option<Vec<u8>>,
    /// There was more than is taken, so nothing was kept.
    left_out: bool,
    /// Of all of it; of nothing where there is no file.
    hash: Hash,
}

/// Reads a file that a command may have made: no link is followed, nothing but a file is read.
fn read_file(path: &Path, most: u64) -> std::io::Result<Left> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let opened = std::fs::File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let mut hasher = Hasher::default();
    let Ok(mut file) = opened else { return Ok(Left { kept: None, left_out: false, hash: hasher.finish() }) };
    if !file.metadata()?.is_file() {
        return Ok(Left { kept: None, left_out: false, hash: hasher.finish() });
    }
    let (mut kept, mut left_out) = (Vec::new(), false);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = file.read(&mut buffer)?;
        let Some(piece) = buffer.get(..count).filter(|piece| !piece.is_empty()) else { break };
        hasher.update(piece);
        left_out |= (kept.len() + piece.len()) as u64 > most;
        if left_out {
            kept.clear();
        } else {
            kept.extend_from_slice(piece);
        }
    }
    Ok(Left { kept: (!left_out).then_some(kept), left_out, hash: hasher.finish() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_output_is_whole_lines_and_plain() {
        assert_eq!(tail("a\u{1b}[31mb\r\nc\n\n", 100), "a[31mb\nc");
        let long = "grün\n".repeat(2000);
        let end = tail(&long, 101);
        assert!(end.starts_with("[…]\ngrün\n") && end.len() < 120, "{end}");
    }

    #[test]
    fn only_a_file_of_bounded_size_is_read() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("junit.xml");
        let read = |most| read_file(&path, most).unwrap();
        assert!(read(9).kept.is_none());
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(read(1 << 20).kept.is_none(), "a link");
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
        assert!(read(9).kept.is_none(), "a pipe");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "0123456789").unwrap();
        assert_eq!(read(10).kept.as_deref(), Some(&b"0123456789"[..]));
        let cut = read(9);
        assert!(cut.kept.is_none() && cut.left_out);
        assert_eq!(cut.hash, Hash::of("0123456789"), "the hash is of all of it");
    }
}
