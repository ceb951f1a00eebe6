//! All sandboxes of a server: made, paused, resumed and ended, each by a task of the server's own, so that it does not matter whether a
//! caller waits for it.
//!
//! Invariants: whatever fails on the way leaves no folder and no room; a sandbox ends once, however many ask for it; nothing is made
//! any more when the server stops.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use futures_util::future::join_all;
use jiff::SignedDuration;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use crate::base::clock::Timestamp;
use crate::base::env::Env;
use crate::base::scope::Scope;
use crate::base::secret::Secret;
use crate::clients::e2b::wire::State;
use crate::isolation::RoomSpec;
use crate::workspace::remove_folder;

use super::error::ApiError;
use super::files::Files;
use super::live::{Lasting, Level, Live, Vital};
use super::own::{leave_room, make_dir};
use super::process::Processes;
use super::wire_in::{Asked, Lifecycle, MOST_SECONDS, egress};
use super::{Settings, Shared};

/// A paused sandbox that nobody resumes is ended after this.
const MOST_PAUSED: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// With nothing to end, the reaper looks again after this.
const IDLE: Duration = Duration::from_secs(3600);

/// All of them. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Sandboxes {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    env: Env,
    scope: Scope,
    most: usize,
    least_memory: u64,
    all: Mutex<HashMap<String, Slot>>,
    stopping: AtomicBool,
    /// The next end may be another one.
    moved: Notify,
    /// A slot is free.
    freed: Notify,
}

#[derive(Debug)]
enum Slot {
    /// It counts, and nothing can be done with it yet.
    Making,
    Here(Arc<Live>),
    /// Being ended; tells when that is done.
    Ending(watch::Receiver<bool>),
}

/// What is wanted of a new one.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub asked: Asked,
    pub lifecycle: Lifecycle,
    /// Until its end.
    pub seconds: u32,
    /// It stays also when nobody waits for it any more: the request may come again.
    pub keep: bool,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot that is given back when nothing came of it.
struct Reserved {
    of: Arc<Inner>,
    id: String,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut all = self.of.lock();
        if let Some(Slot::Making) = all.get(&self.id) {
            all.remove(&self.id);
            drop(all);
            self.of.freed.notify_waiters();
        }
    }
}

/// A new sandbox on its way to who has asked for it: it is ended unless it is taken.
struct Made {
    of: Sandboxes,
    live: Arc<Live>,
    taken: bool,
}

impl Drop for Made {
    fn drop(&mut self) {
        if !self.taken {
            tracing::info!(sandbox = self.live.id, "nobody waits for it any more");
            let (all, id) = (self.of.clone(), self.live.id.clone());
            drop(self.of.inner.scope.spawn(format!("end {id}"), async move { all.end(&id).await }));
        }
    }
}

impl Sandboxes {
    /// None yet. A task of `scope` ends each at its time.
    pub fn begin(settings: &Settings, env: &Env, scope: &Scope) -> Self {
        let inner = Inner {
            env: env.clone(),
            scope: scope.clone(),
            most: settings.most_sandboxes,
            least_memory: settings.least_memory,
            all: Mutex::default(),
            stopping: AtomicBool::new(false),
            moved: Notify::new(),
            freed: Notify::new(),
        };
        let sandboxes = Self { inner: Arc::new(inner) };
        let (all, stop) = (sandboxes.clone(), scope.token().clone());
        drop(scope.spawn("the ends of sandboxes", async move {
            loop {
                let next = all.end_due();
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = all.inner.moved.notified() => {}
                    () = tokio::time::sleep_until(next) => {}
                }
            }
        }));
        sandboxes
    }

    pub fn get(&self, id: &str) -> Option<Arc<Live>> {
        match self.inner.lock().get(id) {
            Some(Slot::Here(live)) => Some(live.clone()),
            Some(Slot::Making | Slot::Ending(_)) | None => None,
        }
    }

    pub fn all(&self) -> Vec<Arc<Live>> {
        let here = |slot: &Slot| match slot {
            Slot::Here(live) => Some(live.clone()),
            Slot::Making | Slot::Ending(_) => None,
        };
        self.inner.lock().values().filter_map(here).collect()
    }

    /// Makes one and waits until its room stands.
    ///
    /// Cancel safe: unless it is to be kept, a sandbox that nobody waits for is ended.
    pub async fn make(&self, shared: &Arc<Shared>, order: Order) -> Result<Arc<Live>, ApiError> {
        let reserved = self.reserve()?;
        let (give, made) = oneshot::channel();
        let (all, shared) = (self.clone(), shared.clone());
        drop(self.inner.scope.spawn(format!("make {}", reserved.id), async move {
            let keep = order.keep;
            let built = all.build(&shared, &reserved.id, order).await;
            drop(reserved);
            // Dropped with the channel where nobody waits any more, before this or after.
            drop(give.send(built.map(|live| Made { of: all, live, taken: keep })));
        }));
        let mut made = made.await.map_err(|_| ApiError::internal("the sandbox was lost while it was made"))??;
        made.taken = true;
        Ok(made.live.clone())
    }

    fn reserve(&self) -> Result<Reserved, ApiError> {
        let id = new_id(&self.inner.env);
        let mut all = self.inner.lock();
        // Looked at under the lock: whoever stops looks for what is being made after it has said so.
        if self.inner.stopping.load(Ordering::SeqCst) {
            return Err(stopping());
        }
        let most = self.inner.most;
        if all.len() >= most {
            let message = format!("you have reached the maximum number of concurrent sandboxes ({most})");
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).after(1));
        }
        if let Some(left) = free_memory().filter(|left| *left < self.inner.least_memory) {
            let message = format!("only {} MiB of memory are left on the server's machine", left >> 20);
            let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message);
            return Err(error.code("sandbox_capacity_unavailable").after(5));
        }
        all.insert(id.clone(), Slot::Making);
        Ok(Reserved { of: self.inner.clone(), id })
    }

    async fn build(&self, shared: &Arc<Shared>, id: &str, order: Order) -> Result<Arc<Live>, ApiError> {
        let Order { asked, lifecycle, seconds, keep: _ } = order;
        let folder = shared.own.sandbox(id);
        let built = self.furnish(shared, id, &folder, asked, lifecycle, seconds).await;
        let live = match built {
            Ok(live) => live,
            Err(error) => {
                remove(folder).await;
                return Err(error);
            }
        };
        let stops = {
            let mut all = self.inner.lock();
            let stops = self.inner.stopping.load(Ordering::SeqCst);
            if !stops {
                all.insert(id.to_owned(), Slot::Here(live.clone()));
            }
            stops
        };
        if stops {
            live.room.clone().close().await;
            remove(folder).await;
            return Err(stopping());
        }
        self.inner.moved.notify_one();
        self.watch(&live);
        live.note(Level::Info, "the sandbox was made", &[("template", live.template.id.clone())]);
        tracing::info!(sandbox = id, template = live.template.id, seconds, "a sandbox begins");
        Ok(live)
    }

    /// The folder, the home and the room of a new one.
    async fn furnish(
        &self,
        shared: &Arc<Shared>,
        id: &str,
        folder: &std::path::Path,
        asked: Asked,
        lifecycle: Lifecycle,
        seconds: u32,
    ) -> Result<Arc<Live>, ApiError> {
        let env = &self.inner.env;
        let template = shared.templates.resolve(&asked.new.template_id)?;
        let made = folder.to_owned();
        let made =
            tokio::task::spawn_blocking(move || make_dir(&made)).await.unwrap_or_else(|e| Err(io::Error::other(e)));
        made.map_err(|error| ApiError::io("the sandbox's folder", &error))?;
        let home = shared.templates.home(&template, folder).await;
        let home = home.map_err(|error| ApiError::io("the sandbox's home", &error))?;
        let mut spec = RoomSpec::new(home);
        spec.root = template.root.clone();
        spec.egress = egress(asked.new.network.as_ref())?;
        if template.memory_mb > 0 {
            spec.limits.memory_bytes = template.memory_mb << 20;
        }
        // How long a process may take is for its caller to say. In the room it may take as long as there is a sandbox.
        let longest = Duration::from_secs(MOST_SECONDS.into()) * 365;
        (spec.limits.wall, spec.limits.cpu) = (longest, longest);
        leave_room(&mut spec.limits, folder);
        let room = shared.isolation.open(spec.clone()).await.map_err(|error| ApiError::room(&error))?;
        if let Err(why) = shared.templates.boot(&template, &room).await {
            room.close().await;
            let error = ApiError::internal(format!("what the template starts: {why}"));
            return Err(error.code("sandbox_create_failed"));
        }
        let variables = shared.templates.variables(&template, &room);
        let token_text = new_token(env);
        let now = env.now();
        let vital = Vital {
            ends_at: later(now, seconds),
            ends: Instant::now() + Duration::from_secs(seconds.into()),
            state: State::Running,
            asleep: false,
        };
        Ok(Arc::new(Live {
            id: id.to_owned(),
            token: Secret::new(token_text.clone()),
            token_text,
            template,
            variables,
            asked: asked.new,
            lifecycle,
            started_at: now,
            folder: folder.to_owned(),
            spec,
            room,
            lasting: Lasting::new(env, vital),
            processes: Processes::default(),
            files: Files::default(),
        }))
    }

    /// Ends one: its processes, then its files. `false`: there is none. Whoever asks while it is being ended waits for that.
    ///
    /// Cancel safe: it is ended all the same.
    pub async fn end(&self, id: &str) -> bool {
        let mut done = {
            let mut all = self.inner.lock();
            match all.get(id) {
                Some(Slot::Here(live)) => {
                    let live = live.clone();
                    self.begin_end(&mut all, live, "killed")
                }
                Some(Slot::Ending(done)) => done.clone(),
                Some(Slot::Making) | None => return false,
            }
        };
        // A task that is gone has done what it could.
        drop(done.wait_for(|done| *done).await);
        true
    }

    fn begin_end(&self, all: &mut HashMap<String, Slot>, live: Arc<Live>, why: &'static str) -> watch::Receiver<bool> {
        let (done, ended) = watch::channel(false);
        all.insert(live.id.clone(), Slot::Ending(ended.clone()));
        tracing::info!(sandbox = live.id, why, "a sandbox ends");
        let inner = self.inner.clone();
        drop(self.inner.scope.spawn(format!("end {}", live.id), async move {
            // Whoever watches a process hears that its sandbox is gone, and not how the process was ended for that.
            live.processes.close();
            let turn = live.lasting.turn.lock().await;
            live.room.clone().close().await;
            remove(live.folder.clone()).await;
            drop(turn);
            inner.lock().remove(&live.id);
            inner.freed.notify_waiters();
            done.send_replace(true);
        }));
        ended
    }

    /// Ends a sandbox whose room comes to its end by itself: somebody has killed its first process.
    fn watch(&self, live: &Arc<Live>) {
        let (all, gone, watched) = (self.clone(), live.room.gone(), Arc::downgrade(live));
        drop(self.inner.scope.spawn(format!("watch {}", live.id), async move {
            gone.await;
            let Some(watched) = watched.upgrade() else { return };
            let mut slots = all.inner.lock();
            let here = matches!(slots.get(&watched.id), Some(Slot::Here(live)) if Arc::ptr_eq(live, &watched));
            if here && !watched.vital().asleep {
                drop(all.begin_end(&mut slots, watched, "its first process was killed"));
            }
        }));
    }

    /// Ends or pauses those whose time has come, and tells when the next one's will.
    fn end_due(&self) -> Instant {
        let now = Instant::now();
        let mut next = now + IDLE;
        let mut pausing = Vec::new();
        let mut all = self.inner.lock();
        let here: Vec<_> = all
            .values()
            .filter_map(|slot| if let Slot::Here(live) = slot { Some(live.clone()) } else { None })
            .collect();
        for live in here {
            let mut vital = live.vital();
            if vital.ends > now {
                next = next.min(vital.ends);
            } else if vital.state == State::Running && live.lifecycle.pauses {
                // Whoever comes in between takes up what is running.
                vital.ends = now + MOST_PAUSED;
                drop(vital);
                pausing.push(live);
            } else {
                drop(vital);
                drop(self.begin_end(&mut all, live, "its time is over"));
            }
        }
        drop(all);
        for live in pausing {
            let all = self.clone();
            drop(self.inner.scope.spawn(format!("pause {}", live.id), async move {
                if let Err(error) = all.pause_now(&live.id, live.lifecycle.keeps_memory).await {
                    tracing::warn!(sandbox = live.id, error = error.message, "it cannot be paused, so it ends");
                    all.end(&live.id).await;
                }
            }));
        }
        next
    }

    /// Gives one so many seconds from now, or at least so many. Errors: 404; 409 if it is paused.
    pub fn lease(&self, id: &str, seconds: u32, at_least: bool) -> Result<(), ApiError> {
        let live = self.get(id).ok_or_else(|| ApiError::no_sandbox(id))?;
        let mut vital = live.vital();
        if vital.state == State::Paused {
            return Err(ApiError::conflict(format!("sandbox \"{id}\" is paused")));
        }
        self.extend(&mut vital, seconds, at_least);
        drop(vital);
        live.note(Level::Debug, "its time was set", &[("seconds", seconds.to_string())]);
        Ok(())
    }

    fn extend(&self, vital: &mut Vital, seconds: u32, at_least: bool) {
        let ends = Instant::now() + Duration::from_secs(seconds.into());
        if !at_least || ends > vital.ends {
            vital.ends = ends;
            vital.ends_at = later(self.inner.env.now(), seconds);
            self.inner.moved.notify_one();
        }
    }

    /// Stops one where it is, with its processes or without them. Errors: 404; 409 if it is paused.
    ///
    /// Cancel safe: it is paused all the same.
    pub async fn pause(&self, id: &str, memory: bool) -> Result<(), ApiError> {
        let (all, id) = (self.clone(), id.to_owned());
        let paused = self.inner.scope.spawn(format!("pause {id}"), async move { all.pause_now(&id, memory).await });
        paused.await.unwrap_or_else(|_| Err(ApiError::internal("pausing was broken off")))
    }

    async fn pause_now(&self, id: &str, memory: bool) -> Result<(), ApiError> {
        let live = self.get(id).ok_or_else(|| ApiError::no_sandbox(id))?;
        let _turn = live.lasting.turn.lock().await;
        // Another turn may have come first.
        let live = self.get(id).ok_or_else(|| ApiError::no_sandbox(id))?;
        if live.vital().state == State::Paused {
            return Err(ApiError::conflict(format!("sandbox \"{id}\" is already paused")));
        }
        if memory {
            live.room.freeze(true).await.map_err(|error| ApiError::internal(format!("pausing: {error}")))?;
        } else {
            // Said first: the end of the room is not the end of the sandbox.
            live.fall_asleep();
            live.processes.close();
            live.room.clone().close().await;
        }
        let mut vital = live.vital();
        vital.state = State::Paused;
        vital.ends = Instant::now() + MOST_PAUSED;
        vital.ends_at = self.inner.env.now();
        drop(vital);
        self.inner.moved.notify_one();
        live.note(Level::Info, if memory { "paused" } else { "paused; its processes have ended" }, &[]);
        Ok(())
    }

    /// Lets one go on for at least so many seconds; `cold`: from its files alone, if it was paused. Tells whether it was.
    ///
    /// Cancel safe: it goes on all the same.
    pub async fn resume(
        &self,
        shared: &Arc<Shared>,
        id: &str,
        seconds: u32,
        cold: bool,
    ) -> Result<(Arc<Live>, bool), ApiError> {
        let (all, shared, id) = (self.clone(), shared.clone(), id.to_owned());
        let resumed = self
            .inner
            .scope
            .spawn(format!("resume {id}"), async move { all.resume_now(&shared, &id, seconds, cold).await });
        resumed.await.unwrap_or_else(|_| Err(ApiError::internal("resuming was broken off")))
    }

    async fn resume_now(
        &self,
        shared: &Shared,
        id: &str,
        seconds: u32,
        cold: bool,
    ) -> Result<(Arc<Live>, bool), ApiError> {
        let live = self.get(id).ok_or_else(|| ApiError::no_sandbox(id))?;
        let _turn = live.lasting.turn.lock().await;
        let live = self.get(id).ok_or_else(|| ApiError::no_sandbox(id))?;
        let (paused, asleep) = {
            let vital = live.vital();
            (vital.state == State::Paused, vital.asleep)
        };
        if !paused {
            self.extend(&mut live.vital(), seconds, true);
            return Ok((live, false));
        }
        let live = if cold || asleep {
            live.fall_asleep();
            live.processes.close();
            // Nothing to wait for if it slept already.
            live.room.clone().close().await;
            self.rebuild(shared, &live).await?
        } else {
            let thawed = live.room.freeze(false).await;
            thawed.map_err(|error| ApiError::internal(format!("resuming: {error}")))?;
            live
        };
        let mut vital = live.vital();
        (vital.state, vital.asleep) = (State::Running, false);
        self.extend(&mut vital, seconds, false);
        drop(vital);
        live.note(Level::Info, "resumed", &[]);
        Ok((live, true))
    }

    /// A new room over the same files, in the place of the old one.
    async fn rebuild(&self, shared: &Shared, live: &Live) -> Result<Arc<Live>, ApiError> {
        let room = shared.isolation.open(live.spec.clone()).await.map_err(|error| ApiError::room(&error))?;
        if let Err(why) = shared.templates.boot(&live.template, &room).await {
            room.close().await;
            return Err(ApiError::internal(format!("what the template starts: {why}")));
        }
        let anew = Arc::new(Live {
            id: live.id.clone(),
            token: live.token.clone(),
            token_text: live.token_text.clone(),
            template: live.template.clone(),
            variables: live.variables.clone(),
            asked: live.asked.clone(),
            lifecycle: live.lifecycle,
            started_at: live.started_at,
            folder: live.folder.clone(),
            spec: live.spec.clone(),
            room,
            lasting: live.lasting.clone(),
            processes: Processes::default(),
            files: Files::default(),
        });
        {
            // The new one is awake from the beginning.
            let mut vital = anew.vital();
            (vital.state, vital.asleep) = (State::Running, false);
        }
        let there = {
            let mut all = self.inner.lock();
            let there = matches!(all.get(&live.id), Some(Slot::Here(_)));
            if there {
                all.insert(live.id.clone(), Slot::Here(anew.clone()));
            }
            there
        };
        if !there {
            // Killed meanwhile: who does that waits for our turn to end, then removes the files.
            anew.room.clone().close().await;
            return Err(ApiError::no_sandbox(&live.id));
        }
        self.watch(&anew);
        Ok(anew)
    }

    /// Makes no more, ends all and waits until nothing is left of them.
    pub async fn close(&self) {
        self.inner.stopping.store(true, Ordering::SeqCst);
        loop {
            let freed = self.inner.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            let ids: Vec<String> = self.inner.lock().keys().cloned().collect();
            if ids.is_empty() {
                return;
            }
            let ended = join_all(ids.iter().map(|id| self.end(id))).await;
            // What was still being made ends when it is.
            if !ended.into_iter().any(|ended| ended) {
                freed.await;
            }
        }
    }
}

fn stopping() -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "this sandbox server is stopping")
}

fn later(now: Timestamp, seconds: u32) -> Timestamp {
    now.checked_add(SignedDuration::from_secs(seconds.into())).unwrap_or(Timestamp::MAX)
}

/// Removes a sandbox's folder. What cannot be removed is tried again when the server ends, and by the next one.
async fn remove(folder: PathBuf) {
    let removed = tokio::task::spawn_blocking(move || (remove_folder(&folder), folder)).await;
    match removed {
        Ok((Ok(()), _)) => {}
        Ok((Err(error), folder)) => {
            tracing::warn!(%error, folder = %folder.display(), "a sandbox's folder stays");
        }
        Err(error) => tracing::warn!(%error, "a sandbox's folder stays"),
    }
}

/// `i` and 100 random bits, fit for the name of a host.
fn new_id(env: &Env) -> String {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghijkmnpqrstuvwx";
    let (high, low) = (env.ids.random(), env.ids.random());
    let digits = (0..10).flat_map(|n| [(high >> (5 * n)) & 31, (low >> (5 * n)) & 31]);
    std::iter::once('i').chain(digits.map(|digit| char::from(DIGITS[digit as usize]))).collect()
}

/// 160 random bits.
fn new_token(env: &Env) -> String {
    const BITS: u128 = (1 << 80) - 1;
    format!("{:020x}{:020x}", env.ids.random() & BITS, env.ids.random() & BITS)
}

/// Memory in bytes that processes of this machine can still have, where it tells.
fn free_memory() -> Option<u64> {
    let told = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = told.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_labels_of_hosts_and_tokens_are_long() {
        let env = Env::system();
        let (id, token) = (new_id(&env), new_token(&env));
        assert!(id.len() == 21 && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()), "{id}");
        assert!(token.len() == 40 && token != new_token(&env) && id != new_id(&env));
    }
}
