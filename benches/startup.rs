//! How a process begins, what it holds in memory, and how it takes up what another left.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::server::Server;
use crate::table::{Bar, Line, median, ms};
use crate::world::World;
use crate::{runtime, scratch};

/// The argument that makes this program a process with runs.
pub const CHILD: &str = "hold-runs";

const INTERRUPTED: usize = 1_000;

/// A process that begins so many runs and stays until it is killed.
pub fn child(folder: &Path, url: &str, runs: usize) {
    let world = World::at(folder, url);
    runtime().block_on(async {
        let process = world.open();
        let starts = world.claim(&process.journal, runs).await;
        starts.into_iter().for_each(|start| process.engine.launch(start));
        std::future::pending::<()>().await;
    });
}

/// Ends the process when dropped, as `kill -9` would.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn spawn(folder: &Path, url: &str, runs: usize) -> Killed {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.args([CHILD, &folder.display().to_string(), url, &runs.to_string()]);
    Killed(command.stdin(Stdio::null()).spawn().unwrap())
}

fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    let began = Instant::now();
    while !reached() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what} was not reached");
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn count(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::Relaxed)
}

/// The program itself, told where its files are.
fn nightcrew(world: &World, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nightcrew"));
    command.arg("--config").arg(world.folder.join("nightcrew.yaml")).arg("--state").arg(world.state()).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// `nightcrew run`, from the start of the process to its first request at the model, with the database made anew.
pub fn cold_start() -> Vec<Line> {
    let server = Server::start();
    let url = server.url(Duration::ZERO, 1, Some(1));
    let (mut new, mut again, mut floor) = (Vec::new(), Vec::new(), Vec::new());
    let start = |world: &World| {
        server.reset();
        let began = Instant::now();
        let process = Killed(nightcrew(world, &["run", "bench"]).spawn().unwrap());
        wait_until("the first request", || server.seen.first.lock().unwrap().is_some());
        drop(process);
        ms(server.seen.first.lock().unwrap().unwrap() - began)
    };
    for _ in 0..15 {
        let folder = scratch();
        let world = World::at(folder.path(), &url);
        new.push(start(&world));
        again.push(start(&world));
        let began = Instant::now();
        Command::new(env!("CARGO_BIN_EXE_nightcrew")).arg("--version").stdout(Stdio::null()).status().unwrap();
        floor.push(ms(began.elapsed()));
    }
    let (new, again, floor) = (median(new), median(again), median(floor));
    let floor = Some(("`nightcrew --version`, start to end", floor));
    vec![
        Line {
            name: "cold start to the first model request",
            figure: again,
            unit: "ms",
            bar: Bar::AtMost(25.0),
            floor,
        },
        Line { name: "  with a state directory to be made", figure: new, unit: "ms", bar: Bar::None, floor },
    ]
}

/// Resident memory in MB.
fn resident(process: &Killed) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.0.id())).unwrap();
    let kb = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    kb.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

/// Of a process that waits, and of each further run in the middle of a conversation.
pub fn memory() -> Vec<Line> {
    let server = Server::start();
    // Each run stands in its 15th turn, with all turns before it.
    let url = server.url(Duration::ZERO, 20, Some(15));
    let measure = |runs: usize| {
        let folder = scratch();
        server.reset();
        let process = spawn(folder.path(), &url, runs);
        wait_until("the fifteenth turn", || count(&server.seen.held) == runs);
        resident(&process)
    };
    let daemon = || {
        let folder = scratch();
        let world = World::at(folder.path(), &url);
        let process = Killed(nightcrew(&world, &["serve", "--listen", "127.0.0.1:0"]).spawn().unwrap());
        std::thread::sleep(Duration::from_secs(1));
        resident(&process)
    };
    let (mut idle, mut each) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        idle.push(daemon());
        each.push((measure(250) - measure(50)) / 200.0);
    }
    vec![
        Line {
            name: "resident memory of `nightcrew serve`, idle",
            figure: median(idle),
            unit: "MB",
            bar: Bar::AtMost(20.0),
            floor: None,
        },
        Line {
            name: "  per further concurrent run, in its 15th turn",
            figure: median(each),
            unit: "MB",
            bar: Bar::AtMost(0.2),
            floor: None,
        },
    ]
}

/// A thousand runs in their fourth turn, their process killed: from opening the journal until each has asked again.
pub fn resume() -> Vec<Line> {
    let server = Server::start();
    let mut asked = Vec::new();
    for _ in 0..3 {
        let folder = scratch();
        server.reset();
        let url = server.url(Duration::ZERO, 20, Some(4));
        let process = spawn(folder.path(), &url, INTERRUPTED);
        wait_until("the fourth turn of all", || count(&server.seen.held) == INTERRUPTED);
        drop(process);
        server.reset();
        let world = World::at(folder.path(), &url);
        runtime().block_on(async {
            let began = Instant::now();
            let process = world.open();
            assert_eq!(process.engine.resume_open().await.unwrap(), INTERRUPTED);
            while count(&server.seen.held) < INTERRUPTED {
                assert!(began.elapsed() < Duration::from_secs(60), "not all runs were taken up");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            asked.push(began.elapsed().as_secs_f64());
            drop(process);
        });
    }
    vec![Line {
        name: "1,000 runs killed in a turn, until all have asked again",
        figure: median(asked),
        unit: "s",
        bar: Bar::AtMost(1.0),
        floor: None,
    }]
}
