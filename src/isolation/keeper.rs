//! The daemon's side of one room: starts its helper, speaks with it, keeps its proxy, and ends it.
//!
//! Whatever the helper says is bounded, and whatever it does not say is noticed: who does not end in time is ended by force.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cgroup::Group;
use super::egress::Egress;
use super::plan::Plan;
use super::room::Usage;
use super::tier::Tier;
use super::users::TakenUser;
use super::wire::{self, End, Opening, Order, Stage, Stopped, Word};
use super::{Error, Helper, helper, watch};

/// How long the helper may take to end something before it is killed itself.
pub(super) const GRACE: Duration = Duration::from_secs(8);
/// How long the confinement may take to stand.
const SETUP: Duration = Duration::from_secs(60);
/// What the helper may say in one line, and what is kept of its complaints.
const LONGEST_LINE: usize = 64 << 10;
const COMPLAINTS: u64 = 8 << 10;
/// How long its complaints may stay open after its end.
const DRAIN: Duration = Duration::from_secs(2);

/// Everything that a room's task needs.
pub(super) struct Job {
    pub plan: Plan,
    pub helper: Helper,
    pub group: Option<Group>,
    pub egress: Option<Arc<Egress>>,
    /// Removed at the end.
    pub directory: PathBuf,
    /// Given back at the end.
    pub user: Option<TakenUser>,
}

/// What others hold of a room's task. Cheap to clone; does not keep the room.
#[derive(Clone)]
pub(super) struct Line {
    asks: mpsc::Sender<Ask>,
    egress: Option<Arc<Egress>>,
    /// The helper's process, from which all others of the room come.
    helper: Arc<OnceLock<i32>>,
    /// Closes the room.
    pub stop: CancellationToken,
    /// Nothing is left of it.
    pub gone: CancellationToken,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("gone", &self.gone.is_cancelled()).finish_non_exhaustive()
    }
}

impl Line {
    /// What the processes of the room use now. Blocking, as it reads all of `/proc`. `None`: the room is gone.
    pub(super) fn usage(&self) -> Option<Usage> {
        let living = watch::living(*self.helper.get()?).ok()?;
        let usage = Usage {
            processes: living.len(),
            cpu: living.values().map(|stat| stat.cpu).sum(),
            memory_bytes: watch::exact_memory_bytes(&living),
        };
        // Its number may be another's by now.
        (!self.gone.is_cancelled()).then_some(usage)
    }

    /// False: the room is gone.
    pub(super) async fn order(&self, order: Order) -> bool {
        self.asks.send(Ask::Order(order)).await.is_ok()
    }

    /// False: the room is gone.
    pub(super) async fn start(&self, starting: Starting) -> bool {
        self.asks.send(Ask::Start(Box::new(starting))).await.is_ok()
    }

    /// Waits until it is done. False: the room is gone.
    pub(super) async fn freeze(&self, frozen: bool) -> bool {
        let (done, is_done) = oneshot::channel();
        self.asks.send(Ask::Freeze(frozen, done)).await.is_ok() && is_done.await.is_ok()
    }

    /// What processes wanted to reach and were not allowed to, so far.
    pub(super) fn refused(&self) -> Vec<String> {
        self.egress.as_deref().map(Egress::refused).unwrap_or_default()
    }
}

enum Ask {
    Start(Box<Starting>),
    Order(Order),
    Freeze(bool, oneshot::Sender<()>),
}

/// A process to be started, and where to say what became of it.
pub(super) struct Starting {
    pub opening: Opening,
    pub descriptors: Vec<OwnedFd>,
    pub started: oneshot::Sender<Result<u32, Error>>,
    pub ended: oneshot::Sender<Result<End, Error>>,
}

/// A process that was started, or will be in a moment.
struct Entry {
    started: Option<oneshot::Sender<Result<u32, Error>>>,
    ended: oneshot::Sender<Result<End, Error>>,
    /// When the helper should have ended it, with grace. `None`: never.
    overdue: Option<Instant>,
    /// Ended by order.
    ordered: bool,
    /// The helper let its time pass.
    late: bool,
}

/// A room's task, before it is begun.
pub(super) struct Keeper {
    job: Job,
    asks: mpsc::Receiver<Ask>,
    ready: Option<oneshot::Sender<Result<(), Error>>>,
    line: Line,
    entries: BTreeMap<u64, Entry>,
    incoming: Vec<u8>,
    /// Why there is no room, by the helper.
    failed: Option<(Stage, String, Option<i32>)>,
    stands: bool,
    closing: Option<Instant>,
    killed: bool,
    freezing: Vec<oneshot::Sender<()>>,
    frozen: Option<Instant>,
    deaths_by_memory: u64,
}

/// The daemon's ends of what it shares with the helper.
struct Ends {
    child: tokio::process::Child,
    socket: UnixStream,
    /// Where the socket comes from on which the proxy is to listen.
    egress: Option<OwnedFd>,
}

impl Keeper {
    /// The task, its line, and the word that the room stands.
    pub(super) fn new(job: Job, scope: &CancellationToken) -> (Self, Line, oneshot::Receiver<Result<(), Error>>) {
        let (asks, receiver) = mpsc::channel(16);
        let (ready, is_ready) = oneshot::channel();
        let (stop, gone) = (scope.child_token(), CancellationToken::new());
        let line = Line { asks, egress: job.egress.clone(), helper: Arc::default(), stop, gone };
        let keeper = Self {
            job,
            asks: receiver,
            ready: Some(ready),
            line: line.clone(),
            entries: BTreeMap::new(),
            incoming: Vec::new(),
            failed: None,
            stands: false,
            closing: None,
            killed: false,
            freezing: Vec::new(),
            frozen: None,
            deaths_by_memory: 0,
        };
        (keeper, line, is_ready)
    }

    /// Keeps the room to its end, whatever happens. Not cancel safe: dropped, it kills the helper but leaves its directory.
    pub(super) async fn run(mut self) {
        let _gone = self.line.gone.clone().drop_guard();
        let complaints = match self.start() {
            Ok(ends) => self.keep(ends).await,
            Err(error) => {
                self.failed = Some((Stage::Protocol, format!("the helper: {error}"), error.raw_os_error()));
                String::new()
            }
        };
        // Somebody inside may have made it unremovable; the next start tries again.
        if let Err(error) = tokio::fs::remove_dir_all(&self.job.directory).await
            && error.kind() != io::ErrorKind::NotFound
        {
            let directory = self.job.directory.display();
            tracing::warn!(%error, %directory, "a sandbox's directory stays behind");
        }
        drop(self.job.user.take());
        let out_of_memory = self.job.group.as_ref().is_some_and(|group| group.deaths_by_memory() > 0);
        self.asks.close();
        while let Ok(ask) = self.asks.try_recv() {
            if let Ask::Start(starting) = ask {
                self.enter(*starting);
            }
        }
        if let Some(ready) = self.ready.take() {
            drop(ready.send(Err(self.error(&complaints))));
        }
        for (_, entry) in std::mem::take(&mut self.entries) {
            let stopped = match entry.late {
                _ if out_of_memory => Some(Stopped::Memory),
                _ if entry.ordered || self.closing.is_some() => Some(Stopped::Caller),
                late => late.then_some(Stopped::Wall),
            };
            let killed = |stopped| End { signal: Some(libc::SIGKILL), stopped: Some(stopped), ..End::default() };
            match (stopped, entry.started) {
                (Some(stopped), Some(started)) => {
                    // Whoever waits for the start hears of the end next.
                    drop(started.send(Ok(0)));
                    drop(entry.ended.send(Ok(killed(stopped))));
                }
                (None, Some(started)) => drop(started.send(Err(self.error(&complaints)))),
                (Some(stopped), None) => drop(entry.ended.send(Ok(killed(stopped)))),
                (None, None) => drop(entry.ended.send(Err(self.error(&complaints)))),
            }
        }
    }

    fn error(&self, complaints: &str) -> Error {
        let tier = self.job.plan.tier;
        match &self.failed {
            Some((stage, message, errno)) => {
                Error::Setup { tier, stage: *stage, message: message.clone(), errno: *errno }
            }
            None if tier == Tier::Bubblewrap && !self.stands && !self.killed => {
                Error::Setup { tier, stage: Stage::Bubblewrap, message: complaints.trim().to_owned(), errno: None }
            }
            None => Error::Lost { what: format!("it ended without a word; {}", complaints.trim()) },
        }
    }

    /// Starts the helper and opens the conversation with it.
    fn start(&self) -> io::Result<Ends> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        let job = &self.job;
        let outer = job.plan.tier.own_file_system();
        let mut command = tokio::process::Command::new(job.helper.program());
        command.arg(helper::WORD).arg(if outer { "outer" } else { "init" }).env_clear().current_dir("/");
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let child = command.spawn()?;
        if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
            self.line.helper.get_or_init(|| pid);
        }
        // Before the helper gets its plan it starts nothing, so nothing can be missing from the group.
        if let (Some(group), Some(pid)) = (&job.group, child.id()) {
            group.add(pid)?;
        }
        let plan = wire::memory_file(&job.plan)?;
        if outer {
            wire::send_descriptors(&ours, &[plan.as_fd()])?;
        }
        let proxy = job.egress.as_ref().map(|_| std::os::unix::net::UnixStream::pair()).transpose()?;
        let theirs = proxy.iter().map(|(_, theirs)| theirs.as_fd());
        let descriptors: Vec<_> = [plan.as_fd()].into_iter().chain(theirs).collect();
        wire::send_descriptors(&ours, &descriptors)?;
        ours.set_nonblocking(true)?;
        let egress = proxy.map(|(ours, _)| ours.into());
        Ok(Ends { child, socket: UnixStream::from_std(ours)?, egress })
    }

    /// Until the helper is gone. Answers what it complained of.
    async fn keep(&mut self, ends: Ends) -> String {
        let Ends { mut child, socket, egress } = ends;
        let (served, led) = (self.job.egress.clone(), !self.job.plan.tier.own_file_system());
        let mut served = std::pin::pin!(async {
            match (&served, egress) {
                (Some(served), Some(from)) => served.serve(from, led).await,
                _ => Ok(()),
            }
        });
        let mut said = Vec::new();
        let mut from = child.stderr.take().map(|from| from.take(COMPLAINTS));
        let mut complaints = std::pin::pin!(async {
            if let Some(from) = &mut from {
                // An error of a pipe is as good as its end.
                drop(from.read_to_end(&mut said).await);
            }
        });
        let (mut closed, mut silent) = (false, false);
        let stop = self.line.stop.clone();
        let setup = Instant::now() + SETUP;
        loop {
            let overdue = self.overdue(setup);
            tokio::select! {
                readable = socket.readable() => {
                    if readable.is_err() || !self.listen(&socket).await {
                        break;
                    }
                }
                Some(ask) = self.asks.recv() => self.act(ask, &socket).await,
                () = stop.cancelled(), if self.closing.is_none() => {
                    self.closing = Some(Instant::now() + GRACE);
                    self.send(&socket, &Order::Close, &[]).await;
                }
                () = sleep_until(overdue), if !self.killed => {
                    // The helper keeps the time itself; here it did not.
                    let now = Instant::now();
                    for entry in self.entries.values_mut() {
                        entry.late |= entry.overdue.is_some_and(|at| at <= now);
                    }
                    self.kill(&mut child);
                }
                ended = &mut served, if !closed => {
                    closed = true;
                    if let Err(error) = ended {
                        tracing::warn!(%error, "a sandbox has no proxy to the network");
                    }
                }
                () = &mut complaints, if !silent => silent = true,
            }
        }
        // The helper ends when nobody listens to it.
        drop(socket);
        if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
            self.kill(&mut child);
            drop(child.wait().await);
        }
        if let Some(group) = &self.job.group
            && let Err(error) = group.kill()
        {
            tracing::warn!(%error, "a sandbox's cgroup could not be ended");
        }
        if !silent {
            drop(tokio::time::timeout(DRAIN, complaints).await);
        }
        String::from_utf8_lossy(&said).into_owned()
    }

    /// When somebody is to be ended by force.
    fn overdue(&self, setup: Instant) -> Option<Instant> {
        let setup = (!self.stands).then_some(setup);
        // Nobody's time runs while everything stands still.
        let entries = self.entries.values().filter(|entry| self.frozen.is_none() || entry.ordered);
        entries.filter_map(|entry| entry.overdue).chain(self.closing).chain(setup).min()
    }

    fn kill(&mut self, child: &mut tokio::process::Child) {
        self.killed = true;
        // Either may have ended by itself a moment ago.
        drop(child.start_kill());
        drop(self.job.group.as_ref().map(Group::kill));
    }

    /// Takes in what the helper says. False: it is gone.
    async fn listen(&mut self, socket: &UnixStream) -> bool {
        let mut buffer = [0; 4096];
        let read = match socket.try_read(&mut buffer) {
            Ok(0) => return false,
            Ok(read) => read,
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        };
        self.incoming.extend(buffer.iter().take(read));
        while let Some(end) = self.incoming.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.incoming.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(word) => self.hear(word, socket).await,
                Err(error) => tracing::warn!(%error, "a sandbox helper said something unknown"),
            }
        }
        self.incoming.len() <= LONGEST_LINE
    }

    async fn hear(&mut self, word: Word, socket: &UnixStream) {
        match word {
            Word::Ready => {
                self.stands = true;
                if let Some(ready) = self.ready.take() {
                    // Nobody may wait for it.
                    drop(ready.send(Ok(())));
                }
            }
            Word::Failed { stage, message, errno } => self.failed = Some((stage, message, errno)),
            Word::Started { id, pid } => {
                let started = self.entries.get_mut(&id).and_then(|entry| entry.started.take());
                // Whoever ordered it is gone.
                if started.is_some_and(|started| started.send(Ok(pid.unsigned_abs())).is_err()) {
                    self.order(Order::Kill(id), socket).await;
                }
            }
            Word::Refused { id, stage, message, errno } => {
                let Some(entry) = self.entries.remove(&id) else { return };
                let tier = self.job.plan.tier;
                let answer = match stage {
                    _ if entry.ordered => {
                        let end = End { signal: Some(libc::SIGKILL), stopped: Some(Stopped::Caller), ..End::default() };
                        drop(entry.ended.send(Ok(end)));
                        Ok(0)
                    }
                    Stage::Command => Err(Error::Command { message, errno }),
                    Stage::Directory => Err(Error::Directory { message, errno }),
                    stage => Err(Error::Setup { tier, stage, message, errno }),
                };
                drop(entry.started.map(|started| started.send(answer)));
            }
            Word::Ended { id, mut end } => {
                let Some(entry) = self.entries.remove(&id) else { return };
                let deaths = self.job.group.as_ref().map_or(0, Group::deaths_by_memory);
                if end.stopped.is_none() && end.signal == Some(libc::SIGKILL) && deaths > self.deaths_by_memory {
                    end.stopped = Some(Stopped::Memory);
                }
                self.deaths_by_memory = deaths;
                // Nobody may want to know.
                drop(entry.ended.send(Ok(end)));
            }
            Word::Frozen(frozen) => {
                let now = Instant::now();
                if let Some(since) = self.frozen.take().filter(|_| !frozen) {
                    for overdue in self.entries.values_mut().filter_map(|entry| entry.overdue.as_mut()) {
                        *overdue += now - since;
                    }
                }
                self.frozen = frozen.then_some(now);
                // Nobody may wait any more.
                self.freezing.drain(..).map(|done| done.send(())).for_each(|_| {});
            }
        }
    }

    async fn act(&mut self, ask: Ask, socket: &UnixStream) {
        match ask {
            Ask::Start(starting) => {
                let order = Order::Start(starting.opening.clone());
                let descriptors = self.enter(*starting);
                self.send(socket, &order, &descriptors).await;
            }
            Ask::Order(order) => self.order(order, socket).await,
            Ask::Freeze(frozen, done) => {
                self.freezing.push(done);
                self.send(socket, &Order::Freeze(frozen), &[]).await;
            }
        }
    }

    fn enter(&mut self, starting: Starting) -> Vec<OwnedFd> {
        let Starting { opening, descriptors, started, ended } = starting;
        let overdue = Instant::now().checked_add(Duration::from_millis(opening.wall_ms).saturating_add(GRACE));
        let entry = Entry { started: Some(started), ended, overdue, ordered: false, late: false };
        self.entries.insert(opening.id, entry);
        descriptors
    }

    async fn order(&mut self, order: Order, socket: &UnixStream) {
        if let Order::Kill(id) = order
            && let Some(entry) = self.entries.get_mut(&id)
        {
            let soon = Instant::now() + GRACE;
            entry.ordered = true;
            entry.overdue = Some(entry.overdue.map_or(soon, |at| at.min(soon)));
        }
        self.send(socket, &order, &[]).await;
    }

    async fn send(&self, socket: &UnixStream, order: &Order, descriptors: &[OwnedFd]) {
        let sending = async {
            let line = wire::line(order)?;
            let (mut rest, mut with) = (&line[..], descriptors.iter().map(AsFd::as_fd).collect::<Vec<_>>());
            while !rest.is_empty() {
                let sent = socket.async_io(Interest::WRITABLE, || wire::send_with(socket, rest, &with)).await?;
                rest = rest.get(sent..).unwrap_or_default();
                with.clear();
            }
            io::Result::Ok(())
        };
        // A helper that no longer listens is ending, or is ended when it is overdue: the reading side sees that.
        drop(tokio::time::timeout(GRACE, sending).await);
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
