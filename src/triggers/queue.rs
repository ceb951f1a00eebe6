//! Which claimed run may begin: the concurrency limit, and one scheduled run of a pipeline at a time. Pure.
//!
//! It knows every open run of this process, from whatever trigger. It holds no truth: after a restart it is filled from the
//! open runs of the journal. Invariants: at most `max_running` runs are running; a run that waits for its pipeline begins only
//! when no other run of that pipeline runs; within a pipeline runs begin in the order in which they came.

use std::collections::{HashMap, VecDeque};

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
    /// Run → its pipeline.
    running: HashMap<RunId, String>,
    waiting: VecDeque<(RunStart, Company)>,
    /// The same runs by pipeline, so that a thousand at once cost no more than each alone.
    members: HashMap<String, Members>,
}

#[derive(Debug, Default)]
struct Members {
    running: Vec<RunId>,
    /// In the order in which they came.
    waiting: VecDeque<RunId>,
}

impl Queue {
    pub fn new(max_running: usize) -> Self {
        let (running, waiting, members) = (HashMap::new(), VecDeque::new(), HashMap::new());
        Self { max_running: max_running.max(1), running, waiting, members }
    }

    /// A reload may change the limit; what runs goes on.
    pub fn set_max_running(&mut self, max_running: usize) {
        self.max_running = max_running.max(1);
    }

    /// Takes in a claimed run. One that is here already is not taken twice.
    pub fn admit(&mut self, start: RunStart, company: Company) {
        let members = self.members.entry(start.pipeline.clone()).or_default();
        if !members.running.contains(&start.id) && !members.waiting.contains(&start.id) {
            members.waiting.push_back(start.id.clone());
            self.waiting.push_back((start, company));
        }
    }

    /// Whether this run of the pipeline runs or waits here.
    pub fn knows(&self, pipeline: &str, run: &RunId) -> bool {
        self.members.get(pipeline).is_some_and(|members| members.running.contains(run) || members.waiting.contains(run))
    }

    /// The next run that may begin; from now on it counts as running. Call until `None`.
    pub fn ready(&mut self) -> Option<RunStart> {
        if self.running.len() >= self.max_running {
            return None;
        }
        let index = self.waiting.iter().position(|(start, company)| self.may_begin(start, *company))?;
        let (start, _) = self.waiting.remove(index)?;
        let members = self.members.entry(start.pipeline.clone()).or_default();
        members.waiting.retain(|run| *run != start.id);
        members.running.push(start.id.clone());
        self.running.insert(start.id.clone(), start.pipeline.clone());
        Some(start)
    }

    fn may_begin(&self, start: &RunStart, company: Company) -> bool {
        match company {
            Company::Any => true,
            Company::Alone => self
                .members
                .get(&start.pipeline)
                .is_none_or(|members| members.running.is_empty() && members.waiting.front() == Some(&start.id)),
        }
    }

    /// The run has ended, or will never begin. Whether it was known.
    pub fn ended(&mut self, run: &RunId) -> bool {
        let pipeline = match self.running.remove(run) {
            Some(pipeline) => pipeline,
            None => {
                match self.waiting.iter().position(|(start, _)| start.id == *run).and_then(|i| self.waiting.remove(i)) {
                    Some((start, _)) => start.pipeline,
                    None => return false,
                }
            }
        };
        if let Some(members) = self.members.get_mut(&pipeline) {
            members.running.retain(|other| other != run);
            members.waiting.retain(|other| other != run);
            if members.running.is_empty() && members.waiting.is_empty() {
                self.members.remove(&pipeline);
            }
        }
        true
    }

    /// Takes out the runs of a pipeline that have not begun, oldest first.
    pub fn withdraw(&mut self, pipeline: &str) -> Vec<RunId> {
        let Some(members) = self.members.get_mut(pipeline) else { return Vec::new() };
        let withdrawn = Vec::from(std::mem::take(&mut members.waiting));
        if members.running.is_empty() {
            self.members.remove(pipeline);
        }
        self.waiting.retain(|(start, _)| start.pipeline != pipeline);
        withdrawn
    }

    /// Runs of a pipeline that run.
    pub fn running_of(&self, pipeline: &str) -> Vec<RunId> {
        self.members.get(pipeline).map(|members| members.running.clone()).unwrap_or_default()
    }

    /// The run that stands in the way of the next one: a running one, else the first that waits.
    pub fn active(&self, pipeline: &str) -> Option<&RunId> {
        let members = self.members.get(pipeline)?;
        members.running.first().or_else(|| members.waiting.front())
    }

    pub fn open(&self, pipeline: &str) -> OpenRuns {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let Some(members) = self.members.get(pipeline) else { return OpenRuns::default() };
        OpenRuns { running: count(members.running.len()), queued: count(members.waiting.len()) }
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
