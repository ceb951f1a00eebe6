//! What confining a command adds to the command itself, in each tier that this machine has.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nightcrew::base::scope::Scope;
use nightcrew::isolation::{Chunk, Helper, Isolation, Search, Setup, Spec, Tier};

use crate::table::{Bar, Line, median, ms};
use crate::{runtime, scratch};

const ROUNDS: usize = 60;

/// From the order to the first output, beside the same command without a sandbox, in turns.
pub fn start() -> Vec<Line> {
    let (state, work) = (scratch(), scratch());
    let runtime = runtime();
    let lines = runtime.block_on(async {
        let scope = Scope::new(tokio::runtime::Handle::current());
        let setup = Setup {
            helper: Helper::Program(env!("CARGO_BIN_EXE_nightcrew").into()),
            state: state.path().join("isolation"),
            search: Search::from_process(Vec::new()),
        };
        let isolation = Isolation::begin(setup, scope.clone()).await.unwrap();
        let mut lines = Vec::new();
        for tier in Tier::ALL {
            let Ok(held) = isolation.held_to(tier) else { continue };
            let (mut bare, mut confined) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                let began = Instant::now();
                let output = Command::new("/bin/echo").arg("x").stdin(Stdio::null()).output().unwrap();
                assert_eq!(output.stdout, b"x\n");
                bare.push(ms(began.elapsed()));
                let began = Instant::now();
                let mut running = held.start(Spec::argv(&["/bin/echo", "x"], work.path())).await.unwrap();
                assert_eq!(running.next().await, Some(Chunk::Stdout(b"x\n".to_vec())));
                confined.push(ms(began.elapsed()));
                running.wait().await.unwrap();
            }
            let (bare, confined) = (median(bare), median(confined));
            let name = match tier {
                Tier::Bubblewrap => "start of a confined command, to its first output: bubblewrap",
                Tier::Namespaces => "  namespaces",
                Tier::Landlock => "  landlock",
            };
            lines.push(Line {
                name,
                figure: confined,
                unit: "ms",
                // Fifteen above the command itself.
                bar: Bar::AtMost(bare + 15.0),
                floor: Some(("the command alone", bare)),
            });
        }
        drop(isolation);
        drop(scope.close(Duration::from_secs(5)).await);
        lines
    });
    drop(runtime);
    lines
}
