//! Records of activities: how long one takes to be on disk, and how many are when many runs write at once.

use std::time::Instant;

use futures_util::future::join_all;
use nightcrew::base::hash::Hash;
use nightcrew::base::ids::RunId;
use nightcrew::domain::entry::{EntryKind, Family, NewEntry};
use nightcrew::journal::Journal;
use serde_json::json;

use crate::table::{Bar, Line, median, ms};
use crate::world::World;
use crate::{runtime, scratch};

const ALONE: usize = 2_000;
const WRITERS: usize = 100;
const EACH: usize = 400;

fn entry(run: &RunId, n: usize) -> NewEntry {
    let payload = json!({"text": "[\"day\",\"signups\",\"note\"]\n[\"2099-11-17\",100,\"a\"]\n".repeat(4), "n": n});
    NewEntry {
        run: run.clone(),
        family: Family::Span,
        kind: EntryKind::ActivityDone,
        path: format!("why/turn-{n}/call-1"),
        attempt: 1,
        supersedes: None,
        input: Some(Hash::of(n.to_le_bytes())),
        payload: serde_json::value::to_raw_value(&payload).unwrap(),
    }
}

async fn write(journal: &Journal, run: &RunId, count: usize) {
    for n in 0..count {
        journal.append(vec![entry(run, n)]).await.unwrap();
    }
}

pub fn records() -> Vec<Line> {
    let (folder, runtime) = (scratch(), runtime());
    let world = World::at(folder.path(), "http://127.0.0.1:9");
    let bare = folder.path().join("bare.db");
    let conn = rusqlite::Connection::open(&bare).unwrap();
    let made = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000;
        CREATE TABLE entries (seq INTEGER PRIMARY KEY, path TEXT, payload TEXT);";
    conn.execute_batch(made).unwrap();
    let (mut alone, mut floor, mut many, mut batched) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    runtime.block_on(async {
        let journal = world.journal();
        let runs = world.claim(&journal, WRITERS).await;
        for _ in 0..5 {
            let began = Instant::now();
            write(&journal, &runs[0].id, ALONE).await;
            alone.push(ms(began.elapsed()) / ALONE as f64);

            let insert = |n: usize| {
                let entry = entry(&runs[0].id, n);
                let mut statement = conn.prepare_cached("INSERT INTO entries (path, payload) VALUES (?1, ?2)").unwrap();
                statement.execute((&entry.path, entry.payload.get())).unwrap();
            };
            let began = Instant::now();
            (0..ALONE).for_each(insert);
            floor.push(ms(began.elapsed()) / ALONE as f64);

            // On the runtime's own threads, as activities are.
            let began = Instant::now();
            let writers = runs.iter().map(|run| {
                let (journal, run) = (journal.clone(), run.id.clone());
                tokio::task::spawn(async move { write(&journal, &run, EACH).await })
            });
            join_all(writers).await.into_iter().for_each(|done| done.unwrap());
            many.push((WRITERS * EACH) as f64 / began.elapsed().as_secs_f64());

            let began = Instant::now();
            for batch in 0..EACH {
                conn.execute_batch("BEGIN").unwrap();
                (0..WRITERS).for_each(|n| insert(batch * WRITERS + n));
                conn.execute_batch("COMMIT").unwrap();
            }
            batched.push((WRITERS * EACH) as f64 / began.elapsed().as_secs_f64());
        }
        journal.close().await.unwrap();
    });
    vec![
        Line {
            name: "one activity record, on disk",
            figure: median(alone),
            unit: "ms",
            bar: Bar::AtMost(0.2),
            floor: Some(("one SQLite insert, synchronous=FULL", median(floor))),
        },
        Line {
            name: "records of 100 concurrent runs, on disk",
            figure: median(many),
            unit: "/s",
            bar: Bar::AtLeast(20_000.0),
            floor: Some(("SQLite inserts, 100 a transaction, one thread", median(batched))),
        },
    ]
}
