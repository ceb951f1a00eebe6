//! Which claimed run may begin: the concurrency limit, and one scheduled run of a pipeline at a time. Pure.
//!
//! It knows every open run of this process, from whatever trigger. It holds no truth: after a restart it is filled from the
//! open runs of the journal. Invariants: at most `max_running` runs are running; a run that waits for its pipeline begins only
//! when no other run of that pipeline runs; within a pipeline runs begin in the order in which they came.

use std::collections::{BTreeMap, VecDeque};

use crate::base::ids::RunId;
use crate::domain::run::RunStart;
use crate::policy::due::OpenRuns;

/// Whether a run may run beside others of its pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Company {
    /// A person or an event asked for it: beside others.
    Any,
    /// A slot asked for it: after the others have ended.
    Alone,
}

/// Runs that wait and runs that run.
#[derive(Debug)]
pub struct Queue {
    max_running: usize,
    running: BTreeMap<RunId, String>,
    waiting: VecDeque<(RunStart, Company)>,
}

impl Queue {
    pub fn new(max_running: usize) -> Self {
        Self { max_running: max_running.max(1), running: BTreeMap::new(), waiting: VecDeque::new() }
    }

    /// A reload may change the limit; what runs goes on.
    pub fn set_max_running(&mut self, max_running: usize) {
        self.max_running = max_running.max(1);
    }

    /// Takes in a claimed run. One that is here already is not taken twice.
    pub fn admit(&mut self, start: RunStart, company: Company) {
        if !self.knows(&start.id) {
            self.waiting.push_back((start, company));
        }
    }

    pub fn knows(&self, run: &RunId) -> bool {
        self.running.contains_key(run) || self.waiting.iter().any(|(start, _)| start.id == *run)
    }

    /// The next run that may begin; from now on it counts as running. Call until `None`.
    pub fn ready(&mut self) -> Option<RunStart> {
        if self.running.len() >= self.max_running {
            return None;
        }
        let index = (0..self.waiting.len()).find(|index| self.may_begin(*index))?;
        let (start, _) = self.waiting.remove(index)?;
        self.running.insert(start.id.clone(), start.pipeline.clone());
        Some(start)
    }

    fn may_begin(&self, index: usize) -> bool {
        let Some((start, company)) = self.waiting.get(index) else { return false };
        match company {
            Company::Any => true,
            Company::Alone => {
                !self.running.values().any(|pipeline| *pipeline == start.pipeline)
                    && !self.waiting.iter().take(index).any(|(earlier, _)| earlier.pipeline == start.pipeline)
            }
        }
    }

    /// The run has ended, or will never begin. Whether it was known.
    pub fn ended(&mut self, run: &RunId) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|(start, _)| start.id != *run);
        self.running.remove(run).is_some() || self.waiting.len() < before
    }

    /// Takes out the runs of a pipeline that have not begun.
    pub fn withdraw(&mut self, pipeline: &str) -> Vec<RunId> {
        let mut withdrawn = Vec::new();
        self.waiting.retain(|(start, _)| {
            let stays = start.pipeline != pipeline;
            if !stays {
                withdrawn.push(start.id.clone());
            }
            stays
        });
        withdrawn
    }

    /// Runs of a pipeline that run.
    pub fn running_of(&self, pipeline: &str) -> Vec<RunId> {
        self.running.iter().filter(|(_, name)| *name == pipeline).map(|(run, _)| run.clone()).collect()
    }

    /// The run that stands in the way of the next one: a running one, else the first that waits.
    pub fn active(&self, pipeline: &str) -> Option<&RunId> {
        let running = self.running.iter().find(|(_, name)| *name == pipeline).map(|(run, _)| run);
        running
            .or_else(|| self.waiting.iter().find(|(start, _)| start.pipeline == pipeline).map(|(start, _)| &start.id))
    }

    pub fn open(&self, pipeline: &str) -> OpenRuns {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        OpenRuns {
            running: count(self.running.values().filter(|name| *name == pipeline).count()),
            queued: count(self.waiting.iter().filter(|(start, _)| start.pipeline == pipeline).count()),
        }
    }

    /// How many runs wait, of all pipelines.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many runs run, of all pipelines.
    pub fn running(&self) -> usize {
        self.running.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::triggers::tests::run_start;

    fn begun(queue: &mut Queue) -> Vec<String> {
        std::iter::from_fn(|| queue.ready()).map(|start| start.id.0).collect()
    }

    #[test]
    fn a_scheduled_run_waits_for_its_pipeline_and_a_persons_run_does_not() {
        let mut queue = Queue::new(10);
        queue.admit(run_start("a1", "a"), Company::Alone);
        queue.admit(run_start("a2", "a"), Company::Alone);
        queue.admit(run_start("a3", "a"), Company::Alone);
        queue.admit(run_start("b1", "b"), Company::Alone);
        queue.admit(run_start("a4", "a"), Company::Any);
        queue.admit(run_start("a1", "a"), Company::Any);
        assert_eq!(begun(&mut queue), ["a1", "b1", "a4"]);
        assert_eq!(queue.open("a"), OpenRuns { running: 2, queued: 2 });
        assert!(queue.ended(&RunId("a1".into())));
        assert_eq!(begun(&mut queue), Vec::<String>::new(), "the person's run still runs");
        assert!(queue.ended(&RunId("a4".into())));
        assert_eq!(begun(&mut queue), ["a2"]);
        assert_eq!(queue.withdraw("a"), [RunId("a3".into())]);
        assert!(!queue.ended(&RunId("a3".into())));
        assert_eq!((queue.waiting(), queue.running()), (0, 2));
    }

    #[test]
    fn no_more_run_than_may() {
        let mut queue = Queue::new(2);
        for id in ["a", "b", "c", "d"] {
            queue.admit(run_start(id, id), Company::Alone);
        }
        assert_eq!(begun(&mut queue), ["a", "b"]);
        assert_eq!(queue.active("c"), Some(&RunId("c".into())));
        queue.ended(&RunId("b".into()));
        assert_eq!(begun(&mut queue), ["c"]);
        queue.set_max_running(3);
        assert_eq!(begun(&mut queue), ["d"]);
        assert_eq!(queue.running_of("c"), [RunId("c".into())]);
    }
}
