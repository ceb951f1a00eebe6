//! The sandbox server, as a process of its own and through our client: what a sandbox adds to a command, many at once, many in turn.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nightcrew::base::env::Env;
use nightcrew::base::scope::Scope;
use nightcrew::base::secret::Secret;
use nightcrew::clients::e2b::wire::{Created, NewSandbox, ProcessConfig, StartProcess};
use nightcrew::clients::e2b::{Cloud, Endpoint, Envd, Event, Key};
use nightcrew::isolation::{Chunk, Helper, Isolation, Search, Setup, Spec};

use crate::table::{Bar, Line, median, ms};
use crate::{runtime, scratch};

const ROUNDS: usize = 60;
const AT_ONCE: usize = 50;
const IN_TURN: usize = 1_000;
const KEY: &str = "e2b_0000000000000000000000000000000000000000";

/// The program, serving us until it is dropped.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start(folder: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_nightcrew"))
            .args(["sandboxd", "--attached"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let words = serde_json::json!({"key": KEY, "folder": folder});
        let input = process.stdin.as_mut().unwrap();
        writeln!(input, "{words}").unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let told: serde_json::Value = serde_json::from_str(&line).unwrap();
        let url = told["url"].as_str().unwrap_or_else(|| panic!("no server: {line}")).to_owned();
        Self { process, url }
    }

    fn descriptors(&self) -> f64 {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap().count() as f64
    }

    /// Resident, in MB.
    fn memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its end of the pipe closes, and with it everything ends.
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
    }
}

async fn create(cloud: &Cloud, name: &str) -> (Created, Envd) {
    let asked = NewSandbox { template_id: "base".into(), timeout: Some(300), ..NewSandbox::default() };
    let made = cloud.create(&asked, name).await.unwrap();
    let envd = cloud.envd(&made).unwrap();
    (made, envd)
}

/// From the order to the first output; the rest is read outside of the time.
async fn echo(envd: &Envd, began: Instant) -> f64 {
    let process = ProcessConfig { cmd: "/bin/echo".into(), args: vec!["x".into()], ..ProcessConfig::default() };
    let start = StartProcess { process, ..StartProcess::default() };
    let mut running = envd.start(&start, Some(Duration::from_secs(60))).await.unwrap();
    assert_eq!(running.next().await.unwrap(), Some(Event::Stdout(b"x\n".to_vec())));
    let took = ms(began.elapsed());
    while running.next().await.unwrap().is_some() {}
    took
}

fn bare() -> f64 {
    let began = Instant::now();
    let output = Command::new("/bin/echo").arg("x").stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.stdout, b"x\n");
    ms(began.elapsed())
}

/// Folders called by the ids of sandboxes, below the server's.
fn folders(below: &Path) -> usize {
    let entries = std::fs::read_dir(below).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| {
            let name = entry.file_name();
            let ours = name.len() > 20 && name.as_encoded_bytes()[0] == b'i';
            usize::from(ours) + folders(&entry.path())
        })
        .sum()
}

pub fn sandboxes() -> Vec<Line> {
    nightcrew::clients::install_tls();
    let state = scratch();
    let folder = state.path().join("sandboxd");
    let server = Server::start(&folder);
    let runtime = runtime();
    let lines = runtime.block_on(async {
        let scope = Scope::new(tokio::runtime::Handle::current());
        let endpoint = Endpoint {
            api_url: server.url.clone(),
            sandbox_url: Some(server.url.clone()),
            key: Key::Given(Secret::new(KEY)),
        };
        let cloud = Cloud::new(endpoint, Env::system(), scope.clone()).unwrap();
        let setup = Setup {
            helper: Helper::Program(env!("CARGO_BIN_EXE_nightcrew").into()),
            state: state.path().join("isolation"),
            search: Search::from_process(Vec::new()),
        };
        let isolation = Isolation::begin(setup, scope.clone()).await.unwrap();
        let work = scratch();

        // In turns, so that other load on the machine falls on all alike.
        let (mut alone, mut once, mut whole, mut further, mut end) = (vec![], vec![], vec![], vec![], vec![]);
        for round in 0..ROUNDS {
            alone.push(bare());
            let began = Instant::now();
            let mut running = isolation.start(Spec::argv(&["/bin/echo", "x"], work.path())).await.unwrap();
            assert_eq!(running.next().await, Some(Chunk::Stdout(b"x\n".to_vec())));
            once.push(ms(began.elapsed()));
            running.wait().await.unwrap();

            let began = Instant::now();
            let (made, envd) = create(&cloud, &format!("round-{round}")).await;
            whole.push(echo(&envd, began).await);
            further.push(echo(&envd, Instant::now()).await);
            let began = Instant::now();
            assert!(cloud.kill(&made.sandbox_id).await.unwrap());
            end.push(ms(began.elapsed()));
        }

        let began = Instant::now();
        let together = (0..AT_ONCE).map(|n| {
            let cloud = cloud.clone();
            scope.spawn("one of many", async move {
                let began = Instant::now();
                let (made, envd) = create(&cloud, &format!("together-{n}")).await;
                echo(&envd, began).await;
                made
            })
        });
        let mut standing = Vec::new();
        for one in together.collect::<Vec<_>>() {
            standing.push(one.await.unwrap());
        }
        let together = ms(began.elapsed());
        let memory_of_many = server.memory();
        for made in standing {
            assert!(cloud.kill(&made.sandbox_id).await.unwrap());
        }
        let bare_together = {
            let began = Instant::now();
            let all =
                (0..AT_ONCE).map(|_| scope.spawn("one of many", async { tokio::task::spawn_blocking(bare).await }));
            for one in all.collect::<Vec<_>>() {
                one.await.unwrap().unwrap();
            }
            ms(began.elapsed())
        };

        let (descriptors, memory) = (server.descriptors(), server.memory());
        let began = Instant::now();
        for n in 0..IN_TURN {
            let (made, envd) = create(&cloud, &format!("turn-{n}")).await;
            echo(&envd, Instant::now()).await;
            assert!(cloud.kill(&made.sandbox_id).await.unwrap());
        }
        let each = ms(began.elapsed()) / IN_TURN as f64;
        let (descriptors, memory_more) = (server.descriptors() - descriptors, server.memory() - memory);

        let alone = median(alone);
        let line = |name, figure, unit, bar, floor| Line { name, figure, unit, bar, floor };
        drop(isolation);
        drop(scope.close(Duration::from_secs(5)).await);
        vec![
            line(
                "sandbox from create to the first output of a command",
                median(whole),
                "ms",
                Bar::AtMost(alone + 15.0),
                Some(("the command alone", alone)),
            ),
            line(
                "  a command confined once, without a server",
                median(once),
                "ms",
                Bar::None,
                Some(("the command alone", alone)),
            ),
            line("  a further command in it", median(further), "ms", Bar::None, Some(("the command alone", alone))),
            line("  its end, until nothing is left", median(end), "ms", Bar::None, None),
            line(
                "50 sandboxes at once, from create to the last output",
                together,
                "ms",
                Bar::None,
                Some(("50 commands alone at once", bare_together)),
            ),
            line("  memory of the server meanwhile", memory_of_many, "MB", Bar::None, None),
            line(
                "1,000 sandboxes in turn, with a command: each",
                each,
                "ms",
                Bar::None,
                Some(("the command alone", alone)),
            ),
            line("  descriptors of the server that stay", descriptors, "", Bar::AtMost(8.0), None),
            line("  memory of the server that stays", memory_more, "MB", Bar::AtMost(10.0), None),
            line("  folders that stay", folders(&folder) as f64, "", Bar::AtMost(0.0), None),
        ]
    });
    drop(runtime);
    drop(server);
    lines
}
