//! Draft pull requests on GitHub.
//!
//! One cause has one branch, `nightcrew/KEY`, and on it one commit whose tree is the tree that was proved. What is there is found
//! before anything is made: by the list of pull requests from that branch, else by the hash in the branch's name. Whether it is ours
//! its author says; what we wrote there before, its marker. A person's word counts: what they closed stays closed, what they took over
//! is left alone. Every write is looked for before it would be sent again.

mod ci;
mod desk;
mod marker;
mod objects;
pub(super) mod owners;
mod text;
#[cfg(test)]
mod tests;

use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};

use crate::clients::github::{GitHubError, Write};
use crate::domain::activity::Receipt;
use crate::domain::proposal::{EndedWork, Proposal, PublishState, Published, PullRequestText, Tended, WorkEnd};
use crate::ports::publisher::{Branches, PublishError, PublisherSetup};
use crate::ports::sink::Earlier;
use crate::publishers::draft::{self, Draft};
use crate::publishers::file_key;
use crate::render::text::counted;

use super::error;
use desk::{Desk, PREFIX, Pull, Sought, says};
use marker::Marker;
use owners::Reviewers;
use text::Style;

/// Finds, opens or updates the draft. It always looks first, so it makes no difference what an earlier try may have done.
pub(super) async fn publish(
    setup: &PublisherSetup,
    proposal: &Proposal,
    pr: &PullRequestText,
    _: Earlier,
) -> Result<Published, PublishError> {
    let branches = setup.branches.as_deref().ok_or_else(|| PublishError::Missing {
        message: "there is no private clone to take the change from".into(),
        help: "add `repository:` to the pipeline".into(),
    })?;
    let desk = Desk::open(setup).await?;
    let case = Case { desk: &desk, branches, proposal, pr, content: draft::content(pr) };
    case.publish().await
}

/// One proposal at one repository.
struct Case<'a> {
    desk: &'a Desk<'a>,
    branches: &'a dyn Branches,
    proposal: &'a Proposal,
    pr: &'a PullRequestText,
    /// The hash of what is proposed.
    content: String,
}

/// What is there for this cause.
struct Found {
    /// The branch to work on.
    branch: String,
    pull: Option<Pull>,
}

impl Case<'_> {
    async fn publish(&self) -> Result<Published, PublishError> {
        let Found { branch, pull } = self.find().await.map_err(error)?;
        let Some(pull) = pull else { return self.open(&branch).await };
        let left =
            |why: &str| Ok(self.answer(PublishState::LeftAlone, &pull, true, &format!("#{} {why}", pull.number)));
        if !self.desk.is_mine(&pull) {
            return left(&format!("uses our branch and is by {}, who is not us; left alone", login(&pull.author)));
        }
        let Some(marker) = pull.marker() else { return left("is without our marker: a person has taken it over") };
        if !pull.open {
            let expired = marker.ended.as_deref() == Some("expired");
            return left(if expired {
                "expired: nobody had looked at it"
            } else {
                "was closed by a person; left alone"
            });
        }
        if marker.content == self.content && marker.commit == pull.head {
            // The same run once more, after a crash: its word is what it did then.
            let same = marker.run == self.proposal.run;
            let state = match marker.did.as_str() {
                "opened" if same => PublishState::Opened,
                "updated" if same => PublishState::Updated,
                _ => PublishState::Unchanged,
            };
            let mut notes = vec![format!("draft #{}", pull.number)];
            if state == PublishState::Opened {
                notes.extend(self.adorn(&pull).await);
                notes.push(self.ci(&pull.head).await);
            }
            return Ok(self.answer(state, &pull, true, &notes.join("; ")));
        }
        if !pull.draft {
            return left("was marked ready by a person; left as it is");
        }
        if !self.desk.is_our_commit(&pull.head, self.proposal.id()).await.map_err(error)? {
            return left("holds commits of a person; left as it is");
        }
        self.update(pull, &marker).await
    }

    /// By the branch's name, else by the hash at its end, which alone is the identity: words may change.
    async fn find(&self) -> Result<Found, GitHubError> {
        let branch = format!("{PREFIX}{}", file_key(&self.proposal.key));
        let mut pulls = self.desk.of_branch(&branch).await?;
        if pulls.is_empty() || pulls.iter().all(|pull| pull.merged) {
            let id = self.proposal.id();
            pulls.extend(self.desk.recent("all").await?.into_iter().filter(|pull| names(&pull.branch, id)));
            pulls.sort_by_key(|pull| pull.number);
            pulls.dedup_by_key(|pull| pull.number);
        }
        // An open one counts before a closed one; of several, ours and then the last one.
        let rank = |pull: &&Pull| (pull.open, self.desk.is_mine(pull), pull.number);
        let pull = pulls.iter().filter(|pull| !pull.merged).max_by_key(rank).cloned();
        let merged = pulls.iter().filter(|pull| pull.merged).count();
        Ok(match pull {
            Some(pull) => Found { branch: pull.branch.clone(), pull: Some(pull) },
            // What came in was not enough: the same cause again needs a branch of its own.
            None if merged > 0 => Found { branch: format!("{branch}.{}", merged + 1), pull: None },
            None => Found { branch, pull: None },
        })
    }

    /// Whether the proof still is about the branch that it is proposed to.
    async fn check_base(&self) -> Result<(), PublishError> {
        let (desk, proved) = (self.desk, &self.pr.evidence.base);
        let now = desk.branch(desk.base()).await.map_err(error)?.ok_or_else(|| PublishError::Missing {
            message: format!("{} has no branch `{}`", desk.facts.name, desk.base()),
            help: "write the branch as `ref` of the pipeline's `repository`".into(),
        })?;
        if now == proved.commit.as_str() {
            return Ok(());
        }
        let route = format!("{}/git/commits/{}", desk.route, proved.commit);
        let known = desk.maybe(&route).await.map_err(error)?.is_some();
        if !known && desk.is_public() && !desk.home.may_reach.iter().any(|may| may == "public_repositories") {
            return Err(PublishError::Unsafe {
                message: format!(
                    "{} is public and does not know the commit that the change is made on: its text may be private",
                    desk.facts.name
                ),
                help: "push the base first; or allow it: `repository: {may_reach: [public_repositories]}`".into(),
            });
        }
        let local = proved.bound == "path";
        match now.parse() {
            Ok(now) if known && !local => Err(PublishError::BaseMoved { now }),
            _ => Err(PublishError::Missing {
                message: format!(
                    "the clone is at {} and `{}` of {} is not",
                    proved.commit.short(),
                    desk.base(),
                    desk.facts.name
                ),
                help: "bring both to the same commit (`git pull`, `git push`), then nightcrew resume".into(),
            }),
        }
    }

    async fn open(&self, branch: &str) -> Result<Published, PublishError> {
        if let Some(most) = self.pr.max_open {
            let open = self.count_open().await.map_err(error)?;
            if open >= most {
                return Ok(self.refused(open, most));
            }
        }
        self.check_base().await?;
        let style = self.style().await;
        let commit = self.commit(style).await?;
        if let Some(note) = self.branch_to(branch, &commit).await? {
            let receipt = self.receipt(String::new(), true);
            return Ok(Published { state: PublishState::LeftAlone, receipt, note });
        }
        let marker = self.marker(&commit, "opened");
        let body = self.body(branch, &marker).await?;
        let new = json!({
            "title": text::title(style, self.pr), "head": branch, "base": self.desk.base(), "body": body, "draft": true,
        });
        let route = format!("{}/pulls", self.desk.route);
        let opened = self.desk.write(Write::Post, &route, &new, Sought::Pull { branch }).await;
        let (opened, found) = opened.map_err(|refused| match says(&refused, "draft") {
            true => PublishError::Missing {
                message: format!("{} takes no draft pull requests: {refused}", self.desk.facts.name),
                help: "drafts need a public repository or a paid plan; bind `pull_requests: local_branch` until then"
                    .into(),
            },
            false => error(refused),
        })?;
        let pull = self.read(&opened)?;
        let mut notes = vec![format!("draft #{} on `{branch}`", pull.number)];
        notes.extend(self.adorn(&pull).await);
        notes.push(self.ci(&commit).await);
        Ok(self.answer(PublishState::Opened, &pull, found, &notes.join("; ")))
    }

    /// A new commit in the place of our old one, and the text anew.
    async fn update(&self, pull: Pull, before: &Marker) -> Result<Published, PublishError> {
        self.check_base().await?;
        let style = self.style().await;
        let commit = self.commit(style).await?;
        if let Some(note) = self.branch_to(&pull.branch, &commit).await? {
            return Ok(self.answer(PublishState::LeftAlone, &pull, true, &note));
        }
        // Cut off while it was writing again: what is there is of this run, and so is the word.
        let again = before.run == self.proposal.run && before.did == "opened";
        let (did, state) = if again { ("opened", PublishState::Opened) } else { ("updated", PublishState::Updated) };
        let marker = self.marker(&commit, did);
        let body = self.body(&pull.branch, &marker).await?;
        let new = json!({"title": text::title(style, self.pr), "body": body});
        let route = format!("{}/pulls/{}", self.desk.route, pull.number);
        let sought = Sought::Marked { number: pull.number, marker: &marker };
        self.desk.write(Write::Patch, &route, &new, sought).await.map_err(error)?;
        let notes = [format!("draft #{} brought up to date", pull.number), self.ci(&commit).await];
        Ok(self.answer(state, &pull, true, &notes.join("; ")))
    }

    /// Our branch at this commit. `Some`: it is somebody else's, and why it is left alone.
    async fn branch_to(&self, branch: &str, commit: &str) -> Result<Option<String>, PublishError> {
        let desk = self.desk;
        let at = desk.branch(branch).await.map_err(error)?;
        let sought = Sought::Ref { branch, commit };
        let written = match at {
            Some(at) if at == commit => return Ok(None),
            Some(at) if desk.is_our_commit(&at, self.proposal.id()).await.map_err(error)? => {
                let route = format!("{}/git/refs/heads/{branch}", desk.route);
                desk.write(Write::Patch, &route, &json!({"sha": commit, "force": true}), sought).await
            }
            Some(_) => return Ok(Some(format!("the branch `{branch}` is there and its last commit is not ours"))),
            None => {
                let new = json!({"ref": format!("refs/heads/{branch}"), "sha": commit});
                desk.write(Write::Post, &format!("{}/git/refs", desk.route), &new, sought).await
            }
        };
        written.map(|_| None).map_err(error)
    }

    /// Labels and reviewers. What does not come about fails nothing; it is told.
    async fn adorn(&self, pull: &Pull) -> Vec<String> {
        let mut notes = Vec::new();
        let has = |label: &&String| pull.labels.iter().any(|known| known.eq_ignore_ascii_case(label));
        let labels: Vec<&String> = self.pr.labels.iter().filter(|label| !has(label)).collect();
        if !labels.is_empty() {
            let route = format!("{}/issues/{}/labels", self.desk.route, pull.number);
            if let Err(error) = self.desk.github.write(Write::Post, &route, &json!({"labels": labels})).await {
                notes.push(format!("labels were not set: {error}"));
            }
        }
        let reviewers = if pull.asked { Reviewers::default() } else { self.reviewers() };
        if !reviewers.is_empty() {
            let route = format!("{}/pulls/{}/requested_reviewers", self.desk.route, pull.number);
            let asked = json!({"reviewers": reviewers.users, "team_reviewers": reviewers.teams});
            match self.desk.github.write(Write::Post, &route, &asked).await {
                Ok(_) => notes.push(format!(
                    "asked {}",
                    counted((reviewers.users.len() + reviewers.teams.len()) as u64, "reviewer")
                )),
                Err(error) => notes.push(format!("nobody was asked to review: {error}")),
            }
        }
        notes
    }

    /// As the YAML says; `codeowners` are those of the files that change, by the base.
    fn reviewers(&self) -> Reviewers {
        let base = &self.pr.evidence.base.tree;
        let mut found = Reviewers::default();
        for name in &self.pr.reviewers {
            if name != "codeowners" {
                found.add(name);
                continue;
            }
            let text = owners::PLACES.iter().find_map(|place| self.branches.file(base, place).ok().flatten());
            let changes = self.branches.changes(base, &self.pr.new_tree).unwrap_or_default();
            let text = text.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
            let owners = owners::owners(&text, changes.iter().map(|change| change.path.as_str()));
            owners.users.iter().for_each(|user| found.add(user));
            owners.teams.iter().for_each(|team| found.add(&format!("org/{team}")));
        }
        found.without(&self.desk.me.login)
    }

    async fn ci(&self, commit: &str) -> String {
        ci::look(self.desk, commit, self.pr.evidence.base.commit.as_str()).await
    }

    /// A project whose commits cannot be read has no style.
    async fn style(&self) -> Style {
        let query = [("sha", self.desk.base().to_owned())];
        let commits = self.desk.github.list(&format!("{}/commits", self.desk.route), &query, text::STYLED_BY).await;
        Style::of(&commits.unwrap_or_default())
    }

    async fn body(&self, branch: &str, marker: &Marker) -> Result<String, PublishError> {
        let base = &self.pr.evidence.base.tree;
        let template = text::TEMPLATES.iter().find_map(|place| self.branches.file(base, place).ok().flatten());
        let template = template.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let found = Draft::new(self.proposal, self.pr, branch);
        Ok(text::body(&found, template.as_deref(), marker))
    }

    fn marker(&self, commit: &str, did: &str) -> Marker {
        let days = self.pr.expires_days.map(|days| (i64::from(days) * 24).hours());
        let expires = days.and_then(|days| self.proposal.at.checked_add(days).ok());
        Marker {
            key: self.proposal.key.clone(),
            pipeline: self.proposal.pipeline.clone(),
            definition: self.proposal.definition.clone(),
            run: self.proposal.run.clone(),
            prints: self.proposal.fingerprints.clone(),
            expires: expires.map(|at| at.strftime("%Y-%m-%d").to_string()),
            content: self.content.clone(),
            commit: commit.to_owned(),
            did: did.to_owned(),
            ended: None,
        }
    }

    /// Open ones of the pipeline, without the one for this cause.
    async fn count_open(&self) -> Result<u32, GitHubError> {
        let id = self.proposal.id();
        let open = self.desk.recent("open").await?;
        let counts = |pull: &&Pull| {
            let of_pipeline = pull.marker().is_some_and(|marker| marker.pipeline == self.proposal.pipeline);
            self.desk.is_mine(pull) && of_pipeline && !names(&pull.branch, id)
        };
        Ok(u32::try_from(open.iter().filter(counts).count()).unwrap_or(u32::MAX))
    }

    fn refused(&self, open: u32, most: u32) -> Published {
        let what = counted(u64::from(open), "draft");
        let are = if open == 1 { "is" } else { "are" };
        let note = format!("{what} of this pipeline {are} open and {most} may be (`max_open_prs`); merge or close one");
        Published { state: PublishState::Refused, receipt: self.receipt(String::new(), false), note }
    }

    fn read(&self, found: &Value) -> Result<Pull, PublishError> {
        Pull::of(found).ok_or_else(|| PublishError::Unknown { message: "GitHub's answer names no pull request".into() })
    }

    fn receipt(&self, url: String, found: bool) -> Receipt {
        Receipt {
            kind: "pull_request".into(),
            destination: self.desk.facts.name.clone(),
            url_or_path: url,
            key: self.proposal.key.clone(),
            found,
        }
    }

    fn answer(&self, state: PublishState, pull: &Pull, found: bool, note: &str) -> Published {
        Published { state, receipt: self.receipt(pull.url.clone(), found), note: note.to_owned() }
    }
}

/// Whether a branch is of the cause with this id: `nightcrew/WORDS-ID`, with `.2` and so on behind it from the second time on.
fn names(branch: &str, id: &str) -> bool {
    let Some(name) = branch.strip_prefix(PREFIX) else { return false };
    let name = match name.rsplit_once('.') {
        Some((name, number)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => name,
    };
    name == id || name.strip_suffix(id).is_some_and(|words| words.ends_with('-'))
}

/// A login as it stands in a note.
fn login(name: &str) -> String {
    let plain: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || "-[]".contains(*c)).take(60).collect();
    if plain.is_empty() { "somebody".into() } else { plain }
}

/// Closes what has expired without anybody having looked at it, and tells what is open and what has ended.
pub(super) async fn tend(setup: &PublisherSetup, pipeline: &str, now: Timestamp) -> Result<Tended, PublishError> {
    let desk = Desk::open(setup).await?;
    let mut tended = Tended::default();
    for pull in desk.recent("all").await.map_err(error)? {
        let Some(marker) = pull.marker().filter(|marker| marker.pipeline == pipeline && desk.is_mine(&pull)) else {
            continue;
        };
        let how = match (pull.open, pull.merged, marker.ended.as_deref()) {
            (true, ..) if is_over(&marker, now) && is_untouched(&desk, &pull, &marker).await.map_err(error)? => {
                expire(&desk, &pull, &marker).await.map_err(error)?;
                WorkEnd::Expired
            }
            (true, ..) => {
                tended.open += 1;
                continue;
            }
            (false, true, _) => WorkEnd::Merged,
            (false, false, Some("expired")) => WorkEnd::Expired,
            (false, false, _) => WorkEnd::Closed,
        };
        tended.ended.push(EndedWork { key: marker.key, url: pull.url, fingerprints: marker.prints, how });
    }
    Ok(tended)
}

/// The day in the marker has come.
fn is_over(marker: &Marker, now: Timestamp) -> bool {
    // Days are written so that they compare as text.
    marker.expires.as_ref().is_some_and(|day| *day <= now.strftime("%Y-%m-%d").to_string())
}

/// No person has said or done anything to it.
async fn is_untouched(desk: &Desk<'_>, pull: &Pull, marker: &Marker) -> Result<bool, GitHubError> {
    if pull.assigned || !pull.draft || pull.head != marker.commit {
        return Ok(false);
    }
    let by_person = |said: &Value| {
        let login = said["user"]["login"].as_str().unwrap_or_default();
        said["user"]["type"] != "Bot" && !login.ends_with("[bot]") && !login.eq_ignore_ascii_case(&desk.me.login)
    };
    for below in ["issues", "pulls"] {
        let route = format!("{}/{below}/{}/comments", desk.route, pull.number);
        if desk.github.list(&route, &[], 100).await?.iter().any(by_person) {
            return Ok(false);
        }
    }
    let reviews = desk.github.list(&format!("{}/pulls/{}/reviews", desk.route, pull.number), &[], 100).await?;
    Ok(!reviews.iter().any(by_person))
}

/// Closes it and says so in one write.
async fn expire(desk: &Desk<'_>, pull: &Pull, marker: &Marker) -> Result<(), GitHubError> {
    let ended = Marker { ended: Some("expired".into()), ..marker.clone() };
    let why = "> Closed by nightcrew: nobody looked at it in time. Open it again to keep it.";
    let body = format!("{why}\n\n{}", ended.replaced(&pull.body));
    let route = format!("{}/pulls/{}", desk.route, pull.number);
    let sought = Sought::Marked { number: pull.number, marker: &ended };
    desk.write(Write::Patch, &route, &json!({"state": "closed", "body": body}), sought).await?;
    Ok(())
}
