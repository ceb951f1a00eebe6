//! Results as they are read, made into a suite with unique names.

use std::collections::BTreeMap;

use super::clean;
use crate::domain::proof::{Case, CaseState, Suite};

/// More tests than anybody has; one who floods the list must not fill the disk.
const MOST_CASES: usize = 100_000;
/// What all messages of a suite may have together, in bytes.
const ALL_MESSAGES: usize = 400_000;
const MOST_DOUBTS: usize = 8;
const DOUBT: usize = 600;

/// What one reader made of what a runner wrote.
#[derive(Debug)]
pub(super) struct Reading {
    /// In the order in which they were read.
    cases: Vec<Case>,
    format: String,
    doubts: Vec<String>,
    messages: usize,
    /// Where in the output this stands: first and last line.
    pub lines: (usize, usize),
}

impl Reading {
    pub fn new(format: &str) -> Self {
        Self { cases: Vec::new(), format: format.into(), doubts: Vec::new(), messages: 0, lines: (0, usize::MAX) }
    }

    pub fn is_empty(&self) -> bool {
        self.cases.is_empty()
    }

    pub fn add(&mut self, name: &str, state: CaseState, message: &str) {
        if self.cases.len() >= MOST_CASES {
            return self.doubt(format!("there are more than {MOST_CASES} results"));
        }
        let mut message = if state == CaseState::Passed { String::new() } else { clean::message(message) };
        self.messages += message.len();
        if self.messages > ALL_MESSAGES {
            message = clean::head(&message, 100).to_owned();
        }
        let mut name = clean::name(name);
        if name.is_empty() {
            name = "(without a name)".into();
        }
        self.cases.push(Case { name, state, message });
    }

    /// Says why this is not to be relied on.
    pub fn doubt(&mut self, why: impl Into<String>) {
        let why = clean::line(&why.into(), DOUBT);
        if self.doubts.len() < MOST_DOUBTS && !self.doubts.contains(&why) {
            self.doubts.push(why);
        }
    }

    /// How many there are: passed, failed, skipped.
    pub fn counts(&self) -> [usize; 3] {
        [CaseState::Passed, CaseState::Failed, CaseState::Skipped]
            .map(|state| self.cases.iter().filter(|case| case.state == state).count())
    }

    /// Takes what another runner wrote behind this.
    pub fn join(&mut self, other: Self) {
        self.lines.1 = self.lines.1.max(other.lines.1);
        self.messages += other.messages;
        self.cases.extend(other.cases);
        if !other.format.is_empty() {
            self.format = format!("{}+{}", self.format, other.format);
        }
        for doubt in other.doubts {
            self.doubt(doubt);
        }
    }

    /// Makes all results of one name one: failed if one of them is, skipped if one of them is and none failed. For runners that
    /// tell of one test twice, as of its body and of what follows it.
    pub fn merge_same_names(&mut self) {
        let mut at: BTreeMap<String, usize> = BTreeMap::new();
        let mut merged: Vec<Case> = Vec::new();
        for case in std::mem::take(&mut self.cases) {
            match at.get(&case.name).and_then(|at| merged.get_mut(*at)) {
                Some(first) => {
                    let worse = |state| match state {
                        CaseState::Passed => 0,
                        CaseState::Skipped => 1,
                        CaseState::Failed => 2,
                    };
                    if worse(case.state) > worse(first.state) {
                        first.state = case.state;
                    }
                    if !case.message.is_empty() && !first.message.contains(&case.message) {
                        let glue = if first.message.is_empty() { "" } else { "\n" };
                        first.message = clean::message(&format!("{}{glue}{}", first.message, case.message));
                    }
                }
                None => {
                    at.insert(case.name.clone(), merged.len());
                    merged.push(case);
                }
            }
        }
        self.cases = merged;
    }

    /// The suite. Names that stand twice are numbered in their order; it is a doubt if not all of one name did the same.
    pub fn suite(mut self) -> Suite {
        let mut seen: BTreeMap<String, (CaseState, usize)> = BTreeMap::new();
        let mut doubtful: Option<String> = None;
        for case in &mut self.cases {
            let (state, count) = seen.entry(case.name.clone()).or_insert((case.state, 0));
            *count += 1;
            if *state != case.state {
                doubtful.get_or_insert_with(|| case.name.clone());
            }
            if *count > 1 {
                case.name = format!("{} #{count}", case.name);
            }
        }
        if let Some(name) = doubtful {
            self.doubt(format!("`{name}` stands there twice with different results"));
        }
        self.cases.sort_by(|a, b| a.name.cmp(&b.name));
        let before = self.cases.len();
        self.cases.dedup_by(|a, b| a.name == b.name);
        if self.cases.len() < before {
            self.doubt("names of tests cannot be told apart");
        }
        Suite { cases: self.cases, format: self.format, doubts: self.doubts }
    }
}
