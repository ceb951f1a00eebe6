//! The log: stderr, readable for people; the daemon's is JSON unless it is a terminal.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::args::Global;
use crate::base::env::process_variable;

/// Starts logging for this process. A daemon tells every change of state, a command only what is wrong; `-v` tells more, and
/// `NIGHTCREW_LOG` (`info,nightcrew::journal=debug`) decides alone.
pub fn start(global: &Global, daemon: bool) {
    let level = match (global.verbose, daemon, global.quiet) {
        (0, _, true) => "error",
        (0, true, false) => "info,tokio_cron_scheduler=warn",
        (0, false, false) => "warn",
        (1, ..) => "info,nightcrew=debug",
        _ => "debug,nightcrew=trace",
    };
    let asked = process_variable("NIGHTCREW_LOG").and_then(|filter| EnvFilter::try_new(filter).ok());
    let filter = asked.unwrap_or_else(|| EnvFilter::new(level));
    // A daemon's log is read by machines as soon as nobody watches; a command's always by whoever typed it.
    let terminal = std::io::stderr().is_terminal();
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let started = if terminal || !daemon {
        let color = terminal && !global.no_color && process_variable("NO_COLOR").is_none_or(|v| v.is_empty());
        tracing_subscriber::registry().with(filter).with(layer.with_ansi(color).with_target(false)).try_init()
    } else {
        tracing_subscriber::registry().with(filter).with(layer.json().flatten_event(true)).try_init()
    };
    // Only a second call in one process can fail, and then the first one logs.
    drop(started);
}
