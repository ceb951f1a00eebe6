//! A sandbox that this process holds: made, kept alive for as long as it is held, and ended when it is let go, whatever the reason.
//!
//! Its life is short, and lengthened again and again by a task: so a sandbox whose holder is killed, or cut off, ends by itself within
//! minutes, and a long command needs no long life. Whoever dies while one is being made leaves none: the making goes on in a task whose
//! answer nobody takes, and what nobody takes is ended. Where even the answer is lost, what was made is found by a mark of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::base::env::Env;
use crate::base::retry::Backoff;
use crate::base::scope::Scope;
use crate::clients::e2b::wire::{Info, NewSandbox};
use crate::clients::e2b::{Envd, Error};

use super::own::Own;
use super::site::Link;

/// How long a sandbox lives without its holder, and how often the holder lengthens that.
const LIFE: Duration = Duration::from_secs(300);
const BEAT: Duration = Duration::from_secs(75);
/// Who makes sandboxes faster than the other side allows waits for so long in all.
const LIMITED: Backoff =
    Backoff { first: Duration::from_secs(1), most: Duration::from_secs(30), total: Duration::from_secs(600) };
/// While the other side is out.
const OUT: Backoff =
    Backoff { first: Duration::from_secs(1), most: Duration::from_secs(15), total: Duration::from_secs(60) };
/// How long ending one is tried; then its life ends it.
const ENDING: Backoff =
    Backoff { first: Duration::from_millis(200), most: Duration::from_secs(5), total: Duration::from_secs(20) };

/// The name of the metadata by which sandboxes of one instance are found, of the process, and of the making.
pub(super) const MARK: &str = "nightcrew";
pub(super) const HOLDER: &str = "holder";
const MAKING: &str = "making";

/// One sandbox. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Held {
    pub id: String,
    pub envd: Envd,
    link: Link,
    env: Env,
    scope: Scope,
    /// Nobody uses it now, and it costs: it may end.
    rests: Arc<AtomicBool>,
    _alive: DropGuard,
}

impl Held {
    /// Makes one, and waits while the other side limits how many. `asked` without a lifetime. Cancel safe.
    pub(super) async fn make(link: &Link, env: &Env, scope: &Scope, asked: NewSandbox) -> Result<Self, Error> {
        let (mut limited, mut out) = ((0, Duration::ZERO), (0, Duration::ZERO));
        loop {
            let making = making(link.clone(), env.clone(), scope.clone(), asked.clone());
            // It goes on when nobody waits any more, and then ends what it has made.
            let made = scope.spawn("making a sandbox", making).await;
            let error = match made {
                Ok(Ok(held)) => return Ok(held),
                Ok(Err(error)) => error,
                Err(lost) => return Err(Error::Ambiguous { message: lost.to_string() }),
            };
            let (backoff, (tries, waited)) = match &error {
                Error::RateLimited { .. } => (LIMITED, &mut limited),
                Error::Unavailable { .. } | Error::Ambiguous { .. } if !link.is_gone() => (OUT, &mut out),
                _ => return Err(error),
            };
            *tries += 1;
            let Some(pause) = backoff.pause(*tries, *waited, error.retry()) else { return Err(error) };
            let pause = env.jitter(pause);
            tracing::info!(%error, "no sandbox yet; asking again in {pause:?}");
            *waited += pause;
            env.clock.sleep(pause).await;
        }
    }

    /// It is kept for later, for no longer than this: then it ends by itself, if it is not used before.
    pub(super) fn rest(&self, longest: Duration) {
        self.rests.store(true, Ordering::Relaxed);
        let (link, id) = (self.link.clone(), self.id.clone());
        drop(self.scope.spawn(format!("shortening the life of sandbox {id}"), async move {
            if let Err(error) = link.cloud.set_timeout(&id, seconds(longest)).await {
                tracing::debug!(%error, sandbox = id, "a sandbox that is not used lives on for some minutes");
            }
        }));
    }

    /// It is used again.
    ///
    /// Errors: `NotFound` where it has ended.
    pub(super) async fn wake(&self) -> Result<(), Error> {
        if self.rests.swap(false, Ordering::Relaxed) {
            self.link.cloud.set_timeout(&self.id, seconds(LIFE)).await?;
        }
        Ok(())
    }
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

impl Drop for Held {
    fn drop(&mut self) {
        let (link, env, scope) = (self.link.clone(), self.env.clone(), self.scope.clone());
        let id = std::mem::take(&mut self.id);
        drop(self.scope.spawn(format!("ending sandbox {id}"), async move { end(&link, &env, &scope, &id).await }));
    }
}

/// Ends a sandbox. What cannot be ended ends by itself soon, and the next start looks for it.
pub(super) async fn end(link: &Link, env: &Env, scope: &Scope, id: &str) {
    let mut tries = Tries::new(ENDING);
    // A server of ours that has ended has ended all its sandboxes.
    while !link.is_gone() {
        let error = match link.cloud.kill(id).await {
            Ok(_) | Err(Error::Gone { .. }) => return,
            Err(error) => error,
        };
        if !tries.again(&error, env, scope).await {
            tracing::debug!(%error, sandbox = id, "a sandbox could not be ended; its time will");
            return;
        }
    }
}

/// Tries of something that should be done even while this process stops: then once more, and no longer.
struct Tries {
    backoff: Backoff,
    attempt: u32,
    waited: Duration,
    last: bool,
}

impl Tries {
    fn new(backoff: Backoff) -> Self {
        Self { backoff, attempt: 0, waited: Duration::ZERO, last: false }
    }

    /// Waits for the next try after this error. `false`: there is none.
    async fn again(&mut self, error: &Error, env: &Env, scope: &Scope) -> bool {
        self.attempt += 1;
        let pause = self.backoff.pause(self.attempt, self.waited, error.retry());
        let Some(pause) = pause.filter(|_| !self.last) else { return false };
        self.waited += pause;
        tokio::select! {
            () = tokio::time::sleep(env.jitter(pause)) => {}
            () = scope.token().cancelled() => self.last = true,
        }
        true
    }
}

async fn making(link: Link, env: Env, scope: Scope, mut asked: NewSandbox) -> Result<Held, Error> {
    let key = format!("nightcrew-{:032x}", env.ids.random());
    asked.timeout = Some(seconds(LIFE));
    asked.metadata.insert(MAKING.into(), key.clone());
    let created = match link.cloud.create(&asked, &key).await {
        Ok(created) => created,
        Err(error) => {
            // Perhaps only its answer was lost.
            if matches!(error, Error::Unavailable { .. } | Error::Ambiguous { .. } | Error::Protocol { .. }) {
                let marks = BTreeMap::from([(MAKING.to_owned(), key)]);
                let (link, env, of) = (link.clone(), env.clone(), scope.clone());
                let cleared = async move { clear(&link, &env, &of, &marks).await };
                drop(scope.spawn("looking for a sandbox whose making was not answered", cleared));
            }
            return Err(error);
        }
    };
    let envd = match link.cloud.envd(&created) {
        Ok(envd) => envd,
        Err(error) => {
            end(&link, &env, &scope, &created.sandbox_id).await;
            return Err(error);
        }
    };
    let (alive, rests) = (scope.token().child_token(), Arc::new(AtomicBool::new(false)));
    let kept = keep_alive(link.clone(), created.sandbox_id.clone(), rests.clone(), alive.clone());
    drop(scope.spawn("keeping a sandbox alive", kept));
    Ok(Held { id: created.sandbox_id, envd, link, env, scope, rests, _alive: alive.drop_guard() })
}

/// Ends every sandbox with these marks, as soon as the other side answers.
async fn clear(link: &Link, env: &Env, scope: &Scope, marks: &BTreeMap<String, String>) {
    let mut tries = Tries::new(OUT);
    while !link.is_gone() {
        let error = match link.cloud.list(marks, &[]).await {
            Ok(found) => {
                for sandbox in found.iter().filter(|sandbox| marks.iter().all(|mark| has(sandbox, mark))) {
                    end(link, env, scope, &sandbox.sandbox_id).await;
                }
                return;
            }
            Err(error) => error,
        };
        if !tries.again(&error, env, scope).await {
            tracing::warn!(%error, "whether a sandbox was made is not known; if one was, its time will end it");
            return;
        }
    }
}

/// The filter of a list is the other side's; what is ended is not left to it.
fn has(sandbox: &Info, (name, value): (&String, &String)) -> bool {
    sandbox.metadata.get(name) == Some(value)
}

async fn keep_alive(link: Link, id: String, rests: Arc<AtomicBool>, ended: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(BEAT) => {}
            () = ended.cancelled() => return,
        }
        if rests.load(Ordering::Relaxed) {
            continue;
        }
        tokio::select! {
            set = link.cloud.set_timeout(&id, seconds(LIFE)) => match set {
                Ok(()) => {}
                // Whoever uses it notices as well.
                Err(Error::NotFound { .. } | Error::Gone { .. }) => return,
                Err(error) => tracing::debug!(%error, sandbox = id, "a sandbox's life could not be lengthened; again soon"),
            },
            () = ended.cancelled() => return,
        }
    }
}

/// Ends the sandboxes of this instance whose process is dead.
pub(super) async fn reap(link: &Link, env: &Env, scope: &Scope, own: &Own) -> Result<usize, Error> {
    let marks = BTreeMap::from([(MARK.to_owned(), own.instance.clone())]);
    let mut ended = 0;
    for sandbox in link.cloud.list(&marks, &[]).await? {
        let ours = marks.iter().all(|mark| has(&sandbox, mark));
        let holder = sandbox.metadata.get(HOLDER).map(String::as_str).unwrap_or_default();
        if ours && !own.lives(holder) {
            end(link, env, scope, &sandbox.sandbox_id).await;
            ended += 1;
        }
    }
    Ok(ended)
}
