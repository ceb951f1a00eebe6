//! The findings ledger and the remembered figures.

use super::*;
use crate::domain::finding::{FindingState, Handled, Judged, Seen, Standing};
use crate::journal::migrate;

fn seen(fingerprint: &str, weight: f64) -> Seen {
    let title = format!("error {fingerprint}");
    Seen { fingerprint: fingerprint.into(), title, weight, place: "api".into(), last_at: None }
}

fn handled(fingerprint: &str, weight: f64, end: &str) -> Handled {
    Handled { seen: seen(fingerprint, weight), end: end.into(), place: None }
}

fn judge(bench: &Bench, journal: &Journal, run: &RunId, seen: &[Seen], complete: bool) -> Judged {
    journal.reader().judge_findings(run, "sentry", seen, complete, bench.env().now()).unwrap()
}

fn all(journal: &Journal) -> Vec<crate::domain::finding::FindingLine> {
    journal.reader().findings(&FindingFilter { all: true, ..FindingFilter::default() }).unwrap()
}

#[tokio::test]
async fn a_finding_is_new_until_it_is_handled_and_regressed_when_it_comes_back() {
    let bench = Bench::new();
    let journal = bench.open();
    let run = begin_plain(&journal, "01A").await;
    let now = |weight| [seen("a", weight)];
    let first = judge(&bench, &journal, &run, &now(3.0), true);
    assert_eq!((first.standings, first.gone, first.first), (vec![Standing::New], vec![], true));
    // Judging changes nothing.
    assert!(judge(&bench, &journal, &run, &now(3.0), true).first);

    journal.findings_handled(&run, "sentry", vec![handled("a", 3.0, "reported")]).await.unwrap();
    let again = judge(&bench, &journal, &run, &now(3.0), true);
    assert_eq!((again.standings, again.first), (vec![Standing::Ongoing], false));
    assert_eq!(judge(&bench, &journal, &run, &now(8.0), false).standings, [Standing::Worsened]);

    // A partial reading says nothing about what it does not show.
    assert_eq!(judge(&bench, &journal, &run, &[], false).gone, []);
    let gone = judge(&bench, &journal, &run, &[seen("b", 1.0)], true);
    assert_eq!((gone.standings, gone.gone), (vec![Standing::New], vec![seen("a", 3.0)]));
    journal.findings_gone(&run, "sentry", vec!["a".into(), "unknown".into()]).await.unwrap();
    assert_eq!(judge(&bench, &journal, &run, &[], true).gone, [], "it is told once");
    assert_eq!(judge(&bench, &journal, &run, &now(1.0), true).standings, [Standing::Regressed]);
    journal.findings_handled(&run, "sentry", vec![handled("a", 1.0, "ticket")]).await.unwrap();
    assert_eq!(judge(&bench, &journal, &run, &now(1.0), true).standings, [Standing::Ongoing]);
    // Another source has a ledger of its own.
    let other = journal.reader().judge_findings(&run, "scan/ruff", &now(1.0), true, bench.env().now()).unwrap();
    assert_eq!((other.standings, other.first), (vec![Standing::New], true));
}

#[tokio::test]
async fn what_preview_handled_is_new_in_live_and_in_another_profile_and_pipeline() {
    let bench = Bench::new();
    let journal = bench.open();
    let run = begin_plain(&journal, "01A").await;
    journal.findings_handled(&run, "sentry", vec![handled("a", 3.0, "reported")]).await.unwrap();
    let plain = || start("01B", RunLimits::default());
    for other in [
        RunStart { effects: Effects::Live, ..plain() },
        RunStart { profile: "cloud".into(), id: RunId("01C".into()), ..plain() },
        RunStart { pipeline: "q".into(), id: RunId("01D".into()), ..plain() },
    ] {
        let mut other = other;
        other.trigger.key = other.id.0.clone();
        let other = begin(&journal, other).await;
        let judged = judge(&bench, &journal, &other, &[seen("a", 3.0)], false);
        assert_eq!((judged.standings, judged.first), (vec![Standing::New], true), "{other}");
    }
    let later = begin_plain(&journal, "01E").await;
    assert_eq!(judge(&bench, &journal, &later, &[seen("a", 3.0)], false).standings, [Standing::Ongoing]);
}

#[tokio::test]
async fn writing_the_same_twice_is_as_writing_it_once() {
    let bench = Bench::new();
    let journal = bench.open();
    let run = begin_plain(&journal, "01A").await;
    let mut with_place = handled("a", 3.0, "ticket");
    with_place.place = Some("out/ticket.md".into());
    let findings = vec![with_place, handled("b", 1.0, "dropped")];
    journal.findings_handled(&run, "sentry", findings.clone()).await.unwrap();
    let once = all(&journal);
    journal.findings_handled(&run, "sentry", findings.clone()).await.unwrap();
    assert_eq!(all(&journal), once);
    assert_eq!(once.len(), 2);
    assert_eq!(once[0].url_or_path.as_deref(), Some("out/ticket.md"));

    journal.findings_gone(&run, "sentry", vec!["a".into()]).await.unwrap();
    let once = all(&journal);
    journal.findings_gone(&run, "sentry", vec!["a".into()]).await.unwrap();
    assert_eq!(all(&journal), once);

    // What was first seen stays; a later word without a place keeps the one that is known.
    bench.clock.advance(std::time::Duration::from_secs(60));
    let next = begin_plain(&journal, "01B").await;
    journal.findings_handled(&next, "sentry", vec![handled("a", 9.0, "reported")]).await.unwrap();
    let line = all(&journal).into_iter().find(|line| line.fingerprint == "a").unwrap();
    assert_eq!((line.state, line.end.as_str(), line.run.as_str()), (FindingState::Handled, "reported", "01B"));
    assert_eq!(line.url_or_path.as_deref(), Some("out/ticket.md"));
    assert!(line.first_seen < line.last_seen);
}

#[tokio::test]
async fn a_source_that_was_read_and_had_nothing_is_no_first_reading_any_more() {
    let bench = Bench::new();
    let journal = bench.open();
    let run = begin_plain(&journal, "01A").await;
    journal.findings_handled(&run, "sentry", Vec::new()).await.unwrap();
    let judged = judge(&bench, &journal, &run, &[seen("a", 1.0)], true);
    assert_eq!((judged.standings, judged.first), (vec![Standing::New], false));
}

#[tokio::test]
async fn a_mute_holds_for_its_time_whatever_runs_make_of_the_finding() {
    let bench = Bench::new();
    let journal = bench.open();
    let run = begin_plain(&journal, "01A").await;
    journal.findings_handled(&run, "sentry", vec![handled("a", 1.0, "reported")]).await.unwrap();
    let id = all(&journal)[0].id.clone();
    let until = bench.env().now() + jiff::SignedDuration::from_hours(1);
    assert!(!journal.mute_finding("nobody", None, "x", "cli").await.unwrap());
    assert!(journal.mute_finding(&id, Some(until), "the vendor knows", "cli:ann").await.unwrap());
    let standings = || judge(&bench, &journal, &run, &[seen("a", 100.0)], true).standings;
    assert_eq!(standings(), [Standing::Muted]);
    assert_eq!(judge(&bench, &journal, &run, &[], true).gone, [], "nobody wants to hear of its end either");

    // A run that had begun before, and a scan that does not see it.
    journal.findings_handled(&run, "sentry", vec![handled("a", 2.0, "ticket")]).await.unwrap();
    journal.findings_gone(&run, "sentry", vec!["a".into()]).await.unwrap();
    let line = &all(&journal)[0];
    assert_eq!((line.state, line.muted_until), (FindingState::Muted, Some(until)));
    assert_eq!((line.reason.as_deref(), line.by.as_deref()), (Some("the vendor knows"), Some("cli:ann")));

    bench.clock.advance(std::time::Duration::from_secs(3600));
    assert_eq!(standings(), [Standing::New], "its time is over");
    journal.findings_handled(&run, "sentry", vec![handled("a", 100.0, "reported")]).await.unwrap();
    let line = &all(&journal)[0];
    assert_eq!((line.state, line.muted_until, &line.reason), (FindingState::Handled, None, &None));

    // For good, and back.
    assert!(journal.mute_finding(&id, None, "by design", "cli").await.unwrap());
    bench.clock.advance(std::time::Duration::from_secs(1_000_000));
    assert_eq!(standings(), [Standing::Muted]);
    assert!(journal.unmute_finding(&id, "cli").await.unwrap());
    assert!(!journal.unmute_finding(&id, "cli").await.unwrap(), "it is not muted");
    assert_eq!(standings(), [Standing::Ongoing]);
}

#[tokio::test]
async fn a_figure_is_compared_with_the_last_run_s_and_a_repeated_ask_gets_the_same_answer() {
    let bench = Bench::new();
    let journal = bench.open();
    let (a, b) = (begin_plain(&journal, "01A").await, begin_plain(&journal, "01B").await);
    assert_eq!(journal.remember(&a, "tests", 10).await.unwrap(), None);
    assert_eq!(journal.remember(&b, "tests", 12).await.unwrap(), Some(10));
    // `a` was interrupted before its entry was written and asks again, after `b`.
    assert_eq!(journal.remember(&a, "tests", 10).await.unwrap(), None);
    assert_eq!(journal.remember(&b, "tests", 12).await.unwrap(), Some(10));
    assert_eq!(journal.remember(&b, "lines", 5).await.unwrap(), None);
    let c = begin_plain(&journal, "01C").await;
    assert_eq!(journal.remember(&c, "tests", 9).await.unwrap(), Some(12));
}

#[tokio::test]
async fn many_runs_write_side_by_side_and_nothing_is_lost() {
    let bench = Bench::new();
    let journal = bench.open();
    let mut writers = Vec::new();
    for n in 0..8 {
        let run = begin_plain(&journal, &format!("01{n}")).await;
        let journal = journal.clone();
        writers.push(async move {
            for k in 0..20 {
                let own = handled(&format!("{n}-{k}"), 1.0, "reported");
                let shared = handled("shared", f64::from(n), "reported");
                journal.findings_handled(&run, "sentry", vec![own, shared]).await.unwrap();
            }
        });
    }
    futures_util::future::join_all(writers).await;
    assert_eq!(all(&journal).len(), 8 * 20 + 1);
}

#[tokio::test]
async fn the_list_hides_what_is_fixed_and_the_baseline_unless_all_is_asked_for() {
    let bench = Bench::new();
    let journal = bench.open();
    let run = begin_plain(&journal, "01A").await;
    let findings = vec![handled("a", 1.0, "reported"), handled("b", 1.0, "baseline"), handled("c", 1.0, "ticket")];
    journal.findings_handled(&run, "sentry", findings).await.unwrap();
    journal.findings_gone(&run, "sentry", vec!["c".into()]).await.unwrap();
    let names = |filter: FindingFilter| {
        let lines = journal.reader().findings(&filter).unwrap();
        lines.into_iter().map(|line| line.fingerprint).collect::<Vec<_>>()
    };
    assert_eq!(names(FindingFilter::default()), ["a"]);
    assert_eq!(names(FindingFilter { all: true, ..FindingFilter::default() }), ["a", "b", "c"]);
    assert_eq!(names(FindingFilter { all: true, pipeline: Some("q".into()) }), [""; 0]);
}

#[tokio::test]
async fn a_journal_of_the_first_version_is_migrated_with_a_backup_and_keeps_its_runs() {
    let bench = Bench::new();
    let path = bench.dir.path().join(DATABASE);
    let old = migrate::open_holder(&path, &migrate::MIGRATIONS[..1]).unwrap();
    old.execute_batch(
        "INSERT INTO runs (id, pipeline, trigger_kind, trigger_key, profile, effects, timezone, started_at, first_seq)
         VALUES ('01OLD', 'p', 'manual', 'k', 'local', 'preview', 'UTC', 1, 1);",
    )
    .unwrap();
    drop(old);
    let journal = bench.open();
    assert!(bench.dir.path().join("backups/nightcrew-v1.db").exists());
    let run = RunId("01OLD".into());
    journal.findings_handled(&run, "sentry", vec![handled("a", 1.0, "reported")]).await.unwrap();
    assert_eq!(all(&journal)[0].run, "01OLD");
    let unknown = journal.findings_handled(&RunId("nobody".into()), "sentry", Vec::new()).await;
    assert!(matches!(unknown, Err(Error::NoRun(_))));
}
