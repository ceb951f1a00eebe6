//! Slack as a place to answer, approve and command: the real daemon, the stand-in of Slack and of its Socket Mode.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::time::Duration;

use serde_json::{Value, json};

use crate::fakes::slack::{APP_TOKEN, Members, Slack, TEAM, TOKEN};
use crate::fakes::slack_socket::SlackSocket;
use crate::project::{ASK, Process, Project};

const APP: &str = "A0CREW";
const SIGNING: &str = "8f742231b10e8888abcd99yyyzzz85a5";
const SIGNING_OLD: &str = "0a1b2c3d4e5f00000000000000000000";

/// Nobody answers within a moment.
const BRIEFLY: &str = "\
version: 1
name: briefly
summary: A person would have to be quick.
steps:
  - id: ok
    approve: {ask: \"Quick?\", expires: 1s, on_expiry: fail}
  - id: post
    report: {from: [ok], to: files, when_quiet: post}
";

/// A folder whose daemon knows this Slack; `U0ADA` and `U0GRACE` may act.
fn project(slack: &Slack) -> Project {
    let project = Project::new(&[("ask", ASK), ("briefly", BRIEFLY)], None);
    for (file, value) in [("bot", TOKEN), ("app", APP_TOKEN), ("sign.new", SIGNING), ("sign.old", SIGNING_OLD)] {
        project.write(&format!("config/slack.{file}"), value);
    }
    let config = std::fs::read_to_string(project.path("config/nightcrew.yaml")).unwrap();
    let api = slack.api();
    project.write(
        "config/nightcrew.yaml",
        &format!(
            "{config}\
             hooks: {{listen: \"127.0.0.1:0\"}}\n\
             secrets:\n\
             \x20 SLACK: {{file: slack.bot}}\n\
             \x20 SLACK_APP: {{file: slack.app}}\n\
             \x20 SLACK_SIGNING: {{file: [slack.sign.new, slack.sign.old]}}\n\
             services:\n\
             \x20 slack: {{api_url: \"{api}\", bot_token: secret:SLACK, app_token: secret:SLACK_APP, signing_secret: secret:SLACK_SIGNING, users: [U0ADA, U0GRACE]}}\n"
        ),
    );
    project
}

struct Bench {
    slack: Slack,
    socket: SlackSocket,
    project: Project,
    daemon: Process,
    presses: std::cell::Cell<u32>,
}

impl Bench {
    fn start() -> Self {
        Self::start_in("local")
    }

    fn start_in(profile: &str) -> Self {
        let (slack, socket) = (Slack::start(), SlackSocket::start(APP));
        slack.socket(&socket.url());
        slack.channel("ops", Members::WithBot);
        slack.patient();
        let project = project(&slack);
        project.write("pipelines/put.yaml", &ASK.replace("name: ask", "name: put\nowner: {channel: ops}"));
        let daemon = project.start(&["serve", "--profile", profile]);
        project.until("ready", || daemon.log().contains("\"ready\"").then_some(()));
        project.until("the socket", || socket.is_connected().then_some(()));
        Self { slack, socket, project, daemon, presses: std::cell::Cell::new(0) }
    }

    fn response(&self, id: &str) -> String {
        format!("{}/response/{id}", self.slack.url())
    }

    /// A slash command, as Slack sends it.
    fn command(&self, user: &str, text: &str, trigger: &str) -> Value {
        json!({
            "token": "verification", "team_id": TEAM, "team_domain": "acme", "channel_id": "C0OPS", "channel_name": "ops",
            "user_id": user, "user_name": user.to_lowercase(), "command": "/nightcrew", "text": text, "api_app_id": APP,
            "is_enterprise_install": "false", "response_url": self.response(trigger), "trigger_id": trigger,
        })
    }

    /// What somebody sees who types this.
    fn says(&self, user: &str, text: &str, trigger: &str) -> String {
        let id = self.socket.send("slash_commands", self.command(user, text, trigger), true);
        let ack = self.project.until("an acknowledgement", || self.socket.acknowledged(&id).first().cloned());
        ack["payload"]["text"].as_str().unwrap_or_default().to_owned()
    }

    /// A button, as Slack sends it. `at`: which press of it.
    fn press(&self, user: &str, action: &str, value: &str, at: &str) -> Value {
        json!({
            "type": "block_actions", "team": {"id": TEAM, "domain": "acme"}, "api_app_id": APP, "token": "verification",
            "user": {"id": user, "username": user.to_lowercase(), "name": user.to_lowercase(), "team_id": TEAM},
            "container": {"type": "message", "message_ts": "1763.0001", "channel_id": "C0OPS", "is_ephemeral": false},
            "channel": {"id": "C0OPS", "name": "ops"}, "trigger_id": format!("t-{at}"),
            "message": {"type": "message", "ts": "1763.0001", "text": "x", "blocks": []},
            "response_url": self.response(at),
            "actions": [{"type": "button", "action_id": action, "block_id": "b", "value": value, "action_ts": at,
                "text": {"type": "plain_text", "text": "Approve"}}],
        })
    }

    /// What somebody sees who presses it.
    fn pressed(&self, user: &str, action: &str, value: &str) -> String {
        self.presses.set(self.presses.get() + 1);
        let at = format!("p{}", self.presses.get());
        let payload = self.press(user, action, value, &at);
        self.presses_as(&payload, &at)
    }

    fn presses_as(&self, payload: &Value, at: &str) -> String {
        let id = self.socket.send("interactive", payload.clone(), false);
        self.project.until("an acknowledgement", || self.socket.acknowledged(&id).first().cloned());
        self.project.until("an answer", || self.answers(at).first().cloned())
    }

    /// What was said at this `response_url`.
    fn answers(&self, id: &str) -> Vec<String> {
        let said = self.slack.effects("message.ephemeral");
        let said = said.iter().filter(|effect| effect["response"] == id).map(|effect| {
            assert_eq!(
                (&effect["body"]["response_type"], &effect["body"]["replace_original"]),
                (&json!("ephemeral"), &json!(false))
            );
            effect["body"]["text"].as_str().unwrap().to_owned()
        });
        said.collect()
    }

    fn entries(&self, run: &str) -> Vec<Value> {
        let lines = self.project.run(&["--json", "logs", run]).ends(0).out;
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The run that asks, and the value of its buttons.
    fn asks(&self) -> (String, String) {
        let asks = |run: &Value| run["outcome"].is_null() && run["questions"][0].is_object();
        let run = self.project.until("the question", || {
            self.project.runs().iter().find(|run| asks(run)).map(|run| run["id"].as_str().unwrap().to_owned())
        });
        let put =
            self.entries(&run).into_iter().find(|entry| entry["payload"]["report"]["question"].is_object()).unwrap();
        let question = &put["payload"]["report"]["question"];
        let value = json!({"run": run, "path": question["path"], "hash": question["hash"]}).to_string();
        (run, value)
    }

    fn ends(&self, run: &str, outcome: &str) {
        self.project.until("the end", || {
            let runs = self.project.runs();
            let found = runs.iter().find(|found| found["id"] == run)?;
            (!found["outcome"].is_null()).then(|| assert_eq!(found["outcome"], outcome))
        });
    }

    /// What people said to a run: (name, by, value).
    fn words(&self, run: &str) -> Vec<(String, String, Value)> {
        let said = self.entries(run).into_iter().filter(|entry| entry["kind"] == "signal").map(|entry| {
            let text = |name: &str| entry["payload"][name].as_str().unwrap().to_owned();
            (text("name"), text("by"), entry["payload"]["value"].clone())
        });
        said.collect()
    }

    fn runs_of(&self, pipeline: &str) -> usize {
        self.project.runs().iter().filter(|run| run["pipeline"] == pipeline).count()
    }
}

#[test]
fn a_command_begins_a_run_and_a_button_lets_it_go_on_each_exactly_once() {
    let bench = Bench::start();
    let command = bench.command("U0ADA", "run ask", "17.run");
    let twice = bench.socket.send_times("slash_commands", command.clone(), true, 2);
    let again = bench.socket.send("slash_commands", command, true);
    bench.project.until("all acknowledgements", || {
        (bench.socket.acknowledged(&twice).len() == 2 && bench.socket.acknowledged(&again).len() == 1).then_some(())
    });
    let (run, value) = bench.asks();
    let said = &bench.socket.acknowledged(&twice)[0]["payload"];
    let short = format!("{}…{}", &run[..4], &run[run.len() - 3..]);
    assert_eq!(said["text"], format!("▶ Begun: `ask` run `{short}` · preview"));
    assert_eq!(bench.runs_of("ask"), 1, "the same command is one run");

    let status = bench.says("U0GRACE", "status", "17.status");
    assert!(status.contains("3 pipelines · 1 run at work, 0 waiting · $0.00 today"), "{status}");
    assert!(
        status.contains(&format!("▸ `ask` run `{short}`")) && status.contains("✋ `ask` asks: May I go on?"),
        "{status}"
    );

    // Those whose word does not count, and buttons that nobody made.
    let stranger = bench.pressed("U0EVE", "run.approve", &value);
    assert!(stranger.starts_with("🔒 You are not on the list") && stranger.contains("`U0EVE`"), "{stranger}");
    let forged = |change: &dyn Fn(&mut Value)| {
        let mut forged: Value = serde_json::from_str(&value).unwrap();
        change(&mut forged);
        bench.pressed("U0ADA", "run.approve", &forged.to_string())
    };
    let not_open = "🤷 This question is not open. Nothing was changed.";
    assert_eq!(forged(&|v| v["hash"] = json!("0".repeat(64))), not_open);
    assert_eq!(forged(&|v| v["path"] = json!("post/approve")), not_open);
    assert_eq!(forged(&|v| v["path"] = json!("../approve")), not_open);
    assert_eq!(forged(&|v| v["run"] = json!("01JD0000000000000000000001")), not_open);
    assert_eq!(forged(&|v| v["run"] = json!(run[..12].to_owned())), not_open);
    assert!(bench.pressed("U0ADA", "run.approve", "yes").starts_with("🤷 This button is none that I made"));
    for (key, other) in [("api_app_id", json!("A0EVIL")), ("team", json!({"id": "T0EVIL"}))] {
        let mut payload = bench.press("U0ADA", "run.approve", &value, key);
        payload[key] = other;
        let id = bench.socket.send("interactive", payload, false);
        bench.project.until("an acknowledgement", || bench.socket.acknowledged(&id).first().cloned());
    }
    let mut bot = bench.press("U0ADA", "run.approve", &value, "bot");
    bot["user"]["is_bot"] = json!(true);
    let id = bench.socket.send("interactive", bot, false);
    bench.project.until("an acknowledgement", || bench.socket.acknowledged(&id).first().cloned());
    assert!(bench.words(&run).iter().all(|(name, _, _)| name != "approve"), "{:?}", bench.words(&run));
    assert_eq!(bench.asks().0, run, "it still asks");

    // The press that counts, delivered again and again, and a second one.
    let press = bench.press("U0ADA", "run.approve", &value, "yes");
    let yes = bench.socket.send_times("interactive", press.clone(), false, 3);
    bench.project.until("three acknowledgements", || (bench.socket.acknowledged(&yes).len() == 3).then_some(()));
    bench.ends(&run, "reported");
    assert_eq!(
        bench.project.until("an answer", || bench.answers("yes").first().cloned()),
        "✅ You approved: May I go on?"
    );
    assert_eq!(bench.pressed("U0GRACE", "run.deny", &value), "👌 <@U0ADA> has approved it already.");
    assert_eq!(bench.pressed("U0ADA", "run.approve", &value), "👌 You have approved it already.");
    let again = bench.socket.send("interactive", press, false);
    bench.project.until("an acknowledgement", || bench.socket.acknowledged(&again).first().cloned());
    assert_eq!(bench.answers("yes").len(), 1, "a press that comes again is not answered again");

    let words = bench.words(&run);
    let by = |name: &str| words.iter().filter(|word| word.0 == name).map(|word| word.1.as_str()).collect::<Vec<_>>();
    assert_eq!((by("run"), by("approve")), (vec!["slack:U0ADA (u0ada)"], vec!["slack:U0ADA (u0ada)"]));
    let refused: Vec<_> =
        words.iter().filter(|word| word.0 == "refused").map(|word| word.2["why"].as_str().unwrap()).collect();
    let expected = [
        "not on the list",
        "no such question",
        "no such question",
        "no such question",
        "another app",
        "another workspace",
        "not a person",
    ];
    assert_eq!(refused, expected, "{words:?}");
    let taken = words.iter().find(|word| word.0 == "approve").unwrap();
    assert_eq!(taken.2["approved"], true);
    assert_eq!(taken.2["hash"], serde_json::from_str::<Value>(&value).unwrap()["hash"]);
    let logs = bench.entries(&run);
    let ended = |path: &str| logs.iter().filter(|e| e["path"] == path && e["kind"] == "activity_done").count();
    assert_eq!((ended("ok/ask"), ended("ok/answered"), ended("post/deliver-files")), (1, 1, 1));
    let question = bench.project.path("state/out/ask").join(&run).join("question.md");
    let question = std::fs::read_to_string(question).unwrap();
    assert!(question.contains("Approved by slack:U0ADA (u0ada)"), "{question}");
    assert!(bench.socket.strays().is_empty(), "{:?}", bench.socket.strays());

    // Nothing that was secret stands anywhere, and the daemon stops with its socket open.
    let log = bench.daemon.log();
    for secret in ["canary-ticket", TOKEN, APP_TOKEN] {
        assert!(!log.contains(secret), "{secret}\n{log}");
    }
    bench.daemon.signal("TERM");
    assert_eq!(bench.daemon.wait(), Some(0));
}

#[test]
fn the_button_of_the_message_in_the_channel_is_the_one_that_counts() {
    let bench = Bench::start_in("cloud");
    bench.says("U0ADA", "run put", "1");
    let put = bench.project.until("the question", || bench.slack.top("ops").first().cloned());
    assert_eq!(put.text, "✋ put asks: May I go on?");
    let button = |message: &crate::fakes::slack::Message, action: &str| {
        let elements = message.blocks.iter().filter(|block| block["type"] == "actions");
        let mut elements = elements.flat_map(|block| block["elements"].as_array().unwrap());
        elements.find(|element| element["action_id"] == action).map(|found| found["value"].as_str().unwrap().to_owned())
    };
    let value = button(&put, "run.approve").unwrap();
    assert_eq!(button(&put, "run.deny").unwrap(), value);
    assert_eq!(bench.pressed("U0GRACE", "run.approve", &value), "✅ You approved: May I go on?");
    let run = serde_json::from_str::<Value>(&value).unwrap()["run"].as_str().unwrap().to_owned();
    bench.ends(&run, "reported");
    // One message, edited: it says who answered and asks nobody any more.
    let messages = bench.slack.top("ops");
    let answered = messages.first().unwrap();
    let shown = Value::from(answered.blocks.clone()).to_string();
    assert_eq!((messages.len(), &answered.ts, answered.edited), (1, &put.ts, true));
    assert!(shown.contains("Approved by") && shown.contains("u0grace"), "{shown}");
    assert_eq!(button(answered, "run.approve"), None);
}

#[test]
fn what_is_denied_expired_stopped_or_tried_again_is_so_once() {
    let bench = Bench::start();
    bench.says("U0ADA", "run ask", "1");
    let (run, value) = bench.asks();
    assert_eq!(bench.pressed("U0GRACE", "run.deny", &value), "🚫 You denied: May I go on?");
    bench.ends(&run, "declined");
    let question = bench.project.path("state/out/ask").join(&run).join("question.md");
    assert!(std::fs::read_to_string(question).unwrap().contains("Denied by slack:U0GRACE"));
    assert!(bench.says("U0ADA", &format!("stop {run}"), "2").starts_with("⏹ The run has already ended (declined)"));

    // Nobody is quick enough.
    bench.says("U0ADA", "run briefly", "3");
    let (run, value) = {
        let run = bench.project.until("the run", || {
            bench
                .project
                .runs()
                .iter()
                .find(|run| run["pipeline"] == "briefly")
                .map(|run| run["id"].as_str().unwrap().to_owned())
        });
        bench.ends(&run, "failed");
        let put =
            bench.entries(&run).into_iter().find(|entry| entry["payload"]["report"]["question"].is_object()).unwrap();
        let hash = put["payload"]["report"]["question"]["hash"].clone();
        let value = json!({"run": run, "path": "ok/approve", "hash": hash}).to_string();
        (run, value)
    };
    let late = bench.pressed("U0ADA", "run.approve", &value);
    assert_eq!(late, "⌛ Too late: nobody answered in time, so: the run fails.");
    let question = bench.project.path("state/out/briefly").join(&run).join("question.md");
    assert!(std::fs::read_to_string(question).unwrap().contains("Expired: nobody answered, so: the run fails"));
    let retry = bench.press("U0ADA", "run.retry", &run, "retry");
    let id = bench.socket.send_times("interactive", retry, false, 3);
    bench.project.until("three acknowledgements", || (bench.socket.acknowledged(&id).len() == 3).then_some(()));
    assert!(bench.project.until("an answer", || bench.answers("retry").first().cloned()).ends_with("goes on."));
    let add = bench.press("U0ADA", "run.add_budget", &json!({"run": run, "usd": 2.5}).to_string(), "add");
    bench.ends(&run, "failed");
    assert!(bench.presses_as(&add, "add").ends_with("goes on with $2.50 more."), "{:?}", bench.answers("add"));
    bench.ends(&run, "failed");
    assert!(bench.pressed("U0ADA", "run.add_budget", &json!({"run": run, "usd": 5000}).to_string()).starts_with("🤷"));
    assert!(bench.pressed("U0ADA", "run.retry", &run[..10]).starts_with("🤷 There is no such run"));
    let resumed: Vec<_> = bench.entries(&run).into_iter().filter(|entry| entry["kind"] == "run_resumed").collect();
    let added: Vec<_> = resumed.iter().map(|entry| entry["payload"]["add_usd_micros"].clone()).collect();
    assert_eq!(added, [json!(0), json!(2_500_000)], "each press counts once");

    // Words about what is not there, and what nobody can type.
    let said = |text: &str, trigger: &str| bench.says("U0ADA", text, trigger);
    assert_eq!(said("run asc", "4"), "🤔 There is no pipeline `asc`: did you mean `ask`?");
    assert_eq!(
        said("run ../../etc/passwd", "5"),
        "🤔 Sorry, `../../etc/passwd` is no name\nType `help` to see what I understand."
    );
    assert!(said("run ask day=1", "6").starts_with("⛔ the pipeline has no parameter `day`"));
    assert_eq!(said("mute 3f9c 7", "7"), "🤔 There is no finding `3f9c`. `nightcrew findings` lists them.");
    assert!(said("", "8").starts_with("*What I understand*"));
    assert_eq!(said("stop 01JDNONE", "9"), "🤔 There is no run `01JDNONE`. `status` shows what is open.");
    assert!(bench.says("U0EVE", "run ask", "10").starts_with("🔒 You are not on the list"));
    assert_eq!(bench.runs_of("ask"), 1);
    let none = bench.pressed("U0ADA", "finding.wont_fix", "../../etc");
    assert!(none.starts_with("⛔ this is no finding's id"), "{none}");
    assert!(bench.pressed("U0ADA", "finding.wont_fix", "3f9c21aa00bb").starts_with("🔇 Noted: won't fix."));

    bench.says("U0ADA", "run ask", "11");
    let (run, _) = bench.asks();
    let short = format!("{}…{}", &run[..4], &run[run.len() - 3..]);
    assert_eq!(said(&format!("stop `{short}`"), "12"), format!("⏹ Stopped: `ask` run `{short}`"));
    bench.ends(&run, "cancelled");
    let view = bench.project.run(&["--json", "runs", &run]).ends(0).json();
    assert_eq!(view["runs"][0]["failure"]["message"], "stopped by slack:U0ADA (u0ada)");
}

#[test]
fn a_connection_that_ends_is_replaced_and_nothing_is_lost_or_done_twice() {
    let bench = Bench::start();
    let connected = |n: usize| {
        bench
            .project
            .until("a connection", || (bench.socket.connections() >= n && bench.socket.is_connected()).then_some(()));
    };
    bench.socket.leave("warning");
    connected(2);
    assert!(bench.says("U0ADA", "run ask", "1").starts_with("▶ Begun"));
    let (run, value) = bench.asks();
    bench.socket.cut();
    // While nobody listens.
    let press = bench.socket.send("interactive", bench.press("U0ADA", "run.approve", &value, "yes"), false);
    connected(3);
    bench.project.until("an acknowledgement", || bench.socket.acknowledged(&press).first().cloned());
    bench.ends(&run, "reported");
    assert_eq!(bench.words(&run).iter().filter(|word| word.0 == "approve").count(), 1);

    // An acknowledgement that got lost: it comes again, to another process.
    let before = bench.socket.connections();
    bench.daemon.signal("KILL");
    bench.project.until("its end", || (!bench.socket.is_connected()).then_some(()));
    let daemon = bench.project.start(&["serve", "--profile", "local"]);
    bench
        .project
        .until("a connection", || (bench.socket.connections() > before && bench.socket.is_connected()).then_some(()));
    let again = bench.socket.send("interactive", bench.press("U0ADA", "run.approve", &value, "yes"), false);
    let typed = bench.socket.send("slash_commands", bench.command("U0ADA", "run ask", "1"), true);
    bench.project.until("acknowledgements", || {
        (!bench.socket.acknowledged(&again).is_empty() && !bench.socket.acknowledged(&typed).is_empty()).then_some(())
    });
    assert_eq!(bench.runs_of("ask"), 1);
    assert_eq!(bench.words(&run).iter().filter(|word| word.0 == "approve").count(), 1);

    // Who is taken off the list has no say from then on.
    let config = std::fs::read_to_string(bench.project.path("config/nightcrew.yaml")).unwrap();
    bench.project.write("config/nightcrew.yaml", &config.replace("users: [U0ADA, U0GRACE]", "users: [U0GRACE]"));
    daemon.signal("HUP");
    bench.project.until("the reload", || daemon.log().contains("were reloaded").then_some(()));
    assert!(bench.says("U0ADA", "run ask", "2").starts_with("🔒 You are not on the list"));
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
}

/// POST /hooks/slack with these headers; status and body.
fn post(address: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    post_to(address, "slack", headers, body)
}

fn post_to(address: &str, hook: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut head =
        format!("POST /hooks/{hook} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    write!(stream, "{head}\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn hooks_address(log: &str) -> String {
    let line = log.lines().find(|line| line.contains("taking webhooks")).unwrap();
    serde_json::from_str::<Value>(line).unwrap()["address"].as_str().unwrap().to_owned()
}

fn sign(secret: &str, at: i64, body: &str) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let tag = ring::hmac::sign(&key, format!("v0:{at}:{body}").as_bytes());
    format!("v0={}", tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn form(fields: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

#[test]
fn over_http_only_what_slack_signed_a_moment_ago_counts() {
    let bench = Bench::start();
    let log = bench.daemon.log();
    let address = hooks_address(&log);
    let now = jiff::Timestamp::now().as_second();
    let kind = ("content-type", "application/x-www-form-urlencoded");
    let send = |secret: &str, at: i64, body: &str| {
        let (sent, signature) = (at.to_string(), sign(secret, at, body));
        post(&address, &[kind, ("x-slack-request-timestamp", &sent), ("x-slack-signature", &signature)], body)
    };
    let command: BTreeMap<String, String> =
        serde_json::from_value(bench.command("U0ADA", "run ask", "http.1")).unwrap();
    let fields: Vec<(&str, &str)> = command.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let body = form(&fields);
    for (secret, at) in [("wrong", now), (SIGNING, now - 301), (SIGNING, now + 330), ("", now)] {
        assert_eq!(send(secret, at, &body).0, 401, "{secret} {at}");
    }
    let signature = sign(SIGNING, now, &body);
    let sent = now.to_string();
    let tampered = body.replace("run+ask", "run+briefly");
    assert_ne!(tampered, body);
    let headers = [kind, ("x-slack-request-timestamp", sent.as_str()), ("x-slack-signature", signature.as_str())];
    assert_eq!(post(&address, &headers, &tampered).0, 401);
    assert_eq!(post(&address, &headers[..2], &body).0, 401);
    assert_eq!(bench.project.runs().len(), 0, "nothing has happened");

    let (status, said) = post(&address, &headers, &body);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((status, &said["response_type"]), (200, &json!("ephemeral")), "{said}");
    assert!(said["text"].as_str().unwrap().starts_with("▶ Begun: `ask`"), "{said}");
    // The same bytes again, and the same with the secret that is being replaced.
    assert_eq!(post(&address, &headers, &body), (200, String::new()));
    assert_eq!(send(SIGNING_OLD, now, &body), (200, String::new()));
    let (run, value) = bench.asks();
    assert_eq!(bench.runs_of("ask"), 1);

    let press = bench.press("U0ADA", "run.approve", &value, "http.yes").to_string();
    assert_eq!(send(SIGNING, now, &form(&[("payload", &press)])).0, 200);
    bench.ends(&run, "reported");
    assert_eq!(
        bench.project.until("an answer", || bench.answers("http.yes").first().cloned()),
        "✅ You approved: May I go on?"
    );
    assert_eq!(send(SIGNING, now, &form(&[("payload", "{")])).0, 400);

    let challenge =
        r#"{"token":"x","challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P","type":"url_verification"}"#;
    let signature = sign(SIGNING, now, challenge);
    let json_kind = ("content-type", "application/json");
    let said = post(&address, &[json_kind, headers[1], ("x-slack-signature", &signature)], challenge);
    assert_eq!(said, (200, "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P".into()));
    assert_eq!(post(&address, &[json_kind], challenge).0, 401, "nobody else may make us say something");

    // An answer goes nowhere but to Slack.
    let mut away = bench.command("U0ADA", "status", "http.2");
    away["response_url"] = json!("http://169.254.169.254/latest");
    let mut press = bench.press("U0ADA", "run.retry", &run, "http.away");
    press["response_url"] = json!("http://169.254.169.254/latest");
    assert_eq!(send(SIGNING, now, &form(&[("payload", &press.to_string())])).0, 200);
    bench.project.until("the log says so", || {
        bench.daemon.log().contains("the address for an answer is not Slack's").then_some(())
    });
}

#[test]
fn what_github_tells_of_our_work_reaches_the_ledger_once() {
    let project = Project::new(&[("briefly", BRIEFLY)], None);
    project.write("config/github.hook", SIGNING);
    let config = std::fs::read_to_string(project.path("config/nightcrew.yaml")).unwrap();
    project.write(
        "config/nightcrew.yaml",
        &format!(
            "{config}hooks: {{listen: \"127.0.0.1:0\"}}\nsecrets: {{HOOK: {{file: github.hook}}}}\nservices: {{github: {{webhook_secret: secret:HOOK}}}}\n"
        ),
    );
    project.run(&["run", "briefly"]).ends(1);
    let run = project.runs()[0]["id"].as_str().unwrap().to_owned();
    let open = || rusqlite::Connection::open(project.path("state/nightcrew.db")).unwrap();
    let tie = "INSERT INTO ties (pipeline, profile, effects, fingerprint, kind, url, key, destination, state, run, at)
               VALUES ('briefly', 'local', 'preview', ?1, ?2, ?3, ?1, 'github', 'open', ?4, 0)";
    for (print, kind, url) in [
        ("f1", "pull_request", "https://github.com/acme/api/pull/7"),
        ("f2", "ticket", "https://github.com/acme/api/issues/8"),
    ] {
        open().execute(tie, [print, kind, url, &run]).unwrap();
    }
    let state = |print: &str| -> String {
        open().query_row("SELECT state FROM ties WHERE fingerprint = ?1", [print], |row| row.get(0)).unwrap()
    };
    let daemon = project.start(&["serve", "--profile", "local"]);
    project.until("ready", || daemon.log().contains("\"ready\"").then_some(()));
    let address = hooks_address(&daemon.log());
    let send = |secret: &str, event: &str, id: &str, body: &Value| {
        let body = body.to_string();
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
        let tag = ring::hmac::sign(&key, body.as_bytes());
        let tag: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let signature = format!("sha256={tag}");
        let headers = [("x-github-event", event), ("x-github-delivery", id), ("x-hub-signature-256", &signature)];
        post_to(&address, "github", &headers, &body)
    };
    let pull = |url: &str| json!({"action": "closed", "pull_request": {"html_url": url, "merged": true}});
    let own = pull("https://github.com/acme/api/pull/7");
    assert_eq!(send("wrong", "pull_request", "d1", &own).0, 401);
    assert_eq!(state("f1"), "open");
    assert_eq!(send(SIGNING, "ping", "d0", &json!({"zen": "x"})), (200, "pong".into()));
    assert_eq!(send(SIGNING, "pull_request", "d1", &own), (202, "noted".into()));
    assert_eq!((state("f1"), state("f2")), ("merged".into(), "open".into()));
    assert_eq!(send(SIGNING, "pull_request", "d1", &own), (202, "known".into()));
    assert_eq!(
        send(SIGNING, "pull_request", "d2", &pull("https://github.com/acme/api/pull/9")),
        (202, "not ours".into())
    );
    let issue = |action: &str, reason: &str| json!({"action": action, "issue": {"html_url": "https://github.com/acme/api/issues/8", "state_reason": reason}});
    assert_eq!(send(SIGNING, "issues", "d3", &issue("closed", "not_planned")).1, "noted");
    assert_eq!(state("f2"), "not_planned");
    assert_eq!(send(SIGNING, "issues", "d4", &issue("reopened", "reopened")).1, "noted");
    assert_eq!(state("f2"), "open");
    // A delivery of before, once more.
    assert_eq!(send(SIGNING, "issues", "d3", &issue("closed", "not_planned")).1, "known");
    assert_eq!(state("f2"), "open");
    assert_eq!(send(SIGNING, "push", "d5", &json!({})).1, "nothing to do");
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
}
