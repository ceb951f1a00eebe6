//! What an environment needs and this machine or this version may not have; each with the way out.

use std::path::Path;

use crate::domain::definition::Environment;
use crate::isolation::{self, Gap, Isolation};
use crate::ports::sandbox::SandboxError;

use super::act::failed;

/// Refuses what cannot be had here, before anything is made.
pub(super) fn supported(environment: &Environment, isolation: &Isolation) -> Result<(), SandboxError> {
    let missing = |message: String, help: &str| Err(SandboxError::Missing { message, help: help.to_owned() });
    let file = &environment.file;
    let report = isolation.report();
    if report.tier.is_none() {
        return Err(no_tier(isolation));
    }
    if let Some(image) = &environment.image {
        return missing(
            format!("{file}: sandboxd cannot start from the image `{image}` in this version"),
            "remove `base.image`: commands then find the toolchains of this machine",
        );
    }
    if !environment.network_run.is_empty() {
        return missing(
            format!("{file}: sandboxd gives commands no network ({})", environment.network_run.join(", ")),
            "remove `network.run`; what is downloaded belongs into `setup`, with `network.setup`",
        );
    }
    if !environment.services.is_empty() && report.gaps.contains(&Gap::NoLoopback) {
        return missing(
            format!("{file}: services need a loopback network, which commands do not have on this machine"),
            "nightcrew doctor says how to get a better isolation",
        );
    }
    let there = |tool: &&String| match toolchain(tool) {
        Some(name) => report.toolchains.iter().any(|found| found.name == name),
        None => program(tool),
    };
    if let Some(tool) = environment.tools.iter().find(|tool| !there(tool)) {
        return missing(
            format!("{file}: commands would not find `{tool}` on this machine"),
            "install it for all users (below /usr), or where the daemon's PATH has it; see nightcrew doctor",
        );
    }
    Ok(())
}

/// The toolchain that a name in `tools` means.
pub(super) fn toolchain(tool: &str) -> Option<&'static str> {
    match tool {
        "rust" | "cargo" | "rustc" => Some("rust"),
        "python" | "python3" | "pip" => Some("python"),
        "node" | "nodejs" | "npm" => Some("node"),
        "git" => Some("git"),
        _ => None,
    }
}

/// Whether the system has a program of this name, where commands look for it.
fn program(name: &str) -> bool {
    !name.contains('/')
        && ["/usr/local/bin", "/usr/bin", "/bin"].iter().any(|folder| Path::new(folder).join(name).exists())
}

pub(super) fn no_tier(isolation: &Isolation) -> SandboxError {
    let (mut reasons, mut fixes) = (Vec::new(), Vec::new());
    for check in isolation.report().checks {
        if let Err(why) = check.result {
            reasons.push(format!("{}: {}", check.tier, why.reason));
            fixes.push(format!("{}: {}", check.tier, why.fix));
        }
    }
    SandboxError::Missing {
        message: format!("commands cannot be confined on this machine ({})", reasons.join("; ")),
        help: format!("one of these is enough. {}", fixes.join("; ")),
    }
}

pub(super) fn isolation_error(error: isolation::Error, isolation: &Isolation) -> SandboxError {
    use isolation::Error;
    match error {
        Error::NoTier => no_tier(isolation),
        Error::Egress(why) => SandboxError::Missing {
            message: format!("setup has no network: {why}"),
            help: "name registries or hosts in `network.setup`, or let setup use what is on this machine".into(),
        },
        error => failed(chain(&error)),
    }
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
