//! `files`: a Markdown file per ticket in `out/tickets/`, and a list of them.
//!
//! A ticket is found again by the hash in its key and by any of its members' fingerprints, both kept in the file's head; a
//! finding is never in two open tickets. A person may close a file by its head and write below its last line: both are
//! respected. One publisher at a time holds the folder, so that steps side by side do not open the same ticket twice.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::front::{Front, State};
use super::ticket::{self, Member, NOTES};
use super::{blocking, file_key, locked, write_error};
use crate::base::BoxFuture;
use crate::base::files::replace;
use crate::domain::activity::Receipt;
use crate::domain::proposal::{Proposal, Proposed, PublishState, Published, TicketText};
use crate::ports::publisher::{PublishError, Publisher, PublisherKind, PublisherSetup};
use crate::ports::sink::Earlier;
use crate::render::markdown::{code, within};
use crate::render::text;

pub const KIND: PublisherKind = PublisherKind {
    name: "files",
    summary: "a file per ticket, on this machine",
    takes: &["ticket"],
    local: true,
    make: Some(make),
};

/// Files that are looked through for a ticket; more are not ours to read every time.
const MOST_TICKETS: usize = 20_000;
/// A larger file is no ticket.
const MOST_BYTES: u64 = 4 * 1024 * 1024;

fn make(setup: &PublisherSetup) -> Arc<dyn Publisher> {
    Arc::new(Files { folder: setup.out.join("tickets") })
}

struct Files {
    folder: PathBuf,
}

impl Publisher for Files {
    fn publish<'a>(&'a self, proposal: &'a Proposal, _: Earlier) -> BoxFuture<'a, Result<Published, PublishError>> {
        let (folder, proposal) = (self.folder.clone(), proposal.clone());
        // It looks before it writes in any case: reading small files is cheaper than a doubled ticket.
        blocking(self.folder.clone(), move || publish(&folder, &proposal))
    }
}

/// A ticket that is there.
struct Known {
    key: String,
    path: PathBuf,
    front: Front,
    body: String,
    members: Vec<Member>,
}

impl Known {
    fn shares(&self, proposal: &Proposal) -> usize {
        let own = ticket::fingerprints(&self.members);
        proposal.fingerprints.iter().filter(|print| own.contains(print.as_str())).count()
    }

    fn is(&self, proposal: &Proposal) -> bool {
        self.key.rsplit_once('-').map_or(self.key.as_str(), |(_, id)| id) == proposal.id()
    }

    /// What closed it, if it is closed: we, because its findings are gone, or a person.
    fn closed_by_us(&self) -> bool {
        self.front.text("closed_by") == Some("nightcrew")
    }

    /// What a person wrote below the last line of ours.
    fn notes(&self) -> &str {
        self.body.split_once(&format!("\n{NOTES}\n")).map_or("", |(_, notes)| notes)
    }
}

fn publish(folder: &Path, proposal: &Proposal) -> Result<Published, PublishError> {
    let _held = locked(folder)?;
    let known = read_all(folder)?;
    match &proposal.what {
        Proposed::Ticket(ticket) => open_or_update(folder, known, proposal, ticket),
        Proposed::CloseTicket { why } => close(folder, known, proposal, why),
        Proposed::PullRequest(_) => {
            Err(PublishError::Refused { message: "`files` takes tickets, not pull requests".into() })
        }
        Proposed::ErrorNote(_) => {
            Err(PublishError::Refused { message: "`files` takes tickets, not notes for a tracker of errors".into() })
        }
    }
}

fn read_all(folder: &Path) -> Result<Vec<Known>, PublishError> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(write_error(folder))? {
        let entry = entry.map_err(write_error(folder))?;
        let path = entry.path();
        let small = entry.metadata().is_ok_and(|meta| meta.is_file() && meta.len() <= MOST_BYTES);
        if small && path.extension().is_some_and(|ext| ext == "md") {
            paths.push(path);
        }
    }
    paths.sort();
    let mut known = Vec::new();
    for path in paths.into_iter().take(MOST_TICKETS) {
        let bytes = std::fs::read(&path).map_err(write_error(&path))?;
        let text = String::from_utf8_lossy(&bytes);
        let Some((front, body)) = Front::parse(&text) else { continue };
        let Some(key) = front.text("nightcrew").map(str::to_owned) else { continue };
        known.push(Known { key, path, members: ticket::members(&front), body: body.to_owned(), front });
    }
    Ok(known)
}

fn open_or_update(
    folder: &Path,
    known: Vec<Known>,
    proposal: &Proposal,
    ticket: &TicketText,
) -> Result<Published, PublishError> {
    let ours = |known: &&Known| {
        known.front.text("pipeline") == Some(proposal.pipeline.as_str())
            && (known.is(proposal) || known.shares(proposal) > 0)
    };
    let mut found: Vec<&Known> = known.iter().filter(ours).collect();
    // The one of this key, else the one that shares most.
    found.sort_by_key(|known| (!known.is(proposal), std::cmp::Reverse(known.shares(proposal))));
    let open = found.iter().find(|known| known.front.state() == State::Open);
    let ended = found.iter().find(|known| known.front.state() != State::Open && known.closed_by_us());
    let by_person: Vec<&&Known> =
        found.iter().filter(|known| known.front.state() != State::Open && !known.closed_by_us()).collect();
    if let Some(known) = open.or(ended) {
        return update(folder, known, proposal, ticket);
    }
    if let Some(known) = by_person.first() {
        // A person's word holds for what the ticket was about then, not for what has come since.
        let covered: BTreeSet<&str> = by_person.iter().flat_map(|known| ticket::fingerprints(&known.members)).collect();
        let whole = proposal.fingerprints.iter().all(|print| covered.contains(print.as_str()));
        if whole && ticket.closed_as_not_planned.as_deref() == Some("reopen") {
            return update(folder, known, proposal, ticket);
        }
        if whole {
            let note = format!("a person {} `{}`", known.front.state().word(), known.key);
            return Ok(published(PublishState::LeftAlone, known, note));
        }
    }
    let key = file_key(&proposal.key);
    let path = folder.join(format!("{key}.md"));
    if path.exists() {
        let message = format!("`{}` is there and is no open ticket of this pipeline; move it away", path.display());
        return Err(PublishError::Refused { message });
    }
    let members = ticket::merged(&[], proposal, ticket);
    let front = ticket::head(proposal, &key, ticket, &members, "opened");
    let text = format!("{}\n{}\n{NOTES}\n", front.render(), ticket::render(proposal, ticket, &members));
    replace(&path, text.as_bytes()).map_err(write_error(&path))?;
    write_list(folder)?;
    let known = Known { key, path, front, body: String::new(), members };
    Ok(published(PublishState::Opened, &known, String::new()))
}

fn update(folder: &Path, known: &Known, proposal: &Proposal, ticket: &TicketText) -> Result<Published, PublishError> {
    let members = ticket::merged(&known.members, proposal, ticket);
    let is_open = known.front.state() == State::Open;
    if is_open && known.front.text("content") == Some(&ticket::content(ticket, &members)) {
        // The same run once more, after a crash: its word is what it did then.
        let did = match (known.front.text("run") == Some(proposal.run.as_str()), known.front.text("did")) {
            (true, Some("opened")) => PublishState::Opened,
            (true, Some("updated")) => PublishState::Updated,
            _ => PublishState::Unchanged,
        };
        write_list(folder)?;
        return Ok(Published {
            receipt: Receipt { found: true, ..receipt(known) },
            ..published(did, known, String::new())
        });
    }
    let front = ticket::head(proposal, &known.key, ticket, &members, "updated");
    let text =
        format!("{}\n{}\n{NOTES}\n{}", front.render(), ticket::render(proposal, ticket, &members), known.notes());
    replace(&known.path, text.as_bytes()).map_err(write_error(&known.path))?;
    write_list(folder)?;
    let note = if is_open { String::new() } else { "open again".to_owned() };
    let published = published(PublishState::Updated, known, note);
    Ok(Published { receipt: Receipt { found: true, ..published.receipt }, ..published })
}

fn close(folder: &Path, known: Vec<Known>, proposal: &Proposal, why: &str) -> Result<Published, PublishError> {
    let ours = |known: &&Known| {
        known.front.text("pipeline") == Some(proposal.pipeline.as_str())
            && (known.is(proposal) || known.shares(proposal) > 0)
    };
    let found: Vec<&Known> = known.iter().filter(ours).collect();
    let mut ends = Vec::new();
    for known in &found {
        ends.push(close_one(known, proposal, why)?);
    }
    write_list(folder)?;
    let closed = ends.iter().filter(|end| end.state == PublishState::Closed).count();
    // The one in which most has happened stands for all of them.
    let rank = |state: PublishState| (state == PublishState::Closed, state.acted(), state.is_there());
    let Some(end) = ends.into_iter().max_by_key(|end| rank(end.state)) else {
        let receipt = Receipt {
            kind: "ticket".into(),
            destination: KIND.name.into(),
            url_or_path: String::new(),
            key: proposal.key.clone(),
            found: false,
        };
        return Ok(Published { state: PublishState::LeftAlone, receipt, note: "there is no such ticket".into() });
    };
    let note = if closed > 1 { format!("{closed} closed: {}", text::line(why)) } else { end.note };
    Ok(Published { note, ..end })
}

fn close_one(known: &Known, proposal: &Proposal, why: &str) -> Result<Published, PublishError> {
    if known.front.state() != State::Open {
        let again = known.closed_by_us() && known.front.text("run") == Some(proposal.run.as_str());
        let state = if again { PublishState::Closed } else { PublishState::LeftAlone };
        return Ok(published(state, known, String::new()));
    }
    let mut members = known.members.clone();
    for member in &mut members {
        member.gone |= proposal.fingerprints.is_empty() || proposal.fingerprints.contains(&member.fingerprint);
    }
    let mut front = known.front.clone();
    let ended = members.iter().all(|member| member.gone);
    if members == known.members && !ended {
        return Ok(published(PublishState::Unchanged, known, String::new()));
    }
    front.set("members", serde_json::to_value(&members).unwrap_or_default());
    // Whatever is proposed next is other than what stands there now.
    front.remove("content");
    front.set("run", proposal.run.as_str());
    let mut body = known.body.clone();
    if ended {
        front.set("state", State::Closed.word());
        front.set("closed_by", "nightcrew");
        let status = ticket::status(State::Closed, Some(why), front.text("severity"), &proposal.pipeline);
        body = with_status(&body, &status);
    }
    replace(&known.path, format!("{}{body}", front.render()).as_bytes()).map_err(write_error(&known.path))?;
    let left = members.iter().filter(|member| !member.gone).count();
    Ok(match ended {
        true => published(PublishState::Closed, known, text::line(why)),
        false => published(PublishState::Updated, known, format!("{left} of {} are left", members.len())),
    })
}

/// The body with another line under the title, if a person left it there.
fn with_status(body: &str, status: &str) -> String {
    let mut done = false;
    let lines = body.split_inclusive('\n').map(|line| {
        if !done && line.starts_with("**open**") {
            done = true;
            return format!("{status}\n");
        }
        line.to_owned()
    });
    lines.collect()
}

fn receipt(known: &Known) -> Receipt {
    Receipt {
        kind: "ticket".into(),
        destination: KIND.name.into(),
        url_or_path: known.path.display().to_string(),
        key: known.key.clone(),
        found: false,
    }
}

fn published(state: PublishState, known: &Known, note: String) -> Published {
    Published { state, receipt: receipt(known), note }
}

/// `README.md`: all tickets, those that are open first.
fn write_list(folder: &Path) -> Result<(), PublishError> {
    let mut known = read_all(folder)?;
    known.sort_by_key(|known| (known.front.state() != State::Open, known.key.clone()));
    let mut lines = vec![
        "# Tickets".to_owned(),
        String::new(),
        "Made by nightcrew from the files beside it, and made anew when one of them changes.".to_owned(),
        String::new(),
        "| state | ticket | severity | about | pipeline |".to_owned(),
        "| --- | --- | --- | ---: | --- |".to_owned(),
    ];
    for known in &known {
        let name = known.path.file_name().unwrap_or_default().to_string_lossy();
        let title = within(known.front.text("title").unwrap_or(&known.key));
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        let title = if plain { format!("[{title}]({name})") } else { format!("{title} `{}`", code(&name)) };
        let word = |name: &str| within(known.front.text(name).unwrap_or("–"));
        let about = known.members.iter().filter(|member| !member.gone).count();
        lines.push(format!(
            "| {} | {title} | {} | {about} | {} |",
            known.front.state().word(),
            word("severity"),
            word("pipeline")
        ));
    }
    let text = lines.join("\n") + "\n";
    let path = folder.join("README.md");
    match std::fs::read(&path) {
        Ok(old) if old == text.as_bytes() => Ok(()),
        Ok(_) => replace(&path, text.as_bytes()).map_err(write_error(&path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            replace(&path, text.as_bytes()).map_err(write_error(&path))
        }
        Err(error) => Err(write_error(&path)(error)),
    }
}
