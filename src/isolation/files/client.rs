//! The end of a file worker that stands outside: starts it, has many callers use it at once, and believes it nothing.
//!
//! There are two workers, each started when it is needed and ended when nobody has needed it for a while: one for what is short, and
//! one for what may take its time (listing, removing, moving, joining), so that no caller waits for another's million files. Requests
//! of all callers go down one pipe and are answered in order. A worker that dies, is killed by a limit, says what makes no sense or says
//! nothing for too long fails what is under way with [`FilesError::Lost`], and the next request starts another.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, OnceCell, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::super::{Chunk, Room, Started, Stopped};
use super::wire::{self, Answer, Entry, Event, Failure, Frames, From, PIECE, Reason, Request, Time};
use crate::base::scope::Scope;

/// How long a worker stays that nobody needs.
const IDLE: Duration = Duration::from_secs(30);
/// Above what a worker allows itself for the longest of its requests.
const LONGEST: Duration = Duration::from_secs(150);
/// How long the end of a worker may take to be told.
const FAREWELL: Duration = Duration::from_secs(5);
/// Requests that are under way at the same time. Each may hold a piece of a file.
const MOST_AT_ONCE: usize = 16;

/// Why a call about files failed.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error(transparent)]
    Failed(#[from] Failure),
    /// Nobody knows how far it got.
    #[error("the sandbox's file worker ended: {what}")]
    Lost { what: String },
    #[error("the sandbox's file worker cannot be started")]
    Start(#[source] super::super::Error),
}

/// The files of one room. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Files {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    source: Source,
    scope: Scope,
    idle: Duration,
    short: Lane,
    long: Lane,
}

/// Where workers come from.
#[derive(Debug)]
enum Source {
    Room(Room),
    /// In a thread of this process, over whatever it may reach.
    #[cfg(test)]
    Thread(tests::Act),
}

/// One worker at the most.
#[derive(Debug)]
struct Lane {
    name: &'static str,
    worker: Mutex<Arc<OnceCell<Arc<Worker>>>>,
    permits: Arc<Semaphore>,
}

/// What callers hold of a worker.
#[derive(Debug)]
struct Worker {
    jobs: mpsc::UnboundedSender<Job>,
    ended: CancellationToken,
    stop: CancellationToken,
    stirs: Mutex<HashMap<u32, Arc<Notify>>>,
}

/// A request on its way.
struct Job {
    frame: Vec<u8>,
    waiting: Waiting,
}

/// Somebody who waits; nobody does for the answer to a farewell.
struct Waiting {
    answer: Option<oneshot::Sender<Result<Reply, Ended>>>,
    _permit: Option<OwnedSemaphorePermit>,
}

struct Reply {
    answer: Answer,
    payload: Vec<u8>,
    /// What the worker keeps for the caller from now on.
    kept: Option<Kept>,
}

#[derive(Clone, Debug)]
enum Ended {
    /// The worker had ended before it got the request.
    NotSent,
    Lost(String),
    Full(String),
}

impl std::convert::From<Ended> for FilesError {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::NotSent => Self::Lost { what: "it is gone".into() },
            Ended::Lost(what) => Self::Lost { what },
            Ended::Full(message) => Self::Failed(Failure::new(Reason::Full, message)),
        }
    }
}

/// Something of a worker's that is given back when it is dropped.
#[derive(Debug)]
struct Kept {
    of: Arc<Worker>,
    what: Thing,
    there: bool,
}

#[derive(Clone, Copy, Debug)]
enum Thing {
    Transfer(u32),
    Watch(u32),
}

impl Kept {
    fn new(of: Arc<Worker>, answer: &Answer) -> Option<Self> {
        let what = match answer {
            Answer::Opened { handle: Some(handle), .. } | Answer::Created { handle, .. } => Thing::Transfer(*handle),
            Answer::Watching { watch } => {
                of.stirs().insert(*watch, Arc::default());
                Thing::Watch(*watch)
            }
            _ => return None,
        };
        Some(Self { of, what, there: true })
    }

    fn number(&self) -> u32 {
        match self.what {
            Thing::Transfer(number) | Thing::Watch(number) => number,
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let request = match self.what {
            Thing::Transfer(handle) => Request::Close { handle },
            Thing::Watch(watch) => {
                self.of.stirs().remove(&watch);
                Request::Unwatch { watch }
            }
        };
        if self.there
            && let Ok(frame) = wire::frame(&request, &[])
        {
            // A worker that has ended keeps nothing.
            drop(self.of.jobs.send(Job { frame, waiting: Waiting { answer: None, _permit: None } }));
        }
    }
}

impl Files {
    /// The files of a room. Nothing is started yet; what is will run in `scope`.
    pub fn new(room: Room, scope: Scope) -> Self {
        Self::over(Source::Room(room), scope, IDLE)
    }

    #[cfg(test)]
    pub(super) fn in_this_process(act: tests::Act, scope: Scope, idle: Option<Duration>) -> Self {
        Self::over(Source::Thread(act), scope, idle.unwrap_or(IDLE))
    }

    fn over(source: Source, scope: Scope, idle: Duration) -> Self {
        let lane = |name| Lane { name, worker: Mutex::default(), permits: Arc::new(Semaphore::new(MOST_AT_ONCE)) };
        Self { shared: Arc::new(Shared { source, scope, idle, short: lane("short"), long: lane("long") }) }
    }

    /// One entry, not what a link leads to. Paths are absolute here and below, as processes of the room name them in tiers with a file
    /// system of their own.
    pub async fn stat(&self, path: &str) -> Result<Entry, FilesError> {
        self.entry(&self.shared.short, Request::Stat { path: path.into() }).await
    }

    /// What is in a directory, `depth` levels deep, in the order of names. Not more than some ten thousand: then `TooMany`.
    pub async fn list(&self, path: &str, depth: u32) -> Result<Vec<Entry>, FilesError> {
        let reply = self.call(&self.shared.long, &Request::List { path: path.into(), depth }).await?;
        match reply.answer {
            Answer::Entries => serde_json::from_slice(&reply.payload).map_err(|_| senseless()),
            other => Err(refused(other)),
        }
    }

    /// Makes a directory and those above it. `Exists` if there is a directory already.
    pub async fn make(&self, path: &str) -> Result<Entry, FilesError> {
        self.entry(&self.shared.short, Request::Make { path: path.into() }).await
    }

    /// Gives an entry another name; what had it before is replaced.
    pub async fn rename(&self, from: &str, to: &str) -> Result<Entry, FilesError> {
        self.entry(&self.shared.long, Request::Move { from: from.into(), to: to.into() }).await
    }

    /// Removes an entry with everything in it; also if there is none.
    pub async fn remove(&self, path: &str) -> Result<(), FilesError> {
        let reply = self.call(&self.shared.long, &Request::Remove { path: path.into() }).await?;
        match reply.answer {
            Answer::Done => Ok(()),
            other => Err(refused(other)),
        }
    }

    /// Joins files into one, in this order, and removes them.
    pub async fn compose(&self, sources: Vec<String>, to: &str) -> Result<Entry, FilesError> {
        self.entry(&self.shared.long, Request::Compose { sources, to: to.into() }).await
    }

    /// Begins to read a regular file; `most` bytes at the most.
    pub async fn open(&self, path: &str, from: From, most: Option<u64>) -> Result<Reader, FilesError> {
        let reply = self.call(&self.shared.short, &Request::Open { path: path.into(), from, most }).await?;
        let Answer::Opened { size, at, modified, .. } = reply.answer else { return Err(refused(reply.answer)) };
        Ok(Reader { files: self.clone(), kept: reply.kept, first: Some(reply.payload), size, at, modified })
    }

    /// Begins to write a file, with the directories above it. It is there, whole, when it is finished, and not before.
    pub async fn create(&self, path: &str, metadata: BTreeMap<String, String>) -> Result<Writer, FilesError> {
        let reply = self.call(&self.shared.short, &Request::Create { path: path.into(), metadata }).await?;
        match (reply.answer, reply.kept) {
            (Answer::Created { temporary, .. }, Some(kept)) => Ok(Writer { files: self.clone(), kept, temporary }),
            (other, _) => Err(refused(other)),
        }
    }

    /// Watches a directory, with what is below it if `recursive`; events then have the entries that they are about if `entries`.
    pub async fn watch(&self, path: &str, recursive: bool, entries: bool) -> Result<Watcher, FilesError> {
        let reply = self.call(&self.shared.short, &Request::Watch { path: path.into(), recursive, entries }).await?;
        match (reply.answer, reply.kept) {
            (Answer::Watching { watch }, Some(kept)) => {
                let stirred = kept.of.stirs().get(&watch).cloned().unwrap_or_default();
                Ok(Watcher { files: self.clone(), kept, stirred })
            }
            (other, _) => Err(refused(other)),
        }
    }

    async fn entry(&self, lane: &Lane, request: Request) -> Result<Entry, FilesError> {
        match self.call(lane, &request).await?.answer {
            Answer::Entry(entry) => Ok(*entry),
            other => Err(refused(other)),
        }
    }

    /// A request that no worker in particular must answer.
    async fn call(&self, lane: &Lane, request: &Request) -> Result<Reply, FilesError> {
        loop {
            let worker = self.worker(lane).await?;
            match lane.exchange(&worker, request, &[]).await {
                // It ended a moment ago, since nobody had needed it.
                Err(Ended::NotSent) => lane.replace(&worker),
                other => return Ok(other?),
            }
        }
    }

    /// The worker of a lane, started if there is none.
    async fn worker(&self, lane: &Lane) -> Result<Arc<Worker>, FilesError> {
        loop {
            let cell = lane.cell().clone();
            let worker = cell.get_or_try_init(|| self.start(lane)).await?;
            if !worker.ended.is_cancelled() {
                return Ok(worker.clone());
            }
            lane.replace(worker);
        }
    }

    async fn start(&self, lane: &Lane) -> Result<Arc<Worker>, FilesError> {
        let link = match &self.shared.source {
            Source::Room(room) => Link::Room(room.files().await.map_err(FilesError::Start)?),
            #[cfg(test)]
            Source::Thread(act) => Link::Thread(tests::Thread::start(act.clone())),
        };
        let (jobs, inbox) = mpsc::unbounded_channel();
        let (ended, stop) = (CancellationToken::new(), self.shared.scope.token().child_token());
        let worker = Arc::new(Worker { jobs, ended, stop, stirs: Mutex::default() });
        let (weak, ended, stop) = (Arc::downgrade(&worker), worker.ended.clone(), worker.stop.clone());
        let serving = serve(link, inbox, weak, ended, stop, self.shared.idle);
        drop(self.shared.scope.spawn(format!("file worker ({})", lane.name), serving));
        Ok(worker)
    }
}

impl Lane {
    fn cell(&self) -> MutexGuard<'_, Arc<OnceCell<Arc<Worker>>>> {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the next caller start another, unless somebody has said so already.
    fn replace(&self, dead: &Arc<Worker>) {
        let mut cell = self.cell();
        if cell.get().is_some_and(|worker| Arc::ptr_eq(worker, dead)) {
            *cell = Arc::default();
        }
    }

    /// One request and its answer.
    async fn exchange(&self, worker: &Arc<Worker>, request: &Request, payload: &[u8]) -> Result<Reply, Ended> {
        let unsaid = |error: std::io::Error| Ended::Lost(error.to_string());
        let frame = wire::frame(request, payload).map_err(unsaid)?;
        if frame.len() > 8 + wire::MOST_HEADER + payload.len() {
            return Err(Ended::Lost("the request is too large".into()));
        }
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| Ended::NotSent)?;
        let (sender, answer) = oneshot::channel();
        let waiting = Waiting { answer: Some(sender), _permit: Some(permit) };
        worker.jobs.send(Job { frame, waiting }).map_err(|_| Ended::NotSent)?;
        match tokio::time::timeout(LONGEST, answer).await {
            Ok(answer) => answer.unwrap_or(Err(Ended::Lost("its task was ended".into()))),
            Err(_) => {
                worker.stop.cancel();
                Err(Ended::Lost("it did not answer".into()))
            }
        }
    }
}

impl Worker {
    fn stirs(&self) -> MutexGuard<'_, HashMap<u32, Arc<Notify>>> {
        self.stirs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn senseless() -> FilesError {
    FilesError::Lost { what: "its answer makes no sense".into() }
}

fn refused(answer: Answer) -> FilesError {
    match answer {
        Answer::Failed(failure) => FilesError::Failed(failure),
        _ => senseless(),
    }
}

/// A file that is being read.
#[derive(Debug)]
pub struct Reader {
    files: Files,
    /// `None`: what is in `first` is the last.
    kept: Option<Kept>,
    first: Option<Vec<u8>>,
    /// Of the whole file when it was opened; files of the kernel's say 0 and have more.
    pub size: u64,
    /// Where reading began.
    pub at: u64,
    pub modified: Time,
}

impl Reader {
    /// How many bytes will come, where nothing more than the first piece does.
    pub fn whole(&self) -> Option<usize> {
        self.first.as_ref().filter(|_| self.kept.is_none()).map(Vec::len)
    }

    /// The next piece; `None` after the last. Not cancel safe: a piece may be left out.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, FilesError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let Some(kept) = &mut self.kept else { return Ok(None) };
        let request = Request::Piece { handle: kept.number() };
        let reply = self.files.shared.short.exchange(&kept.of, &request, &[]).await?;
        let Answer::Piece { last } = reply.answer else {
            kept.there = false;
            return Err(refused(reply.answer));
        };
        if last {
            kept.there = false;
            self.kept = None;
        }
        Ok(Some(reply.payload))
    }
}

/// A file that is being written. Dropped before it is finished, it has never been.
#[derive(Debug)]
pub struct Writer {
    files: Files,
    kept: Kept,
    temporary: String,
}

impl Writer {
    /// Adds to it. Not cancel safe.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), FilesError> {
        for piece in bytes.chunks(PIECE) {
            let request = Request::Append { handle: self.kept.number() };
            match self.exchange(&request, piece).await?.answer {
                Answer::Done => {}
                other => return Err(refused(other)),
            }
        }
        Ok(())
    }

    /// Puts it into its place.
    pub async fn finish(mut self) -> Result<Entry, FilesError> {
        let request = Request::Finish { handle: self.kept.number() };
        let answer = self.exchange(&request, &[]).await?.answer;
        self.kept.there = false;
        match answer {
            Answer::Entry(entry) => Ok(*entry),
            other => Err(refused(other)),
        }
    }

    async fn exchange(&mut self, request: &Request, payload: &[u8]) -> Result<Reply, FilesError> {
        let lost = match self.files.shared.short.exchange(&self.kept.of, request, payload).await {
            Ok(reply) => return Ok(reply),
            Err(ended) => ended,
        };
        self.kept.there = false;
        // The worker would have removed it; another one does. That it cannot is nothing that the caller could mend.
        if let Err(error) = self.files.remove(&self.temporary).await {
            tracing::debug!(%error, "what a lost file worker had begun to write stays");
        }
        Err(lost.into())
    }
}

/// A directory that is watched.
#[derive(Debug)]
pub struct Watcher {
    files: Files,
    kept: Kept,
    stirred: Arc<Notify>,
}

impl Watcher {
    /// What has happened since the last time, and whether more has than was kept.
    pub async fn events(&self) -> Result<(Vec<Event>, bool), FilesError> {
        let request = Request::Events { watch: self.kept.number() };
        let reply = self.files.shared.short.exchange(&self.kept.of, &request, &[]).await?;
        match reply.answer {
            Answer::Events { lost } => {
                serde_json::from_slice(&reply.payload).map(|events| (events, lost)).map_err(|_| senseless())
            }
            other => Err(refused(other)),
        }
    }

    /// Until there may be events, or the worker has ended. Cancel safe.
    pub async fn stirred(&self) {
        tokio::select! {
            () = self.stirred.notified() => {}
            () = self.kept.of.ended.cancelled() => {}
        }
    }
}

/// A worker and the ways to it.
enum Link {
    Room(Started),
    #[cfg(test)]
    Thread(tests::Thread),
}

impl Link {
    async fn next(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Room(started) => loop {
                match started.running.next().await? {
                    Chunk::Stdout(bytes) => return Some(bytes),
                    Chunk::Stderr(bytes) => {
                        tracing::debug!(said = %String::from_utf8_lossy(&bytes), "a file worker complains");
                    }
                }
            },
            #[cfg(test)]
            Self::Thread(thread) => thread.next().await,
        }
    }

    fn pen(&mut self) -> Pen {
        match self {
            Self::Room(started) => Pen::Room(started.running.handle()),
            #[cfg(test)]
            Self::Thread(thread) => Pen::Thread(thread.pen()),
        }
    }

    /// Ends it, if it has not ended, and says why it did.
    async fn end(self, why: &str) -> Ended {
        let started = match self {
            Self::Room(started) => started,
            #[cfg(test)]
            Self::Thread(_) => return Ended::Lost(why.into()),
        };
        let handle = started.running.handle();
        if !why.is_empty() {
            handle.kill();
        }
        match tokio::time::timeout(FAREWELL, started.running.wait()).await {
            _ if !why.is_empty() => Ended::Lost(why.into()),
            Ok(Ok(finished)) => match finished.stopped {
                Some(Stopped::Disk | Stopped::FileSize) => {
                    Ended::Full("not enough disk space available: the sandbox's limit is reached".into())
                }
                Some(stopped) => Ended::Lost(format!("limit: {stopped:?}").to_lowercase()),
                None => Ended::Lost(format!("exit {:?}, signal {:?}", finished.exit, finished.signal)),
            },
            Ok(Err(error)) => Ended::Lost(error.to_string()),
            Err(_) => Ended::Lost("nobody knows why".into()),
        }
    }
}

enum Pen {
    Room(super::super::Handle),
    #[cfg(test)]
    Thread(tests::Pen),
}

impl Pen {
    async fn write(&mut self, bytes: Vec<u8>) -> bool {
        match self {
            Self::Room(handle) => handle.write_stdin(bytes).await,
            #[cfg(test)]
            Self::Thread(pen) => pen.write(bytes).await,
        }
    }
}

/// One worker's life.
async fn serve(
    mut link: Link,
    mut jobs: mpsc::UnboundedReceiver<Job>,
    worker: Weak<Worker>,
    ended: CancellationToken,
    stop: CancellationToken,
    idle: Duration,
) {
    let waiting: Mutex<VecDeque<Waiting>> = Mutex::default();
    let queue = || waiting.lock().unwrap_or_else(PoisonError::into_inner);
    let mut pen = link.pen();
    let down = async {
        loop {
            match tokio::time::timeout(idle, jobs.recv()).await {
                Ok(Some(Job { frame, waiting })) => {
                    queue().push_back(waiting);
                    if !pen.write(frame).await {
                        // How it ended the other half learns.
                        return std::future::pending().await;
                    }
                }
                Ok(None) => return "nobody needs it",
                // The lane has one, whoever uses it another.
                Err(_) if queue().is_empty() && worker.strong_count() <= 1 => return "nobody needs it",
                Err(_) => {}
            }
        }
    };
    let up = async {
        let mut frames = Frames::default();
        while let Some(bytes) = link.next().await {
            frames.push(&bytes);
            loop {
                let (answer, payload) = match frames.next() {
                    Ok(Some(frame)) => frame,
                    Ok(None) => break,
                    Err(_) => return "its answer makes no sense",
                };
                if let Answer::Stir { watch } = answer {
                    let notify = worker.upgrade().and_then(|worker| worker.stirs().get(&watch).cloned());
                    if let Some(notify) = notify {
                        notify.notify_one();
                    }
                    continue;
                }
                let Some(next) = queue().pop_front() else { return "it answers what nobody has asked" };
                if let Some(caller) = next.answer {
                    let kept = worker.upgrade().and_then(|worker| Kept::new(worker, &answer));
                    // Who has gone meanwhile gives back what is kept by dropping it.
                    drop(caller.send(Ok(Reply { answer, payload, kept })));
                }
            }
        }
        ""
    };
    let why = tokio::select! {
        why = down => why,
        why = up => why,
        () = stop.cancelled() => "it was ended",
    };
    ended.cancel();
    jobs.close();
    let end = link.end(why).await;
    for waiting in queue().drain(..) {
        if let Some(caller) = waiting.answer {
            drop(caller.send(Err(end.clone())));
        }
    }
    while let Ok(job) = jobs.try_recv() {
        if let Some(caller) = job.waiting.answer {
            drop(caller.send(Err(Ended::NotSent)));
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    //! A worker in a thread.

    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::unix::pipe;

    /// What a worker does with its two ends.
    #[derive(Clone)]
    pub struct Act(pub Arc<dyn Fn(File, File) + Send + Sync>);

    impl std::fmt::Debug for Act {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Act")
        }
    }

    pub struct Thread {
        receiver: pipe::Receiver,
        sender: Option<pipe::Sender>,
    }

    pub struct Pen(pipe::Sender);

    impl Thread {
        pub fn start(act: Act) -> Self {
            let (input, down) = std::io::pipe().unwrap();
            let (up, output) = std::io::pipe().unwrap();
            let file = |end: OwnedFd| File::from(end);
            let (input, output) = (file(input.into()), file(output.into()));
            std::thread::spawn(move || (act.0)(input, output));
            let sender = Some(pipe::Sender::from_owned_fd(down.into()).unwrap());
            Self { receiver: pipe::Receiver::from_owned_fd(up.into()).unwrap(), sender }
        }

        pub async fn next(&mut self) -> Option<Vec<u8>> {
            let mut buffer = vec![0; 16 << 10];
            match self.receiver.read(&mut buffer).await {
                Ok(count @ 1..) => Some(buffer[..count].to_vec()),
                _ => None,
            }
        }

        pub fn pen(&mut self) -> Pen {
            Pen(self.sender.take().unwrap())
        }
    }

    impl Pen {
        pub async fn write(&mut self, bytes: Vec<u8>) -> bool {
            self.0.write_all(&bytes).await.is_ok()
        }
    }
}
