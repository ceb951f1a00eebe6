//! Templates: an environment made ready once, by the template API, on whichever provider.
//!
//! The base tree travels as one archive, twice: setup commands run on the first copy, and the second puts right what they did to
//! files of the tree, for what is proved is a tree. Beside the code the template holds a marker that says which tree it is.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::base::hash::Hash;
use crate::base::scope::Scope;
use crate::clients::e2b::wire::{BuildInfo, BuildReason, BuildStatus, BuildStep, NewTemplate, StartBuild};
use crate::clients::e2b::{Error, wire};
use crate::domain::code::TreeId;
use crate::domain::definition::Environment;
use crate::domain::sandbox::CommandReceipt;
use crate::ports::sandbox::{Phase, Progress, SandboxError, Watcher};

use super::log::{Log, News, Said};
use super::needs::{failed, of_client};
use super::run::{tail, tell};
use super::scripts::{self, TREE_ARCHIVE};
use super::site::Link;

/// What templates of ours are given where the provider asks: processors, and memory in MB.
pub const CPUS: u32 = 2;
pub const MEMORY_MB: u64 = 4096;
/// How often the status is asked for: quickly at first.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LOOK: Duration = Duration::from_millis(500);
/// A build that has not ended after so long never will.
const LONGEST: Duration = Duration::from_secs(3 * 3600);
/// How much of a failed command's output goes into the error, in bytes from its end.
const SHOWN: usize = 4000;
/// The name of the archive within what a `COPY` step takes.
const IN_CONTEXT: &str = "tree.tar";

/// What a template says of itself: in `~/.nightcrew/marker`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    pub environment: Hash,
    pub tree: TreeId,
    pub repository: String,
    pub made_at: Timestamp,
}

/// What a template begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Base {
    Template(String),
    Image(String),
}

impl Base {
    /// `cloud`: E2B's own templates can be had.
    pub(super) fn of(environment: &Environment, cloud: bool) -> Self {
        match (&environment.image, &environment.e2b_template) {
            (Some(image), _) => Self::Image(image.clone()),
            (None, Some(template)) if cloud => Self::Template(template.clone()),
            (None, _) => Self::Template("base".into()),
        }
    }

    /// The template that will do as it is, for an environment that adds nothing to it.
    pub(super) fn as_it_is(&self, environment: &Environment) -> Option<&str> {
        match self {
            Self::Template(name) if environment.setup.is_empty() => Some(name),
            _ => None,
        }
    }
}

/// The name of the template of an environment. `again`: it was made before, under another name.
pub(super) fn name(hash: &Hash, again: Option<Timestamp>) -> String {
    let hash: String = hash.to_string().chars().take(32).collect();
    match again {
        None => format!("nightcrew-{hash}"),
        Some(at) => format!("nightcrew-{hash}-{}", at.as_millisecond()),
    }
}

/// One build.
pub(super) struct Build<'a> {
    pub link: &'a Link,
    pub scope: &'a Scope,
    pub provider: &'a str,
    pub environment: &'a Environment,
    pub base: &'a Base,
    pub marker: &'a Marker,
    pub name: &'a str,
    pub watcher: &'a Watcher,
}

impl Build<'_> {
    /// Builds it from the archive of its tree and answers with its id and the receipts of the setup commands. Dropped, what was
    /// begun is removed.
    pub(super) async fn run(&self, archive: &[u8]) -> Result<(String, Vec<CommandReceipt>), SandboxError> {
        let new = NewTemplate {
            name: Some(self.name.to_owned()),
            cpu_count: Some(CPUS),
            memory_mb: Some(MEMORY_MB),
            ..NewTemplate::default()
        };
        let asked = self.link.cloud.request_template(&new).await.map_err(of_client)?;
        let mut half = Half::new(self.link, self.scope, &asked.template_id);
        let outer = self.context(archive).map_err(|error| failed(format!("the archive of the code: {error}")))?;
        let hash = Hash::of(&outer).to_string();
        self.link.cloud.upload(&asked.template_id, &hash, outer).await.map_err(of_client)?;
        let steps = self.steps(&hash);
        let network = &self.environment.network_setup;
        self.link.cloud.start_build(&asked.template_id, &asked.build_id, &steps, network).await.map_err(of_client)?;
        let receipts = self.follow(&asked.template_id, &asked.build_id).await?;
        half.keep();
        Ok((asked.template_id, receipts))
    }

    /// What a `COPY` step takes: the archive as one file, so that no builder has a say in how its files are copied.
    fn context(&self, archive: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut outer = super::archive::Archive::default();
        outer.file(IN_CONTEXT, archive)?;
        super::archive::packed(&outer.finish())
    }

    fn steps(&self, files_hash: &str) -> StartBuild {
        let copy = || BuildStep {
            kind: "COPY".into(),
            args: [IN_CONTEXT, TREE_ARCHIVE, "user", "0644"].map(str::to_owned).to_vec(),
            files_hash: Some(files_hash.to_owned()),
            force: false,
        };
        let run = |script: String| BuildStep {
            kind: "RUN".into(),
            args: vec![script, "user".to_owned()],
            files_hash: None,
            force: false,
        };
        let mut steps = vec![copy(), run(scripts::UNPACK.to_owned())];
        for (number, command) in self.environment.setup.iter().enumerate() {
            steps.push(run(scripts::setup(number, &command.run, self.environment)));
        }
        let marker = serde_json::to_string(self.marker).unwrap_or_default();
        steps.extend([copy(), run(scripts::restore(&marker))]);
        let (from_template, from_image) = match self.base {
            Base::Template(name) => (Some(name.clone()), None),
            Base::Image(name) => (None, Some(name.clone())),
        };
        StartBuild { from_template, from_image, steps, ..StartBuild::default() }
    }

    /// Waits for its end and tells what the setup commands say.
    async fn follow(&self, template: &str, build: &str) -> Result<Vec<CommandReceipt>, SandboxError> {
        let (mut log, mut offset, mut receipts, mut failing) = (Log::default(), 0, Vec::new(), None);
        let begun = tokio::time::Instant::now();
        let mut pause = FIRST_LOOK;
        loop {
            let status = match self.link.cloud.build_status(template, build, offset).await {
                Ok(status) => status,
                // It goes on over there.
                Err(Error::Unavailable { .. } | Error::RateLimited { .. })
                    if !self.link.is_gone() && begun.elapsed() < LONGEST =>
                {
                    tokio::time::sleep(LOOK * 4).await;
                    continue;
                }
                Err(error) => return Err(of_client(error)),
            };
            let BuildInfo { status, log_entries, reason, .. } = status;
            offset += log_entries.len();
            for entry in &log_entries {
                for news in log.take(entry) {
                    self.told(news, &mut receipts, &mut failing).await;
                }
            }
            let ended = match status {
                BuildStatus::Building | BuildStatus::Waiting => false,
                // The log comes in portions.
                BuildStatus::Ready | BuildStatus::Error => log_entries.is_empty(),
            };
            if ended {
                return match status {
                    BuildStatus::Ready => Ok(receipts),
                    _ => Err(self.broken(failing.or_else(|| log.finish()), reason)),
                };
            }
            if begun.elapsed() > LONGEST {
                return Err(failed(format!(
                    "the template {} was not built within {} h",
                    self.name,
                    LONGEST.as_secs() / 3600
                )));
            }
            if log_entries.is_empty() {
                tokio::time::sleep(pause).await;
                pause = (pause * 3 / 2).min(LOOK);
            } else {
                pause = FIRST_LOOK;
            }
        }
    }

    async fn told(&self, news: News, receipts: &mut Vec<CommandReceipt>, failing: &mut Option<Said>) {
        match news {
            News::Began(number) => {
                let command = self.command(number).to_owned();
                tell(self.watcher, || Progress::Began { phase: Phase::Setup, command }).await;
            }
            News::Said(line) => tell(self.watcher, || Progress::Output(format!("{line}\n").into_bytes())).await,
            News::Ended(said) => {
                let receipt = self.receipt(&said);
                tell(self.watcher, || Progress::Ended(Box::new(receipt.clone()))).await;
                match receipt.succeeded() {
                    true => receipts.push(receipt),
                    false => *failing = Some(said),
                }
            }
        }
    }

    fn command(&self, number: usize) -> &str {
        self.environment.setup.get(number).map_or("", |command| command.run.as_str())
    }

    fn receipt(&self, said: &Said) -> CommandReceipt {
        let took = Duration::try_from(said.ended_at.duration_since(said.began_at)).unwrap_or_default();
        CommandReceipt {
            command: self.command(said.number).to_owned(),
            tree: self.marker.tree.clone(),
            exit: said.exit,
            signal: None,
            stopped: None,
            duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            output: said.hash,
            environment: self.marker.environment,
            provider: self.provider.to_owned(),
            template: self.name.to_owned(),
            sandbox: String::new(),
            isolation: self.link.isolation(self.provider),
            gaps: self.link.gaps(),
            network: match (&self.environment.network_setup[..], &self.link.report) {
                // Nobody else's builder can be told what to reach.
                (_, None) => "open".to_owned(),
                ([], Some(_)) => "none".to_owned(),
                (hosts, Some(_)) => hosts.join(", "),
            },
            fresh: true,
            at: said.began_at,
        }
    }

    /// Why the build failed: a setup command, or anything else.
    fn broken(&self, said: Option<Said>, reason: Option<BuildReason>) -> SandboxError {
        let message = reason.map(|reason| reason.message).unwrap_or_default();
        let Some(said) = said else {
            let message = if message.is_empty() { "no reason was given" } else { &message };
            return failed(format!("the template {} could not be built: {}", self.name, tail(message, SHOWN)));
        };
        let limit = message.rsplit_once("limit: ").map(|(_, limit)| limit);
        let limit =
            limit.map(|limit| limit.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>());
        let how = match (&limit, said.exit) {
            (Some(limit), _) => format!("was stopped by the limit `{limit}`"),
            (None, Some(code)) => format!("failed with exit code {code}"),
            (None, None) => "failed".to_owned(),
        };
        let output = match said.output.is_empty() && said.exit.is_none() {
            true => message.clone(),
            false => said.output.clone(),
        };
        let receipt = CommandReceipt { stopped: limit, ..self.receipt(&said) };
        SandboxError::Broken {
            what: format!("{how} ({})", Phase::Setup.name()),
            receipt: Box::new(receipt),
            output: tail(&output, SHOWN),
        }
    }
}

/// A template that is not ready: removed, unless it is kept.
struct Half<'a> {
    link: &'a Link,
    scope: &'a Scope,
    template: Option<String>,
}

impl<'a> Half<'a> {
    fn new(link: &'a Link, scope: &'a Scope, template: &str) -> Self {
        Self { link, scope, template: Some(template.to_owned()) }
    }

    fn keep(&mut self) {
        self.template = None;
    }
}

impl Drop for Half<'_> {
    fn drop(&mut self) {
        if let Some(template) = self.template.take() {
            remove(self.link, self.scope, template);
        }
    }
}

/// Removes a template, while nobody waits.
pub(super) fn remove(link: &Link, scope: &Scope, template: String) {
    let link = link.clone();
    drop(scope.spawn("removing a template", async move {
        match link.cloud.delete_template(&template).await {
            Ok(_) => {}
            Err(error) if link.is_gone() => tracing::debug!(%error, template, "went with its server"),
            Err(error) => tracing::warn!(%error, template, "a template stays that nobody uses"),
        }
    }));
}

/// The request for a sandbox.
pub(super) fn sandbox_of(template: &str, allow: &[String]) -> wire::NewSandbox {
    wire::NewSandbox {
        template_id: template.to_owned(),
        // Said in any case: what is left out may mean yes.
        allow_internet_access: Some(false),
        network: (!allow.is_empty()).then(|| wire::Network { allow_out: allow.to_vec(), ..wire::Network::default() }),
        ..wire::NewSandbox::default()
    }
}
