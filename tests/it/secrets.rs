//! A secret that a service refuses: told once, its runs wait, and go on by themselves when it is replaced. Also reports that go to
//! sinks of the configuration.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::fakes::slack::{self, Members, Slack};
use crate::project::{Process, Project};

const OLD: &str = "shop-canary-old-5d1f0c7b2a94";
const NEW: &str = "shop-canary-new-81e6b3d94c07";

/// A service that takes the new key alone. It notes the keys that it was shown.
struct Shop {
    address: String,
    keys: Arc<Mutex<Vec<String>>>,
}

impl Shop {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let keys: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = keys.clone();
        std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| answer(stream, &log)));
        Self { address, keys }
    }

    fn keys(&self) -> Vec<String> {
        self.keys.lock().unwrap().clone()
    }
}

fn answer(stream: TcpStream, log: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(&stream).lines();
    let head: Vec<String> = lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let key = head.iter().find_map(|line| line.strip_prefix("x-key: ")).unwrap_or_default().to_owned();
    let (status, body) = match key == NEW {
        true => ("200 OK", json!({"data": [{"day": "2026-11-19", "orders": 12, "email": "a@example.com"}]})),
        false => ("401 Unauthorized", json!({"error": format!("`{key}` is no key")})),
    };
    log.lock().unwrap().push(key);
    let body = body.to_string();
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    // A client that has gone away needs no answer.
    drop((&stream).write_all(answer.as_bytes()));
}

const ORDERS: &str = "\
version: 1
name: NAME
summary: Orders of a day.
tools:
  orders: {http: shop, get: /v1/orders, rows: $.data}
steps:
  - id: data
    fetch: {from: orders}
  - id: post
    report: {from: [data], to: [files, notes]}
";

fn project(shop: &Shop) -> Project {
    let project = Project::new(&[], None);
    for name in ["orders", "sales"] {
        project.write(&format!("pipelines/{name}.yaml"), &ORDERS.replace("NAME", name));
    }
    project.write("config/shop.key", OLD);
    project.write(
        "config/nightcrew.yaml",
        &format!(
            "version: 1\nprices: prices.yaml\nsecrets: {{SHOP: {{file: shop.key}}}}\n\
             sources: {{shop: {{http: \"{}\", auth: {{header: {{name: X-Key, secret: secret:SHOP}}}}}}}}\n\
             sinks: {{notes: {{markdown: ../notes}}}}\n\
             privacy: {{hide: [email]}}\n\
             http: {{listen: \"127.0.0.1:0\"}}\n",
            shop.address
        ),
    );
    project
}

fn serve(project: &Project) -> Process {
    let daemon = project.start(&["serve", "--profile", "local"]);
    project.until("ready", || daemon.log().contains("\"ready\"").then_some(()));
    daemon
}

/// How often the log says that the secret is refused.
fn alerts(log: &str) -> usize {
    log.matches("the secret is refused; its runs wait").count()
}

fn outcomes(project: &Project) -> Vec<Value> {
    project.runs().iter().map(|run| run["outcome"].clone()).collect()
}

#[test]
fn two_runs_wait_for_a_refused_secret_and_go_on_once_each_when_it_is_replaced() {
    let shop = Shop::start();
    let project = project(&shop);
    let daemon = serve(&project);
    for name in ["orders", "sales"] {
        let ran = project.run(&["--json", "run", name]).ends(1).json()["runs"][0].clone();
        assert_eq!(
            json!([ran["outcome"], ran["failure"]["code"], ran["failure"]["secret"]]),
            json!(["blocked", "E-CREDENTIAL", "SHOP"]),
            "{ran}"
        );
    }
    assert_eq!(shop.keys(), [OLD], "what is known as refused is not sent again");
    project.until("the alert", || (alerts(&daemon.log()) == 1).then_some(()));

    // A new process knows of it: it tells nobody again, and sends nothing while nothing runs.
    let first = daemon.log();
    daemon.kill();
    let daemon = serve(&project);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!((alerts(&first), alerts(&daemon.log()), shop.keys().len()), (1, 0, 1));
    assert_eq!(outcomes(&project), ["blocked", "blocked"]);

    project.write("config/shop.key", NEW);
    project.until("both go on", || (outcomes(&project) == ["reported", "reported"]).then_some(()));
    assert_eq!(shop.keys(), [OLD, NEW, NEW], "once each");
    let notes: Vec<String> = std::fs::read_dir(project.path("notes"))
        .unwrap()
        .flat_map(|month| std::fs::read_dir(month.unwrap().path()).unwrap())
        .map(|note| std::fs::read_to_string(note.unwrap().path()).unwrap())
        .collect();
    assert_eq!(notes.len(), 2, "one report each");
    for note in &notes {
        assert!(note.contains("| 2026-11-19 | 12 |") && !note.contains("example.com"), "{note}");
    }
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
    let database = std::fs::read(project.path("state/nightcrew.db")).unwrap();
    for key in [OLD, NEW] {
        assert!(!database.windows(key.len()).any(|window| window == key.as_bytes()), "no key is kept");
    }
}

#[test]
fn a_person_may_have_it_tried_again_as_it_is() {
    let shop = Shop::start();
    let project = project(&shop);
    let _daemon = serve(&project);
    let run = project.run(&["--json", "run", "orders"]).ends(1).json()["runs"][0]["id"].as_str().unwrap().to_owned();
    project.run(&["resume", &run]).ends(1);
    assert_eq!(shop.keys(), [OLD, OLD]);
}

#[test]
fn a_sink_is_known_by_its_name_wherever_it_is_named() {
    let shop = Shop::start();
    let project = project(&shop);
    project.run(&["validate"]).ends(0);
    let plan = project.run(&["plan", "orders"]).ends(0);
    assert!(plan.out.contains("→ notes") && plan.out.contains("markdown "), "{}", plan.out);
    project.write("pipelines/sales.yaml", &ORDERS.replace("NAME", "sales").replace("notes", "note"));
    let mistakes = project.run(&["validate"]).ends(1);
    let said = format!("{}{}", mistakes.out, mistakes.err);
    assert!(said.contains("unknown sink `note`") && said.contains("did you mean `notes`?"), "{said}");
}

#[test]
fn people_are_told_in_slack_once_for_each_content_also_after_a_restart() {
    let (shop, desk) = (Shop::start(), Slack::start());
    desk.channel("ops", Members::WithBot);
    let project = project(&shop);
    project.write("config/slack.token", slack::TOKEN);
    let config = std::fs::read_to_string(project.path("config/nightcrew.yaml")).unwrap();
    let config = config.replace("{SHOP: {file: shop.key}}", "{SHOP: {file: shop.key}, SLACK: {file: slack.token}}");
    project.write(
        "config/nightcrew.yaml",
        &format!(
            "{config}services: {{slack: {{api_url: \"{}\", bot_token: secret:SLACK}}}}\n\
             notify: {{digest: {{channel: ops, at: \"08:30\", timezone: UTC}}}}\n\
             profiles: {{local: {{sinks: {{slack: slack}}}}}}\n",
            desk.api()
        ),
    );
    let told = || desk.messages("ops").len();
    let daemon = serve(&project);
    project.run(&["run", "orders"]).ends(1);
    project.until("the message", || (told() == 1).then_some(()));
    let message = desk.messages("ops").remove(0);
    let text = format!("{} {}", message.text, json!(message.blocks));
    assert!(
        text.contains("The secret SHOP is refused by source shop") && text.contains("go on by themselves"),
        "{text}"
    );
    assert!(!text.contains(OLD), "{text}");
    daemon.kill();
    let _daemon = serve(&project);
    project.run(&["run", "sales"]).ends(1);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(told(), 1, "the same content is told once");
    project.write("config/shop.key", "shop-canary-third-2c4e6a8b0d1f");
    project.until("the second content", || (told() == 2).then_some(()));
}
