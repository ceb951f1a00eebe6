//! What findings are tied to, which of them are one, and what people said of them.

use super::*;
use crate::domain::finding::{FeedbackWord, FindingLine, FindingState, Handled, Seen, Standing, TieKind, TieState};
use crate::domain::proposal::{EndedWork, WorkEnd};
use crate::policy::findings::id;

const ISSUE: &str = "https://github.example/acme/api/issues/4";
const PULL: &str = "https://github.example/acme/api/pull/7";

struct Ledger {
    bench: Bench,
    journal: Journal,
    run: RunId,
}

impl Ledger {
    async fn new(handled: &[&str]) -> Self {
        let bench = Bench::new();
        let journal = bench.open();
        let run = begin_plain(&journal, "01A").await;
        let ledger = Self { bench, journal, run };
        ledger.handle(handled).await;
        ledger
    }

    async fn handle(&self, prints: &[&str]) {
        let handled = prints.iter().map(|print| Handled { seen: seen(print), end: "ticket".into(), place: None });
        self.journal.findings_handled(&self.run, "sentry", handled.collect()).await.unwrap();
    }

    async fn tie(&self, kind: TieKind, url: &str, state: TieState, prints: &[&str]) {
        let tie = NewTie { kind, destination: "github".into(), url: url.into(), key: "k-1".into(), state };
        self.journal.tie(&self.run, tie, strings(prints)).await.unwrap();
    }

    async fn tended(&self, url: &str, how: WorkEnd, prints: &[&str], not_planned: NotPlanned) {
        let work = EndedWork { key: "k-1".into(), url: url.into(), fingerprints: strings(prints), how };
        self.journal.tended(&self.run, "github", vec![work], not_planned).await.unwrap();
    }

    fn standing(&self, print: &str) -> Standing {
        let judged =
            self.journal.reader().judge_findings(&self.run, "sentry", &[seen(print)], false, self.bench.env().now());
        judged.unwrap().standings[0]
    }

    fn line(&self, print: &str) -> FindingLine {
        let lines = self.journal.reader().findings(&FindingFilter { all: true, ..FindingFilter::default() }).unwrap();
        lines.into_iter().find(|line| line.fingerprint == print).unwrap()
    }

    fn ties(&self, print: &str) -> Vec<(TieKind, TieState, String)> {
        self.line(print).ties.into_iter().map(|tie| (tie.kind, tie.state, tie.url)).collect()
    }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn seen(print: &str) -> Seen {
    Seen { fingerprint: print.into(), title: format!("error {print}"), weight: 1.0, place: "api".into(), last_at: None }
}

#[tokio::test]
async fn a_finding_knows_its_message_its_ticket_and_its_pull_request() {
    let ledger = Ledger::new(&["a", "b"]).await;
    for _ in 0..2 {
        ledger.tie(TieKind::Slack, "https://slack.example/p1", TieState::Open, &["a"]).await;
        ledger.tie(TieKind::Ticket, ISSUE, TieState::Open, &["a"]).await;
        ledger.tie(TieKind::PullRequest, PULL, TieState::Open, &["a"]).await;
    }
    let kinds: Vec<TieKind> = ledger.ties("a").into_iter().map(|(kind, ..)| kind).collect();
    assert_eq!(kinds, [TieKind::PullRequest, TieKind::Slack, TieKind::Ticket], "each once");
    assert_eq!(ledger.ties("b"), []);
    // What has no address is known by its key.
    ledger.tie(TieKind::Slack, "", TieState::Open, &["b"]).await;
    assert_eq!(ledger.ties("b"), [(TieKind::Slack, TieState::Open, "k-1".into())]);
    // Another ledger has ties of its own.
    let mut live = start("01B", RunLimits::default());
    live.effects = Effects::Live;
    let live = begin(&ledger.journal, live).await;
    assert_eq!(ledger.journal.reader().same_findings(&live, &strings(&["a"])).unwrap(), ["a"]);
    let unknown = NewTie {
        kind: TieKind::Slack,
        destination: "x".into(),
        url: "x".into(),
        key: "x".into(),
        state: TieState::Open,
    };
    assert!(matches!(ledger.journal.tie(&RunId("no".into()), unknown, strings(&["a"])).await, Err(Error::NoRun(_))));
}

#[tokio::test]
async fn a_merged_pull_request_fixes_its_findings_and_says_so_once() {
    let ledger = Ledger::new(&["a", "b"]).await;
    ledger.tie(TieKind::PullRequest, PULL, TieState::Open, &["a"]).await;
    ledger.tended(PULL, WorkEnd::Merged, &["a"], NotPlanned::Mute).await;
    let line = ledger.line("a");
    let by = line.fixed_by.unwrap();
    assert_eq!((line.state, by.kind, by.url.as_str()), (FindingState::Fixed, TieKind::PullRequest, PULL));
    assert_eq!((by.at, ledger.ties("a")[0].1), (ledger.bench.env().now(), TieState::Merged));
    assert_eq!(ledger.standing("a"), Standing::Regressed);
    assert_eq!(ledger.standing("b"), Standing::Ongoing);

    // It came back and was handled; that it was merged once is no news.
    ledger.handle(&["a"]).await;
    assert_eq!((ledger.line("a").state, ledger.line("a").fixed_by), (FindingState::Handled, None));
    ledger.tended(PULL, WorkEnd::Merged, &["a"], NotPlanned::Mute).await;
    assert_eq!(ledger.line("a").state, FindingState::Handled);
}

#[tokio::test]
async fn a_draft_that_was_closed_or_has_expired_fixes_nothing() {
    let ledger = Ledger::new(&["a"]).await;
    for (how, state) in [(WorkEnd::Closed, TieState::Closed), (WorkEnd::Expired, TieState::Expired)] {
        // Also where the journal knows nothing of the draft any more.
        ledger.tended(PULL, how, &["a"], NotPlanned::Mute).await;
        assert_eq!((ledger.line("a").state, ledger.ties("a")[0].1), (FindingState::Handled, state));
        assert_eq!(ledger.line("a").fixed_by, None);
    }
}

#[tokio::test]
async fn a_ticket_that_a_person_closed_fixes_or_mutes_all_that_it_is_about() {
    let ledger = Ledger::new(&["a", "b", "c", "d"]).await;
    ledger.tie(TieKind::Ticket, ISSUE, TieState::Open, &["a", "b"]).await;
    ledger.tended(ISSUE, WorkEnd::Closed, &["a"], NotPlanned::Mute).await;
    for print in ["a", "b"] {
        let line = ledger.line(print);
        assert_eq!((line.state, line.fixed_by.unwrap().kind), (FindingState::Fixed, TieKind::Ticket), "{print}");
    }

    let other = ISSUE.replace('4', "5");
    ledger.tie(TieKind::Ticket, &other, TieState::Open, &["c"]).await;
    ledger.tended(&other, WorkEnd::NotPlanned, &["c"], NotPlanned::Reopen).await;
    assert_eq!((ledger.line("c").state, ledger.ties("c")[0].1), (FindingState::Handled, TieState::NotPlanned));

    let muted = ISSUE.replace('4', "6");
    ledger.tended(&muted, WorkEnd::NotPlanned, &["d"], NotPlanned::Mute).await;
    let line = ledger.line("d");
    assert_eq!((line.state, line.muted_until, line.by.as_deref()), (FindingState::Muted, None, Some("github")));
    assert_eq!(line.reason.unwrap(), format!("closed as not planned: {muted}"));
    // A person takes that back, and the same old word does not count again…
    assert!(ledger.journal.unmute_finding(&line.id, "cli:ann").await.unwrap());
    ledger.tended(&muted, WorkEnd::NotPlanned, &["d"], NotPlanned::Mute).await;
    assert_eq!(ledger.line("d").state, FindingState::Handled);
    // …but does when it was opened again in between.
    ledger.tie(TieKind::Ticket, &muted, TieState::Open, &["d"]).await;
    ledger.tended(&muted, WorkEnd::NotPlanned, &["d"], NotPlanned::Mute).await;
    assert_eq!(ledger.line("d").state, FindingState::Muted);
}

#[tokio::test]
async fn a_ticket_that_we_close_is_what_is_said_to_have_ended_it() {
    let ledger = Ledger::new(&["a"]).await;
    ledger.tie(TieKind::Ticket, ISSUE, TieState::Open, &["a"]).await;
    ledger.tie(TieKind::Ticket, ISSUE, TieState::Closed, &["a"]).await;
    ledger.journal.findings_gone(&ledger.run, "sentry", strings(&["a"])).await.unwrap();
    let line = ledger.line("a");
    assert_eq!((line.state, line.fixed_by.unwrap().url.as_str()), (FindingState::Fixed, ISSUE));
}

#[tokio::test]
async fn what_a_model_merged_stays_merged_and_grows_together() {
    let ledger = Ledger::new(&["a", "b", "c", "d", "e"]).await;
    let same = |print: &str| ledger.journal.reader().same_findings(&ledger.run, &strings(&[print])).unwrap();
    ledger.tie(TieKind::Ticket, ISSUE, TieState::Open, &["b", "c"]).await;
    ledger.tie(TieKind::Ticket, "5", TieState::Open, &["d", "e"]).await;
    assert_eq!((same("b"), same("e"), same("a")), (strings(&["b", "c"]), strings(&["d", "e"]), strings(&["a"])));
    // A message about several findings merges nothing.
    ledger.tie(TieKind::Slack, "p1", TieState::Open, &["a", "b"]).await;
    assert_eq!(same("a"), ["a"]);
    // A group that takes from both joins both; one of fewer members parts nothing.
    ledger.tie(TieKind::Ticket, ISSUE, TieState::Open, &["a", "c", "d"]).await;
    ledger.tie(TieKind::Ticket, ISSUE, TieState::Open, &["c"]).await;
    for print in ["a", "b", "c", "d", "e"] {
        assert_eq!(same(print), ["a", "b", "c", "d", "e"]);
    }
    assert_eq!(ledger.line("c").same_as, ["a", "b", "d", "e"]);
}

#[tokio::test]
async fn a_click_mutes_for_good_or_has_it_looked_at_anew() {
    let ledger = Ledger::new(&["a", "b"]).await;
    let of = |print: &str| id("p", "local", "preview", "sentry", print);
    assert_eq!(of("a"), ledger.line("a").id);
    assert!(ledger.journal.feedback(&of("a"), FeedbackWord::WrongCause, "slack:U1").await.unwrap());
    assert_eq!((ledger.standing("a"), ledger.line("a").again), (Standing::New, true));
    ledger.handle(&["a"]).await;
    let line = ledger.line("a");
    assert_eq!((ledger.standing("a"), line.again), (Standing::Ongoing, false));
    assert_eq!(
        (line.feedback.len(), line.feedback[0].word, line.feedback[0].by.as_str()),
        (1, FeedbackWord::WrongCause, "slack:U1")
    );

    assert!(ledger.journal.feedback(&of("b"), FeedbackWord::WontFix, "slack:U2").await.unwrap());
    let line = ledger.line("b");
    assert_eq!((line.state, line.muted_until, line.reason.as_deref()), (FindingState::Muted, None, Some("won't fix")));
    assert_eq!((line.by.as_deref(), ledger.standing("b")), (Some("slack:U2"), Standing::Muted));

    // The message was there before the run had ended.
    for (print, word) in [("late", FeedbackWord::WontFix), ("later", FeedbackWord::WrongCause)] {
        assert!(!ledger.journal.feedback(&of(print), word, "slack:U1").await.unwrap());
        assert_eq!(ledger.standing(print), Standing::New);
    }
    ledger.handle(&["late", "later"]).await;
    assert_eq!((ledger.standing("late"), ledger.standing("later")), (Standing::Muted, Standing::New));
    // What was done is not done again.
    ledger.handle(&["later"]).await;
    assert_eq!(ledger.standing("later"), Standing::Ongoing);
}
