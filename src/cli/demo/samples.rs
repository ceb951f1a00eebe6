//! What `demo` lays out: the shipped pipelines, a configuration that binds them to samples, and the samples, all from this binary.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::Context as _;

use super::super::templates;
use crate::workspace::Git;
use crate::workspace::history::{self, Commit};

/// Folders below the demo's own that a new beginning takes away.
pub const MADE: &[&str] = &["out", "work", "samples", "pipelines"];

const CONFIG: &str = "\
# The demo's configuration: the shipped one with a profile that binds bundled samples and reads no key.
version: 1
effects: preview
models:
  boss:     {provider: anthropic, model: claude-opus-5-5, max_output_tokens: 16000}
  intern:   {provider: anthropic, model: claude-haiku-5-5, max_output_tokens: 4000}
  reviewer: {provider: anthropic, model: claude-sonnet-5-5, max_output_tokens: 16000}
prices: prices.yaml
privacy: {hide: [email, ip]}
limits: {max_budget_usd: 10, max_per_day_usd: 100, max_per_month_usd: 1000, max_concurrent_runs: 4}
profiles:
  demo:
    repository: {path: samples/parcels, pipelines: {error-to-pr: samples/quiethours}}
    tools: native
    sandbox: sandboxd
    environments: {environments/api.yaml: samples/environment.yaml}
    models: {tape: samples/demo.tape}
    sources: {warehouse: {sqlite: samples/warehouse.db}, shop: {files: samples/checkout.json}, sentry: {files: samples/errors.json}}
    sinks: {slack: files, tickets: files, pull_requests: local_branch}
";

const WAREHOUSE: &str = include_str!("../../../tests/samples/analytics/warehouse.sql");

/// Files below `samples/` that are taken as they are.
const FILES: &[(&str, &str)] = &[
    ("checkout.json", include_str!("../../../tests/samples/analytics/checkout.json")),
    ("errors.json", include_str!("../../../tests/samples/errors/errors.json")),
    ("environment.yaml", include_str!("../../../tests/samples/environment.yaml")),
];

/// What the models said when each pipeline was recorded. One tape plays them all.
const TAPES: &[&str] = &[
    include_str!("../../../tests/samples/analytics/demo.tape"),
    include_str!("../../../tests/samples/findings/demo.tape"),
    include_str!("../../../tests/samples/errors/demo.tape"),
];

macro_rules! files {
    ($folder:literal: $($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../../tests/samples/", $folder, "/", $path)))),*]
    };
}

/// The project of `code-health` at its first commit.
const PARCELS: &[(&str, &str)] = files!("findings/first":
    ".gitignore", "Cargo.lock", "Cargo.toml", "README.md", "src/audit.rs", "src/http.rs", "src/lib.rs", "src/main.rs",
    "src/status.rs", "src/store.rs", "src/track.rs", "tests/track.rs",
);

/// What its second commit adds and changes.
const PARCELS_NEXT: &[(&str, &str)] = files!("findings/second":
    "README.md", "src/lib.rs", "src/main.rs", "src/status.rs", "src/webhook.rs",
);

/// The project of `error-to-pr`.
const QUIETHOURS: &[(&str, &str)] = files!("bug":
    ".gitignore", "CODEOWNERS", "Cargo.lock", "Cargo.toml", "README.md", "src/clock.rs", "src/lib.rs", "src/main.rs",
    "src/outbox.rs", "src/plan.rs", "src/window.rs", "tests/plan.rs", "tests/window.rs",
);

const BRANCH: &str = "main";

fn parcels() -> [Commit<'static>; 2] {
    let author = "Ada Pettersson <ada@parcels.example>";
    let kept = PARCELS.iter().filter(|(path, _)| PARCELS_NEXT.iter().all(|(next, _)| next != path));
    let mut files: Vec<_> = kept.chain(PARCELS_NEXT).copied().collect();
    files.sort_unstable();
    [
        Commit {
            branch: BRANCH,
            message: "Tell where a parcel is\n",
            author,
            seconds: 1_794_214_800,
            files: PARCELS.to_vec(),
        },
        // Thursday before the demo's day, in the afternoon.
        Commit {
            branch: "next",
            message: "webhook: carriers push their scans\n",
            author,
            seconds: 1_795_102_920,
            files,
        },
    ]
}

fn quiethours() -> Commit<'static> {
    let author = "Mika Rossi <mika@quiethours.example>";
    let message = "Hold notifications back in quiet hours\n";
    Commit { branch: BRANCH, message, author, seconds: 1_794_819_600, files: QUIETHOURS.to_vec() }
}

/// Writes everything. Without a git that works the projects are mere folders; answers why then.
pub fn lay_out(dir: &Path, path: &OsStr) -> anyhow::Result<Option<String>> {
    put(&dir.join("nightcrew.yaml"), CONFIG)?;
    put(&dir.join("prices.yaml"), templates::PRICES)?;
    for template in templates::ALL {
        put(&dir.join(format!("pipelines/{}.yaml", template.name)), template.text)?;
        for (path, text) in template.refers_to {
            put(&dir.join("pipelines").join(path), text)?;
        }
    }
    let samples = dir.join("samples");
    for (path, text) in FILES {
        put(&samples.join(path), text)?;
    }
    put(&samples.join("demo.tape"), &TAPES.concat())?;
    let database = samples.join("warehouse.db");
    rusqlite::Connection::open(&database)
        .and_then(|connection| connection.execute_batch(WAREHOUSE))
        .with_context(|| format!("building {}", database.display()))?;
    match Git::find(path) {
        Ok(git) => {
            history::make(&git, &samples.join("parcels"), &parcels()).context("laying out a sample")?;
            history::make(&git, &samples.join("quiethours"), &[quiethours()]).context("laying out a sample")?;
            Ok(None)
        }
        Err(error) => {
            for (folder, files) in [("parcels", PARCELS), ("quiethours", QUIETHOURS)] {
                for (path, text) in files {
                    put(&samples.join(folder).join(path), text)?;
                }
            }
            Ok(Some(error.to_string()))
        }
    }
}

/// The project of `code-health` gets its second commit.
pub fn move_on(dir: &Path, path: &OsStr) -> anyhow::Result<()> {
    let git = Git::find(path)?;
    let [_, next] = parcels();
    history::move_on(&git, &dir.join("samples/parcels"), BRANCH, &next).context("moving a sample on")
}

/// Writes a file and makes its folder.
pub fn put(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::{Access, Origin, Repository};

    fn files_below(folder: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            match path.is_dir() {
                true if name == "target" => {}
                true => found.extend(files_below(&path).into_iter().map(|below| format!("{name}/{below}"))),
                false => found.push(name),
            }
        }
        found.sort();
        found
    }

    #[test]
    fn every_file_of_a_sample_is_laid_out() {
        let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
        for (folder, table) in [("findings/first", PARCELS), ("findings/second", PARCELS_NEXT), ("bug", QUIETHOURS)] {
            let mut listed: Vec<&str> = table.iter().map(|(path, _)| *path).collect();
            listed.sort_unstable();
            assert_eq!(files_below(&samples.join(folder)), listed, "{folder}");
        }
    }

    #[test]
    fn the_projects_have_the_same_history_every_time_and_move_on_once() {
        let path = crate::base::env::process_variable("PATH").unwrap();
        let path = OsStr::new(&path);
        let git = Git::find(path).unwrap();
        let heads = || {
            let folder = tempfile::tempdir().unwrap();
            assert_eq!(lay_out(folder.path(), path).unwrap(), None);
            let head = |project: &str| {
                let origin = Origin::folder(&folder.path().join("samples").join(project)).unwrap();
                let private = Repository::open(&git, &folder.path().join("private"), origin).unwrap();
                private.fetch(BRANCH, &Access::none()).unwrap().commit.to_string()
            };
            let before = [head("quiethours"), head("parcels")];
            let after = [(); 2].map(|()| {
                move_on(folder.path(), path).unwrap();
                head("parcels")
            });
            let webhook = std::fs::read_to_string(folder.path().join("samples/parcels/src/webhook.rs")).unwrap();
            assert!(webhook.contains("POST /scans"));
            (before, after)
        };
        let (before, after) = heads();
        assert!(after[0] == after[1] && after[0] != before[1]);
        assert_eq!(heads(), (before, after));
    }

    #[test]
    fn without_git_the_files_are_there_and_the_reason_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let why = lay_out(folder.path(), OsStr::new("/nowhere")).unwrap().unwrap();
        assert!(why.contains("git"), "{why}");
        assert!(folder.path().join("samples/quiethours/src/window.rs").is_file());
    }
}
