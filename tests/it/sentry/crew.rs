//! A journal, a stand-in of Sentry and the parts that bring errors from one to the other, on a clock that does not wait.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nightcrew::base::BoxFuture;
use nightcrew::base::clock::{Clock, Timestamp};
use nightcrew::base::env::Env;
use nightcrew::base::hash::Hash;
use nightcrew::base::ids::{RunId, SystemIds};
use nightcrew::base::secret::{Secret, SecretRef, SecretSource};
use nightcrew::clients::sentry::Sentry as Client;
use nightcrew::domain::finding::{Handled, Seen as Sighting, Standing};
use nightcrew::domain::run::{Effects, Outcome, RunLimits, RunStart, Trigger, TriggerKind};
use nightcrew::journal::{Claim, ErrorClaim, Journal, OpenOptions, Rate, RunFinish};
use nightcrew::ports::service::{Outside, Service, Services, Shared};
use nightcrew::triggers::hook::{HookAnswer, HookRequest};
use nightcrew::triggers::sentry::{Fired, Handle, HookSetup, Loop, Origin, Poller, Watch, handler};
use serde_json::Value;

use crate::fakes::sentry::{ORGANIZATION, Sentry, TOKEN};

/// Stands still until somebody sleeps on it; then as much time has passed.
#[derive(Clone, Debug)]
pub struct QuickClock(Arc<Mutex<(Timestamp, Vec<Duration>)>>);

impl QuickClock {
    pub fn new(now: &str) -> Self {
        Self(Arc::new(Mutex::new((now.parse().unwrap(), Vec::new()))))
    }
    pub fn pass(&self, by: Duration) {
        let mut state = self.0.lock().unwrap();
        state.0 += by;
    }
    /// How long was slept, since this was asked last.
    pub fn slept(&self) -> Vec<Duration> {
        std::mem::take(&mut self.0.lock().unwrap().1)
    }
}

impl Clock for QuickClock {
    fn now(&self) -> Timestamp {
        self.0.lock().unwrap().0
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let mut state = self.0.lock().unwrap();
        state.0 += duration;
        state.1.push(duration);
        Box::pin(async {})
    }
}

pub const HOUR: Duration = Duration::from_secs(3_600);
pub const MINUTE: Duration = Duration::from_secs(60);

pub fn outside(sentry: &Sentry, env: Env, token: PathBuf) -> Outside {
    let service = Service {
        settings: BTreeMap::from([("base_url".into(), sentry.url()), ("organization".into(), ORGANIZATION.to_owned())]),
        secrets: BTreeMap::from([(
            "token".to_owned(),
            SecretRef { name: "SENTRY".into(), source: SecretSource::Files(vec![token]) },
        )]),
        ..Service::default()
    };
    let services = Services { sentry: Some(service), ..Services::default() };
    Outside { services: Arc::new(services), shared: Shared::default(), env }
}

/// All of it.
pub struct Crew {
    pub folder: tempfile::TempDir,
    pub clock: QuickClock,
    pub sentry: Sentry,
    pub outside: Outside,
    pub journal: Journal,
    pub handle: Handle,
    pub rate: Rate,
    watches: Vec<Watch>,
    next: BTreeMap<String, Timestamp>,
}

pub fn watch(pipeline: &str, debounce: Duration) -> Watch {
    Watch {
        pipeline: pipeline.into(),
        project: "api".into(),
        origin: Origin::Sentry,
        when: vec![Standing::New, Standing::Worsened, Standing::Regressed],
        debounce,
        every: 5 * MINUTE,
    }
}

impl Crew {
    pub fn new(watches: Vec<Watch>) -> Self {
        let clock = QuickClock::new("2026-11-20T08:00:00Z");
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, TOKEN).unwrap();
        let env = Env { clock: Arc::new(clock.clone()), ids: Arc::new(SystemIds) };
        let sentry = Sentry::start_at(Arc::new(clock.clone()));
        let outside = outside(&sentry, env, token);
        let journal = open(&folder, &outside.env);
        let handle = Handle::new(journal.clone());
        handle.set_watches(watches.clone());
        let rate = Rate { burst: 1_000, per_hour: 1_000 };
        Self { folder, clock, sentry, outside, journal, handle, rate, watches, next: BTreeMap::new() }
    }

    /// The process dies and another one takes over after so long.
    pub async fn restart(self, down: Duration) -> Self {
        let Self { folder, clock, sentry, outside, journal, handle, rate, watches, .. } = self;
        drop(handle);
        journal.close().await.unwrap();
        clock.pass(down);
        let journal = open(&folder, &outside.env);
        let handle = Handle::new(journal.clone());
        handle.set_watches(watches.clone());
        Self { folder, clock, sentry, outside, journal, handle, rate, watches, next: BTreeMap::new() }
    }

    pub fn client(&self) -> Arc<Client> {
        Client::of(&self.outside).unwrap()
    }

    fn api(&self) -> nightcrew::triggers::sentry::Api {
        let client = self.client();
        Arc::new(move || Some(client.clone()))
    }

    pub async fn poll(&mut self) {
        let poller = Poller { handle: self.handle.clone(), env: self.outside.env.clone(), api: self.api() };
        let mut next = std::mem::take(&mut self.next);
        poller.look(&mut next).await;
        self.next = next;
    }

    /// Lets every error whose time has come have its turn.
    pub async fn turn(&self) {
        let (journal, env, rate) = (self.journal.clone(), self.outside.env.clone(), self.rate);
        let fire = move |waiting: nightcrew::journal::WaitingError, seen, when| {
            let (journal, env) = (journal.clone(), env.clone());
            let claimed = async move {
                let start = start(&env, &waiting.pipeline, &waiting.trigger_key(), waiting.item.clone().into());
                let claim = Claim { start, slot: None, max_queued: 1_000 };
                let claim = ErrorClaim { claim, waiting, seen, when, rate, again: HOUR };
                Ok(Fired::Decided(journal.claim_error(claim).await?))
            };
            Box::pin(claimed) as BoxFuture<'static, _>
        };
        let turns =
            Loop { handle: self.handle.clone(), env: self.outside.env.clone(), api: self.api(), fire: Arc::new(fire) };
        while turns.turn().await.unwrap().is_zero() {}
    }

    /// Runs that errors began, by pipeline and key of the error, the first first.
    pub fn runs(&self) -> Vec<RunStart> {
        let mut open = self.journal.reader().open_runs().unwrap();
        open.sort_by_key(|start| (start.started_at, start.id.clone()));
        open
    }

    pub fn keys(&self) -> Vec<String> {
        let key = |start: RunStart| start.trigger.item.unwrap()["id"].as_str().unwrap().to_owned();
        let mut keys: Vec<String> = self.runs().into_iter().map(key).collect();
        keys.sort();
        keys
    }

    /// What became of the error with this short id, or of any.
    pub fn fates(&self) -> Vec<(String, String)> {
        let decided = self.journal.reader().decided_errors(10_000).unwrap();
        decided.into_iter().map(|decided| (decided.fate, decided.reason)).collect()
    }

    /// The run ends well; its error is handled, as the run's last step would tell the ledger.
    pub async fn finish(&self, run: &RunStart, handled: bool) {
        let item = run.trigger.item.clone().unwrap();
        if handled {
            let seen = Sighting {
                fingerprint: item["key"].as_str().unwrap().into(),
                title: String::new(),
                weight: item["users"].as_f64().unwrap(),
                place: String::new(),
                last_at: None,
            };
            let handled = Handled { seen, end: "reported".into(), place: None };
            self.journal.findings_handled(&run.id, "sentry", vec![handled]).await.unwrap();
        }
        let finish = RunFinish {
            outcome: if handled { Outcome::Reported } else { Outcome::Failed },
            failure: None,
            headline: String::new(),
            at: self.clock.now(),
        };
        self.journal.finish_run(&run.id, finish).await.unwrap();
    }

    pub async fn hook(&self, secrets: Vec<Secret>, request: HookRequest) -> HookAnswer {
        let setup = HookSetup {
            handle: self.handle.clone(),
            env: self.outside.env.clone(),
            secrets: Arc::new(move || Ok(secrets.clone())),
            organization: Arc::new(|| Some(ORGANIZATION.into())),
        };
        handler(setup)(request).await
    }
}

fn open(folder: &tempfile::TempDir, env: &Env) -> Journal {
    Journal::open(&folder.path().join("state"), OpenOptions::new(env.clone(), "test")).unwrap()
}

pub fn start(env: &Env, pipeline: &str, key: &str, item: Value) -> RunStart {
    let now = env.now();
    RunStart {
        id: RunId(env.ids.run_id(now).0),
        pipeline: pipeline.into(),
        definition: Hash::of("d"),
        profile: "cloud".into(),
        effects: Effects::Preview,
        trigger: Trigger { kind: TriggerKind::Sentry, key: key.into(), item: Some(item) },
        params: serde_json::Map::new(),
        nominal_at: now,
        timezone: "UTC".into(),
        started_at: now,
        build_id: "test".into(),
        limits: RunLimits::default(),
        until: None,
    }
}

/// A delivery as Sentry would send it now.
pub fn delivery(secret: &str, resource: &str, id: &str, body: &Value, at: Timestamp) -> HookRequest {
    let body = body.to_string().into_bytes();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let signature: String = ring::hmac::sign(&key, &body).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let headers = [
        ("content-type", "application/json".to_owned()),
        ("sentry-hook-resource", resource.to_owned()),
        ("sentry-hook-timestamp", at.as_second().to_string()),
        ("sentry-hook-signature", signature),
        ("request-id", id.to_owned()),
    ];
    let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value.into_bytes())).collect();
    HookRequest { headers, body: body.into() }
}
