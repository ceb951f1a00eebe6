//! What a turn costs beside the model, alone and in company.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::bare::{Bare, query, query_time};
use crate::server::Server;
use crate::table::{Bar, Line, median, ms};
use crate::world::World;
use crate::{runtime, scratch};

const TURNS: usize = 200;
const RUNS: usize = 50;

/// One turn: a model call, a tool call, their records.
pub fn one_turn() -> Vec<Line> {
    let (folder, runtime, server) = (scratch(), runtime(), Server::start());
    let url = server.url(Duration::ZERO, TURNS, None);
    let world = World::at(folder.path(), &url);
    let (mut ours, mut bare, mut asked) = (Vec::new(), Vec::new(), Vec::new());
    runtime.block_on(async {
        let process = world.open();
        let floor = Bare::new(&url);
        for _ in 0..7 {
            let starts = world.claim(&process.journal, 1).await;
            ours.push(ms(process.run(starts).await) / TURNS as f64);
            let began = Instant::now();
            assert_eq!(floor.talk(|_| "[\"2099-11-17\",100,\"a\"]\n".repeat(3)).await, TURNS + 1);
            bare.push(ms(began.elapsed()) / TURNS as f64);
            let began = Instant::now();
            floor.talk(|input| query(&world, input)).await;
            asked.push(ms(began.elapsed()) / TURNS as f64);
        }
        process.stop().await;
    });
    let (ours, bare, asked) = (median(ours), median(bare), median(asked));
    vec![
        Line {
            name: "one turn: model call, query, durable records",
            figure: ours,
            unit: "ms",
            bar: Bar::None,
            floor: Some(("bare request loop, no query", bare)),
        },
        Line {
            name: "  its overhead over the bare loop",
            figure: ours - bare,
            unit: "ms",
            bar: Bar::AtMost(0.5),
            floor: Some(("the query alone", ms(query_time(&world)))),
        },
        Line {
            name: "  its overhead over the bare loop with the query",
            figure: ours - asked,
            unit: "ms",
            bar: Bar::None,
            floor: None,
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
