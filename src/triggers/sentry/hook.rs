//! Sentry's webhooks: is it genuine, is it new, is it ours; then it is noted, and answered only when that is durable.
//!
//! The signature is over the raw bytes and is checked before anything is parsed. Sentry signs the body alone: the time and the id in the
//! headers are checked too, and the body's own hash is what makes a replay under other headers a repetition. Sentry wants an answer
//! within a second, so nothing is asked of anybody here: the loop does that.

use std::sync::Arc;

use serde_json::Value;

use super::{Handle, from_issue};
use crate::base::env::Env;
use crate::base::hash::Hash;
use crate::base::secret::Secret;
use crate::clients::sentry::{is_fresh, is_signed};
use crate::journal::{self, Delivery, Noted, SeenError};
use crate::policy::errors::rest;
use crate::triggers::hook::{HookAnswer, HookHandler, HookRequest};

const HOOK: &str = "sentry";
/// An id that is longer is cut: only its being the same matters.
const MOST_ID: usize = 200;

/// What the handler needs.
#[derive(Clone)]
pub struct HookSetup {
    pub handle: Handle,
    pub env: Env,
    /// Every secret that is valid now, read anew.
    pub secrets: Arc<dyn Fn() -> Result<Vec<Secret>, String> + Send + Sync>,
    /// `services.sentry.organization`
    pub organization: Arc<dyn Fn() -> Option<String> + Send + Sync>,
}

/// Takes deliveries of Sentry.
pub fn handler(setup: HookSetup) -> HookHandler {
    Arc::new(move |request| {
        let setup = setup.clone();
        Box::pin(async move { setup.take(request).await })
    })
}

/// What a genuine delivery says.
enum Told {
    /// An error has happened, in a project of these names.
    Error(Box<SeenError>, Vec<String>),
    /// An issue is resolved, or put away: the state for people, and whether it is gone.
    Over(String, &'static str, bool),
    /// Nothing that begins a run.
    Nothing(&'static str),
}

impl HookSetup {
    async fn take(&self, request: HookRequest) -> HookAnswer {
        let refused = |why: &str| HookAnswer::text(401, why);
        let secrets = match (self.secrets)() {
            Ok(secrets) => secrets,
            Err(error) => {
                tracing::error!(error, "webhooks of Sentry cannot be checked");
                return HookAnswer::text(503, "not now");
            }
        };
        let signature = request.header("sentry-hook-signature").unwrap_or_default();
        if !is_signed(&secrets, &request.body, signature) {
            return refused("the signature is not right");
        }
        let now = self.env.now();
        if !is_fresh(request.header("sentry-hook-timestamp").unwrap_or_default(), now) {
            return refused("not of now");
        }
        let resource = request.header("sentry-hook-resource").unwrap_or_default();
        let Ok(body) = serde_json::from_slice::<Value>(&request.body) else {
            return HookAnswer::text(400, "not JSON");
        };
        if let Some(ours) = (self.organization)()
            && organization(&body).is_some_and(|theirs| !theirs.eq_ignore_ascii_case(&ours))
            && !ours.bytes().all(|byte| byte.is_ascii_digit())
        {
            return HookAnswer::text(200, "another organization");
        }
        let mut ids = vec![format!("b:{}", Hash::of(&request.body))];
        ids.extend(request.header("request-id").filter(|id| !id.is_empty()).map(|id| {
            let id: String = id.chars().take(MOST_ID).collect();
            format!("r:{id}")
        }));
        let delivery = Delivery { hook: HOOK, ids };
        let noted = match self.read(resource, &body, now) {
            Told::Nothing(why) => return HookAnswer::text(200, why),
            Told::Over(key, state, gone) => self.handle.journal.error_over(Some(delivery), &key, state, gone).await,
            Told::Error(error, names) => {
                let listeners = self.handle.listeners(&names);
                if listeners.is_empty() {
                    return HookAnswer::text(200, "no pipeline listens to this project");
                }
                self.handle.journal.note_errors(Some(delivery), listeners, vec![*error], None).await
            }
        };
        self.answer(noted)
    }

    fn answer(&self, noted: Result<Noted, journal::Error>) -> HookAnswer {
        match noted {
            Ok(Noted { repeated: true, .. }) => HookAnswer::text(200, "seen before"),
            Ok(Noted { waiting: 0, dropped, .. }) if dropped > 0 => {
                HookAnswer::text(202, "too many wait; polling finds it again")
            }
            Ok(noted) => {
                if noted.waiting > 0 {
                    self.handle.wake.notify_one();
                }
                HookAnswer::text(202, "noted")
            }
            Err(error) => {
                tracing::error!(%error, "a webhook could not be noted");
                HookAnswer::text(503, "not now")
            }
        }
    }

    fn read(&self, resource: &str, body: &Value, now: jiff::Timestamp) -> Told {
        let action = body.get("action").and_then(Value::as_str).unwrap_or_default();
        match resource {
            "issue" => {
                let Some(issue) = body.pointer("/data/issue") else { return Told::Nothing("no issue") };
                self.handle.learn(issue);
                let Some(id) = rest::issue_id(issue) else { return Told::Nothing("an issue without id") };
                match action {
                    "created" | "unresolved" => match from_issue(issue, now, action == "unresolved") {
                        Some(error) => Told::Error(Box::new(error), self.names(issue)),
                        None => Told::Nothing("an issue without id"),
                    },
                    "resolved" => Told::Over(rest::key_of(&id), "resolved", true),
                    "archived" | "ignored" => Told::Over(rest::key_of(&id), "archived", false),
                    _ => Told::Nothing("nothing to do for this action"),
                }
            }
            "event_alert" | "error" => {
                let name = if resource == "error" { "/data/error" } else { "/data/event" };
                let Some(event) = body.pointer(name) else { return Told::Nothing("no event") };
                let Some((item, id)) = rest::event_row(event, now).zip(event.get("issue_id").and_then(rest::id)) else {
                    return Told::Nothing("an event without an issue");
                };
                let seen_at = item.get("last_seen").and_then(Value::as_str).and_then(|at| at.parse().ok());
                let error = SeenError {
                    key: rest::key_of(&id),
                    item,
                    whole: false,
                    seen_at: seen_at.unwrap_or(now),
                    state: None,
                    back: false,
                };
                Told::Error(Box::new(error), self.names(event))
            }
            _ => Told::Nothing("nothing to do for this resource"),
        }
    }

    /// What the project of an issue or an event is called: its id and, where it can be known, its slug.
    fn names(&self, of: &Value) -> Vec<String> {
        let project = of.get("project").unwrap_or(&Value::Null);
        let own = |name: &str| project.get(name);
        let id = own("id").or(Some(project)).and_then(rest::id);
        let slug = own("slug").and_then(Value::as_str).map(str::to_owned);
        let mut names: Vec<String> = slug.into_iter().collect();
        names.extend(
            ["url", "project_url"].iter().filter_map(|name| part_after(of.get(name)?.as_str()?, "/projects/", 1)),
        );
        names.extend(id.as_deref().and_then(|id| self.handle.slug(id)));
        names.extend(id);
        names
    }
}

/// The organization that the addresses in a delivery name.
fn organization(body: &Value) -> Option<String> {
    let about = ["/data/issue", "/data/event", "/data/error"].iter().find_map(|place| body.pointer(place))?;
    ["url", "issue_url", "project_url"].iter().find_map(|name| {
        let url = about.get(name)?.as_str()?;
        part_after(url, "/projects/", 0).or_else(|| part_after(url, "/organizations/", 0))
    })
}

/// The nth part of a path behind a marker.
fn part_after(url: &str, marker: &str, nth: usize) -> Option<String> {
    let (_, rest) = url.split_once(marker)?;
    let part = rest.split(['/', '?', '#']).nth(nth)?;
    (!part.is_empty()).then(|| part.to_owned())
}
