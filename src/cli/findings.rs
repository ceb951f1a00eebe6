//! `nightcrew findings`: what pipelines know of errors and findings, and a person's word about them.

use jiff::tz::TimeZone;
use serde_json::json;

use super::args::{FindingsAct, FindingsArgs};
use super::session::{Session, asked, by};
use super::ui::{clip, table};
use super::{Exit, Trouble};
use crate::base::clock::Timestamp;
use crate::control::Request;
use crate::daemon::GRACE;
use crate::diag::closest;
use crate::domain::finding::{FindingLine, FindingState, Tie, TieKind, TieState};
use crate::journal::FindingFilter;
use crate::sinks::text;

/// Columns of a title and of a place in the table.
const TITLE: usize = 60;
const PLACE: usize = 40;

pub async fn run(session: &Session, args: FindingsArgs) -> anyhow::Result<Exit> {
    let Some(act) = args.act else { return list(session, args.pipeline, args.all) };
    let now = session.env.now();
    match act {
        FindingsAct::Mute(args) => {
            let until = match (args.until, args.duration) {
                (Some(until), _) => Some(until),
                (None, Some(duration)) => Some(now.checked_add(duration)?),
                (None, None) => None,
            };
            if until.is_some_and(|until| until <= now) {
                return Err(Trouble::new(Exit::Usage, "that moment has passed").help("name a later one").into());
            }
            mute(session, &args.id, until, args.reason).await
        }
        FindingsAct::Dismiss(args) => mute(session, &args.id, None, args.reason).await,
        FindingsAct::Unmute(args) => {
            let found = find(session, &args.id)?;
            if found.state != FindingState::Muted {
                return Err(Trouble::new(Exit::No, format!("{} is not muted", named(&found))).into());
            }
            tell(session, &found, Request::Unmute { id: found.id.clone(), by: by() }).await?;
            session.ui.say(format!("{} is heard of again when it gets worse or comes back", named(&found)));
            Ok(Exit::Done)
        }
    }
}

async fn mute(session: &Session, id: &str, until: Option<Timestamp>, reason: String) -> anyhow::Result<Exit> {
    if reason.trim().is_empty() {
        return Err(Trouble::new(Exit::Usage, "the reason is empty").help("say why, for whoever comes next").into());
    }
    let found = find(session, id)?;
    tell(session, &found, Request::Mute { id: found.id.clone(), until, reason, by: by() }).await?;
    let long = until.map_or_else(|| "for good".to_owned(), |until| format!("until {}", moment(until)));
    let back = session.again(&format!("findings unmute {}", found.id));
    session.ui.say(format!("{} is muted {long}; to take that back: {back}", named(&found)));
    Ok(Exit::Done)
}

/// Hands it to the holder, or becomes the holder for as long as it takes.
async fn tell(session: &Session, found: &FindingLine, request: Request) -> anyhow::Result<()> {
    if let Some(mut holder) = session.holder().await? {
        holder.ask(&request).await.map_err(asked)?;
        return Ok(());
    }
    let holder = session.hold("findings", &found.profile, session.library()?)?;
    let told = match &request {
        Request::Mute { id, until, reason, by } => holder.mute(id, *until, reason, by).await,
        Request::Unmute { id, by } => holder.unmute(id, by).await,
        _ => Ok(()),
    };
    holder.stop(GRACE).await?;
    told.map_err(|refusal| Trouble::from(refusal).into())
}

fn named(found: &FindingLine) -> String {
    format!("{} ({})", found.id, clip(&found.title, TITLE))
}

/// The finding of that id, whose id begins so, or with that fingerprint.
fn find(session: &Session, asked: &str) -> anyhow::Result<FindingLine> {
    let lines = session.must_reader()?.findings(&FindingFilter { all: true, ..FindingFilter::default() })?;
    let wanted = asked.trim().to_ascii_lowercase();
    let fits = |line: &FindingLine| {
        (!wanted.is_empty() && line.id.starts_with(&wanted)) || line.fingerprint.eq_ignore_ascii_case(&wanted)
    };
    let mut found: Vec<&FindingLine> = lines.iter().filter(|line| fits(line)).collect();
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one.clone()),
        (Some(one), false) => {
            found.push(one);
            let list: Vec<String> =
                found.iter().take(10).map(|line| format!("  {}  {}", line.id, place_of(line))).collect();
            let message = format!("`{}` fits {} findings:\n{}", text::line(asked), found.len(), list.join("\n"));
            Err(Trouble::new(Exit::No, message).help("write more of the id").into())
        }
        (None, _) => {
            // What was typed is the beginning of an id, so the beginnings are compared.
            let beginnings: Vec<&str> =
                lines.iter().map(|line| line.id.get(..wanted.len()).unwrap_or(&line.id)).collect();
            let help = match closest(&wanted, beginnings) {
                Some(near) => format!("did you mean `{near}`?"),
                None => session.again("findings --all"),
            };
            Err(Trouble::new(Exit::No, format!("there is no finding `{}`", text::line(asked))).help(help).into())
        }
    }
}

fn list(session: &Session, pipeline: Option<String>, all: bool) -> anyhow::Result<Exit> {
    let reader = session.reader()?;
    let everything = FindingFilter { pipeline: pipeline.clone(), all: true };
    let lines = match &reader {
        Some(reader) => reader.findings(&FindingFilter { pipeline: pipeline.clone(), all })?,
        None => Vec::new(),
    };
    if session.ui.json {
        session.ui.data_json(&json!({ "findings": lines }))?;
        return Ok(Exit::Done);
    }
    let hidden = match &reader {
        Some(reader) if !all => reader.findings(&everything)?.len() - lines.len(),
        _ => 0,
    };
    if lines.is_empty() {
        let of = pipeline.map_or_else(String::new, |pipeline| format!(" by `{}`", text::line(&pipeline)));
        session.ui.data(format!("nothing was handled{of} yet"))?;
    } else {
        session.ui.data(shown(&lines, session.env.now()))?;
    }
    if hidden > 0 {
        let more = session.again("findings --all");
        let are = if lines.is_empty() { "are" } else { "more are" };
        session.ui.say(format!("{hidden} {are} fixed, or were there before the first run: {more}"));
    }
    Ok(Exit::Done)
}

fn shown(lines: &[FindingLine], now: Timestamp) -> String {
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| {
            vec![
                line.id.clone(),
                state(line, now),
                format!("{} ({} {})", line.pipeline, line.profile, line.effects),
                moment(line.last_seen),
                clip(&place_of(line), PLACE),
                clip(&line.title, TITLE),
                see(line),
            ]
        })
        .collect();
    table(&["ID", "STATE", "PIPELINE", "SEEN (UTC)", "WHERE", "WHAT", "SEE"], &rows, &[])
}

/// Where to look: what fixed it, else the work on it that is open, else whatever there was last. Why nobody wants to hear of it
/// says more than where it was told once.
fn see(line: &FindingLine) -> String {
    let fixed = line.fixed_by.as_ref().map(|fixed| &fixed.url).filter(|_| line.state == FindingState::Fixed);
    let open = || line.ties.iter().filter(|tie| tie.state == TieState::Open && tie.kind != TieKind::Slack);
    // A pull request comes after its ticket.
    let work = open().max_by_key(|tie| (tie.kind, tie.at)).map(|tie| &tie.url);
    let told = match line.state {
        FindingState::Muted => line.reason.as_ref().or(work).or(line.url_or_path.as_ref()),
        FindingState::Handled | FindingState::Fixed => {
            fixed.or(work).or(line.url_or_path.as_ref()).or(line.reason.as_ref())
        }
    };
    told.cloned().unwrap_or_default()
}

fn place_of(line: &FindingLine) -> String {
    if line.place.is_empty() { line.source.clone() } else { line.place.clone() }
}

fn state(line: &FindingLine, now: Timestamp) -> String {
    match (line.state, line.muted_until) {
        (FindingState::Muted, Some(until)) if until <= now => "mute is over".into(),
        (FindingState::Muted, Some(until)) => format!("muted to {}", moment(until)),
        (FindingState::Muted, None) => "muted".into(),
        (FindingState::Fixed, _) => match line.fixed_by.as_ref().map(|fixed| fixed.kind) {
            Some(TieKind::PullRequest) => "fixed, merged".into(),
            Some(TieKind::Ticket) => "fixed, ticket closed".into(),
            Some(TieKind::Slack) | None => "fixed".into(),
        },
        (FindingState::Handled, _) if line.again => "wrong cause, looked at anew".into(),
        (FindingState::Handled, _) => match last_work(line) {
            Some(tie) => format!("{} {}", tie.kind, tie.state).replace('_', " "),
            None => line.end.replace('_', " "),
        },
    }
}

/// The ticket or pull request that a person has ended: the run's own word is older than that.
fn last_work(line: &FindingLine) -> Option<&Tie> {
    let work = line.ties.iter().filter(|tie| tie.kind != TieKind::Slack);
    work.max_by_key(|tie| (tie.at, tie.kind)).filter(|tie| tie.state != TieState::Open)
}

fn moment(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::finding::FixedBy;

    #[test]
    fn the_table_says_what_became_of_each_finding() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let tie = |kind, state, url: &str, when: &str| Tie {
            kind,
            destination: "github".into(),
            url: format!("https://github.example/acme/api/{url}"),
            key: "k".into(),
            state,
            run: "01".into(),
            at: at(when),
        };
        let line = |id: &str, state, end: &str, until: Option<&str>| FindingLine {
            id: id.into(),
            pipeline: "health".into(),
            profile: "local".into(),
            effects: "preview".into(),
            source: "scan/ruff".into(),
            fingerprint: format!("F401-{id}"),
            title: "`os` imported but unused\u{1b}[2J".into(),
            place: "src/a.py:1".into(),
            state,
            end: end.into(),
            url_or_path: (end == "ticket" || id == "bbbb").then(|| "out/tickets/1.md".into()),
            weight: 1.0,
            first_seen: at("2026-11-01T00:00:00Z"),
            last_seen: at("2026-11-20T07:00:00Z"),
            muted_until: until.map(at),
            reason: (state == FindingState::Muted).then(|| "by design".into()),
            by: None,
            run: "01".into(),
            again: id == "ffff",
            fixed_by: (id == "eeee").then(|| FixedBy {
                kind: TieKind::PullRequest,
                url: "https://github.example/acme/api/pull/7".into(),
                at: at("2026-11-19T00:00:00Z"),
            }),
            ties: match id {
                "gggg" => vec![
                    tie(TieKind::PullRequest, TieState::Closed, "pull/8", "2026-11-20T01:00:00Z"),
                    tie(TieKind::Ticket, TieState::Open, "issues/4", "2026-11-19T01:00:00Z"),
                ],
                _ => Vec::new(),
            },
            feedback: Vec::new(),
            same_as: Vec::new(),
        };
        let lines = [
            line("aaaa", FindingState::Handled, "ticket", None),
            line("bbbb", FindingState::Muted, "dropped", Some("2026-12-01T00:00:00Z")),
            line("cccc", FindingState::Muted, "dropped", None),
            line("dddd", FindingState::Muted, "dropped", Some("2026-11-02T00:00:00Z")),
            line("eeee", FindingState::Fixed, "reported", None),
            line("ffff", FindingState::Handled, "reported", None),
            line("gggg", FindingState::Handled, "pull_request", None),
        ];
        let told = shown(&lines, at("2026-11-20T08:00:00Z"));
        let rows: Vec<&str> = told.lines().collect();
        assert_eq!(rows[0].split_whitespace().next(), Some("ID"));
        assert!(rows[1].contains("ticket") && rows[1].ends_with("out/tickets/1.md"), "{told}");
        assert!(rows[2].contains("muted to 2026-12-01 00:00") && rows[2].ends_with("by design"), "{told}");
        assert!(
            rows[3].starts_with("cccc  muted  ") && rows[4].contains("mute is over") && rows[5].contains("fixed"),
            "{told}"
        );
        assert!(
            rows[5].contains("fixed, merged") && rows[5].ends_with("https://github.example/acme/api/pull/7"),
            "{told}"
        );
        assert!(rows[6].contains("wrong cause, looked at anew"), "{told}");
        assert!(rows[7].contains("pull request closed") && rows[7].ends_with("/issues/4"), "{told}");
        assert!(rows[1].contains("health (local preview)  2026-11-20 07:00  src/a.py:1"), "{told}");
        assert!(!told.contains('\u{1b}'));
    }
}
