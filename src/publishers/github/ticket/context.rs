//! What GitHub knows of the lines that a ticket is about: where they can be read, who changed them last, who owns them.
//!
//! All of it helps people and decides nothing: what cannot be asked is left out.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::super::super::ticket::Member;
use super::super::pull::owners::{PLACES, owners};
use crate::base::base64::decoded;
use crate::clients::github::{GitHub, GitHubError, repository_route, segment};
use crate::domain::proposal::TicketText;
use crate::ports::publisher::PublisherSetup;
use crate::render::markdown::{code, inline};

const DEFAULT_GIT: &str = "https://github.com";
/// Files whose history is asked for.
const MOST_FILES: usize = 5;

/// The code that a ticket is about, on GitHub. Empty where it is nowhere.
#[derive(Clone, Debug, Default)]
pub(super) struct Context {
    /// `https://github.com/acme/api`, and the commit.
    code: Option<(String, String)>,
    /// By file: (commit, who, when).
    changed: BTreeMap<String, (String, String, Option<Timestamp>)>,
    /// By file: logins and teams.
    owners: BTreeMap<String, Vec<String>>,
}

impl Context {
    /// Knows where lines can be read; asks nothing.
    pub fn of(setup: &PublisherSetup, ticket: &TicketText) -> Self {
        let home = setup.repository.as_ref().and_then(|home| home.github.as_deref());
        let commit = ticket.commit.as_deref().filter(|commit| is_commit(commit));
        let git = setup.outside.services.github.as_ref().and_then(|github| github.setting("git_url"));
        let git = git.unwrap_or(DEFAULT_GIT).trim_end_matches('/');
        let plain = git.starts_with("http") && !git.contains(|c: char| c.is_whitespace() || "()<>[]\\\"'`".contains(c));
        let code = home.filter(|home| repository_route(home).is_ok() && plain).zip(commit);
        Self { code: code.map(|(home, commit)| (format!("{git}/{home}"), commit.to_owned())), ..Self::default() }
    }

    /// Asks who changed the files of these members last, and who owns them.
    pub async fn look(mut self, github: &GitHub, setup: &PublisherSetup, members: &[Member]) -> Self {
        let home = setup.repository.as_ref().and_then(|home| home.github.as_deref());
        let Some((Ok(home), (_, commit))) = home.map(repository_route).zip(self.code.clone()) else { return self };
        let mut files: Vec<&str> = members.iter().filter(|m| !m.gone).filter_map(|m| m.file.as_deref()).collect();
        files.sort_unstable();
        files.dedup();
        files.truncate(MOST_FILES);
        if let Some(text) = codeowners(github, &home, &commit).await.filter(|_| !files.is_empty()) {
            for file in &files {
                let found = owners(&text, [*file]);
                let names: Vec<String> = found.users.into_iter().chain(found.teams).collect();
                if !names.is_empty() {
                    self.owners.insert((*file).to_owned(), names);
                }
            }
        }
        for file in files {
            let query = [("path", file.to_owned()), ("sha", commit.clone()), ("per_page", "1".to_owned())];
            match github.get(&format!("{home}/commits"), &query).await {
                Ok(found) => drop(last_change(&found).map(|change| self.changed.insert(file.to_owned(), change))),
                Err(error) => tracing::warn!(%error, "who changed a file last is not known"),
            }
        }
        self
    }

    /// Where a member's line can be read.
    pub fn link(&self, member: &Member) -> Option<String> {
        let (repository, commit) = self.code.as_ref().filter(|_| !member.gone)?;
        let file = member.file.as_deref()?.trim_start_matches("./");
        let parts: Vec<&str> = file.split('/').collect();
        if parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
            return None;
        }
        let path: Vec<String> = parts.into_iter().map(segment).collect();
        let line = member.line.filter(|line| *line > 0).map(|line| format!("#L{line}")).unwrap_or_default();
        Some(format!("{repository}/blob/{commit}/{}{line}", path.join("/")))
    }

    /// The commit that was looked at, as a link.
    pub fn commit(&self) -> Option<String> {
        let (repository, commit) = self.code.as_ref()?;
        Some(format!("[`{}`]({repository}/commit/{commit})", commit.get(..12)?))
    }

    /// Who knows this code.
    pub fn people(&self) -> Option<String> {
        let (repository, _) = self.code.as_ref()?;
        let files: BTreeSet<&String> = self.changed.keys().chain(self.owners.keys()).collect();
        let lines: Vec<String> = files
            .into_iter()
            .map(|file| {
                let changed = self.changed.get(file).map(|(commit, who, at)| {
                    let at = at.map(|at| at.to_zoned(TimeZone::UTC).strftime(" on %-d %b %Y").to_string());
                    let (who, at) = (inline(who), at.unwrap_or_default());
                    let short = commit.get(..12).unwrap_or(commit);
                    format!("last changed by {who}{at} in [`{short}`]({repository}/commit/{commit})")
                });
                let owned = self.owners.get(file).map(|names| {
                    let names: Vec<String> = names.iter().map(|name| format!("`{}`", code(name))).collect();
                    format!("owned by {}", names.join(", "))
                });
                let told: Vec<String> = changed.into_iter().chain(owned).collect();
                format!("- `{}`: {}", code(file), told.join("; "))
            })
            .collect();
        (!lines.is_empty()).then(|| format!("### Who knows this code\n\n{}", lines.join("\n")))
    }
}

/// The text of the first CODEOWNERS that is there.
async fn codeowners(github: &GitHub, home: &str, commit: &str) -> Option<String> {
    for place in PLACES {
        match github.get(&format!("{home}/contents/{place}"), &[("ref", commit.to_owned())]).await {
            Ok(file) => {
                let text: String = file["content"].as_str()?.split_whitespace().collect();
                return decoded(&text).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            }
            Err(GitHubError::NotFound { .. }) => {}
            Err(error) => {
                tracing::warn!(%error, "who owns the files is not known");
                return None;
            }
        }
    }
    None
}

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn last_change(found: &Value) -> Option<(String, String, Option<Timestamp>)> {
    let commit = &found[0];
    let sha = commit["sha"].as_str().filter(|sha| is_commit(sha))?;
    let author = &commit["commit"]["author"];
    let who = author["name"].as_str().filter(|who| !crate::render::text::line(who).is_empty()).unwrap_or("somebody");
    Some((sha.to_owned(), who.to_owned(), author["date"].as_str().and_then(|at| at.parse().ok())))
}
