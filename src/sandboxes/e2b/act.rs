//! One command in one sandbox: watched, and told truthfully in a receipt.

use std::time::Duration;

use jiff::Timestamp;

use crate::base::hash::Hash;
use crate::domain::code::TreeId;
use crate::domain::sandbox::{CommandReceipt, SandboxAnswer};
use crate::ports::sandbox::{Job, Phase, Progress, SandboxError};

use super::checkout::Checkout;
use super::needs::failed;
use super::run::{Ended, MOST_OUTPUT, tail, tell};
use super::site::Link;
use super::{MOST_RESULTS, Remote, SHOWN, Trouble, WALL_MOST, run, scripts};

/// What came of a command.
pub(super) struct Acted {
    pub receipt: CommandReceipt,
    pub stdout: String,
    pub stderr: String,
    pub junit: Option<String>,
}

impl From<Acted> for SandboxAnswer {
    fn from(acted: Acted) -> Self {
        let Acted { receipt, stdout, stderr, junit } = acted;
        Self { receipt, stdout, stderr, junit, billed_ms: 0 }
    }
}

/// One command to be run.
#[derive(Clone, Copy)]
pub(super) struct Act<'a> {
    pub job: &'a Job,
    pub phase: Phase,
    pub command: &'a str,
    pub tree: &'a TreeId,
    pub hash: Hash,
    pub template: &'a str,
    pub fresh: bool,
    pub wall: Duration,
}

impl Remote {
    /// Runs one command in a sandbox.
    pub(super) async fn act(&self, link: &Link, checkout: &Checkout, act: Act<'_>) -> Result<Acted, Trouble> {
        let turn = self.turns.acquire().await.map_err(|closed| failed(closed.to_string()))?;
        let (environment, watcher, envd) = (&act.job.environment, &self.setup.watcher, &checkout.held.envd);
        let at = self.setup.env.now();
        tell(watcher, || Progress::Began { phase: act.phase, command: act.command.to_owned() }).await;
        let words = scripts::run(act.command, checkout.seen.is_some(), environment);
        let wall = act.wall.min(WALL_MOST);
        // Many tools ask questions, draw progress bars or write snapshots unless they know that nobody is there.
        let ended = run::shell(envd, words, &[("CI", "true")], wall, MOST_OUTPUT, watcher).await;
        let ended = ended.map_err(Trouble::inside)?;
        if ended.exit == Some(scripts::SERVICE_EXIT) && !environment.services.is_empty() {
            let service = run::left(envd, scripts::FAILED, 200).await.map_err(Trouble::inside)?;
            if let Some(service) = service.kept {
                let name = String::from_utf8_lossy(&service).trim().to_owned();
                let said = tail(&ended.stderr.text(), SHOWN);
                let message = format!("the service `{name}` of the environment did not get ready: {said}");
                return Err(failed(message).into());
            }
        }
        let junit = run::left(envd, scripts::JUNIT, MOST_RESULTS).await.map_err(Trouble::inside)?;
        drop(turn);
        let receipt = self.receipt(link, checkout, act, &ended, junit.hash, at);
        tell(watcher, || Progress::Ended(Box::new(receipt.clone()))).await;
        let mut stderr = ended.stderr.text();
        if junit.left_out {
            stderr.push_str("\n[what $JUNIT names is larger than 8 MiB and was not read]\n");
        }
        let junit = junit.kept.map(|text| String::from_utf8_lossy(&text).into_owned());
        Ok(Acted { receipt, stdout: ended.stdout.text(), stderr, junit })
    }

    fn receipt(
        &self,
        link: &Link,
        checkout: &Checkout,
        act: Act<'_>,
        ended: &Ended,
        junit: Hash,
        at: Timestamp,
    ) -> CommandReceipt {
        let parts = [ended.stdout.hash, ended.stderr.hash, junit].map(|hash| hash.to_string());
        CommandReceipt {
            command: act.command.to_owned(),
            tree: act.tree.clone(),
            exit: ended.exit,
            signal: ended.signal,
            stopped: ended.stopped.clone(),
            duration_ms: u64::try_from(ended.duration.as_millis()).unwrap_or(u64::MAX),
            output: Hash::of_parts(parts.iter().map(|part| part.as_bytes())),
            environment: act.hash,
            provider: self.site.provider.to_owned(),
            template: act.template.to_owned(),
            sandbox: checkout.held.id.clone(),
            isolation: link.isolation(self.site.provider),
            gaps: link.gaps(),
            network: match &act.job.environment.network_run[..] {
                [] => "none".to_owned(),
                hosts => hosts.join(", "),
            },
            fresh: act.fresh,
            at,
        }
    }
}

/// A failed check as an error.
pub(super) fn broken(acted: Acted) -> SandboxError {
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
        what: format!("{how} ({})", Phase::Check.name()),
        receipt: Box::new(receipt),
        output: tail(&output, SHOWN),
    }
}
