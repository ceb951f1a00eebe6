//! What an environment needs and the place where sandboxes are may not have; each with the way out.

use std::path::Path;

use crate::clients::e2b::Error;
use crate::clients::e2b::wire::Report;
use crate::domain::definition::Environment;
use crate::ports::sandbox::SandboxError;

/// Who gives the sandboxes, as far as it matters for what can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// Our own server on this machine.
    Here,
    /// Our own server on another one.
    Elsewhere,
    /// Somebody else's.
    Cloud,
}

/// Refuses what cannot be had there, before anything is made. `images`: root file systems that the configuration names.
pub(super) fn supported(environment: &Environment, host: Host, report: Option<&Report>) -> Result<(), SandboxError> {
    let missing = |message: String, help: &str| Err(SandboxError::Missing { message, help: help.to_owned() });
    let file = &environment.file;
    let Some(report) = report else { return Ok(()) };
    if report.isolation.is_none() {
        return Err(no_tier(report));
    }
    if !environment.services.is_empty() && !report.loopback {
        return missing(
            format!("{file}: services need a loopback network, which commands do not have on this machine"),
            "nightcrew doctor says how to get a better isolation",
        );
    }
    if let Some(image) = &environment.image {
        // What is in it, its checks tell.
        if host == Host::Here && !report.images.contains(image) {
            return missing(
                format!("{file}: our own sandbox server has no image `{image}`"),
                "name a root file system for it: services: {sandboxd: {images: {NAME: PATH}}}; or remove `base.image`: \
                 commands then find the toolchains of this machine",
            );
        }
        return Ok(());
    }
    let there = |tool: &&String| match toolchain(tool) {
        Some(name) => report.toolchains.contains_key(name),
        None => host != Host::Here || program(tool),
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

fn no_tier(report: &Report) -> SandboxError {
    SandboxError::Missing {
        message: match &report.missing {
            Some(why) => format!("commands cannot be confined on this machine ({why})"),
            None => "commands cannot be confined on this machine".to_owned(),
        },
        help: report.help.clone().unwrap_or_else(|| "nightcrew doctor says what is in the way".to_owned()),
    }
}

pub(super) fn failed(message: String) -> SandboxError {
    SandboxError::Failed { message }
}

/// What a call ended with, where nothing else can be tried.
pub(super) fn of_client(error: Error) -> SandboxError {
    let message = format!("sandboxes: {}", chain(&error));
    match error {
        Error::Unauthorized { .. } | Error::Secret(_) => SandboxError::Missing {
            message,
            help: "put the key where `services.e2b.api_key` (or `services.sandboxd.api_key`) looks for it; without one our own \
                   server on this machine stands in"
                .into(),
        },
        Error::Request(_) => SandboxError::Missing {
            message,
            help: "see `services.e2b` and `services.sandboxd` in the configuration".into(),
        },
        _ => failed(message),
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
