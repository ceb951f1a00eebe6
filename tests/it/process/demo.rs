//! Whole demos under `kill -9`, with the real sandbox: what is published is that of an undisturbed one, nothing that ran confined
//! outlives its daemon, and no kill leaves more behind than the one before.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Moments, files, seed};
use crate::demo;
use crate::project::Answer;

/// How long what was started may take to notice that the daemon is gone.
const ENDS_WITHIN: Duration = Duration::from_secs(2);

/// One folder with a demo, and the binary run in it.
struct Demo(tempfile::TempDir);

impl Demo {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn begin(&self) -> Child {
        let mut command = demo::command(self.0.path(), &["--json", "demo", "demo"]);
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Answer {
        let config = ["--config", "demo/nightcrew.yaml", "--state", "demo", "--json"];
        Answer::of(demo::command(self.0.path(), &[&config[..], arguments].concat()).output().unwrap())
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.path().join("demo").join(below)
    }

    /// Processes that have to do with this demo: by their command, their folder, what is mounted for them.
    fn processes(&self) -> BTreeMap<String, String> {
        let mark = self.0.path().as_os_str().as_bytes();
        let mentions = |bytes: &[u8]| bytes.windows(mark.len()).any(|window| window == mark);
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            if !name.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            // Whatever ends meanwhile has nothing to be read.
            let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
            let cwd = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
            if [read("cmdline"), cwd.as_os_str().as_bytes().to_vec(), read("mountinfo")].iter().any(|t| mentions(t)) {
                let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
                found.insert(name, command.chars().take(200).collect());
            }
        }
        found
    }

    /// What a process keeps in `work` beside clones and images: folders of commands, copies of trees, half-made things.
    fn kept(&self) -> BTreeSet<String> {
        let work = self.path("work");
        let mut kept = BTreeSet::new();
        let mut list = |folder: &str| {
            for entry in std::fs::read_dir(work.join(folder)).into_iter().flatten() {
                kept.insert(format!("{folder}/{}", entry.unwrap().file_name().display()));
            }
        };
        list("sandboxes/sandboxd/own");
        list("sandboxes/sandboxd/client/own");
        list("worktrees");
        list("sandboxes/sandboxd/client/templates");
        for clone in std::fs::read_dir(work.join("repositories")).into_iter().flatten() {
            list(&format!("repositories/{}/temporary", clone.unwrap().file_name().display()));
        }
        for blob in files(&self.path("blobs/tmp")) {
            kept.insert(blob.display().to_string());
        }
        kept
    }

    /// What a demo came to, without what tells runs apart.
    fn effects(&self, answer: &Value) -> Value {
        let ids: Vec<&str> = answer["runs"].as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap()).collect();
        let plain = |text: String| ids.iter().fold(text, |text, id| text.replace(id, "RUN"));
        let mut published = BTreeMap::new();
        for path in files(&self.path("out")) {
            let name = plain(path.strip_prefix(self.path("out")).unwrap().display().to_string());
            let mut text = plain(std::fs::read_to_string(&path).unwrap());
            // Pages and proofs tell how long things took; what has a patch in it has the same one.
            if name.ends_with("index.html") || name.ends_with("pull-request.md") {
                text.clear();
            }
            let same = |line: &&str| !["$", "commit", "found by"].iter().any(|word| line.contains(word));
            published.insert(name, text.lines().filter(same).map(str::to_owned).collect::<Vec<_>>());
        }
        let ledger = self.run(&["findings", "--all"]).ends(0).json();
        let ledger: BTreeSet<String> = ledger["findings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| format!("{} {} {} {}", line["source"], line["fingerprint"], line["state"], line["end"]))
            .collect();
        json!({"runs": demo::summary(answer), "published": published, "ledger": ledger, "branches": self.branches()})
    }

    fn branches(&self) -> Vec<String> {
        let mut found = Vec::new();
        for clone in std::fs::read_dir(self.path("work/repositories")).unwrap() {
            let output = std::process::Command::new("git")
                .arg("-C")
                .arg(clone.unwrap().path())
                .args(["for-each-ref", "--format=%(refname) %(tree) %(parent)", "refs/heads/"])
                .output()
                .unwrap();
            found.extend(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned));
        }
        found
    }

    /// Kills a demo at `kills` moments below `longest`, lets it end, and answers what it said.
    fn torment(&self, moments: &mut Moments, kills: usize, longest: Duration) -> Value {
        let mut most = 0;
        for kill in 1..=kills {
            let mut child = self.begin();
            let moment = Duration::from_millis(moments.below(longest.as_millis() as u64));
            std::thread::sleep(moment);
            let over = child.try_wait().unwrap().is_some();
            let under_way = self.processes();
            // As a person does it, or as systemd and a machine without memory do it: with everything that it has started.
            if moments.below(2) == 0 {
                let all = under_way.keys().map(String::as_str);
                // Some may have ended by themselves, which is no failure.
                std::process::Command::new("kill").arg("-9").args(all).stderr(Stdio::null()).status().unwrap();
            }
            let under_way = under_way.len();
            child.kill().unwrap();
            child.wait().unwrap();
            let killed = Instant::now();
            let mut left = self.processes();
            while !left.is_empty() && killed.elapsed() < ENDS_WITHIN {
                std::thread::sleep(Duration::from_millis(10));
                left = self.processes();
            }
            println!(
                "kill {kill} after {moment:?}{}: {under_way} processes, gone after {:?}",
                if over { " (over)" } else { "" },
                killed.elapsed()
            );
            assert_eq!(left, BTreeMap::new(), "outlive the daemon after kill {kill}");
            most = most.max(self.kept().len());
        }
        // One process's own folder with its lock, the turn, two images, one that is being made, copies of trees.
        assert!(most < 16, "{most} things are kept after a kill: {:#?}", self.kept());
        let answer = Answer::of(self.begin().wait_with_output().unwrap()).ends(0).json();
        assert_eq!(demo::summary(&answer), demo::whole(), "{answer:#}");
        answer
    }
}

/// Everything as after a demo that nobody disturbed, given how much an undisturbed one keeps.
fn assert_clean(demo: &Demo, answer: &Value, kept: usize) {
    assert_eq!(demo.processes(), BTreeMap::new());
    let now = demo.kept();
    // Fewer where the last process had nothing to run any more: then what the killed ones left is gone all the same.
    assert!(now.len() <= kept, "{now:#?}");
    assert!(!now.iter().any(|name| name.contains("half") || name.contains("worktrees/")), "{now:#?}");
    let own = now.iter().find(|name| name.contains("/own/") && !name.contains(".lock") && !name.ends_with("turn"));
    let mut left = own.map_or_else(Vec::new, |own| files(&demo.path("work").join(own)));
    left.retain(|path| !path.components().any(|part| part.as_os_str() == "etc"));
    assert_eq!(left, Vec::<PathBuf>::new());
    let doctor = demo.run(&["doctor"]).ends(0).json();
    assert_eq!(doctor["ok"], true, "{doctor:#}");
    for run in answer["runs"].as_array().unwrap() {
        assert_once(demo, run["id"].as_str().unwrap());
    }
}

fn assert_once(demo: &Demo, id: &str) {
    let lines = demo.run(&["logs", id]).ends(0).out;
    let mut seen: BTreeMap<(String, String), usize> = BTreeMap::new();
    for line in lines.lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        let [kind, path] = ["kind", "path"].map(|field| entry[field].as_str().unwrap_or_default().to_owned());
        if ["activity_done", "step_finished", "child_finished"].contains(&kind.as_str()) {
            *seen.entry((kind, path)).or_default() += 1;
        }
    }
    seen.retain(|_, times| *times > 1);
    assert!(seen.is_empty(), "twice in {id}: {seen:?}");
}

/// `own/`: the lock, the folder, the turn; two images.
const KEPT: usize = 5;

#[test]
fn a_demo_that_is_killed_six_times_ends_as_an_undisturbed_one() {
    let seed = seed();
    println!("NIGHTCREW_TEST_SEED={seed}");
    let demo = Demo::new();
    let answer = demo.torment(&mut Moments(seed), 6, Duration::from_millis(4500));
    assert_clean(&demo, &answer, KEPT);
    let effects = demo.effects(&answer);
    assert_eq!(effects["branches"].as_array().unwrap().len(), 1, "{effects:#}");
    let count = |folder: &str| files(&demo.path(&format!("out/{folder}"))).len();
    assert_eq!(count("tickets"), 6, "five and what they are: {effects:#}");
    assert_eq!(count(""), 15, "with three reports and a draft: {effects:#}");
}

#[test]
#[ignore = "takes minutes: forty kills over several demos"]
fn demos_that_are_killed_forty_times_end_as_an_undisturbed_one() {
    let seed = seed();
    println!("NIGHTCREW_TEST_SEED={seed}");
    let mut moments = Moments(seed);
    let undisturbed = Demo::new();
    let answer = undisturbed.torment(&mut moments, 0, Duration::ZERO);
    assert_clean(&undisturbed, &answer, KEPT);
    let wanted = undisturbed.effects(&answer);
    for longest in [400, 1200, 2500, 6000] {
        let demo = Demo::new();
        let answer = demo.torment(&mut moments, 10, Duration::from_millis(longest));
        assert_clean(&demo, &answer, KEPT);
        let effects = demo.effects(&answer);
        for part in ["runs", "ledger", "branches"] {
            assert_eq!(effects[part], wanted[part], "{part}");
        }
        let (found, wanted) = (effects["published"].as_object().unwrap(), wanted["published"].as_object().unwrap());
        assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
        for (name, text) in found {
            assert_eq!(text, &wanted[name], "{name}");
        }
    }
}
