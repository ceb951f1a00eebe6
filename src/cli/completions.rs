//! `nightcrew completions SHELL`.

use clap::CommandFactory as _;

use super::Exit;
use super::args::{Cli, CompletionsArgs};
use super::session::Session;

pub fn run(session: &Session, args: &CompletionsArgs) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "nightcrew", &mut script);
    session.ui.data(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Exit::Done)
}
