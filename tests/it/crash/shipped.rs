//! The shipped pipelines over the demo's samples and tapes: real engine, journal, repositories and files. What commands answer is
//! recorded in the undisturbed run, so that a step through every entry takes minutes and not hours.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nightcrew::base::ids::RunId;
use nightcrew::base::money::UsdMicros;
use nightcrew::domain::entry::{Entry, EntryKind};
use nightcrew::domain::money::Spend;
use nightcrew::domain::run::{Outcome, RunStart};
use nightcrew::journal::FindingFilter;
use nightcrew::ports::Registry;
use serde_json::{Value, json};

use crate::demo;
use crate::fakes::memory::{self, Memory};
use crate::fakes::model::{ModelServer, Reply};
use crate::world::{Process, REGISTRY, World};

/// One shipped pipeline as the demo runs it.
struct Shipped {
    pipeline: &'static str,
    params: Value,
    /// A night that is taken for granted: `code-health` records what exists before it judges.
    baseline: bool,
    outcome: Outcome,
    tickets: usize,
    drafts: usize,
    /// A second run finds nothing to do.
    remembers: bool,
    /// As many model calls and acts may be under way at once.
    at_once: usize,
}

fn shipped() -> [Shipped; 3] {
    [
        Shipped {
            pipeline: "analytics-report",
            params: json!({"day": "2026-11-19"}),
            baseline: false,
            outcome: Outcome::Reported,
            tickets: 0,
            drafts: 0,
            remembers: false,
            at_once: 1,
        },
        Shipped {
            pipeline: "code-health",
            params: json!({}),
            baseline: true,
            outcome: Outcome::Acted,
            tickets: 4,
            drafts: 0,
            remembers: true,
            at_once: 4,
        },
        Shipped {
            pipeline: "error-to-pr",
            params: json!({"issue": ""}),
            baseline: false,
            outcome: Outcome::Acted,
            tickets: 1,
            drafts: 1,
            remembers: true,
            at_once: 4,
        },
    ]
}

/// Has the demo lay out its files in `folder` and ends it before it runs anything.
pub fn lay_out(folder: &Path) {
    let laid = tempfile::tempdir().unwrap();
    let mut command = demo::command(laid.path(), &["demo", "laid"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("1/4")), "the demo does not begin");
    child.kill().unwrap();
    child.wait().unwrap();
    for name in ["samples", "pipelines", "nightcrew.yaml", "prices.yaml"] {
        copy(&laid.path().join("laid").join(name), &folder.join(name));
    }
}

pub fn copy(from: &Path, to: &Path) {
    if !from.is_dir() {
        std::fs::copy(from, to).unwrap();
        return;
    }
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        copy(&entry.path(), &to.join(entry.file_name()));
    }
}

pub fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(below(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// A world that was laid out by the demo, with the memory of its sandbox.
struct Stage {
    shipped: Shipped,
    world: World,
    yaml: String,
    memory: Arc<Memory>,
    /// `state` and `out` as they are before the run.
    before: tempfile::TempDir,
    /// The real sandbox's: on disk, where programs can be started.
    _sandbox: tempfile::TempDir,
    _model: ModelServer,
}

impl Stage {
    async fn new(shipped: Shipped) -> Self {
        let model = ModelServer::script(|_| Reply::text("nobody asks me: the tape answers"));
        // Memory forgets what a crash of the machine forgets; a crash of the process loses nothing in either.
        let memory = Path::new("/dev/shm");
        let disk = std::env::temp_dir();
        let mut world = World::below(&model, if memory.is_dir() { memory } else { &disk });
        lay_out(world.path());
        world.registry = Registry { sandboxes: memory::ALL, ..REGISTRY };
        world.config = std::fs::read_to_string(world.path().join("nightcrew.yaml")).unwrap();
        world.prices = std::fs::read_to_string(world.path().join("prices.yaml")).unwrap();
        let pipelines = world.path().join("pipelines");
        let yaml = std::fs::read_to_string(pipelines.join(format!("{}.yaml", shipped.pipeline))).unwrap();
        for path in below(&pipelines).into_iter().filter(|path| path.parent() != Some(&pipelines)) {
            let name = path.strip_prefix(&pipelines).unwrap().display().to_string();
            world.files.push((name, std::fs::read_to_string(&path).unwrap()));
        }
        let sandbox = tempfile::tempdir().unwrap();
        let memory = memory::begin(world.path(), sandbox.path().to_owned());
        let before = tempfile::tempdir().unwrap();
        let stage = Self { shipped, world, yaml, memory, before, _sandbox: sandbox, _model: model };
        if stage.shipped.baseline {
            let parcels = stage.world.path().join("samples/parcels");
            demo::point(&parcels, "next~1");
            let process = stage.world.open(|_| {});
            let start = stage.claim(&process, "baseline").await.unwrap();
            let id = start.id.clone();
            assert_eq!(process.run(start).await, Some(Outcome::NothingNew), "{:#?}", process.view(&id));
            process.stop().await;
            demo::point(&parcels, "next");
        }
        for name in ["state", "out"] {
            let kept = stage.world.path().join(name);
            if kept.exists() {
                copy(&kept, &stage.before.path().join(name));
            }
        }
        stage
    }

    /// Everything as before the run.
    fn rewind(&self) {
        for name in ["state", "out"] {
            let place = self.world.path().join(name);
            if place.exists() {
                std::fs::remove_dir_all(&place).unwrap();
            }
            let kept = self.before.path().join(name);
            if kept.exists() {
                copy(&kept, &place);
            }
        }
    }

    async fn claim(&self, process: &Process, key: &str) -> Result<RunStart, nightcrew::journal::Error> {
        let change = |start: &mut RunStart| {
            start.profile = "demo".into();
            start.nominal_at = "2026-11-20T07:00:00Z".parse().unwrap();
            start.timezone = "Europe/Berlin".into();
            start.params = self.shipped.params.as_object().unwrap().clone();
        };
        self.world.try_claim(process, &self.yaml, key, change).await
    }

    fn entries(&self, process: &Process, id: &RunId) -> Vec<Entry> {
        process.journal.reader().entries_after(Some(id), 0, 10_000).unwrap()
    }

    /// A second run over the same state finds nothing to do and pays nothing.
    async fn again(&self, process: &Process, when: &str) {
        if !self.shipped.remembers {
            return;
        }
        let (published, branches) = (self.published(), self.branches());
        let start = self.claim(process, "again").await.unwrap();
        let id = start.id.clone();
        let outcome = process.run(start).await;
        let view = process.view(&id);
        assert_eq!(outcome, Some(Outcome::NothingNew), "{when}, again: {:#?} {:#?}", view.failure, view.steps);
        assert_eq!(view.spend.total().as_usd(), 0.0, "{when}, again");
        assert_eq!((self.published(), self.branches()), (published, branches), "{when}, again");
    }

    /// Every file of the output, without what tells runs apart.
    fn published(&self) -> BTreeMap<String, String> {
        let out = self.world.out();
        let text = |path: PathBuf| {
            let name = path.strip_prefix(&out).unwrap().display().to_string();
            (name, std::fs::read_to_string(&path).unwrap())
        };
        below(&out).into_iter().map(text).collect()
    }

    /// The branches of the private clones: name, tree, parent.
    fn branches(&self) -> Vec<String> {
        let mut found = Vec::new();
        for clone in std::fs::read_dir(self.world.state().join("work/repositories")).into_iter().flatten() {
            let format = "%(refname) %(tree) %(parent)";
            let output = std::process::Command::new("git")
                .arg("-C")
                .arg(clone.unwrap().path())
                .args(["for-each-ref", &format!("--format={format}"), "refs/heads/"])
                .output()
                .unwrap();
            found.extend(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned));
        }
        found.sort();
        found
    }

    fn end(&self, process: &Process, id: &RunId) -> End {
        let view = process.view(id);
        let root = self.world.out().display().to_string();
        let mut steps: Vec<_> =
            view.steps.iter().map(|step| (step.path.clone(), step.outcome.clone(), plain(&step.summary, id))).collect();
        steps.sort();
        let mut receipts: Vec<_> = view
            .receipts
            .iter()
            .map(|receipt| {
                (
                    receipt.kind.clone(),
                    receipt.destination.clone(),
                    plain(&receipt.url_or_path.replace(&root, "out"), id),
                )
            })
            .collect();
        receipts.sort();
        let all = FindingFilter { all: true, ..FindingFilter::default() };
        let mut ledger: Vec<_> = process
            .journal
            .reader()
            .findings(&all)
            .unwrap()
            .into_iter()
            .map(|line| {
                let place = line.url_or_path.unwrap_or_default().replace(&root, "out");
                format!(
                    "{} {} {} {:?} {} {} {place}",
                    line.source, line.fingerprint, line.title, line.state, line.end, line.weight
                )
            })
            .collect();
        ledger.sort();
        let files = self.published().into_iter().map(|(name, text)| (plain(&name, id), plain(&text, id))).collect();
        let counts = view.counts.clone();
        End { outcome: view.outcome, counts, steps, receipts, ledger, files, branches: self.branches() }
    }

    /// What runs leave in `work` besides the private clones, when their process has ended in order.
    fn left(&self) -> Vec<PathBuf> {
        let work = self.world.state().join("work");
        let mut left = below(&work);
        left.retain(|path| !path.starts_with(work.join("repositories")));
        for folder in std::fs::read_dir(work.join("worktrees")).into_iter().flatten() {
            left.push(folder.unwrap().path());
        }
        for clone in std::fs::read_dir(work.join("repositories")).into_iter().flatten() {
            left.extend(below(&clone.unwrap().path().join("temporary")));
        }
        left
    }
}

/// Without what tells runs apart: the run's id, its commit (which bears its time), and the lines of money and time.
fn plain(text: &str, id: &RunId) -> String {
    let text = text.replace(id.as_str(), "RUN");
    text.split_inclusive('\n').filter(|line| !line.contains('$') && !line.starts_with("commit: ")).collect()
}

/// What must be the same however often the process died.
#[derive(Debug, PartialEq)]
struct End {
    outcome: Option<Outcome>,
    counts: BTreeMap<String, u64>,
    steps: Vec<(String, Option<String>, String)>,
    receipts: Vec<(String, String, String)>,
    ledger: Vec<String>,
    files: BTreeMap<String, String>,
    branches: Vec<String>,
}

impl End {
    /// Says where two differ, and not all of both.
    fn assert_is(&self, undisturbed: &Self, when: &str) {
        assert_eq!(self.outcome, undisturbed.outcome, "{when}");
        assert_eq!(self.counts, undisturbed.counts, "{when}");
        assert_eq!(self.steps, undisturbed.steps, "{when}");
        assert_eq!(self.receipts, undisturbed.receipts, "{when}");
        assert_eq!(self.ledger, undisturbed.ledger, "{when}");
        assert_eq!(self.branches, undisturbed.branches, "{when}");
        let names = |end: &Self| end.files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(self), names(undisturbed), "{when}");
        for (name, text) in &self.files {
            // The page draws the timeline, in which the crash is to be seen.
            if !name.ends_with("/index.html") || name.starts_with("pr-") {
                assert_eq!(text, &undisturbed.files[name], "{when}: {name}");
            }
        }
    }
}

/// Calls of models by what the journal knows: begun, answered.
fn calls(entries: &[Entry]) -> (usize, usize) {
    let is_model = |entry: &&Entry| {
        serde_json::from_str::<Value>(entry.payload.get()).unwrap()["kind"] == "model"
            && entry.kind == EntryKind::ActivityIntended
    };
    let begun: BTreeSet<i64> = entries.iter().filter(is_model).map(|entry| entry.seq).collect();
    let paths: BTreeSet<&str> = entries.iter().filter(is_model).map(|entry| entry.path.as_str()).collect();
    (begun.len(), paths.len())
}

/// Nothing that was done is done again.
fn assert_once(entries: &[Entry], when: &str) {
    for kind in [EntryKind::ActivityDone, EntryKind::StepFinished, EntryKind::ChildFinished] {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for entry in entries.iter().filter(|entry| entry.kind == kind) {
            *seen.entry(entry.path.as_str()).or_default() += 1;
        }
        seen.retain(|_, times| *times > 1);
        assert!(seen.is_empty(), "{when}: {kind:?} twice: {seen:?}");
    }
}

fn paid(spend: &Spend) -> UsdMicros {
    spend.total() - spend.reserved
}

/// What a walk through the entries came to.
#[derive(Debug)]
#[allow(dead_code, reason = "printed")]
struct Walked {
    pipeline: &'static str,
    entries: i64,
    tried: usize,
    /// Model calls of the undisturbed run, and the most that were asked again after a crash.
    calls: usize,
    most_again: usize,
    /// Commands of the undisturbed run, and the most after a crash in both lives together.
    commands: usize,
    most_commands: usize,
    took: Duration,
}

/// Dies after every entry that `tries` names, given the entries of the undisturbed run.
async fn walk(shipped: Shipped, tries: impl Fn(&[Entry]) -> Vec<i64>) -> Walked {
    let began = Instant::now();
    let stage = Stage::new(shipped).await;
    let shipped = &stage.shipped;
    let process = stage.world.open(|_| {});
    let start = stage.claim(&process, "demo").await.unwrap();
    let id = start.id.clone();
    stage.memory.asked();
    let outcome = process.run(start).await;
    let view = process.view(&id);
    assert_eq!(outcome, Some(shipped.outcome), "{:#?} {:#?}", view.failure, view.steps);
    let undisturbed = stage.end(&process, &id);
    let of_kind = |kind: &str| undisturbed.receipts.iter().filter(|(known, ..)| known == kind).count();
    assert_eq!((of_kind("ticket"), of_kind("pull_request"), of_kind("report")), (shipped.tickets, shipped.drafts, 1));
    assert_eq!(undisturbed.branches.len(), shipped.drafts, "{:?}", undisturbed.branches);
    let spent = paid(&view.spend);
    assert!(spent > UsdMicros::ZERO && view.spend.reserved == UsdMicros::ZERO);
    let entries = stage.entries(&process, &id);
    assert_once(&entries, "undisturbed");
    let (asked, commands) = (calls(&entries).0, stage.memory.asked());
    stage.again(&process, "undisturbed").await;
    process.stop().await;
    assert_eq!(stage.left(), Vec::<PathBuf>::new());
    stage.memory.close();

    let (mut most_again, mut most_commands) = (0, 0);
    let last = entries.last().unwrap().seq;
    let tries = tries(&entries);
    for n in &tries {
        let when = format!("{} after entry {n} of {last}", shipped.pipeline);
        stage.rewind();
        stage.memory.asked();
        let dying = stage.world.open(|options| options.die_after = Some(*n));
        if let Ok(start) = stage.claim(&dying, "demo").await {
            dying.run(start).await;
        }
        dying.stop().await;
        let process = stage.world.open(|_| {});
        let open = process.journal.reader().open_runs().unwrap();
        let id = match open.first() {
            Some(start) => start.id.clone(),
            // It died after the end.
            None => {
                assert_eq!(*n, last, "{when}: the run is lost");
                process.stop().await;
                continue;
            }
        };
        assert_eq!(process.engine.resume_open().await.unwrap(), 1);
        process.engine.wait(&id).await.unwrap();
        let view = process.view(&id);
        assert_eq!(view.outcome, Some(shipped.outcome), "{when}: {:#?} {:#?}", view.failure, view.steps);
        stage.end(&process, &id).assert_is(&undisturbed, &when);
        let entries = stage.entries(&process, &id);
        assert_once(&entries, &when);
        let (begun, paths) = calls(&entries);
        assert_eq!(paths, asked, "{when}: other calls than in the undisturbed run");
        let again = begun - paths;
        assert!(again <= shipped.at_once, "{when}: {again} calls were asked again");
        // What was answered costs what it cost; what was under way stays reserved.
        assert_eq!(paid(&view.spend), spent, "{when}");
        assert_eq!(view.spend.reserved > UsdMicros::ZERO, again > 0, "{when}: {:?}, {again} again", view.spend);
        most_again = most_again.max(again);
        most_commands = most_commands.max(stage.memory.asked());
        stage.again(&process, &when).await;
        process.stop().await;
        assert_eq!(stage.left(), Vec::<PathBuf>::new(), "{when}");
    }
    let walked = Walked {
        pipeline: shipped.pipeline,
        entries: entries.len() as i64,
        tried: tries.len(),
        calls: asked,
        most_again,
        commands,
        most_commands,
        took: began.elapsed(),
    };
    println!("{walked:?}");
    walked
}

/// Every entry of steps that publish, every `k`-th of the others.
fn some(entries: &[Entry], k: usize) -> Vec<i64> {
    let acts = |entry: &Entry| {
        ["/draft", "/ticket", "news", "post"].iter().any(|part| entry.path.contains(part))
            || entry.kind == EntryKind::RunStarted
    };
    entries.iter().enumerate().filter(|(i, entry)| i % k == 0 || acts(entry)).map(|(_, entry)| entry.seq).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_report_comes_once_however_often_the_process_dies() {
    let [report, ..] = shipped();
    walk(report, |entries| entries.iter().map(|entry| entry.seq).collect()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_scan_files_each_ticket_once_however_often_the_process_dies() {
    let [_, scan, _] = shipped();
    walk(scan, |entries| some(entries, 9)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_fix_opens_one_draft_and_one_ticket_however_often_the_process_dies() {
    let [.., fix] = shipped();
    walk(fix, |entries| some(entries, 11)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: every entry of all three"]
async fn the_shipped_pipelines_die_after_every_entry() {
    for shipped in shipped() {
        walk(shipped, |entries| entries.iter().map(|entry| entry.seq).collect()).await;
    }
}
