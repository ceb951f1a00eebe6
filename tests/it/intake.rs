//! The real daemon takes errors in as Sentry's SDKs send them, and they become runs.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::project::{Process, Project};

const KEY: &str = "5e9f0c7d3b2a4816a0d1c2e3f4a5b6c7";

const WATCH: &str = "\
version: 1
name: watch
summary: Lists errors as they come.
on: {sentry: {project: api}}
steps:
  - id: errors
    fetch: {from: sentry, query: \"is:unresolved\"}
  - id: news
    report: {from: [errors], to: files}
";

fn project() -> Project {
    let project = Project::new(&[("watch", WATCH)], None);
    project.write("config/intake.key", &format!("{KEY}\n"));
    project.write(
        "config/nightcrew.yaml",
        "version: 1\n\
         secrets: {INTAKE: {file: intake.key}}\n\
         privacy: {hide: [email]}\n\
         intake: {listen: \"127.0.0.1:0\", projects: [{id: 42, name: api, key: secret:INTAKE}]}\n\
         http: {listen: \"127.0.0.1:0\"}\n",
    );
    project
}

/// The daemon, and where its intake listens.
fn serve(project: &Project) -> (Process, String) {
    let process = project.start(&["serve", "--profile", "local"]);
    let address = project.until("the intake listens", || {
        let log = process.log();
        let line = log.lines().find(|line| line.contains("taking errors in"))?;
        let line: Value = serde_json::from_str(line).ok()?;
        log.contains("\"ready\"").then(|| line["address"].as_str().unwrap().to_owned())
    });
    (process, address)
}

/// One connection of a sender.
struct Sender(BufReader<TcpStream>);

impl Sender {
    fn to(address: &str) -> Self {
        Self(BufReader::new(TcpStream::connect(address).unwrap()))
    }

    fn send(&mut self, envelope: &str) -> u16 {
        let head = format!(
            "POST /api/42/envelope/ HTTP/1.1\r\nhost: x\r\nx-sentry-auth: Sentry sentry_key={KEY}, sentry_version=7\r\n\
             content-length: {}\r\n\r\n",
            envelope.len()
        );
        self.0.get_mut().write_all(&[head.as_bytes(), envelope.as_bytes()].concat()).unwrap();
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            match line.trim_end().split_once(' ') {
                Some(("HTTP/1.1", said)) => status = said[..3].parse().unwrap(),
                Some(("content-length:", said)) => length = said.parse().unwrap(),
                Some(_) => {}
                None => break,
            }
        }
        self.0.read_exact(&mut vec![0; length]).unwrap();
        status
    }
}

fn event(n: u32, function: &str) -> Value {
    json!({
        "event_id": format!("{n:032x}"), "platform": "python", "level": "error", "release": "api@1", "environment": "production",
        "user": {"id": n % 50, "email": "canary-8131@example.com"},
        "exception": {"values": [{"type": "KeyError", "value": format!("'{n}'"), "stacktrace": {"frames": [
            {"function": function, "filename": "shop/cart.py", "lineno": 41, "in_app": true, "context_line": "x"}]}}]}
    })
}

fn envelope(events: impl IntoIterator<Item = Value>) -> String {
    events.into_iter().fold("{}\n".to_owned(), |all, event| format!("{all}{{\"type\":\"event\"}}\n{event}\n"))
}

fn errors(project: &Project) -> Vec<Value> {
    project.run(&["--json", "errors", "api"]).ends(0).json()["errors"].as_array().cloned().unwrap()
}

fn ended(project: &Project, count: usize) -> Vec<Value> {
    project.until("the runs end", || {
        let ended: Vec<Value> = project.runs().into_iter().filter(|run| !run["outcome"].is_null()).collect();
        (ended.len() >= count).then_some(ended)
    })
}

#[test]
fn a_flood_of_one_error_costs_one_run_and_little_room() {
    let project = project();
    let (process, address) = serve(&project);
    let mut senders = Vec::new();
    for sender in 0..4_u32 {
        let address = address.clone();
        senders.push(std::thread::spawn(move || {
            let mut connection = Sender::to(&address);
            for batch in 0..313 {
                let first = (sender * 313 + batch) * 16;
                let status = connection.send(&envelope((first..first + 16).map(|n| event(n, "price"))));
                assert_eq!(status, 200);
            }
        }));
    }
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    let found = errors(&project);
    assert_eq!(found.len(), 1);
    let error = &found[0];
    assert_eq!(json!([error["count"], error["users"], error["kept"]]), json!([4 * 313 * 16, 50, 10]));
    assert_eq!((&error["culprit"], &error["releases"]), (&json!("price in shop/cart.py"), &json!(["api@1"])));
    let runs = ended(&project, 1);
    assert_eq!((runs.len(), &runs[0]["outcome"]), (1, &json!("reported")));
    // Another error is another run; the old one is not told again.
    assert_eq!(Sender::to(&address).send(&envelope([event(99_999, "pay"), event(0, "price")])), 200);
    assert_eq!(ended(&project, 2).len(), 2);
    let size = std::fs::metadata(project.path("state/nightcrew.db")).unwrap().len();
    assert!(size < 8 << 20, "{size} bytes");
    process.signal("TERM");
    assert_eq!(process.wait(), Some(0));
    assert_eq!(project.runs().len(), 2);
    let report = project.run(&["--json", "errors", "api", error["id"].as_str().unwrap()]).ends(0);
    assert!(report.out.contains("cart.py") && !report.out.contains("canary-8131"), "{}", report.out);
}

#[test]
fn an_error_that_was_answered_is_a_run_also_after_a_kill() {
    let project = project();
    let (process, address) = serve(&project);
    assert_eq!(Sender::to(&address).send(&envelope([event(1, "price")])), 200);
    process.kill();
    assert_eq!(errors(&project)[0]["count"], 1, "what was answered is on disk");
    let (process, _) = serve(&project);
    let runs = ended(&project, 1);
    assert_eq!((runs.len(), &runs[0]["outcome"]), (1, &json!("reported")));
    process.signal("TERM");
    assert_eq!(process.wait(), Some(0));
}
