//! What a turn costs beside the model, alone and in company.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::bare::{Bare, query};
use crate::server::Server;
use crate::table::{Bar, Line, median, ms};
use crate::world::World;
use crate::{runtime, scratch};

const TURNS: usize = 50;
const RUNS: usize = 50;

/// One turn: a model call, a tool call, their records. Beside it the same conversation and query without any record, and with
/// the two commits that a durable turn cannot do without: what is about to be paid for, and what came of it.
pub fn one_turn() -> Vec<Line> {
    let (folder, runtime, server) = (scratch(), runtime(), Server::start());
    let url = server.url(Duration::ZERO, TURNS, None);
    let world = World::at(folder.path(), &url);
    let (mut ours, mut bare, mut asked, mut noted) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let notes = rusqlite::Connection::open(folder.path().join("notes.db")).unwrap();
    notes
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE notes (text TEXT)")
        .unwrap();
    let note = |text: &str| notes.execute("INSERT INTO notes VALUES (?1)", [text]).unwrap();
    runtime.block_on(async {
        let process = world.open();
        let floor = Bare::new(&url);
        for round in 0..25 {
            let starts = world.claim(&process.journal, 1).await;
            let turn = ms(process.run(starts).await) / TURNS as f64;
            let began = Instant::now();
            assert_eq!(floor.talk(|_| "[\"2099-11-17\",100,\"a\"]\n".repeat(3)).await, TURNS + 1);
            let talked = ms(began.elapsed()) / TURNS as f64;
            let began = Instant::now();
            floor.talk(|input| query(&world, input)).await;
            let queried = ms(began.elapsed()) / TURNS as f64;
            let began = Instant::now();
            let both = |input: &serde_json::Value| {
                note("answer");
                let text = query(&world, input);
                note(&text);
                text
            };
            floor.talk(both).await;
            // The first round finds nothing warm.
            if round > 0 {
                ours.push(turn);
                bare.push(talked);
                asked.push(queried);
                noted.push(ms(began.elapsed()) / TURNS as f64);
            }
        }
        process.stop().await;
    });
    let (ours, bare, asked, noted) = (median(ours), median(bare), median(asked), median(noted));
    vec![
        Line {
            name: "one turn: model call, query, durable records",
            figure: ours,
            unit: "ms",
            bar: Bar::None,
            floor: Some(("bare loop: request, query, two commits", noted)),
        },
        Line {
            name: "  over the bare loop with the query, nothing kept",
            figure: ours - asked,
            unit: "ms",
            bar: Bar::AtMost(0.5),
            floor: Some(("two commits", noted - asked)),
        },
        Line {
            name: "  over the bare request loop, no query",
            figure: ours - bare,
            unit: "ms",
            bar: Bar::AtMost(0.5),
            floor: Some(("one query and two commits", noted - bare)),
        },
    ]
}

/// Fifty runs at once, of twenty turns and a conclusion each.
pub fn concurrent() -> Vec<Line> {
    let (folder, runtime, server) = (scratch(), runtime(), Server::start());
    let url = server.url(Duration::from_millis(100), 20, None);
    let world = World::at(folder.path(), &url);
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    runtime.block_on(async {
        let process = world.open();
        let floor = Bare::new(&url);
        for _ in 0..3 {
            let starts = world.claim(&process.journal, RUNS).await;
            ours.push(process.run(starts).await.as_secs_f64());
            let began = Instant::now();
            join_all((0..RUNS).map(|_| floor.talk(|input| query(&world, input)))).await;
            bare.push(began.elapsed().as_secs_f64());
        }
        process.stop().await;
    });
    vec![Line {
        name: "50 concurrent runs of 20 turns, model 100 ms",
        figure: median(ours),
        unit: "s",
        bar: Bar::AtMost(2.3),
        floor: Some(("bare request loops; 2.1 s is the model", median(bare))),
    }]
}
