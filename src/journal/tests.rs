//! The journal through its own handle, on a real directory.

use std::sync::atomic::AtomicI64;

use serde_json::json;

use super::*;
use crate::base::clock::ManualClock;
use crate::base::ids::SeededIds;
use crate::domain::entry::{EntryKind, Family};
use crate::domain::model::Usage;
use crate::domain::money::{Cap, Payee};
use crate::domain::run::{Effects, Outcome, RunLimits, RunStart, Trigger, TriggerKind};
use crate::domain::view::SlotFate;

mod errors;
mod answers;
mod findings;
mod ties;

struct Bench {
    dir: tempfile::TempDir,
    clock: ManualClock,
}

impl Bench {
    fn new() -> Self {
        let clock = ManualClock::new("2026-11-20T12:00:00Z".parse().unwrap());
        Self { dir: tempfile::tempdir().unwrap(), clock }
    }
    fn env(&self) -> Env {
        Env { clock: Arc::new(self.clock.clone()), ids: Arc::new(SeededIds::new(7)) }
    }
    fn try_open(&self) -> Result<Journal, Error> {
        Journal::open(self.dir.path(), OpenOptions::new(self.env(), "build-1"))
    }
    fn open(&self) -> Journal {
        self.try_open().unwrap()
    }
    fn sqlite(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.dir.path().join(DATABASE)).unwrap()
    }
}

fn usd(cents: i64) -> UsdMicros {
    UsdMicros(cents * 10_000)
}

fn start(id: &str, limits: RunLimits) -> RunStart {
    let at = "2026-11-20T12:00:00Z".parse().unwrap();
    RunStart {
        id: RunId(id.to_owned()),
        pipeline: "p".to_owned(),
        definition: Hash::of("d"),
        profile: "local".to_owned(),
        effects: Effects::Preview,
        trigger: Trigger { kind: TriggerKind::Manual, key: id.to_owned(), item: None },
        params: serde_json::Map::new(),
        nominal_at: at,
        timezone: "Europe/Berlin".to_owned(),
        started_at: at,
        build_id: "build-1".to_owned(),
        limits,
        until: None,
    }
}

async fn begin(journal: &Journal, start: RunStart) -> RunId {
    let run = start.id.clone();
    let claimed = journal.claim(Claim { start, slot: None, max_queued: u32::MAX }).await.unwrap();
    assert_eq!(claimed, Claimed::New);
    run
}

async fn begin_plain(journal: &Journal, id: &str) -> RunId {
    begin(journal, start(id, RunLimits::default())).await
}

fn entry(run: &RunId, kind: EntryKind, path: &str, payload: Value) -> NewEntry {
    let payload = raw(&payload).unwrap();
    let (run, path) = (run.clone(), path.to_owned());
    NewEntry {
        run,
        family: Family::Span,
        kind,
        path,
        attempt: 1,
        supersedes: None,
        input: Some(Hash::of("i")),
        payload,
    }
}

fn value(run: &RunId, path: &str, payload: Value) -> NewEntry {
    entry(run, EntryKind::Value, path, payload)
}

fn values(journal: &Journal, run: &RunId) -> Vec<String> {
    let entries = journal.reader().entries_after(Some(run), 0, 10_000).unwrap();
    entries.iter().filter(|e| e.kind == EntryKind::Value).map(|e| e.path.clone()).collect()
}

fn finish(outcome: Outcome) -> RunFinish {
    let at = "2026-11-20T12:30:00Z".parse().unwrap();
    RunFinish { outcome, failure: None, headline: "done".to_owned(), at }
}

fn request(input: UsdMicros, output: UsdMicros) -> GrantRequest {
    GrantRequest {
        input,
        output,
        least_output: output,
        payee: Payee::Boss,
        model: "m".to_owned(),
        from_report_slice: false,
        counts_turn: true,
        items: Vec::new(),
    }
}

async fn ask(journal: &Journal, run: &RunId, path: &str, request: GrantRequest) -> (i64, Grant) {
    let intention = entry(run, EntryKind::ActivityIntended, path, json!({"kind": "model"}));
    let intended = journal.intend(intention, Some(request)).await.unwrap();
    (intended.seq, intended.grant.unwrap())
}

async fn settle(journal: &Journal, run: &RunId, path: &str, intended: i64, cost: UsdMicros) {
    let usage = Usage { input: 10, output: 5, ..Usage::default() };
    let done = entry(run, EntryKind::ActivityDone, path, json!({}));
    journal.settle(done, intended, Some(Settlement { cost, usage, millis: 0 })).await.unwrap();
}

#[tokio::test]
async fn what_was_answered_is_there_after_the_handle_was_dropped() {
    let bench = Bench::new();
    let journal = bench.open();
    let run = begin_plain(&journal, "R1").await;
    let seqs = journal.append(vec![value(&run, "a", json!(1)), value(&run, "b", json!(2))]).await.unwrap();
    assert_eq!(seqs, [2, 3]);
    journal.append_lazy(value(&run, "c", json!(3)));
    assert_eq!(*journal.entries().borrow(), 3);
    drop(journal);
    let journal = bench.open();
    assert_eq!(values(&journal, &run), ["a", "b", "c"]);
    assert_eq!((journal.epoch(), *journal.entries().borrow()), (2, 4));
    journal.close().await.unwrap();
    assert_eq!(std::fs::metadata(bench.dir.path().join("nightcrew.db-wal")).map_or(0, |m| m.len()), 0);
    // Without a holder it can be read as well.
    assert_eq!(Reader::open(bench.dir.path()).unwrap().open_runs().unwrap().len(), 1);
}

#[tokio::test]
async fn lazy_entries_stand_before_what_is_queued_later_and_come_by_themselves() {
    let bench = Bench::new();
    let journal = bench.open();
    let run = begin_plain(&journal, "R1").await;
    for n in 0..5 {
        journal.append_lazy(value(&run, &format!("lazy-{n}"), json!(n)));
    }
    assert_eq!(journal.append(vec![value(&run, "last", json!(0))]).await.unwrap(), [7]);
    let mut seen = journal.entries();
    journal.append_lazy(value(&run, "alone", json!(0)));
    assert_eq!(*seen.wait_for(|seq| *seq == 8).await.unwrap(), 8);
}

#[tokio::test]
async fn a_second_holder_is_told_who_holds_and_a_reader_is_not_in_the_way() {
    let bench = Bench::new();
    assert!(matches!(Reader::open(bench.dir.path()), Err(Error::Missing { .. })));
    let journal = bench.open();
    let error = bench.try_open().unwrap_err().to_string();
    assert!(error.contains(&format!("is held by process {} (nightcrew build-1", std::process::id())), "{error}");
    let reader = Reader::open(bench.dir.path()).unwrap();
    let run = begin_plain(&journal, "R1").await;
    let writes = async {
        for n in 0..200 {
            journal.append(vec![value(&run, &format!("{n}"), json!(n))]).await.unwrap();
        }
    };
    let reads = tokio::task::spawn_blocking(move || {
        let mut last = 0;
        while last < 200 {
            let found = reader.entries_after(None, 1, 1_000).unwrap().len();
            assert!(found >= last);
            last = found;
        }
    });
    let (_, read) = tokio::join!(writes, reads);
    read.unwrap();
}

#[tokio::test]
async fn a_stale_writer_writes_nothing() {
    let bench = Bench::new();
    let journal = bench.open();
    let run = begin_plain(&journal, "R1").await;
    bench.sqlite().execute("UPDATE meta SET value = 9 WHERE key = 'epoch'", []).unwrap();
    let error = journal.append(vec![value(&run, "a", json!(1))]).await.unwrap_err();
    assert!(matches!(error, Error::Stale { mine: 1, current: 9 }), "{error}");
    assert!(values(&journal, &run).is_empty());
}

#[tokio::test]
async fn a_restored_backup_waits_for_take_over() {
    let bench = Bench::new();
    bench.open().close().await.unwrap();
    bench.sqlite().execute("INSERT INTO meta VALUES ('restored', 1)", []).unwrap();
    assert!(matches!(bench.try_open(), Err(Error::Restored { .. })));
    Journal::open(bench.dir.path(), OpenOptions::new(bench.env(), "b").take_over(true)).unwrap();
    bench.open();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_claims_of_one_trigger_one_is_new() {
    let bench = Bench::new();
    let journal = bench.open();
    let slot = |run: usize| SlotLine {
        pipeline: "p".to_owned(),
        nominal_at: "2026-11-20T07:00:00Z".parse().unwrap(),
        timezone: "UTC".to_owned(),
        fate: SlotFate::Run,
        reason: format!("claim {run}"),
        run: None,
        decided_at: "2026-11-20T12:00:00Z".parse().unwrap(),
    };
    let claims = (0..40).map(|n| {
        let mut start = start(&format!("R{n}"), RunLimits::default());
        start.trigger.key = "2026-11-20T07:00:00Z".to_owned();
        let claim = Claim { start, slot: Some(slot(n)), max_queued: u32::MAX };
        let journal = journal.clone();
        async move { journal.claim(claim).await.unwrap() }
    });
    let claimed = futures_util::future::join_all(claims).await;
    assert_eq!(claimed.iter().filter(|c| **c == Claimed::New).count(), 1);
    let runs = journal.reader().runs(RunFilter::default()).unwrap();
    let slots = journal.reader().slots(Some("p"), 9).unwrap();
    assert_eq!((runs.len(), slots.len()), (1, 1));
    assert_eq!(slots[0].run.as_ref(), Some(&runs[0].id));
    assert!(claimed.iter().all(|c| *c == Claimed::New || *c == Claimed::AlreadyClaimed(runs[0].id.clone())));
}

#[tokio::test]
async fn a_decided_slot_stays_decided_and_a_full_queue_refuses() {
    let bench = Bench::new();
    let journal = bench.open();
    let slot = |minute: u32, fate| SlotLine {
        pipeline: "p".to_owned(),
        nominal_at: format!("2026-11-20T07:{minute:02}:00Z").parse().unwrap(),
        timezone: "UTC".to_owned(),
        fate,
        reason: String::new(),
        run: None,
        decided_at: "2026-11-20T12:00:00Z".parse().unwrap(),
    };
    let claim = |id: &str, slot, max_queued| Claim { start: start(id, RunLimits::default()), slot, max_queued };
    journal.record_slots(vec![slot(1, SlotFate::Skipped), slot(2, SlotFate::Queued)]).await.unwrap();
    journal.record_slots(vec![slot(1, SlotFate::Missed)]).await.unwrap();
    let skipped = journal.claim(claim("R1", Some(slot(1, SlotFate::Run)), 1)).await.unwrap();
    assert_eq!(skipped, Claimed::AlreadyDecided(SlotFate::Skipped));
    assert_eq!(journal.claim(claim("R2", Some(slot(2, SlotFate::Run)), 1)).await.unwrap(), Claimed::New);
    assert_eq!(journal.claim(claim("R3", None, 1)).await.unwrap(), Claimed::QueueFull { queued: 1 });
    journal.append(vec![value(&RunId("R2".into()), "begun", json!(1))]).await.unwrap();
    assert_eq!(journal.claim(claim("R3", None, 1)).await.unwrap(), Claimed::New);
    let fates: Vec<_> = journal.reader().slots(None, 9).unwrap().into_iter().map(|s| (s.fate, s.run)).collect();
    assert_eq!(fates, [(SlotFate::Run, Some(RunId("R2".into()))), (SlotFate::Skipped, None)]);
    assert_eq!(journal.reader().active_run("p").unwrap(), Some(RunId("R2".into())));
}

#[tokio::test]
async fn one_bad_call_does_not_hurt_those_who_share_its_commit() {
    let bench = Bench::new();
    let journal = bench.open();
    let run = begin_plain(&journal, "R1").await;
    let nobody = RunId("nobody".to_owned());
    journal.append_lazy(value(&nobody, "lost", json!(0)));
    journal.append_lazy(value(&run, "lazy", json!(0)));
    let (good, bad, late) = tokio::join!(
        journal.append(vec![value(&run, "good", json!(1))]),
        journal.append(vec![value(&run, "half", json!(1)), value(&nobody, "bad", json!(1))]),
        journal.append(vec![value(&run, "late", json!(1))]),
    );
    assert!(matches!(bad, Err(Error::NoRun(id)) if id == nobody));
    assert_eq!((good.unwrap(), late.unwrap()), (vec![3], vec![4]));
    assert_eq!(values(&journal, &run), ["lazy", "good", "late"]);
}

/// Allows the database to grow by so many pages more: a small disk.
async fn allow_pages(journal: &Journal, pages: i64) {
    let set = move |store: &mut Store| {
        let now: i64 = store.conn().query_row("PRAGMA page_count", [], |row| row.get(0))?;
        let set = format!("PRAGMA max_page_count = {}", now + pages);
        Ok(store.conn().query_row(&set, [], |row| row.get::<_, i64>(0))?)
    };
    journal.ask(set).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_answers_full_and_all_goes_on_when_space_returns() {
    let bench = Bench::new();
    let journal = bench.open();
    let limits = RunLimits { max_budget: Some(usd(100)), ..RunLimits::default() };
    let run = begin(&journal, start("R1", limits)).await;
    allow_pages(&journal, 0).await;
    let large = "x".repeat(20_000);
    let error = journal.append(vec![value(&run, "a", json!(large))]).await.unwrap_err();
    assert!(matches!(error, Error::Full { .. }) && error.is_passing(), "{error:?}");
    let intention = || entry(&run, EntryKind::ActivityIntended, "call", json!({"kind": "model", "pad": large}));
    let price = request(usd(60), usd(0));
    assert!(matches!(journal.intend(intention(), Some(price.clone())).await, Err(Error::Full { .. })));
    assert!(values(&journal, &run).is_empty());
    allow_pages(&journal, 1_000).await;
    // The money of the call that was not written is free.
    let intended = journal.intend(intention(), Some(price)).await.unwrap();
    assert_eq!(intended, Intended { seq: 2, grant: Some(Grant::Granted { input: usd(60), output: usd(0) }) });
}

#[tokio::test]
async fn lazy_entries_survive_a_failing_disk_and_hold_back_what_comes_after_them() {
    let bench = Bench::new();
    let journal = bench.open();
    let run = begin_plain(&journal, "R1").await;
    let blobs = bench.dir.path().join("blobs");
    std::fs::rename(&blobs, bench.dir.path().join("away")).unwrap();
    std::fs::write(&blobs, "in the way").unwrap();
    journal.append_lazy(value(&run, "large", json!("x".repeat(40_000))));
    assert!(matches!(journal.append(vec![value(&run, "b", json!(1))]).await, Err(Error::Io { .. })));
    assert!(journal.sync().await.is_err());
    std::fs::remove_file(&blobs).unwrap();
    std::fs::rename(bench.dir.path().join("away"), &blobs).unwrap();
    journal.append(vec![value(&run, "c", json!(1))]).await.unwrap();
    assert_eq!(values(&journal, &run), ["large", "c"]);
}

#[tokio::test]
async fn large_payloads_go_to_blobs_and_secrets_nowhere() {
    let bench = Bench::new();
    let redactor: Redactor = Arc::new(|text| text.contains("hunter2").then(|| text.replace("hunter2", "[redacted]")));
    let options = OpenOptions::new(bench.env(), "b").redactor(redactor);
    let journal = Journal::open(bench.dir.path(), options).unwrap();
    let mut begins = start("R1", RunLimits::default());
    begins.trigger.item = Some(json!({"token": "hunter2"}));
    let run = begin(&journal, begins).await;
    let large = json!({"text": "y".repeat(50_000), "secret": "hunter2"});
    journal.append(vec![value(&run, "large", large)]).await.unwrap();
    journal.signal(&run, "", "answer", json!("hunter2"), "cli").await.unwrap();
    let hash = journal.put_blob(b"hunter2".to_vec()).await.unwrap();
    let files = [("p.yaml".to_owned(), "z".repeat(90_000))];
    journal.put_definition("p", Hash::of("d"), &files, &[]).await.unwrap();
    let ended = RunFinish { headline: "hunter2!".to_owned(), ..finish(Outcome::Reported) };
    journal.finish_run(&run, ended).await.unwrap();

    let reader = journal.reader().clone();
    assert_eq!(reader.blob(&hash).unwrap(), b"[redacted]");
    assert_eq!(reader.definition(&Hash::of("d")).unwrap().unwrap().files, files);
    assert_eq!(reader.definition(&Hash::of("other")).unwrap(), None);
    let entries = reader.entries_after(Some(&run), 0, 99).unwrap();
    assert!(entries[1].payload.get().ends_with(r#"yyy","secret":"[redacted]"}"#));
    let row = "SELECT count(*) FROM entries WHERE payload IS NULL";
    assert_eq!(bench.sqlite().query_row(row, [], |row| row.get::<_, i64>(0)).unwrap(), 1);
    journal.close().await.unwrap();
    let mut folders = vec![bench.dir.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for file in std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()) {
            match file.is_dir() {
                true => folders.push(file),
                false => {
                    assert!(!String::from_utf8_lossy(&std::fs::read(&file).unwrap()).contains("hunter2"), "{file:?}")
                }
            }
        }
    }
}

#[tokio::test]
async fn a_signal_is_taken_once_and_an_ended_run_takes_none() {
    let bench = Bench::new();
    let journal = bench.open();
    let run = begin_plain(&journal, "R1").await;
    let mut news = journal.signals();
    journal.signal(&run, "ask", "answer", json!("blue"), "cli").await.unwrap();
    journal.signal(&run, "", "cancel", json!(null), "cli").await.unwrap();
    assert!(news.has_changed().unwrap());
    news.mark_unchanged();
    assert_eq!(journal.take_signal(&run, "other", "answer", "v0").await.unwrap(), None);
    let takes = (0..5).map(|n| {
        let (journal, run) = (journal.clone(), run.clone());
        async move { journal.take_signal(&run, "ask", "answer", &format!("v{n}")).await.unwrap() }
    });
    let taken: Vec<_> = futures_util::future::join_all(takes).await.into_iter().flatten().collect();
    assert_eq!(taken, [SignalValue { value: json!("blue"), by: "cli".to_owned() }]);
    assert!(journal.take_signal(&run, "any", "cancel", "v9").await.unwrap().is_some());
    assert_eq!(values(&journal, &run).len(), 2);
    journal.signal(&run, "ask", "answer", json!("never taken"), "cli").await.unwrap();
    journal.finish_run(&run, finish(Outcome::Cancelled)).await.unwrap();
    news.mark_unchanged();
    assert_eq!(journal.take_signal(&run, "ask", "answer", "v").await.unwrap(), None);
    let late = journal.signal(&run, "", "cancel", json!(null), "cli").await;
    assert!(matches!(late, Err(Error::Ended { outcome: Outcome::Cancelled, .. })));
    assert!(matches!(journal.finish_run(&run, finish(Outcome::Failed)).await, Err(Error::Ended { .. })));
    assert!(!news.has_changed().unwrap());
}

#[tokio::test]
async fn schedules_and_pauses_are_remembered() {
    let bench = Bench::new();
    let journal = bench.open();
    let state = ScheduleState {
        expr: "0 8 * * *".to_owned(),
        timezone: "Europe/Berlin".to_owned(),
        config_hash: Hash::of("c"),
        begins_at: "2026-11-20T12:00:00Z".parse().unwrap(),
        last_nominal: Some("2026-11-20T07:00:00Z".parse().unwrap()),
    };
    assert_eq!(journal.schedule_state("p").await.unwrap(), None);
    journal.set_schedule_state("p", state.clone()).await.unwrap();
    assert_eq!(journal.schedule_state("p").await.unwrap(), Some(state));
    journal.set_paused("p", Some("holiday".to_owned())).await.unwrap();
    assert_eq!(journal.reader().paused("p").unwrap().as_deref(), Some("holiday"));
    journal.set_paused("p", None).await.unwrap();
    assert_eq!(journal.reader().paused("p").unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_cap_is_ever_passed_whatever_calls_come_together() {
    let bench = Bench::new();
    let journal = bench.open();
    journal.set_daemon_limits(DaemonCaps { max_per_day: Some(usd(250)), max_per_month: Some(usd(240)) });
    let limits = RunLimits {
        max_budget: Some(usd(150)),
        max_per_day: Some(usd(200)),
        keep_for_report_permille: 100,
        ..RunLimits::default()
    };
    let one = begin(&journal, start("R1", limits.clone())).await;
    let two = begin(&journal, start("R2", limits)).await;
    let ids = Arc::new(SeededIds::new(3));
    let greatest = Arc::new(AtomicI64::new(0));
    let scope = crate::base::scope::Scope::new(tokio::runtime::Handle::current());
    let workers = (0..16).map(|worker| {
        let (journal, ids, greatest) = (journal.clone(), ids.clone(), greatest.clone());
        let run = if worker % 2 == 0 { one.clone() } else { two.clone() };
        let item = format!("each[{}]", worker % 4);
        scope.spawn("worker", async move {
            for turn in 0.. {
                let random = (crate::base::ids::Ids::random(&*ids) % 100_000) as i64;
                let mut price = request(UsdMicros(10_000 + random), UsdMicros(20_000 + random));
                price.least_output = UsdMicros(5_000);
                price.items = vec![(item.clone(), usd(50))];
                let path = format!("{item}/w{worker}/{turn}");
                let mut settled = journal.settled();
                let (seq, grant) = ask(&journal, &run, &path, price).await;
                match grant {
                    Grant::Granted { input, output } => {
                        let lines = journal.reader().costs(1, "2026-11-20T12:00:00Z".parse().unwrap()).unwrap();
                        let charged: UsdMicros = lines.iter().map(|line| line.boss + line.reserved).sum();
                        greatest.fetch_max(charged.0, Ordering::Relaxed);
                        settle(&journal, &run, &path, seq, UsdMicros((input + output).0 * random / 100_000)).await;
                    }
                    Grant::Wait => settled.changed().await.unwrap(),
                    Grant::Refused(cap) => return cap,
                }
            }
            Cap::Duration
        })
    });
    let caps = futures_util::future::join_all(workers.collect::<Vec<_>>()).await;
    assert!(caps.iter().all(|cap| matches!(cap, Ok(Cap::Item | Cap::Run | Cap::PipelineDay))), "{caps:?}");
    assert!(greatest.load(Ordering::Relaxed) <= usd(200).0);
    for run in [&one, &two] {
        let spend = journal.reader().spend_of(run).unwrap();
        assert!(spend.total() <= usd(135) && spend.reserved.is_zero(), "{spend:?}");
        assert!(spend.total() > usd(80), "hardly anything was spent: {spend:?}");
        let view = journal.reader().run(run.as_str()).unwrap().unwrap();
        assert_eq!(view.spend, spend);
    }
    let row = "SELECT max(n) FROM (SELECT sum(settled) AS n FROM calls GROUP BY run, substr(path, 1, 7))";
    assert!(bench.sqlite().query_row(row, [], |row| row.get::<_, i64>(0)).unwrap() <= usd(50).0);
}

#[tokio::test]
async fn a_crash_leaves_the_reservation_spent_and_nobody_waits_for_it() {
    let bench = Bench::new();
    let journal = bench.open();
    let run = begin(&journal, start("R1", RunLimits { max_budget: Some(usd(100)), ..RunLimits::default() })).await;
    assert!(matches!(ask(&journal, &run, "a", request(usd(60), usd(0))).await.1, Grant::Granted { .. }));
    assert_eq!(ask(&journal, &run, "b", request(usd(50), usd(0))).await, (0, Grant::Wait));
    drop(journal);
    let journal = bench.open();
    assert_eq!(ask(&journal, &run, "b", request(usd(50), usd(0))).await, (0, Grant::Refused(Cap::Run)));
    let (seq, grant) = ask(&journal, &run, "c", request(usd(40), usd(0))).await;
    assert!(matches!(grant, Grant::Granted { .. }));
    // The same within one process, when the activity was dropped.
    assert_eq!(ask(&journal, &run, "d", request(usd(30), usd(0))).await.1, Grant::Wait);
    let mut settled = journal.settled();
    journal.abandon_grants(&run).await.unwrap();
    assert!(settled.has_changed().unwrap());
    settled.mark_unchanged();
    assert_eq!(ask(&journal, &run, "d", request(usd(30), usd(0))).await.1, Grant::Refused(Cap::Run));
    assert_eq!(journal.reader().spend_of(&run).unwrap().reserved, usd(100));
    // What it did cost is still better knowledge.
    settle(&journal, &run, "c", seq, usd(5)).await;
    assert_eq!(journal.reader().spend_of(&run).unwrap().total(), usd(65));
    assert!(matches!(ask(&journal, &run, "d", request(usd(30), usd(0))).await.1, Grant::Granted { .. }));
}

#[tokio::test]
async fn an_end_that_nobody_waits_for_is_on_disk_before_anything_is_intended_after_it() {
    let bench = Bench::new();
    let journal = bench.open();
    let run = begin(&journal, start("R1", RunLimits { max_budget: Some(usd(100)), ..RunLimits::default() })).await;
    let (seq, _) = ask(&journal, &run, "a", request(usd(60), usd(0))).await;
    let settlement = || Settlement { cost: usd(10), ..Settlement::default() };
    let (blobs, away) = (bench.dir.path().join("blobs"), bench.dir.path().join("away"));
    std::fs::rename(&blobs, &away).unwrap();
    std::fs::write(&blobs, "in the way").unwrap();
    let large = json!({"text": "x".repeat(40_000)});
    journal.settle_soon(entry(&run, EntryKind::ActivityDone, "a", large), seq, settlement());
    let intention = entry(&run, EntryKind::ActivityIntended, "b", json!({"kind": "model"}));
    let price = Some(request(usd(50), usd(0)));
    assert!(matches!(journal.intend(intention.clone(), price.clone()).await, Err(Error::Io { .. })));
    std::fs::remove_file(&blobs).unwrap();
    std::fs::rename(&away, &blobs).unwrap();
    // Together with its money, which what comes after it may have.
    let intended = journal.intend(intention, price).await.unwrap();
    assert_eq!(intended, Intended { seq: 4, grant: Some(Grant::Granted { input: usd(50), output: usd(0) }) });
    let kinds: Vec<_> = journal.reader().entries_after(Some(&run), 0, 10).unwrap().iter().map(|e| e.kind).collect();
    use EntryKind::{ActivityDone, ActivityIntended, RunStarted};
    assert_eq!(kinds, [RunStarted, ActivityIntended, ActivityDone, ActivityIntended]);
    // Without anything after it, it comes by itself.
    let mut seen = journal.entries();
    journal.settle_soon(entry(&run, EntryKind::ActivityDone, "b", json!({})), intended.seq, settlement());
    assert_eq!(*seen.wait_for(|seq| *seq == 5).await.unwrap(), 5);
    assert_eq!(journal.reader().spend_of(&run).unwrap().total(), usd(20));
}

#[tokio::test]
async fn a_failed_call_without_a_settlement_stays_charged_and_stops_the_waiting() {
    let bench = Bench::new();
    let journal = bench.open();
    let run = begin(&journal, start("R1", RunLimits { max_budget: Some(usd(100)), ..RunLimits::default() })).await;
    let (seq, _) = ask(&journal, &run, "a", request(usd(60), usd(0))).await;
    let failed = entry(&run, EntryKind::ActivityFailed, "a", json!({"stop": "failed", "code": "E", "message": "m"}));
    journal.settle(failed, seq, None).await.unwrap();
    assert_eq!(ask(&journal, &run, "b", request(usd(50), usd(0))).await.1, Grant::Refused(Cap::Run));
}

#[tokio::test]
async fn the_slice_for_the_report_and_its_turn_are_held_back() {
    let bench = Bench::new();
    let journal = bench.open();
    let limits = RunLimits {
        max_budget: Some(usd(100)),
        max_turns: Some(2),
        keep_for_report_permille: 150,
        ..RunLimits::default()
    };
    let run = begin(&journal, start("R1", limits)).await;
    let report = |price| GrantRequest { from_report_slice: true, ..price };
    assert_eq!(ask(&journal, &run, "a", request(usd(86), usd(0))).await.1, Grant::Refused(Cap::Run));
    let lowered = GrantRequest { least_output: usd(10), ..request(usd(40), usd(90)) };
    let (_, grant) = ask(&journal, &run, "a", lowered.clone()).await;
    assert_eq!(grant, Grant::Granted { input: usd(40), output: usd(45) });
    let repeated = request(usd(0), usd(0));
    assert!(matches!(ask(&journal, &run, "a", repeated.clone()).await.1, Grant::Granted { .. }), "the same turn again");
    assert_eq!(ask(&journal, &run, "b", repeated.clone()).await.1, Grant::Refused(Cap::Turns));
    let intern = GrantRequest { counts_turn: false, ..repeated.clone() };
    assert!(matches!(ask(&journal, &run, "i", intern).await.1, Grant::Granted { .. }));
    assert!(matches!(ask(&journal, &run, "r", report(request(usd(15), usd(0)))).await.1, Grant::Granted { .. }));
    assert_eq!(ask(&journal, &run, "s", report(repeated)).await.1, Grant::Refused(Cap::Turns));
    assert_eq!(journal.reader().spend_of(&run).unwrap().turns, 2);
}

#[tokio::test]
async fn a_pipelines_day_is_one_of_its_zone_and_the_daemons_is_utc() {
    let bench = Bench::new();
    bench.clock.step_to("2026-11-20T22:30:00Z".parse().unwrap());
    let journal = bench.open();
    journal.set_daemon_limits(DaemonCaps { max_per_day: Some(usd(150)), max_per_month: Some(usd(210)) });
    let limits = RunLimits { max_per_day: Some(usd(100)), ..RunLimits::default() };
    let run = begin(&journal, start("R1", limits)).await;
    let price = |cents| request(usd(cents), usd(0));
    let (seq, _) = ask(&journal, &run, "a", price(100)).await;
    assert_eq!(ask(&journal, &run, "b", price(10)).await.1, Grant::Wait);
    bench.clock.step_to("2026-11-20T23:30:00Z".parse().unwrap());
    // A new day in Berlin; in UTC it is the same one.
    assert!(matches!(ask(&journal, &run, "c", price(50)).await.1, Grant::Granted { .. }));
    assert_eq!(ask(&journal, &run, "d", price(10)).await.1, Grant::Wait);
    // Settled after midnight, it still counts on the day on which it was granted.
    bench.clock.step_to("2026-11-21T00:30:00Z".parse().unwrap());
    settle(&journal, &run, "a", seq, usd(90)).await;
    let days: Vec<_> = journal
        .reader()
        .costs(2, bench.env().now())
        .unwrap()
        .into_iter()
        .map(|l| (l.day, l.boss, l.reserved))
        .collect();
    assert_eq!(days, [("2026-11-20".to_owned(), usd(90), usd(50))]);
    assert_eq!(ask(&journal, &run, "e", price(51)).await.1, Grant::Wait, "the pipeline's day");
    assert!(matches!(ask(&journal, &run, "e", price(50)).await.1, Grant::Granted { .. }));
    let other = begin_plain(&journal, "R2").await;
    assert_eq!(ask(&journal, &other, "a", price(21)).await.1, Grant::Wait, "the month");
    assert_eq!(ask(&journal, &other, "a", price(121)).await.1, Grant::Refused(Cap::DaemonMonth));
    // More money lifts the run's pipeline, not the daemon.
    journal.resume_run(&run, usd(30), "cli").await.unwrap();
    assert!(matches!(ask(&journal, &run, "f", price(20)).await.1, Grant::Granted { .. }));
    assert_eq!(ask(&journal, &run, "g", price(10)).await.1, Grant::Wait);
    assert_eq!(ask(&journal, &run, "g", price(21)).await.1, Grant::Refused(Cap::DaemonMonth));
    assert_eq!(journal.reader().replay(&run).unwrap().added, usd(30));
}

#[tokio::test]
async fn a_run_is_seen_whole() {
    let bench = Bench::new();
    let journal = bench.open();
    let run = begin_plain(&journal, "01JDABCDEFGHJKMNPQRSTV07QK").await;
    let span = |kind, path: &str, payload| entry(&run, kind, path, payload);
    let end = |outcome: &str, summary: &str| json!({"result": {"outcome": outcome}, "summary": summary});
    let note = |details| NewEntry { family: Family::Agent, ..span(EntryKind::Note, "each", details) };
    journal
        .append(vec![
            span(EntryKind::StepStarted, "each", json!({"kind": "each"})),
            span(EntryKind::ChildStarted, "each[a]", json!({"key": "a", "title": "Item A"})),
            span(EntryKind::ChildStarted, "each[b]", json!({"key": "b", "title": "Item B"})),
            span(EntryKind::StepStarted, "each[b]/why", json!({"kind": "boss"})),
            span(EntryKind::StepStarted, "each[a]/why", json!({"kind": "boss"})),
            note(json!({"note": "audited", "agreed": false})),
            note(json!({"note": "audited", "agreed": true})),
            note(json!({"note": "refused", "text": "a push"})),
            note(json!({"note": "figures_checked", "n": 3})),
            note(json!({"note": "sentence_dropped", "sentence": "s"})),
            span(EntryKind::Complaint, "each[a]/why", json!({"kind": "tool", "need": "n", "evidence": "e"})),
            span(EntryKind::Asked, "each[b]/ok", json!({"name": "approve", "ask": "May I?"})),
            span(EntryKind::Asked, "each[a]/ok", json!({"name": "approve", "ask": "Really?"})),
            span(EntryKind::Value, "each[a]/ok", json!({"value": true, "by": "cli"})),
        ])
        .await
        .unwrap();
    let (seq, _) = ask(&journal, &run, "each[a]/why/call-1", request(usd(1), usd(2))).await;
    settle(&journal, &run, "each[a]/why/call-1", seq, usd(2)).await;
    let intern = GrantRequest { payee: Payee::Intern, model: "small".to_owned(), ..request(usd(1), usd(0)) };
    ask(&journal, &run, "each[b]/sum/call-1", intern).await;
    let report = json!(crate::domain::report::Report { headline: "H".to_owned(), ..Default::default() });
    let deliver =
        span(EntryKind::ActivityIntended, "post/files", json!({"kind": "deliver", "sink": "files", "report": report}));
    let intended = journal.intend(deliver, None).await.unwrap().seq;
    let receipt = json!({"kind": "report", "destination": "files", "url_or_path": "a.md", "key": "k"});
    journal.settle(span(EntryKind::ActivityDone, "post/files", receipt), intended, None).await.unwrap();
    journal
        .append(vec![
            span(EntryKind::StepFinished, "each[a]/why", end("done", "found it")),
            span(EntryKind::ChildFinished, "each[a]", end("done", "")),
            span(EntryKind::ChildFinished, "each[b]", end("failed", "broke")),
        ])
        .await
        .unwrap();

    let reader = journal.reader();
    let view = reader.run("01jd…7qk").unwrap().unwrap();
    let lines: Vec<_> = view
        .steps
        .iter()
        .map(|s| {
            (s.depth, s.path.as_str(), s.kind.as_str(), s.outcome.as_deref(), s.summary.as_str(), s.cost, s.boss_calls)
        })
        .collect();
    let none = UsdMicros::ZERO;
    assert_eq!(
        lines,
        [
            (0, "each", "each", None, "", usd(3), 1),
            (1, "each[a]", "item", Some("done"), "Item A", usd(2), 1),
            (2, "each[a]/why", "boss", Some("done"), "found it", usd(2), 1),
            (1, "each[b]", "item", Some("failed"), "broke", usd(1), 0),
            (2, "each[b]/why", "boss", None, "", none, 0),
        ]
    );
    assert_eq!(view.counts, [("done".to_owned(), 1), ("failed".to_owned(), 1)].into());
    assert_eq!(
        (view.activities, view.complaints.len(), view.refused.as_slice()),
        (2, 1, ["a push".to_owned()].as_slice())
    );
    assert_eq!((view.interns.items, view.interns.audited, view.interns.disagreed), (1, 2, 1));
    assert_eq!((view.figures_checked, view.sentences_dropped), (3, 1));
    assert_eq!(view.models, ["m", "small"]);
    assert_eq!(view.questions, [("each[b]/ok".to_owned(), "May I?".to_owned())]);
    assert_eq!((view.receipts[0].url_or_path.as_str(), view.reports[0].headline.as_str()), ("a.md", "H"));
    assert_eq!((view.spend.boss.usd, view.spend.reserved, view.spend.turns), (usd(2), usd(1), 2));

    begin_plain(&journal, "01JDXXXXXXXXXXXXXXXXXXXXXX").await;
    assert!(matches!(reader.run("01JD"), Err(Error::Ambiguous { matches, .. }) if matches.len() == 2));
    assert_eq!(reader.run("01JDX").unwrap().unwrap().start.id.as_str(), "01JDXXXXXXXXXXXXXXXXXXXXXX");
    assert!(reader.run("nothing%").unwrap().is_none());
    journal.finish_run(&run, finish(Outcome::Failed)).await.unwrap();
    let lines = reader.runs(RunFilter { open_only: true, ..RunFilter::default() }).unwrap();
    assert_eq!(lines.iter().map(|l| l.id.as_str()).collect::<Vec<_>>(), ["01JDXXXXXXXXXXXXXXXXXXXXXX"]);
    let all = reader.runs(RunFilter { pipeline: Some("p".to_owned()), ..RunFilter::default() }).unwrap();
    assert_eq!((all[1].outcome, all[1].cost, all[1].headline.as_str()), (Some(Outcome::Failed), usd(3), "done"));
    journal.resume_run(&run, usd(1), "cli").await.unwrap();
    let view = reader.run(run.as_str()).unwrap().unwrap();
    assert_eq!((view.outcome, view.added, view.steps[3].outcome.as_deref()), (None, usd(1), None));
    let replay = reader.replay(&run).unwrap();
    assert!(replay.resumed_at > 0 && matches!(replay.records["each[a]"], Record::Finished(_)));
    assert!(!replay.records.contains_key("each[b]"));
    assert_eq!(reader.replay_all_open().unwrap().len(), 2);
}
