//! Commands: one file each. Arguments in, text out, an exit code.
//!
//! A command reads the journal for itself; what changes something goes to the holder of the state directory through the
//! control socket, or the command becomes the holder for as long as it takes ([`session`]). Exit codes: 0 done, 1 the answer is
//! no, 2 usage, 78 bad configuration.

mod answer;
pub mod args;
mod cancel;
mod completions;
mod connect;
mod costs;
mod demo;
mod doctor;
mod env;
mod errors;
mod findings;
mod init;
mod logging;
mod logs;
mod new;
mod paper;
mod plan;
mod progress;
mod resume;
mod run;
mod runs;
mod sandboxd;
mod schema;
mod serve;
mod session;
mod show;
mod slots;
mod templates;
mod ui;
mod validate;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Cli, Command};
use session::Session;

/// What the process answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    /// The answer is no: invalid, refused, not found, an outcome that is not healthy.
    No = 1,
    Usage = 2,
    /// The configuration has mistakes.
    Config = 78,
}

/// A failure with its exit code and the way out.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Trouble {
    pub exit: Exit,
    pub message: String,
    pub help: Option<String>,
}

impl Trouble {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), help: None }
    }
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl From<crate::control::Refusal> for Trouble {
    fn from(refusal: crate::control::Refusal) -> Self {
        let exit = match refusal.code.as_str() {
            "E-CONFIG" => Exit::Config,
            "E-PARAMS" | "E-STEP" | "E-PROFILE" => Exit::Usage,
            _ => Exit::No,
        };
        let message = format!("{} ({})", refusal.message, refusal.code);
        Self { exit, message, help: refusal.help }
    }
}

/// The whole program behind `main`.
pub fn main() -> ExitCode {
    // Prints its own mistakes and exits with 2.
    let cli = Cli::parse();
    let session = Session::new(&cli.global);
    harden();
    let daemon = match &cli.command {
        Command::Serve(_) => true,
        Command::Sandboxd(args) => !args.attached,
        _ => false,
    };
    logging::start(&cli.global, daemon);
    let exit = dispatch(&session, cli.command).unwrap_or_else(|error| {
        tell(&session, &error);
        error.downcast_ref::<Trouble>().map_or(Exit::No, |trouble| trouble.exit)
    });
    ExitCode::from(exit as u8)
}

/// A crash must not write memory, and with it keys, to disk.
fn harden() {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    // A system that refuses to lower a limit is left as it is.
    let _refused = rustix::process::setrlimit(rustix::process::Resource::Core, none);
}

fn dispatch(session: &Session, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Demo(args) => session.block_on(demo::run(session, args)),
        Command::Init(args) => init::run(session, &args),
        Command::New(args) => new::run(session, &args),
        Command::Doctor(args) => session.block_on(doctor::run(session, &args)),
        Command::Connect(args) => session.block_on(connect::run(session, args)),
        Command::Validate(args) => validate::run(session, &args),
        Command::Env(args) => session.block_on(env::run(session, args)),
        Command::Plan(args) => plan::run(session, &args),
        Command::Run(args) => session.block_on(run::run(session, args)),
        Command::Serve(args) => session.block_on(serve::run(session, args)),
        Command::Sandboxd(args) => session.block_on(sandboxd::run(session, args)),
        Command::Runs(args) => runs::run(session, &args),
        Command::Slots(args) => slots::run(session, &args),
        Command::Errors(args) => errors::run(session, &args),
        Command::Findings(args) => session.block_on(findings::run(session, args)),
        Command::Logs(args) => session.block_on(logs::run(session, args)),
        Command::Cancel(args) => session.block_on(cancel::run(session, args)),
        Command::Resume(args) => session.block_on(resume::run(session, args)),
        Command::Approve(args) => session.block_on(answer::approve(session, args)),
        Command::Deny(args) => session.block_on(answer::deny(session, args)),
        Command::Answer(args) => session.block_on(answer::answer(session, args)),
        Command::Costs(args) => costs::run(session, &args),
        Command::Schema(args) => schema::run(session, &args),
        Command::Completions(args) => completions::run(session, &args),
    }
}

/// What went wrong, its causes, and what to do.
fn tell(session: &Session, error: &anyhow::Error) {
    let ui = &session.ui;
    let mut text = ui::paint(ui.color_err(), "1;31", "error");
    text.push_str(": ");
    let mut told = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        // Transparent errors repeat their source.
        if told.ends_with(&cause) {
            continue;
        }
        if !told.is_empty() {
            told.push_str(": ");
        }
        told.push_str(&cause);
    }
    // Lines stay, as in a list of questions; what could move the cursor goes.
    let told: Vec<String> = told.lines().map(crate::sinks::text::line).collect();
    text.push_str(&told.join("\n       "));
    if let Some(help) = error.downcast_ref::<Trouble>().and_then(|trouble| trouble.help.as_deref()) {
        text.push_str("\n  = help: ");
        text.push_str(help);
    }
    ui.must_say(text);
}
