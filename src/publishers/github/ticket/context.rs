//! What GitHub knows of the lines that a ticket is about: where they can be read, who changed them last.
//!
//! All of it helps people and decides nothing: what cannot be asked is left out.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::super::super::ticket::Member;
use crate::clients::github::{GitHub, repository_route, segment};
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

    /// Asks who changed the files of these members last.
    pub async fn look(mut self, github: &GitHub, setup: &PublisherSetup, members: &[Member]) -> Self {
        let home = setup.repository.as_ref().and_then(|home| home.github.as_deref());
        let Some((Ok(home), (_, commit))) = home.map(repository_route).zip(self.code.clone()) else { return self };
        let mut files: Vec<&str> = members.iter().filter(|m| !m.gone).filter_map(|m| m.file.as_deref()).collect();
        files.dedup();
        for file in files.into_iter().take(MOST_FILES) {
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
        let lines: Vec<String> = self
            .changed
            .iter()
            .map(|(file, (commit, who, at))| {
                let at = at.map(|at| at.to_zoned(TimeZone::UTC).strftime(" on %-d %b %Y").to_string());
                let short = commit.get(..12).unwrap_or(commit);
                format!(
                    "- `{}` was last changed by {}{} in [`{short}`]({repository}/commit/{commit})",
                    code(file),
                    inline(who),
                    at.unwrap_or_default()
                )
            })
            .collect();
        (!lines.is_empty()).then(|| format!("### Who knows this code\n\n{}", lines.join("\n")))
    }
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
