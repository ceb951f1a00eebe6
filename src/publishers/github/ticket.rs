//! Tickets as GitHub's issues: found before they are made, kept up to date in place, and people's word is left alone.
//!
//! An issue is ours if our login wrote it and it bears the marker of this pipeline; it is found by the key or by any finding that it
//! is about, in the list of what we wrote (a search lags behind). One publication at a time looks and writes in a repository, so
//! that steps side by side do not open the same ticket twice. After a write whose end is not known it is looked for, and sent at
//! most once more.

mod context;
mod issue;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::super::ticket as text_of;
use crate::clients::github::{GitHub, GitHubError, Visibility, Write, repository_route};
use crate::domain::activity::Receipt;
use crate::domain::proposal::{EndedWork, Proposal, PublishState, Published, TicketText, WorkEnd};
use crate::ports::publisher::{PublishError, PublisherSetup};
use crate::ports::sink::Earlier;
use crate::render::markdown::inline;
use crate::render::text;

use context::Context;
use issue::{Issue, Marker};

/// Issues of ours that are looked through, those changed last first.
const MOST_ISSUES: usize = 3_000;
/// Comments of one issue that are looked through.
const MOST_COMMENTS: usize = 1_000;
/// Before it is looked for what a write has left: what was accepted a moment ago may not be listed yet.
const SETTLES: Duration = Duration::from_secs(2);
/// A limit that lasts longer is not waited for within a publication.
const MOST_WAIT: Duration = Duration::from_secs(120);
/// Tries of one write.
const TRIES: u32 = 2;
const PUBLIC: &str = "public_repositories";

/// It looks before it writes in any case, so what was begun `earlier` needs no other care.
pub(super) async fn publish(
    setup: &PublisherSetup,
    proposal: &Proposal,
    ticket: &TicketText,
    _: Earlier,
) -> Result<Published, PublishError> {
    let tracker = Tracker::of(setup, ticket.tracker.as_deref())?;
    tracker.may_hold(setup).await?;
    let turn = tracker.turn()?;
    let _turn = turn.lock().await;
    tracker.open_or_update(setup, proposal, ticket).await
}

pub(super) async fn close(
    setup: &PublisherSetup,
    proposal: &Proposal,
    why: &str,
    _: Earlier,
) -> Result<Published, PublishError> {
    let mut ends = Vec::new();
    for tracker in Tracker::all(setup)? {
        let turn = tracker.turn()?;
        let _turn = turn.lock().await;
        for issue in tracker.ours(&proposal.pipeline).await? {
            if issue.is(proposal) || issue.shares(proposal) > 0 {
                ends.push(tracker.close(&issue, proposal, why).await?);
            }
        }
    }
    let closed = ends.iter().filter(|end| end.state == PublishState::Closed).count();
    // The one in which most has happened stands for all of them.
    let rank = |state: PublishState| (state == PublishState::Closed, state.acted(), state.is_there());
    let Some(end) = ends.into_iter().max_by_key(|end| rank(end.state)) else {
        let receipt = receipt(String::new(), proposal.key.clone(), false);
        return Ok(Published { state: PublishState::LeftAlone, receipt, note: "there is no such ticket".into() });
    };
    let note = if closed > 1 { format!("{closed} closed: {}", text::line(why)) } else { end.note };
    Ok(Published { note, ..end })
}

/// Tickets of this pipeline that are closed, whoever did it.
pub(super) async fn tend(setup: &PublisherSetup, pipeline: &str, _: Timestamp) -> Result<Vec<EndedWork>, PublishError> {
    let mut ended = Vec::new();
    for tracker in Tracker::all(setup)? {
        let closed = tracker.ours(pipeline).await?.into_iter().filter(|issue| !issue.open);
        ended.extend(closed.map(|issue| EndedWork {
            key: issue.marker.key.clone(),
            url: issue.url.clone(),
            fingerprints: text_of::fingerprints(&issue.marker.members).into_iter().map(str::to_owned).collect(),
            how: if issue.not_planned { WorkEnd::NotPlanned } else { WorkEnd::Closed },
        }));
    }
    Ok(ended)
}

/// The repository in which tickets are opened.
struct Tracker<'a> {
    github: GitHub,
    setup: &'a PublisherSetup,
    /// `owner/name`; from YAML.
    name: String,
    /// `/repos/owner/name`.
    route: String,
}

impl<'a> Tracker<'a> {
    /// The one that the ticket names, else the pipeline's own.
    fn of(setup: &'a PublisherSetup, named: Option<&str>) -> Result<Self, PublishError> {
        let github = GitHub::of(&setup.outside).map_err(super::error)?;
        let home = setup.repository.as_ref().and_then(|home| home.github.as_deref());
        let name = named.or(home).ok_or_else(|| PublishError::Missing {
            message: "no repository is named in which tickets are opened".into(),
            help: "write `repository: {github: owner/name}` in the pipeline, or `tracker: owner/name` in the step"
                .into(),
        })?;
        let route = repository_route(name).map_err(super::error)?;
        Ok(Self { github, setup, name: name.to_owned(), route })
    }

    /// Every one that the pipeline uses.
    fn all(setup: &'a PublisherSetup) -> Result<Vec<Self>, PublishError> {
        let Some(home) = &setup.repository else { return Ok(Vec::new()) };
        let names: BTreeSet<&str> = home.github.iter().chain(&home.trackers).map(String::as_str).collect();
        names.into_iter().map(|name| Self::of(setup, Some(name))).collect()
    }

    /// Held from the look to the last write.
    fn turn(&self) -> Result<std::sync::Arc<Mutex<()>>, PublishError> {
        let service = self.setup.outside.services.github.as_ref();
        let api = service.and_then(|github| github.setting("api_url")).unwrap_or_default();
        let key = format!("github tickets {api} {}", self.name.to_ascii_lowercase());
        self.setup.outside.shared.get_or_make(&key, || Ok(Mutex::new(())))
    }

    /// Text about a repository goes nowhere where more people read it, unless the YAML says so.
    async fn may_hold(&self, setup: &PublisherSetup) -> Result<(), PublishError> {
        let home = setup.repository.as_ref();
        let name = home.and_then(|home| home.github.as_deref());
        let allowed = home.is_some_and(|home| home.may_reach.iter().any(|word| word == PUBLIC));
        if allowed || name.is_some_and(|name| name.eq_ignore_ascii_case(&self.name)) {
            return Ok(());
        }
        let readers = |visibility: Visibility| match visibility {
            Visibility::Private => 0,
            Visibility::Internal => 1,
            Visibility::Public => 2,
        };
        let there = self.github.repository(&self.name).await.map_err(super::error)?.visibility;
        // What belongs to no repository on GitHub is nobody's to publish.
        let own = match name {
            Some(name) => self.github.repository(name).await.map_err(super::error)?.visibility,
            None => Visibility::Private,
        };
        if readers(there) <= readers(own) {
            return Ok(());
        }
        let what = name.map_or_else(|| "what this pipeline reads".to_owned(), |name| format!("`{name}`"));
        Err(PublishError::Unsafe {
            message: format!("more people read `{}` than {what}: no ticket is opened there", self.name),
            help: format!("if that is meant, write `may_reach: [{PUBLIC}]` under `repository:` in the pipeline"),
        })
    }

    async fn login(&self) -> Result<String, PublishError> {
        self.github.login().await.map_err(super::error)
    }

    /// Our issues of this pipeline, open and closed.
    async fn ours(&self, pipeline: &str) -> Result<Vec<Issue>, PublishError> {
        let login = self.login().await?;
        let query = [
            ("creator", login.clone()),
            ("state", "all".to_owned()),
            ("sort", "updated".to_owned()),
            ("direction", "desc".to_owned()),
        ];
        let found = self.github.list(&format!("{}/issues", self.route), &query, MOST_ISSUES).await;
        let found = found.map_err(super::error)?;
        let ours = found.iter().filter_map(|value| Issue::read(value, &login));
        Ok(ours.filter(|issue| issue.marker.pipeline == pipeline).collect())
    }

    async fn open_or_update(
        &self,
        setup: &PublisherSetup,
        proposal: &Proposal,
        ticket: &TicketText,
    ) -> Result<Published, PublishError> {
        let mut found = self.ours(&proposal.pipeline).await?;
        found.retain(|issue| issue.is(proposal) || issue.shares(proposal) > 0);
        // The one of this key, else the one that shares most, else the oldest.
        found.sort_by_key(|issue| (!issue.is(proposal), std::cmp::Reverse(issue.shares(proposal)), issue.number));
        let open = found.iter().find(|issue| issue.open);
        let done = found.iter().find(|issue| !issue.open && !issue.not_planned);
        if let Some(issue) = open.or(done) {
            return self.update(setup, issue, proposal, ticket).await;
        }
        if let Some(issue) = found.first() {
            // A person's word holds for what the ticket was about then, not for what has come since.
            let covered: BTreeSet<&str> =
                found.iter().flat_map(|issue| text_of::fingerprints(&issue.marker.members)).collect();
            let whole = proposal.fingerprints.iter().all(|print| covered.contains(print.as_str()));
            if whole && ticket.closed_as_not_planned.as_deref() == Some("reopen") {
                return self.update(setup, issue, proposal, ticket).await;
            }
            if whole {
                let note = format!("a person closed #{} as not planned", issue.number);
                return Ok(published(PublishState::LeftAlone, issue, true, note));
            }
        }
        self.create(setup, proposal, ticket).await
    }

    async fn create(
        &self,
        setup: &PublisherSetup,
        proposal: &Proposal,
        ticket: &TicketText,
    ) -> Result<Published, PublishError> {
        let members = text_of::merged(&[], proposal, ticket);
        let marker = Marker::of(proposal, &proposal.key, ticket, &members, "opened");
        let context = Context::of(setup, ticket).look(&self.github, setup, &members).await;
        let mut body = json!({
            "title": marker.title,
            "body": issue::body(proposal, ticket, &marker, &context, ""),
            "labels": ticket.labels,
            "assignees": ticket.assignees,
        });
        let route = format!("{}/issues", self.route);
        let mut note = String::new();
        let mut tries = 0;
        loop {
            let error = match self.github.write(Write::Post, &route, &body).await {
                Ok(made) => return self.made(&made, &proposal.key, note).await,
                // Who cannot be assigned keeps nothing from being told.
                Err(GitHubError::Invalid { errors, .. })
                    if !ticket.assignees.is_empty() && about_assignees(&errors) =>
                {
                    if body["assignees"].as_array().is_none_or(Vec::is_empty) {
                        return Err(PublishError::Refused { message: "GitHub takes nobody as assignee".into() });
                    }
                    body["assignees"] = json!([]);
                    note = format!("nobody is assigned: GitHub does not take {}", ticket.assignees.join(", "));
                    continue;
                }
                Err(error) => error,
            };
            tries += 1;
            let error = self.settle(error).await?;
            let looked = self.ours(&proposal.pipeline).await;
            let left = looked.map(|found| found.into_iter().find(|issue| issue.is(proposal) && issue.open));
            match left {
                Ok(Some(issue)) => return Ok(published(PublishState::Opened, &issue, true, note)),
                Ok(None) if tries < TRIES => {}
                Ok(None) => return Err(unknown(error)),
                Err(_) => return Err(unknown(error)),
            }
        }
    }

    /// What GitHub answered to a new issue. One that it does not show as ours is there all the same.
    async fn made(&self, made: &Value, key: &str, note: String) -> Result<Published, PublishError> {
        let url = made["html_url"].as_str().unwrap_or_default().to_owned();
        Ok(Published { state: PublishState::Opened, receipt: receipt(url, key.to_owned(), false), note })
    }

    /// Brings an issue up to date, and opens it again if it is closed.
    async fn update(
        &self,
        setup: &PublisherSetup,
        issue: &Issue,
        proposal: &Proposal,
        ticket: &TicketText,
    ) -> Result<Published, PublishError> {
        let members = text_of::merged(&issue.marker.members, proposal, ticket);
        let same = issue.open && issue.marker.content == text_of::content(ticket, &members);
        if same {
            // The same run once more, after a crash: its word is what it did then.
            let own = issue.marker.run == proposal.run;
            let (state, note) = match issue.marker.did.as_str() {
                "opened" if own => (PublishState::Opened, String::new()),
                "updated" if own => (PublishState::Updated, String::new()),
                "reopened" if own => {
                    self.say(issue, &proposal.run, "reopened", &again(issue, proposal, ticket)).await?;
                    (PublishState::Updated, "open again".to_owned())
                }
                _ => (PublishState::Unchanged, String::new()),
            };
            return Ok(published(state, issue, true, note));
        }
        let did = if issue.open { "updated" } else { "reopened" };
        let marker = Marker::of(proposal, &issue.marker.key, ticket, &members, did);
        let context = Context::of(setup, ticket).look(&self.github, setup, &members).await;
        // As it is now: a person may have written something since the list was read.
        let now = self.issue(issue.number).await?.unwrap_or_else(|| issue.clone());
        let change = json!({
            "title": now.title_for(&marker),
            "body": issue::body(proposal, ticket, &marker, &context, now.notes()),
            "state": "open",
        });
        self.patch(&now, change, &marker).await?;
        if issue.open {
            return Ok(published(PublishState::Updated, issue, true, String::new()));
        }
        self.say(issue, &proposal.run, "reopened", &again(issue, proposal, ticket)).await?;
        Ok(published(PublishState::Updated, issue, true, "open again".into()))
    }

    async fn close(&self, issue: &Issue, proposal: &Proposal, why: &str) -> Result<Published, PublishError> {
        let said = closing(why);
        if !issue.open {
            if issue.closed_by_us() && issue.marker.run == proposal.run {
                self.say(issue, &proposal.run, "closed", &said).await?;
                return Ok(published(PublishState::Closed, issue, true, text::line(why)));
            }
            return Ok(published(PublishState::LeftAlone, issue, true, String::new()));
        }
        let mut members = issue.marker.members.clone();
        for member in &mut members {
            member.gone |= proposal.fingerprints.is_empty() || proposal.fingerprints.contains(&member.fingerprint);
        }
        let ended = members.iter().all(|member| member.gone);
        if members == issue.marker.members && !ended {
            return Ok(published(PublishState::Unchanged, issue, true, String::new()));
        }
        let did = if ended { "closed" } else { "updated" };
        // Whatever is proposed next is other than what stands there now.
        let content = String::new();
        let now = self.issue(issue.number).await?.unwrap_or_else(|| issue.clone());
        let marker = Marker {
            members,
            content,
            run: proposal.run.clone(),
            did: did.to_owned(),
            definition: proposal.definition.clone(),
            ..now.marker.clone()
        };
        let mut change = json!({"body": now.with_marker(&marker)});
        if ended {
            change["state"] = "closed".into();
            change["state_reason"] = "completed".into();
        }
        self.patch(&now, change, &marker).await?;
        if !ended {
            let left = marker.members.iter().filter(|member| !member.gone).count();
            let note = format!("{left} of {} are left", marker.members.len());
            return Ok(published(PublishState::Updated, issue, true, note));
        }
        self.say(issue, &proposal.run, "closed", &said).await?;
        Ok(published(PublishState::Closed, issue, true, text::line(why)))
    }

    /// The issue as it is now, if it is still ours.
    async fn issue(&self, number: u64) -> Result<Option<Issue>, PublishError> {
        let login = self.login().await?;
        let found = self.github.get(&format!("{}/issues/{number}", self.route), &[]).await.map_err(super::error)?;
        Ok(Issue::read(&found, &login))
    }

    /// Changes an issue. Whether it happened is told by the marker that it bears afterwards.
    async fn patch(&self, issue: &Issue, change: Value, marker: &Marker) -> Result<(), PublishError> {
        let route = format!("{}/issues/{}", self.route, issue.number);
        let mut tries = 0;
        loop {
            let error = match self.github.write(Write::Patch, &route, &change).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            tries += 1;
            let error = self.settle(error).await?;
            match self.issue(issue.number).await {
                Ok(Some(now)) if now.marker.run == marker.run && now.marker.did == marker.did => return Ok(()),
                Ok(_) if tries < TRIES => {}
                Ok(_) | Err(_) => return Err(unknown(error)),
            }
        }
    }

    /// Says something in a comment, once for a run.
    async fn say(&self, issue: &Issue, run: &str, what: &str, words: &str) -> Result<(), PublishError> {
        let login = self.login().await?;
        let mark = issue::said(run, what);
        let route = format!("{}/issues/{}/comments", self.route, issue.number);
        let body = json!({"body": format!("{mark}\n{words}\n")});
        let mut tries = 0;
        loop {
            // Also before the first try: an earlier life of this run may have said it.
            let comments = self.github.list(&route, &[], MOST_COMMENTS).await;
            match comments {
                Ok(all) if all.iter().any(|comment| issue::says(comment, &login, &mark)) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(super::error(error)),
            }
            let error = match self.github.write(Write::Post, &route, &body).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            tries += 1;
            let error = self.settle(error).await?;
            if tries < TRIES {
                continue;
            }
            return match self.github.list(&route, &[], MOST_COMMENTS).await {
                Ok(all) if all.iter().any(|comment| issue::says(comment, &login, &mark)) => Ok(()),
                Ok(_) | Err(_) => Err(unknown(error)),
            };
        }
    }

    /// After a write that gave no answer: waits until looking makes sense, and hands the error back. One that looking or another
    /// try does not mend is an error at once.
    async fn settle(&self, error: GitHubError) -> Result<GitHubError, PublishError> {
        let pause = match &error {
            GitHubError::Ambiguous { .. } | GitHubError::Unavailable { .. } => SETTLES,
            GitHubError::RateLimited { after } if *after <= MOST_WAIT => (*after).max(SETTLES),
            GitHubError::RateLimited { .. }
            | GitHubError::Missing { .. }
            | GitHubError::Credential { .. }
            | GitHubError::Forbidden { .. }
            | GitHubError::NotFound { .. }
            | GitHubError::Conflict { .. }
            | GitHubError::Invalid { .. } => return Err(super::error(error)),
        };
        self.setup.outside.env.clock.sleep(pause).await;
        Ok(error)
    }
}

/// It was looked for after the last try and is not there. What certainly did not happen is worth another run; of the rest nobody
/// knows.
fn unknown(error: GitHubError) -> PublishError {
    super::error(error)
}

fn about_assignees(errors: &[Value]) -> bool {
    errors.iter().any(|error| error["field"].as_str().is_some_and(|field| field.starts_with("assignee")))
}

/// Why it is open again.
fn again(issue: &Issue, proposal: &Proposal, ticket: &TicketText) -> String {
    let when = issue.closed_at.map(|at| at.to_zoned(TimeZone::UTC).strftime(" on %-d %b %Y").to_string());
    let when = when.unwrap_or_default();
    let why = match (issue.not_planned, issue.marker.did == "closed") {
        (true, _) => {
            format!("It was closed as not planned{when}, and the pipeline says that such tickets are opened again.")
        }
        (false, true) => format!("It was gone{when} and is back."),
        (false, false) => format!("It was closed{when} and is seen again."),
    };
    let facts: Vec<String> =
        ticket.facts.iter().map(|(name, value)| format!("{}: {}", inline(name), inline(value))).collect();
    let facts = if facts.is_empty() { String::new() } else { format!("\n\n{}", facts.join(" · ")) };
    format!("**Open again.** {why}{facts}\n\nFound by {}.", inline(&proposal.pipeline))
}

fn closing(why: &str) -> String {
    format!("**Closed:** {}. If it comes back, this issue is opened again.", inline(why))
}

fn receipt(url: String, key: String, found: bool) -> Receipt {
    Receipt { kind: "ticket".into(), destination: super::KIND.name.into(), url_or_path: url, key, found }
}

fn published(state: PublishState, issue: &Issue, found: bool, note: String) -> Published {
    Published { state, receipt: receipt(issue.url.clone(), issue.marker.key.clone(), found), note }
}
