//! What is put on everything that runs inside: limits, user, Landlock, system call filter.
//!
//! Prepared once by the first process, put on by a process on itself. Invariant: nothing of it can be taken off again.

use std::io;

use rustix::process::{Resource, Rlimit};
use seccompiler::BpfProgram;

use super::super::helper::Failure;
use super::super::other_user::become_user;
use super::super::plan::Plan;
use super::super::spec::Limits;
use super::super::tier::Tier;
use super::super::wire::Stage;
use super::super::{filter, ruleset, watch};

/// Everything that confines a process.
pub(super) struct Confinement {
    rules: landlock::RulesetCreated,
    programs: Vec<BpfProgram>,
    limits: Vec<(Resource, u64)>,
    /// How many processes and threads its user may have on the whole.
    processes: u64,
    user: Option<u32>,
    /// There is no other lock than this.
    alone: bool,
}

impl Confinement {
    pub(super) fn prepare(plan: &Plan) -> Result<Self, Failure> {
        let rules = ruleset::prepare(plan).map_err(|error| Failure::new(Stage::Landlock, "preparing it", error))?;
        let programs = filter::programs(plan.tier, plan.counted, plan.egress)
            .map_err(|error| Failure::new(Stage::Seccomp, "preparing it", error))?;
        let processes = processes(&plan.limits, plan.tier, plan.user)
            .map_err(|error| Failure::new(Stage::Limits, "counting processes", error))?;
        let limits = resource_limits(&plan.limits);
        let alone = !plan.tier.own_file_system();
        // Elsewhere all of it was that user's from the beginning.
        Ok(Self { rules, programs, limits, processes, user: plan.user.filter(|_| alone), alone })
    }

    /// Confines this process and all that it will start. The error is the part that failed. It may start a few processes more than
    /// those that come after [`Confinement::no_more_processes`].
    pub(super) fn put_on(&self) -> Result<(), Stage> {
        /// So many can be started from outside when those inside can start no more, to tidy up.
        const MORE: u64 = 8;
        lower(Resource::Nproc, self.processes + MORE).map_err(|_| Stage::Limits)?;
        for (resource, most) in &self.limits {
            lower(*resource, *most).map_err(|_| Stage::Limits)?;
        }
        if let Some(user) = self.user {
            become_user(user).map_err(|_| Stage::Ownership)?;
        }
        let rules = self.rules.try_clone().map_err(|_| Stage::Landlock)?;
        ruleset::enforce(rules, self.alone).map_err(|_| Stage::Landlock)?;
        self.programs.iter().try_for_each(|program| seccompiler::apply_filter(program).map_err(|_| Stage::Seccomp))
    }

    /// From here on no more processes are started than the room has.
    pub(super) fn no_more_processes(&self) -> io::Result<()> {
        Ok(lower(Resource::Nproc, self.processes)?)
    }
}

/// Counted per user and namespace of users; in the last tier without a user of its own the others count as well.
fn processes(limits: &Limits, tier: Tier, user: Option<u32>) -> io::Result<u64> {
    /// Those of ours that have the same user, and what others of that user may begin meanwhile.
    const OURS: u64 = 3;
    const THEIRS: u64 = 256;
    let shared = tier == Tier::Landlock && user.is_none();
    let others = if shared { watch::tasks_of_user(rustix::process::geteuid().as_raw())? + THEIRS } else { OURS };
    Ok(others + limits.processes)
}

fn resource_limits(limits: &Limits) -> Vec<(Resource, u64)> {
    vec![
        // A limit of 1 keeps also the kernel's pipe to a program of the host, which 0 does not. See core(5).
        (Resource::Core, 1),
        // The sum is watched; this ends one process that the watching would be late for.
        (Resource::Cpu, limits.cpu.as_secs() + 1),
        // Not RLIMIT_AS: Node, Go and Java reserve far more address space than they use.
        (Resource::Data, limits.memory_bytes),
        (Resource::Fsize, limits.file_bytes),
        (Resource::Nofile, limits.open_files),
        (Resource::Msgqueue, 1 << 20),
    ]
}

fn lower(resource: Resource, most: u64) -> rustix::io::Result<()> {
    let now = rustix::process::getrlimit(resource);
    let most = now.maximum.map_or(most, |maximum| maximum.min(most));
    rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
}
