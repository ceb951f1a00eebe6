//! The figures of the design (turn overhead, concurrency, cold start, memory, activity records, resuming, prompts, schedules,
//! intake of errors, sandboxes, search), measured beside the least that the same work takes on this machine, in one run: `cargo bench`, or
//! `cargo bench -- turn records`.
//!
//! It says what is, not whether that is good: a shared machine is noisy, so look at the ratios and at several runs. Every
//! figure is the median of its repetitions. State lies in the target folder, because a temporary folder may be in memory, where
//! an fsync costs nothing; `--in DIR` puts it elsewhere, for instance into memory, to see what is left without the disk.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A bench that cannot measure ends.
#![allow(clippy::disallowed_methods)] // The model server and the bare loops are no part of nightcrew.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

mod bare;
/// The model of the tests, which counts tokens and keeps a prompt cache as the API does.
#[path = "../tests/it/fakes/model.rs"]
mod checked;
mod intake;
mod prompt;
mod records;
mod sandboxd;
mod sandboxes;
mod schedules;
mod search;
mod server;
mod startup;
mod table;
mod turns;
mod webhooks;
mod world;

use table::Line;

/// `--in`
static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// Where states are made.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(FOLDER.get().map_or(Path::new(env!("CARGO_TARGET_TMPDIR")), PathBuf::as_path)).unwrap()
}

/// A runtime as the daemon's.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

/// A group of figures: its name on the command line and what measures it.
type Group = (&'static str, fn() -> Vec<Line>);

const GROUPS: &[Group] = &[
    ("turn", turns::one_turn),
    ("concurrent", turns::concurrent),
    ("start", startup::cold_start),
    ("memory", startup::memory),
    ("records", records::records),
    ("resume", startup::resume),
    ("prompt", prompt::prompt),
    ("schedules", schedules::schedules),
    ("webhooks", webhooks::webhooks),
    ("intake", intake::intake),
    ("isolation", sandboxes::start),
    ("sandboxd", sandboxd::sandboxes),
    ("search", search::search),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [child, folder, url, runs] = args.as_slice()
        && child == startup::CHILD
    {
        return startup::child(Path::new(folder), url, runs.parse().unwrap());
    }
    let mut wanted: Vec<&str> = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "--in" => FOLDER.set(rest.next().expect("--in DIR").into()).unwrap(),
            // Cargo says `--bench`.
            flag if flag.starts_with("--") => {}
            group => wanted.push(group),
        }
    }
    let mut lines = Vec::new();
    for (name, measure) in GROUPS {
        if wanted.is_empty() || wanted.contains(name) {
            eprintln!("measuring: {name}");
            lines.extend(measure());
            // What one group leaves behind shall not burden the next.
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "\nnightcrew {}, {cores} cores; medians; other load on the machine counts in\n",
        env!("CARGO_PKG_VERSION")
    );
    table::print(&lines);
    println!("\ncrates in the binary: {}", crates());
    println!("cold build: CARGO_TARGET_DIR=$(mktemp -d) cargo build --release --timings");
}

/// What `cargo tree` names for a plain build of this platform.
fn crates() -> String {
    let tree = std::process::Command::new(option_env!("CARGO").unwrap_or("cargo"))
        .args(["tree", "--offline", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    match tree {
        Ok(tree) if tree.status.success() => {
            let text = String::from_utf8_lossy(&tree.stdout);
            let names: std::collections::BTreeSet<&str> =
                text.lines().map(|line| line.trim_end_matches(" (*)").trim_end_matches(" (proc-macro)")).collect();
            (names.len().saturating_sub(1)).to_string()
        }
        _ => "unknown (`cargo tree` did not run)".to_owned(),
    }
}
