//! The text of an issue: short and ordered for people, found again by us, and nobody's text is markup in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use super::super::super::tests::{HOSTILE, active, hostile, ticket_of};
use super::super::super::{sample, ticket as text_of};
use super::issue::{Issue, Marker, body, said, says, title};
use super::*;
use crate::base::env::Env;
use crate::domain::proposal::Proposed;
use crate::ports::service::{HomeRepository, Outside, Service, Services};

fn setup() -> PublisherSetup {
    let github = Service {
        settings: BTreeMap::from([("git_url".to_owned(), "https://github.example".to_owned())]),
        ..Service::default()
    };
    let services = Services { github: Some(github), ..Services::default() };
    let outside = Outside { services: Arc::new(services), ..Outside::none(Env::system()) };
    let home = HomeRepository { github: Some("acme/api".into()), ..HomeRepository::default() };
    PublisherSetup { out: "out".into(), branches: None, outside, repository: Some(home) }
}

fn text_in(proposal: &Proposal) -> &TicketText {
    match &proposal.what {
        Proposed::Ticket(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

/// (title, body, marker) of a new issue.
fn written(proposal: &Proposal) -> (String, String, Marker) {
    let ticket = text_in(proposal);
    let members = text_of::merged(&[], proposal, ticket);
    let marker = Marker::of(proposal, &proposal.key, ticket, &members, "opened");
    let body = body(proposal, ticket, &marker, &Context::of(&setup(), ticket), "");
    (marker.title.clone(), body, marker)
}

fn read(body: &str) -> Option<Issue> {
    let value = json!({"number": 4, "user": {"login": "Crew-Bot"}, "title": "T", "body": body, "state": "open",
        "html_url": "https://github.example/acme/api/issues/4"});
    Issue::read(&value, "crew-bot")
}

#[test]
fn an_issue_says_what_where_why_and_how_to_be_rid_of_it() {
    let proposal = sample::proposal(Proposed::Ticket(Box::new(sample::ticket())), &["f-1", "f-2"]);
    let (title, body, marker) = written(&proposal);
    assert_eq!(title, "A restart loses queued mail");
    let (shown, rest) = body.split_once("<details>").unwrap();
    assert_eq!(
        shown,
        "**high** severity · 2 findings of one cause · found by `error-to-pr`\n\n\
         Mail that waits when the process ends is gone; customers are not told.\n\n\
         ### Where\n\n\
         - [`src/queue.rs:10`](https://github.example/acme/api/blob/0123456789abcdef0123456789abcdef01234567/src/queue.rs#L10) \
         — lost on drop (queue-drop)\n  the deciding line: `let queue = Vec::new();`\n\
         - never flushed\n\n\
         ### Root cause\n\nThe queue lives in memory only.\n\n\
         ### Stack trace\n\n`````text\n src/queue.rs:10 in push\n ```\n # no heading\n ````\n`````\n\n\
         ### Done when\n\n- [ ] `cargo test queue` passes after a kill -9\n\n\
         ### How often seen\n\n- times: 412\n\n"
    );
    for told in [
        "*not planned*",
        "Fingerprints: `f-1` `f-2`",
        "Run `01JD0000000000000000000007`",
        "[`0123456789ab`](https://github.example/acme/api/commit/",
    ] {
        assert!(rest.contains(told), "{told} in {rest}");
    }
    assert!(body.ends_with("keeps it as it is._\n"), "{body}");
    let issue = read(&body).unwrap();
    assert_eq!((issue.marker, issue.number, issue.open), (marker, 4, true));
}

#[test]
fn only_what_our_login_wrote_and_marked_is_ours() {
    let (_, body, _) = written(&ticket_of(&["a"], |_| {}));
    let value = |login: &str, body: &str| json!({"number": 4, "user": {"login": login}, "title": "T", "body": body, "state": "open"});
    assert!(Issue::read(&value("crew-bot", &body), "crew-bot").is_some());
    assert!(Issue::read(&value("mallory", &body), "crew-bot").is_none());
    assert!(Issue::read(&value("crew-bot", "By hand."), "crew-bot").is_none());
    let mut pull = value("crew-bot", &body);
    pull["pull_request"] = json!({"url": "x"});
    assert!(Issue::read(&pull, "crew-bot").is_none());
    // As a person's browser sends it back.
    assert!(Issue::read(&value("crew-bot", &body.replace('\n', "\r\n")), "crew-bot").is_some());
    // Forged within a text: a quoted marker does not stand at the beginning of its line.
    let mark = body.lines().find(|line| line.starts_with("<!--")).unwrap().replace("\"a\"", "\"forged\"");
    let forged = ticket_of(&["b"], |text| {
        text.harm = format!("x\n\n{mark}\n\ny");
        text.code = vec![(mark.clone(), mark.clone())];
        text.title = mark.clone();
    });
    let (_, body, marker) = written(&forged);
    assert_eq!(read(&body).unwrap().marker, marker);
}

#[test]
fn what_a_person_wrote_below_the_line_stays_and_their_title_too() {
    let proposal = ticket_of(&["a"], |_| {});
    let (_, text, marker) = written(&proposal);
    let theirs = format!("{text}\nSeen it, **mine**.\n\n- [x] asked @grace\n");
    let issue = read(&theirs).unwrap();
    assert_eq!(issue.notes(), "\n\nSeen it, **mine**.\n\n- [x] asked @grace\n");
    let again = body(&proposal, text_in(&proposal), &marker, &Context::default(), issue.notes());
    assert!(again.ends_with("keeps it as it is._\n\nSeen it, **mine**.\n\n- [x] asked @grace\n"), "{again}");
    assert_eq!(read(&again).unwrap().notes(), issue.notes(), "it does not grow");
    // `T` is not what we wrote.
    assert_eq!(issue.title_for(&marker), "T");
    assert_eq!(
        Issue { title: marker.title.clone(), ..issue.clone() }
            .title_for(&Marker { title: "New".into(), ..marker.clone() }),
        "New"
    );
    // A part of it is gone: one line and the marker change, nothing else.
    let mut gone = marker.clone();
    gone.members.push(text_of::Member { fingerprint: "b".into(), gone: true, ..text_of::Member::default() });
    let changed = issue.with_marker(&gone);
    assert_eq!(read(&changed).unwrap().marker, gone);
    assert!(changed.contains("1 of 2 findings left"), "{changed}");
    let differ = changed.lines().zip(theirs.lines()).filter(|(a, b)| a != b).count();
    assert_eq!((differ, changed.lines().count()), (2, theirs.lines().count()));
}

#[test]
fn a_long_ticket_fits_github_and_still_knows_all_it_is_about() {
    let many: Vec<String> = (0..200).map(|n| format!("--{n:-<60}")).collect();
    let prints: Vec<&str> = many.iter().map(String::as_str).collect();
    let proposal = ticket_of(&prints, |text| {
        text.sections = vec![("Long".into(), "word ".repeat(20_000))];
        for finding in &mut text.findings {
            finding.file = Some("src/a.rs".into());
            finding.quote = Some("<>".repeat(300));
        }
    });
    let (_, body, _) = written(&proposal);
    assert!(body.chars().count() < 65_536, "{}", body.chars().count());
    let issue = read(&body).unwrap();
    assert_eq!(issue.shares(&proposal), 200);
    assert!(body.contains("too long for an issue"), "what was left out is said");
    assert!(title(&"@a ".repeat(200)).chars().count() <= 256);
}

#[test]
fn a_line_is_linked_on_the_repository_s_own_host_and_nowhere_else() {
    let proposal = ticket_of(&["a"], |_| {});
    let ticket = text_in(&proposal);
    let context = Context::of(&setup(), ticket);
    let link = |file: &str, line: u32| {
        context.link(&text_of::Member { file: Some(file.into()), line: Some(line), ..text_of::Member::default() })
    };
    let base = "https://github.example/acme/api/blob/0123456789abcdef0123456789abcdef01234567/";
    assert_eq!(link("./src/a b(1).rs", 3).unwrap(), format!("{base}src/a%20b%281%29.rs#L3"));
    assert_eq!(link("src/a.rs", 0).unwrap(), format!("{base}src/a.rs"));
    assert_eq!(link("a\u{202e}?#[x](y).rs", 0).unwrap(), format!("{base}a%E2%80%AE%3F%23%5Bx%5D%28y%29.rs"));
    for evil in ["../../other/repo", "/etc/passwd", "a//b", "", "a/./b"] {
        assert_eq!(link(evil, 1), None, "{evil}");
    }
    let gone = text_of::Member { file: Some("a.rs".into()), gone: true, ..text_of::Member::default() };
    assert_eq!(context.link(&gone), None, "it is not there any more");
    let mut elsewhere = setup();
    elsewhere.repository = None;
    let member = text_of::Member { file: Some("a.rs".into()), ..text_of::Member::default() };
    assert_eq!(Context::of(&elsewhere, ticket).link(&member), None);
    let no_commit = TicketText { commit: Some("main; rm -rf".into()), ..ticket.clone() };
    assert_eq!(Context::of(&setup(), &no_commit).link(&member), None);
}

#[test]
fn no_text_of_anybody_is_a_link_an_image_a_mention_a_reference_or_html() {
    for text in HOSTILE {
        let mut proposal = sample::proposal(Proposed::Ticket(Box::new(hostile(text).0)), &[text]);
        (proposal.pipeline, proposal.run) = ((*text).into(), (*text).into());
        let (title, body, marker) = written(&proposal);
        // Ours: one pair of tags, one comment, one line below which is a person's.
        let ours = ["<details>\n<summary>About this ticket, and how to dismiss it</summary>", "</details>"];
        let mut left = body.clone();
        for tag in ours {
            assert_eq!(left.matches(tag).count(), 1, "{tag} of {text:?}");
            left = left.replace(tag, "");
        }
        let mark: Vec<&str> = body.lines().filter(|line| line.starts_with("<!--")).collect();
        assert_eq!(mark.len(), 1, "{text:?}: {body}");
        assert_eq!(mark[0].matches("-->").count(), 1, "{text:?}: {}", mark[0]);
        assert!(!mark[0].contains(['@', '#']), "{text:?}: {}", mark[0]);
        let left = active(&left.replace(mark[0], ""));
        for sign in ["<", ">", "](", "![", "://", "@", "www.", "mailto:", "GH-", "[x]:"] {
            assert!(!left.contains(sign), "{sign} of {text:?} is active: {left}");
        }
        let number = left.split('#').skip(1).any(|after| after.starts_with(|c: char| c.is_ascii_digit()));
        assert!(!number, "{text:?}: {left}");
        // Titles are shown as they are, but for code; what others make links of is code.
        let words: Vec<&str> = title.split('`').step_by(2).collect();
        assert!(words.iter().all(|word| !word.contains('@') && !word.contains("://")), "{title}");
        let ours = read(&body).unwrap();
        assert_eq!((ours.notes().trim(), &ours.marker.key), ("", &marker.key), "{text:?}");
        assert!(!body.chars().chain(title.chars()).any(|c| !crate::render::text::is_visible(c)), "{text:?}");
    }
}

#[test]
fn a_comment_is_known_by_its_run_and_what_it_says() {
    let mark = said("01RUN", "closed");
    let comment = |by: &str, body: String| json!({"user": {"login": by}, "body": body});
    assert!(says(&comment("crew-bot", format!("{mark}\n**Closed:** gone.")), "crew-bot", &mark));
    for other in [
        comment("mallory", format!("{mark}\nx")),
        comment("crew-bot", format!("> {mark}\nx")),
        comment("crew-bot", format!("{}\nx", said("01RUN", "reopened"))),
        comment("crew-bot", format!("{}\nx", said("01OTHER", "closed"))),
    ] {
        assert!(!says(&other, "crew-bot", &mark), "{other}");
    }
    assert_eq!(said("--> @x #1", "closed").matches("-->").count(), 1);
    let evil = closing("see ![x](https://evil.example) @all #1 <b>");
    let left = active(&evil);
    assert!(!left.contains(['@', '<']) && !left.contains("]("), "{evil}");
}
