//! Reports for the terminal, of runs that a command shows.
//!
//! The `terminal` sink prints at once, which is right for a daemon. A command draws live lines on the same terminal, may owe its
//! stdout to a script, and the run may even be the daemon's: so its own runs deliver silently, and the command prints the
//! reports when the run has ended.

use std::sync::Arc;

use super::session::Session;
use crate::base::BoxFuture;
use crate::builtin::REGISTRY;
use crate::domain::activity::{Delivery, Receipt};
use crate::domain::view::RunView;
use crate::ports::Registry;
use crate::ports::sink::{Earlier, Sink, SinkError, SinkKind, SinkSetup};
use crate::sinks::terminal;

/// What ships, with a `terminal` that keeps quiet. Called once in a process.
pub fn registry() -> Registry {
    let quiet = |kind: &SinkKind| match kind.name {
        name if name == terminal::KIND.name => SinkKind { make: Some(make), ..*kind },
        _ => *kind,
    };
    let sinks: Vec<SinkKind> = REGISTRY.sinks.iter().map(quiet).collect();
    // The tables live as long as the process.
    Registry { sinks: Vec::leak(sinks), ..REGISTRY }
}

fn make(_: &SinkSetup) -> Arc<dyn Sink> {
    Arc::new(Quiet)
}

struct Quiet;

impl Sink for Quiet {
    fn deliver<'a>(&'a self, delivery: &'a Delivery, _: Earlier) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            Ok(Receipt {
                kind: "report".into(),
                destination: terminal::KIND.name.into(),
                url_or_path: String::new(),
                key: delivery.key.clone(),
                found: false,
            })
        })
    }
}

/// Prints the reports that a run sent to the terminal.
pub fn print(session: &Session, view: &RunView) -> anyhow::Result<()> {
    if !view.receipts.iter().any(|receipt| receipt.destination == terminal::KIND.name) {
        return Ok(());
    }
    let mut printed = Vec::new();
    for report in &view.reports {
        // One report may have gone to several sinks.
        if !printed.contains(&report) {
            session.ui.data(format!("\n{}", terminal::report(report).trim_end()))?;
            printed.push(report);
        }
    }
    Ok(())
}
