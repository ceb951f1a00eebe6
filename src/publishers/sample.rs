//! A small ticket and a small draft, for tests.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

use crate::base::hash::Hash;
use crate::domain::code::{BlobId, CommitId, TreeId};
use crate::domain::diff::DiffRules;
use crate::domain::proof::{Case, CaseState, Evidence, Stage, StageKind, Suite};
use crate::domain::proposal::{Proposal, Proposed, PullRequestText, TicketFinding, TicketText};
use crate::domain::run::Effects;
use crate::domain::sandbox::{CommandReceipt, Workspace};
use crate::ports::publisher::{Branches, TreeChange};

pub(crate) const PATCH: &str = "diff --git a/src/duration.rs b/src/duration.rs\nindex 1111111..2222222 100644\n--- a/src/duration.rs\n+++ b/src/duration.rs\n@@ -38,6 +38,8 @@ pub fn parse_duration(text: &str) -> Result<Duration, ParseError> {\n     let text = text.trim();\n     let (sign, digits) = match text.strip_prefix('-') {\n-        Some(rest) => (1, rest),\n+        // `-0s` is zero, everything else keeps its sign.\n+        Some(rest) => (-1, rest),\n+        // <b>bold</b> & \"quoted\"\n         None => (1, text),\n     };\n     let seconds: i64 = digits.parse()?;\ndiff --git a/tests/duration.rs b/tests/duration.rs\nnew file mode 100644\nindex 0000000..3333333\n--- /dev/null\n+++ b/tests/duration.rs\n@@ -0,0 +1,5 @@\n+#[test]\n+fn a_negative_duration_keeps_its_sign() {\n+    assert_eq!(parse_duration(\"-3s\").unwrap(), -seconds(3));\n+}\n+\n";

pub(crate) fn tree(n: u8) -> TreeId {
    format!("{n:02x}").repeat(20).parse().unwrap()
}

fn stage(kind: StageKind, on: u8, exit: i32, failed: bool) -> Stage {
    let case = |name: &str, state, message: &str| Case { name: name.into(), state, message: message.into() };
    let red = "thread panicked at tests/duration.rs:3:\nassertion `left == right` failed\n  left: 3s\n right: -3s\nParseError: sign";
    let mut cases = vec![case("duration::zero", CaseState::Passed, ""), case("duration::big", CaseState::Passed, "")];
    if kind != StageKind::Base {
        let state = if failed { CaseState::Failed } else { CaseState::Passed };
        cases.push(case("a_negative_duration_keeps_its_sign", state, if failed { red } else { "" }));
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Stage {
        kind,
        receipt: CommandReceipt {
            command: "cargo test --offline".into(),
            tree: tree(on),
            exit: Some(exit),
            signal: None,
            stopped: None,
            duration_ms: 3_217,
            output: Hash::of(format!("{kind:?}")),
            environment: Hash::of("environment"),
            provider: "sandboxd".into(),
            template: String::new(),
            sandbox: String::new(),
            isolation: "namespaces".into(),
            gaps: Vec::new(),
            network: "none".into(),
            fresh: true,
            at: "2026-11-19T07:00:00Z".parse().unwrap(),
        },
        suite: Suite { cases, format: "cargo".into(), doubts: Vec::new() },
    }
}

pub(crate) fn draft() -> PullRequestText {
    PullRequestText {
        title: "Keep the sign of negative durations".into(),
        cause: "`parse_duration` strips the sign and never puts it back (src/duration.rs:41).\n\nSo `-3s` is read as 3 seconds."
            .into(),
        change: "The sign that was taken off is kept beside the digits. Rejecting negative values was not an option: \
                 three callers pass them."
            .into(),
        limits: vec!["Durations above 2^63 seconds were not looked at".into()],
        fixes: vec!["API-4F2".into()],
        patch: PATCH.into(),
        new_tree: tree(3),
        evidence: Evidence {
            base: Workspace {
                origin: "acme/api".into(),
                reference: "main".into(),
                commit: "0123456789abcdef0123456789abcdef01234567".parse().unwrap(),
                tree: tree(1),
                bound: "path".into(),
            },
            test_tree: tree(2),
            new_tree: tree(3),
            patch: Hash::of(PATCH),
            stages: vec![
                stage(StageKind::Base, 1, 0, false),
                stage(StageKind::Reproduced, 2, 101, true),
                stage(StageKind::Patched, 3, 0, false),
            ],
            reasons: vec!["ParseError".into()],
            noted: Vec::new(),
        },
        rules: DiffRules::default(),
        review: vec![
            (1, "block".into(), "src/duration.rs:41: a comment says what the line does (advice)".into()),
            (2, "approve".into(), "no finding".into()),
        ],
        labels: vec!["bug".into()],
        reviewers: vec!["codeowners".into()],
        expires_days: Some(14),
        max_open: Some(3),
        cost_usd: 0.11,
        models: vec!["claude-opus-5-5".into(), "claude-haiku-5-5".into()],
    }
}

pub(crate) fn ticket() -> TicketText {
    TicketText {
        title: "A restart loses queued mail".into(),
        severity: Some("high".into()),
        harm: "Mail that waits when the process ends is gone; customers are not told.".into(),
        sections: vec![("Root cause".into(), "The queue lives in memory only.".into())],
        code: vec![("Stack trace".into(), "src/queue.rs:10 in push\n```\n# no heading\n````".into())],
        findings: vec![
            TicketFinding {
                fingerprint: "f-1".into(),
                title: "lost on drop (queue-drop)".into(),
                file: Some("src/queue.rs".into()),
                line: Some(10),
                quote: Some("let queue = Vec::new();".into()),
            },
            TicketFinding { fingerprint: "f-2".into(), title: "never flushed".into(), ..TicketFinding::default() },
        ],
        accept: vec!["`cargo test queue` passes after a kill -9".into()],
        labels: vec!["tech-debt".into()],
        assignees: Vec::new(),
        commit: Some("0123456789abcdef0123456789abcdef01234567".into()),
        facts: vec![("times".into(), "412".into())],
        closed_as_not_planned: None,
        tracker: None,
    }
}

pub(crate) fn proposal(what: Proposed, fingerprints: &[&str]) -> Proposal {
    let ticket = !matches!(what, Proposed::PullRequest(_));
    let id = Hash::of(fingerprints.join(",")).to_string();
    Proposal {
        sink: if ticket { "tickets" } else { "pull_requests" }.into(),
        key: format!("parse-error-{}", &id[..8]),
        fingerprints: fingerprints.iter().map(|print| (*print).to_owned()).collect(),
        same: Vec::new(),
        at: "2026-11-19T07:00:00Z".parse().unwrap(),
        effects: Effects::Preview,
        pipeline: "error-to-pr".into(),
        definition: Hash::of("definition").to_string(),
        run: "01JD0000000000000000000007".into(),
        what,
    }
}

/// Branches in memory: a commit is a hash of what it is made of.
#[derive(Default)]
pub(crate) struct Remembered {
    pub branches: Mutex<BTreeMap<String, (CommitId, String)>>,
    /// Fail from this many puts on.
    pub broken: bool,
}

impl Branches for Remembered {
    fn put(
        &self,
        branch: &str,
        tree: &TreeId,
        parent: &CommitId,
        message: &str,
        seconds: i64,
    ) -> Result<CommitId, String> {
        if self.broken {
            return Err("the disk is full".into());
        }
        let id = Hash::of(format!("{tree} {parent} {message} {seconds}")).to_string();
        let commit: CommitId = id[..40].parse().unwrap();
        self.branches.lock().unwrap().insert(branch.to_owned(), (commit.clone(), message.to_owned()));
        Ok(commit)
    }

    fn find(&self, branch: &str) -> Result<Option<CommitId>, String> {
        Ok(self.branches.lock().unwrap().get(branch).map(|(commit, _)| commit.clone()))
    }

    fn folder(&self) -> PathBuf {
        "/state/work/repositories/api-1a2b.git".into()
    }

    fn changes(&self, _: &TreeId, _: &TreeId) -> Result<Vec<TreeChange>, String> {
        Ok(Vec::new())
    }

    fn blob(&self, id: &BlobId) -> Result<Vec<u8>, String> {
        Err(format!("no blob {id}"))
    }

    fn file(&self, _: &TreeId, _: &str) -> Result<Option<Vec<u8>>, String> {
        Ok(None)
    }
}
