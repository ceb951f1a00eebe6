//! The schedule loop: one task that gives every slot of every schedule its fate, claims runs, and says when they may begin.
//!
//! It reads the clock, asks [`crate::policy::due`] what is to be done, writes that to the journal and only then hands a run
//! on. It sleeps until the next slot; the safety wake-up, a doubled wake-up and a lost one change nothing but when it looks.
//! It never waits for a run, and it does not run anything itself.
//!
//! Invariants: a run is handed on after its claim is durable; the account of a pipeline moves on only when all decisions
//! before it are durable (deciding again what is already written is harmless: the journal keeps one row per slot); what the journal
//! refuses to write is tried again, and nothing is handed on meanwhile.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt as _, StreamExt as _};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::handle::{Bounds, Command, Handle, Hooks, Order, Scheduled, answer};
use super::queue::{Company, Queue};
use crate::base::env::Env;
use crate::base::hash::Hash;
use crate::base::ids::RunId;
use crate::domain::run::{Outcome, TriggerKind};
use crate::domain::view::{SlotFate, SlotLine};
use crate::journal::{self, Claim, Claimed, Journal, RunFinish, ScheduleState};
use crate::policy::due::{Decision, Fate, Refusal, Situation, Slot, Start, decide, next_due, rewind};

/// The loop looks at the clock at least this often, whatever else wakes it.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// After the journal refused to write.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Among so many newest slots of a pipeline are those whose run still waits.
const RECENT: u32 = 1_000;

/// Decisions about one pipeline that are written together.
const CHUNK: usize = 1_000;

/// So many pipelines are decided before the journal is given their claims.
const TOGETHER: usize = 16;

/// A pipeline's schedule and how far it has been decided.
#[derive(Debug)]
struct Entry {
    scheduled: Scheduled,
    begins_at: Timestamp,
    accounted_to: Timestamp,
    /// Slots after `accounted_to` that are not to be decided again.
    taken: BTreeSet<Timestamp>,
    paused: Option<String>,
    /// `None`: there is no next slot, an alarm.
    next_due: Option<Timestamp>,
}

impl Entry {
    fn name(&self) -> &str {
        &self.scheduled.pipeline.name
    }

    fn look_ahead(&mut self) {
        self.taken = self.taken.split_off(&self.accounted_to);
        let Scheduled { pipeline, schedule, policy } = &self.scheduled;
        self.next_due = next_due(&pipeline.name, schedule, policy, self.accounted_to, &self.taken);
        if self.next_due.is_none() {
            tracing::error!(
                pipeline = pipeline.name,
                cron = schedule.expression(),
                "the schedule has no next slot within five years"
            );
        }
    }

    fn state(&self) -> ScheduleState {
        ScheduleState {
            expr: self.scheduled.schedule.expression().to_owned(),
            timezone: self.scheduled.schedule.zone_name().to_owned(),
            config_hash: Hash::of(self.scheduled.schedule.identity()),
            begins_at: self.begins_at,
            last_nominal: Some(self.accounted_to),
        }
    }
}

/// The loop. Make it with [`Loop::new`], run it with [`Loop::run`] in a task of a scope.
#[derive(Debug)]
pub struct Loop {
    journal: Journal,
    env: Env,
    hooks: Hooks,
    bounds: Bounds,
    orders: mpsc::Sender<Order>,
    commands: mpsc::Receiver<Command>,
    wake: Arc<Notify>,
    entries: BTreeMap<String, Entry>,
    queue: Queue,
    /// Rows of slots whose run waits for the one before.
    queued: BTreeMap<RunId, SlotLine>,
    /// Rows for the next turn to write.
    unwritten: Vec<SlotLine>,
    /// Orders that have not been taken yet: the loop never waits for who takes them.
    outbox: VecDeque<Order>,
    last_look: Timestamp,
}

impl Loop {
    /// A loop without pipelines, and its handle. Orders go to `orders` in order.
    pub fn new(
        journal: Journal,
        env: Env,
        hooks: Hooks,
        bounds: Bounds,
        orders: mpsc::Sender<Order>,
    ) -> (Self, Handle) {
        let (sender, commands) = mpsc::channel(256);
        let wake = Arc::new(Notify::new());
        let handle = Handle { commands: sender, wake: wake.clone() };
        let last_look = env.now();
        let queue = Queue::new(bounds.max_running);
        let (entries, queued) = (BTreeMap::new(), BTreeMap::new());
        let (unwritten, outbox) = (Vec::new(), VecDeque::new());
        let this = Self {
            journal,
            env,
            hooks,
            bounds,
            orders,
            commands,
            wake,
            entries,
            queue,
            queued,
            unwritten,
            outbox,
            last_look,
        };
        (this, handle)
    }

    /// Runs until `stop` is cancelled, finishing what it is writing. Runs that wait then stay open in the journal.
    ///
    /// Not cancel safe: drop it only after it has returned.
    pub async fn run(mut self, stop: CancellationToken) {
        let orders = self.orders.clone();
        loop {
            (self.hooks.alive)();
            // A run that has ended must not make the next slot wait or be skipped.
            while let Ok(command) = self.commands.try_recv() {
                self.obey(command).await;
            }
            let written = self.turn().await;
            let pause = match written {
                Ok(()) => self.until_next(),
                Err(error @ (journal::Error::Stale { .. } | journal::Error::Closed)) => {
                    tracing::error!(%error, "the schedule ends");
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, "the journal could not be written; slots wait for it");
                    TRY_AGAIN
                }
            };
            let sleep = self.env.clock.sleep(pause);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                permit = orders.reserve(), if !self.outbox.is_empty() => match permit {
                    Ok(permit) => if let Some(order) = self.outbox.pop_front() { permit.send(order) },
                    Err(_) => return, // Nobody runs anything any more.
                },
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                () = self.wake.notified() => {}
                () = sleep => {}
            }
        }
    }

    /// Until the next slot is due; nothing happens if it takes longer or shorter.
    fn until_next(&self) -> Duration {
        let now = self.env.now();
        let next = self.entries.values().filter_map(|entry| entry.next_due).min();
        let wait = next.map_or(SignedDuration::MAX, |next| next.duration_since(now));
        Duration::try_from(wait).unwrap_or(Duration::ZERO).min(LOOK_AGAIN)
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Pipelines(pipelines, done) => {
                self.replace(pipelines).await;
                answer(done);
            }
            Command::Bounds(bounds) => {
                self.bounds = bounds;
                self.queue.set_max_running(bounds.max_running);
            }
            Command::Paused(pipeline, paused, done) => {
                if let Some(entry) = self.entries.get_mut(&pipeline) {
                    entry.paused = paused;
                }
                answer(done);
            }
            Command::Admit(start) => {
                let company = if start.trigger.kind == TriggerKind::Schedule { Company::Alone } else { Company::Any };
                self.queue.admit(*start, company);
            }
            Command::Ended(run) => {
                self.queue.ended(&run);
                self.no_longer_queued(&run, "ended before it began");
            }
            Command::Settle(done) => {
                if let Err(error) = self.turn().await {
                    tracing::error!(%error, "the journal could not be written; slots wait for it");
                }
                answer(done);
            }
        }
        self.dispatch();
    }

    /// Moves runs that may begin to the outbox, and from there what is taken at once.
    fn dispatch(&mut self) {
        while let Some(start) = self.queue.ready() {
            self.no_longer_queued(&start.id, "waited for the run before it");
            self.outbox.push_back(Order::Start(Box::new(start)));
        }
        while let Some(order) = self.outbox.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(order) | mpsc::error::TrySendError::Closed(order)) =
                self.orders.try_send(order)
            {
                self.outbox.push_front(order);
                return;
            }
        }
    }

    /// Takes over a new set of pipelines. One whose expression and zone are unchanged goes on where it was; another begins now.
    async fn replace(&mut self, pipelines: Vec<Scheduled>) {
        if let Err(error) = self.turn().await {
            tracing::error!(%error, "the slots before the change could not all be written");
        }
        let now = self.env.now();
        // Side by side, because each waits for the journal.
        let loaded = join_all(pipelines.into_iter().map(|scheduled| self.load(scheduled, now))).await;
        self.entries.clear();
        for (name, loaded) in loaded {
            match loaded {
                Ok((entry, queued)) => {
                    self.queued.extend(queued.into_iter().filter_map(|slot| Some((slot.run.clone()?, slot))));
                    self.entries.insert(name, entry);
                }
                Err(error) => {
                    tracing::error!(pipeline = name, %error, "the account of the schedule cannot be read; it is not scheduled");
                }
            }
        }
    }

    async fn load(
        &self,
        scheduled: Scheduled,
        now: Timestamp,
    ) -> (String, Result<(Entry, Vec<SlotLine>), journal::Error>) {
        (scheduled.pipeline.name.clone(), self.entry(scheduled, now).await)
    }

    /// A pipeline with its account, and its slots whose run still waits.
    async fn entry(&self, scheduled: Scheduled, now: Timestamp) -> Result<(Entry, Vec<SlotLine>), journal::Error> {
        let name = scheduled.pipeline.name.clone();
        let paused = self.journal.reader().paused(&name)?;
        let fresh =
            Entry { scheduled, begins_at: now, accounted_to: now, taken: BTreeSet::new(), paused, next_due: None };
        let mut entry = match self.journal.schedule_state(&name).await? {
            Some(state) if state.config_hash == fresh.state().config_hash => {
                let accounted_to = state.last_nominal.unwrap_or(state.begins_at);
                let taken = self.taken(&name, accounted_to, now)?;
                Entry { begins_at: state.begins_at, accounted_to, taken, ..fresh }
            }
            before => {
                tracing::info!(pipeline = name, changed = before.is_some(), "the schedule begins now");
                self.journal.set_schedule_state(&name, fresh.state()).await?;
                // The clock may have been ahead under another expression.
                let taken = self.taken(&name, now, now)?;
                Entry { taken, ..fresh }
            }
        };
        entry.look_ahead();
        let recent = self.journal.reader().slots(Some(&name), RECENT)?;
        Ok((entry, recent.into_iter().filter(|slot| slot.fate == SlotFate::Queued).collect()))
    }

    /// Slots after `after` that are not to be decided again: those with a run, and those decided before `now`. What was decided
    /// without a run at a moment that has not come yet was decided by a clock that was ahead.
    fn taken(&self, pipeline: &str, after: Timestamp, now: Timestamp) -> Result<BTreeSet<Timestamp>, journal::Error> {
        let slots = self.journal.reader().slots_after(pipeline, after)?;
        let stands = |slot: &SlotLine| slot.run.is_some() || slot.decided_at <= now;
        Ok(slots.into_iter().filter(stands).map(|slot| slot.nominal_at).collect())
    }

    /// Decides whatever is due, in chunks, and lets runs begin.
    async fn turn(&mut self) -> Result<(), journal::Error> {
        loop {
            let now = self.env.now();
            self.notice_steps(now).await?;
            if !self.carry_out(now).await? {
                self.dispatch();
                if !self.unwritten.is_empty() {
                    self.journal.record_slots(self.unwritten.clone()).await?;
                    self.unwritten.clear();
                }
                return Ok(());
            }
        }
    }

    /// Takes the account back when the clock went back behind it.
    async fn notice_steps(&mut self, now: Timestamp) -> Result<(), journal::Error> {
        if self.last_look.duration_since(now) > SignedDuration::from_secs(1) {
            tracing::warn!(from = %self.last_look, to = %now, "the clock went back; no slot will run twice");
        }
        self.last_look = now;
        let back: Vec<String> = self
            .entries
            .values()
            .filter(|entry| rewind(entry.accounted_to, now).is_some())
            .map(|entry| entry.name().to_owned())
            .collect();
        for name in back {
            let taken = self.taken(&name, now, now)?;
            let Some(entry) = self.entries.get_mut(&name) else { continue };
            // Written first: after a restart the account must begin here too.
            let state = ScheduleState { last_nominal: Some(now), ..entry.state() };
            self.journal.set_schedule_state(&name, state).await?;
            entry.accounted_to = now;
            entry.taken = taken;
            entry.look_ahead();
        }
        Ok(())
    }

    /// What becomes of the slots of a pipeline that are due, at most a chunk of them.
    fn decide(&self, entry: &Entry, now: Timestamp, full: bool) -> Vec<Decision> {
        let Scheduled { pipeline, schedule, policy } = &entry.scheduled;
        let limit = || (self.hooks.limit)(pipeline, now).map(Refusal::Limit);
        let refusal = entry
            .paused
            .as_ref()
            .map(|_| Refusal::Paused)
            .or_else(|| full.then_some(Refusal::QueueFull))
            .or_else(limit);
        let situation = Situation {
            pipeline: &pipeline.name,
            schedule,
            policy,
            accounted_to: entry.accounted_to,
            taken: &entry.taken,
            now,
            open: self.queue.open(&pipeline.name),
            refusal,
        };
        decide(situation).take(CHUNK).collect()
    }

    /// Decides what is due, writes it, and takes in the runs that are then claimed. Whether anything was.
    async fn carry_out(&mut self, now: Timestamp) -> Result<bool, journal::Error> {
        let mut lines = Vec::new();
        let mut accounts = Vec::new();
        let journal = self.journal.clone();
        let claim = |(start, claim): (Start, Claim)| {
            let journal = journal.clone();
            async move { (start, journal.claim(claim.clone()).await, claim) }
        };
        let mut claimed = FuturesOrdered::new();
        let mut answered = VecDeque::new();
        let full = self.queue.waiting() >= self.bounds.max_waiting;
        for entry in self.entries.values().filter(|entry| entry.next_due.is_some_and(|due| due <= now)) {
            let decisions = self.decide(entry, now, full);
            let Some(last) = decisions.last() else { continue };
            accounts.push((entry.name().to_owned(), last.slot.nominal_at));
            for Decision { slot, fate } in decisions {
                let line = self.line(entry, &slot, &fate, now);
                let Fate::Run { start, .. } = fate else {
                    lines.push(line);
                    continue;
                };
                match self.claim(entry, &slot, line, now) {
                    Ok(prepared) => claimed.push_back(claim((start, prepared))),
                    Err(line) => lines.push(*line),
                }
            }
            // The journal writes these while the next pipelines are decided. It is all one turn, so no yielding in between.
            if accounts.len().is_multiple_of(TOGETHER) {
                let ready = || tokio::task::unconstrained(claimed.next()).now_or_never().flatten();
                answered.extend(std::iter::from_fn(ready));
            }
        }
        if accounts.is_empty() {
            return Ok(false);
        }
        // One that failed must not keep those that succeeded from beginning.
        let mut failed = None;
        loop {
            let next = match answered.pop_front() {
                None => claimed.next().await,
                answered => answered,
            };
            let Some((start, outcome, claim)) = next else { break };
            match outcome {
                Ok(Claimed::New) => {
                    self.take_in(claim, start).await;
                    self.dispatch();
                }
                Ok(Claimed::AlreadyClaimed(run)) => {
                    failed = self.take_in_again(&claim.start.pipeline, &run).err().or(failed)
                }
                Ok(Claimed::AlreadyDecided(_)) => {}
                Ok(Claimed::QueueFull { queued }) => {
                    let reason = format!("{}: {queued} runs wait", Refusal::QueueFull);
                    let refused = |slot| SlotLine { fate: SlotFate::Refused, reason, run: None, ..slot };
                    lines.extend(claim.slot.map(refused));
                }
                Err(error) => failed = Some(error),
            }
        }
        self.dispatch();
        if let Some(error) = failed {
            return Err(error);
        }
        if !lines.is_empty() {
            self.journal.record_slots(lines).await?;
        }
        for (name, accounted_to) in &accounts {
            if let Some(entry) = self.entries.get_mut(name) {
                entry.accounted_to = *accounted_to;
                entry.look_ahead();
            }
        }
        let states = accounts.iter().filter_map(|(name, _)| Some((name, self.entries.get(name)?.state())));
        let stored = join_all(states.map(|(name, state)| self.journal.set_schedule_state(name, state))).await;
        stored.into_iter().collect::<Result<(), _>>().map(|()| true)
    }

    fn line(&self, entry: &Entry, slot: &Slot, fate: &Fate, now: Timestamp) -> SlotLine {
        let mut reason = match fate {
            Fate::Skipped => match self.queue.active(entry.name()) {
                Some(run) => format!("run {run} was still active"),
                None => fate.reason(),
            },
            Fate::Refused(Refusal::Paused) => match entry.paused.as_deref().filter(|reason| !reason.is_empty()) {
                Some(reason) => format!("paused: {reason}"),
                None => fate.reason(),
            },
            _ => fate.reason(),
        };
        let schedule = &entry.scheduled.schedule;
        if schedule.zone().to_datetime(slot.nominal_at) != slot.local {
            reason = format!("{reason}; {} did not exist on that day", slot.local.time());
        }
        let fate = match fate {
            Fate::Run { start: Start::Queued, .. } => SlotFate::Queued,
            Fate::Run { start: Start::Now | Start::CancelPrevious, .. } => SlotFate::Run,
            Fate::Coalesced { .. } => SlotFate::Coalesced,
            Fate::Missed(_) => SlotFate::Missed,
            Fate::Skipped => SlotFate::Skipped,
            Fate::Refused(_) => SlotFate::Refused,
        };
        SlotLine {
            pipeline: entry.name().to_owned(),
            nominal_at: slot.nominal_at,
            timezone: schedule.zone_name().to_owned(),
            fate,
            reason,
            run: None,
            decided_at: now,
        }
    }

    /// The claim of a slot's run; a refused line if the run cannot even be prepared.
    fn claim(&self, entry: &Entry, slot: &Slot, line: SlotLine, now: Timestamp) -> Result<Claim, Box<SlotLine>> {
        let Scheduled { pipeline, schedule, .. } = &entry.scheduled;
        let mut start = (self.hooks.prepare)(pipeline, slot, now).map_err(|failure| {
            tracing::error!(pipeline = pipeline.name, %failure, "the run of a slot cannot be prepared");
            Box::new(SlotLine { fate: SlotFate::Refused, reason: failure.to_string(), ..line.clone() })
        })?;
        start.trigger.kind = TriggerKind::Schedule;
        start.trigger.key = slot.nominal_at.to_string();
        start.nominal_at = slot.nominal_at;
        start.timezone = schedule.zone_name().to_owned();
        let slot = SlotLine { run: Some(start.id.clone()), ..line };
        // The journal counts every run that has not begun, also those that have just been handed on.
        let not_begun = self.bounds.max_waiting.saturating_add(self.bounds.max_running);
        Ok(Claim { start, slot: Some(slot), max_queued: u32::try_from(not_begun).unwrap_or(u32::MAX) })
    }

    /// A claimed run goes to the queue; for `cancel_previous` the others of its pipeline are told to end.
    async fn take_in(&mut self, claim: Claim, start: Start) {
        let Claim { start: run, slot, .. } = claim;
        tracing::info!(pipeline = run.pipeline, run = %run.id, slot = %run.nominal_at, "claimed");
        if start == Start::CancelPrevious {
            let reason = format!("the slot of {} takes its place", run.nominal_at);
            for previous in self.queue.withdraw(&run.pipeline) {
                let headline = format!("cancelled before it began: {reason}");
                let finish = RunFinish { outcome: Outcome::Cancelled, failure: None, headline, at: self.env.now() };
                if let Err(error) = self.journal.finish_run(&previous, finish).await {
                    // It stays open, and the next start of the daemon takes it up.
                    tracing::error!(run = %previous, %error, "a run that was to be cancelled stays open");
                }
                self.no_longer_queued(&previous, &format!("cancelled before it began: {reason}"));
            }
            let running = self.queue.running_of(&run.pipeline);
            self.outbox.extend(running.into_iter().map(|run| Order::Cancel { run, reason: reason.clone() }));
        }
        if let Some(slot) = slot.filter(|slot| slot.fate == SlotFate::Queued) {
            self.queued.insert(run.id.clone(), slot);
        }
        self.queue.admit(run, Company::Alone);
    }

    /// The row of a slot whose run waited gets its last word.
    fn no_longer_queued(&mut self, run: &RunId, reason: &str) {
        if let Some(slot) = self.queued.remove(run) {
            let reason = reason.to_owned();
            self.unwritten.push(SlotLine { fate: SlotFate::Run, reason, decided_at: self.env.now(), ..slot });
        }
    }

    /// The slot has its run already. If an earlier turn failed between the claim and here, the run is open and nobody has it.
    fn take_in_again(&mut self, pipeline: &str, run: &RunId) -> Result<(), journal::Error> {
        if self.queue.knows(pipeline, run) {
            return Ok(());
        }
        if let Some(start) = self.journal.reader().open_runs()?.into_iter().find(|start| start.id == *run) {
            self.queue.admit(start, Company::Alone);
        }
        Ok(())
    }
}
