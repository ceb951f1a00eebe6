//! What is known of a fix, and how it becomes the step's end.

use serde_json::{Map, Value, json};

use crate::agent::prompt;
use crate::domain::entry::StepEnd;
use crate::domain::proof::{CaseState, Stage};
use crate::ports::durable::Stop;

use super::super::data;
use super::host::Judged;

/// How a fix ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Proved,
    Unproved,
    BlockedByReview,
    NoChange,
}

impl Word {
    /// Of a change that is as good as the step asks for. Without a test that was red before nothing is proved.
    pub fn good(test_first: bool) -> Self {
        if test_first { Self::Proved } else { Self::Unproved }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Proved => "proved",
            Self::Unproved => "unproved",
            Self::BlockedByReview => "blocked_by_review",
            Self::NoChange => "no_change",
        }
    }
}

/// Grows while the fix is made.
#[derive(Default)]
pub(super) struct Known {
    pub attempts: u32,
    /// The agent's last words.
    pub answer: Map<String, Value>,
    pub judged: Judged,
    /// The host's runs of the suite that count now.
    pub stages: Vec<Stage>,
    pub reviews: Vec<Value>,
    /// The reviewer let the change pass.
    pub reviewed: bool,
    pub fewer_tests: Option<Value>,
    /// The last attempt left everything as it was.
    pub no_progress: bool,
}

impl Known {
    /// The end of a fix that went its way.
    pub fn end(&self, word: Word, test_first: bool) -> StepEnd {
        let mut end = data::end(word.as_str(), self.fields(word == Word::Proved), self.summary(word, test_first));
        end.reason = match word {
            Word::Proved => None,
            Word::NoChange => Some("the agent changed nothing".into()),
            Word::Unproved | Word::BlockedByReview => self.judged.why.first().map(|why| prompt::clean(why)),
        };
        end
    }

    /// The end of a fix that was stopped, with what is known. Final stops are handed on.
    pub fn stopped(&self, stop: Stop) -> Result<StepEnd, Stop> {
        let mut end = data::settle(Err(stop))?;
        // Nothing is proved by a fix that did not come to its end, for instance before a review that is asked for.
        for (name, value) in self.fields(false) {
            end.result.entry(name).or_insert(value);
        }
        if self.attempts > 0 {
            end.summary = format!("stopped in attempt {}", self.attempts);
        }
        Ok(end)
    }

    fn fields(&self, proved: bool) -> Map<String, Value> {
        let judged = &self.judged;
        let said = |name: &str| self.answer.get(name).cloned();
        let (files, (added, removed)) =
            judged.difference.as_ref().map_or((0, (0, 0)), |found| (found.diff.changes.len(), found.diff.lines()));
        let refused: Vec<String> =
            if judged.is_dangerous() { judged.refused.iter().map(ToString::to_string).collect() } else { Vec::new() };
        let fields = [
            ("proved", proved.into()),
            ("green", judged.green.into()),
            // What was refused as dangerous stands beside it.
            ("why", self.why().into_iter().filter(|why| !proved && !refused.contains(why)).collect()),
            ("title", said("title").unwrap_or_else(|| "".into())),
            ("summary", said("summary").unwrap_or_else(|| "".into())),
            ("root_cause", said("root_cause").unwrap_or_default()),
            ("limits", said("limits").unwrap_or_else(|| json!([]))),
            ("patch", judged.difference.as_ref().map_or("", |difference| &difference.patch).into()),
            ("files", files.into()),
            ("added", added.into()),
            ("removed", removed.into()),
            ("tree", json!(judged.tree)),
            ("test_tree", json!(judged.test_tree)),
            ("receipts", self.stages.iter().map(receipt).collect()),
            ("evidence", json!(judged.evidence)),
            ("proven", json!(judged.proven)),
            ("refused", json!(refused)),
            ("review", Value::Array(self.reviews.clone())),
            ("attempts", self.attempts.into()),
            ("fewer_tests", self.fewer_tests.clone().unwrap_or_default()),
        ];
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn why(&self) -> Vec<String> {
        let mut why: Vec<String> =
            self.judged.why.iter().map(|why| prompt::clean(why).chars().take(1000).collect()).collect();
        if self.no_progress {
            why.push(format!("attempt {} changed nothing, so no other was made", self.attempts));
        }
        why
    }

    fn summary(&self, word: Word, test_first: bool) -> String {
        let judged = &self.judged;
        let mut parts = Vec::new();
        match word {
            Word::NoChange => parts.push("no change".to_owned()),
            Word::Unproved if test_first || !judged.green => parts.push(match self.attempts {
                1 => "not proved in 1 attempt".to_owned(),
                n => format!("not proved in {n} attempts"),
            }),
            Word::Proved | Word::BlockedByReview | Word::Unproved => {
                if judged.proven.is_some() {
                    parts.push("red on base ✓".to_owned());
                }
                parts.push("green with patch ✓".to_owned());
                let tests = self.stages.last().map_or(0, |stage| stage.suite.cases.len());
                parts.push(format!("{tests} test{}, none worse", if tests == 1 { "" } else { "s" }));
                parts.extend((word == Word::BlockedByReview).then(|| "blocked by review".to_owned()));
                parts.extend(self.reviewed.then(|| "reviewed".to_owned()));
            }
        }
        if let Some(first) = judged.why.first().filter(|_| word == Word::Unproved) {
            parts.push(prompt::clean(first).chars().take(120).collect());
        }
        parts.join(" · ")
    }
}

/// One run of the suite for people.
fn receipt(stage: &Stage) -> Value {
    let receipt = &stage.receipt;
    let count = |state| stage.suite.cases.iter().filter(|case| case.state == state).count();
    json!({
        "stage": stage.kind,
        "command": receipt.command,
        "exit": receipt.exit,
        "stopped": receipt.stopped,
        "duration_ms": receipt.duration_ms,
        "tree": receipt.tree,
        "output": receipt.output,
        "provider": receipt.provider,
        "template": receipt.template,
        "sandbox": receipt.sandbox,
        "isolation": receipt.isolation,
        "network": receipt.network,
        "at": receipt.at,
        "passed": count(CaseState::Passed),
        "failed": count(CaseState::Failed),
        "skipped": count(CaseState::Skipped),
    })
}
