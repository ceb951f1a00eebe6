//! What goes wrong around the process: the database, the disk, the tape, the model's server. A person is told what, and what to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::fakes::model::{ModelServer, Reply, Request};
use crate::project::{ASK, BRIEF, Project, TICK};

fn good(_: &Request) -> Reply {
    Reply::json(&json!({"text": "From 4 to 7."}))
}

#[test]
fn a_database_of_a_newer_version_or_a_damaged_one_is_left_alone_and_named() {
    let server = ModelServer::script(good);
    let project = Project::new(&[("brief", BRIEF)], Some(&server));
    project.run(&["run", "brief"]).ends(0);
    let database = project.path("state/nightcrew.db");
    let tell = |part: &str| {
        let before = std::fs::read(&database).unwrap();
        for arguments in [&["run", "brief"][..], &["runs"], &["serve", "--profile", "local"], &["resume"], &["slots"]] {
            let answer = project.run(arguments).ends(1);
            assert!(answer.err.contains(part) && answer.err.contains("nightcrew.db"), "{arguments:?}: {}", answer.err);
            assert_eq!(answer.out, "");
        }
        assert!(std::fs::read(&database).unwrap() == before, "it was written to");
    };
    rusqlite::Connection::open(&database).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    tell("schema version 99");
    std::fs::write(&database, "this is no database, but it is long enough to be looked at as one").unwrap();
    tell("is damaged");
    assert_eq!(server.count(), 1, "no run began");
}

#[test]
fn a_state_directory_that_cannot_be_one_is_no_empty_one() {
    let project = Project::new(&[("brief", BRIEF)], None);
    project.write("file", "precious");
    for arguments in [&["runs"][..], &["run", "brief"], &["serve", "--profile", "local"], &["slots"]] {
        let answer = project.run(&[&["--state", "file"], arguments].concat()).ends(1);
        assert!(answer.err.contains("`file") && answer.out.is_empty(), "{}", answer.err);
    }
    assert_eq!(std::fs::read_to_string(project.path("file")).unwrap(), "precious");
}

#[test]
fn a_broken_tape_blocks_the_run_and_its_report_says_why() {
    let project = Project::new(&[("brief", BRIEF)], None);
    let config = std::fs::read_to_string(project.path("config/nightcrew.yaml")).unwrap();
    project.write("config/nightcrew.yaml", &format!("{config}profiles: {{taped: {{models: {{tape: a.tape}}}}}}\n"));
    let run = || {
        let ran = project.run(&["--json", "run", "brief", "--profile", "taped"]).ends(1).json()["runs"][0].clone();
        let report = std::fs::read_to_string(ran["receipts"][0]["url_or_path"].as_str().unwrap()).unwrap();
        assert!(report.contains("a.tape"), "{report}");
        (ran["outcome"].clone(), ran["failure"]["code"].clone(), ran["failure"]["message"].as_str().unwrap().to_owned())
    };
    let (outcome, code, message) = run();
    assert_eq!((outcome, code), (json!("blocked"), json!("E-TAPE")), "{message}");
    project.write("config/a.tape", "garbage");
    let (outcome, code, message) = run();
    assert_eq!((outcome, code), (json!("blocked"), json!("E-TAPE")));
    assert!(!message.contains('\n') && !message.contains('^'), "{message}");
    project.write("config/a.tape", "");
    let (outcome, code, message) = run();
    assert_eq!((outcome, code), (json!("failed"), json!("E-TAPE")));
    assert!(message.contains("`brief/turn-1`"), "{message}");
}

#[test]
fn a_stop_does_not_wait_for_a_provider_that_limits_and_the_run_goes_on_afterwards() {
    let limits = Arc::new(AtomicBool::new(true));
    let limiting = limits.clone();
    let server = ModelServer::script(move |request| match limiting.load(Ordering::SeqCst) {
        true => Reply::status(429, "rate_limit_error", "slow down").header("retry-after", "50"),
        false => good(request),
    });
    let project = Project::new(&[("brief", BRIEF)], Some(&server));
    let holder = project.start(&["run", "brief"]);
    project.until("the refusal", || holder.log().contains("asking again in 50s").then_some(()));
    holder.signal("TERM");
    let log = project.path("process.log");
    assert_eq!(holder.wait(), Some(1));
    let told = std::fs::read_to_string(log).unwrap();
    assert!(told.contains("suspended; go on with:") && !told.contains("cut off"), "{told}");
    assert!(project.runs()[0]["outcome"].is_null());

    limits.store(false, Ordering::SeqCst);
    let run = project.run(&["--json", "resume"]).ends(0).json()["runs"][0].clone();
    assert_eq!(
        (&run["outcome"], &run["intern"]["usd"], server.count()),
        (&json!("reported"), &run["cost_usd"], 2),
        "the limited call cost nothing"
    );
}

#[test]
fn what_a_model_server_does_wrong_ends_in_an_outcome_that_a_person_understands() {
    type Bad = (&'static str, fn(&Request) -> Reply, &'static str, &'static str, &'static str);
    let table: [Bad; 7] = [
        (
            "refuses the key",
            |_| Reply::status(401, "authentication_error", "invalid x-api-key"),
            "blocked",
            "E-CREDENTIAL",
            "invalid x-api-key",
        ),
        (
            "wants money",
            |_| Reply::status(400, "invalid_request_error", "Your credit balance is too low"),
            "blocked",
            "E-BILLING",
            "credit balance",
        ),
        (
            "knows no such model",
            |_| Reply::status(404, "not_found_error", "model: x"),
            "failed",
            "E-MODEL",
            "check `model` and `base_url`",
        ),
        ("declines", |_| Reply::text("").refusal("cyber", "no"), "failed", "E-REFUSED", "declined to answer"),
        ("chats", |_| Reply::text("I would rather talk."), "failed", "E-OUTPUT", "not of the type"),
        ("answers another", |_| Reply::json(&json!({"text": "x"})).model("gpt-2"), "failed", "E-MODEL", "gpt-2"),
        ("sends a web page", |_| Reply::raw(400, "text/html", "<html>proxy</html>"), "failed", "E-MODEL", "HTTP 400"),
    ];
    for (what, reply, outcome, code, words) in table {
        let server = ModelServer::script(reply);
        let project = Project::new(&[("brief", BRIEF)], Some(&server));
        let answer = project.run(&["run", "brief"]).ends(1);
        assert!(answer.out.starts_with(&format!("{outcome} · 1 report · ")), "{what}: {}", answer.out);
        assert!(answer.out.contains(code) && answer.out.contains(words), "{what}: {}", answer.out);
        let run = project.runs()[0].clone();
        let report = std::fs::read_to_string(run["receipts"][0]["url_or_path"].as_str().unwrap()).unwrap();
        assert!(
            report.contains(outcome) && report.contains("2026-11-19"),
            "the data got out though it {what}:\n{report}"
        );
    }
}

#[test]
fn who_resumes_after_a_change_hears_that_the_run_keeps_what_it_began_with() {
    let server = ModelServer::script(good);
    let project = Project::new(&[("brief", BRIEF)], Some(&server));
    let whole = std::fs::read_to_string(project.path("config/nightcrew.yaml")).unwrap();
    let keyed = whole.replace("haiku-5-5,", "haiku-5-5, api_key: secret:KEY,") + "secrets: {KEY: {file: the.key}}\n";
    project.write("config/nightcrew.yaml", &keyed);
    project.run(&["run", "brief"]).ends(1);
    let id = project.runs()[0]["id"].as_str().unwrap().to_owned();
    project.write("config/nightcrew.yaml", &whole);
    let still = project.run(&["resume", &id]).ends(1);
    assert!(still.err.contains("the run keeps the pipeline and the configuration that it began with"), "{}", still.err);
    assert!(still.err.contains(" run brief"), "{}", still.err);
    // The key itself is read anew at each use.
    project.write("config/nightcrew.yaml", &keyed);
    project.write("config/the.key", "key\n");
    let goes = project.run(&["resume", &id]).ends(0);
    assert!(!goes.err.contains("note:"), "{}", goes.err);
}

#[test]
fn a_second_daemon_hears_who_holds_the_directory_also_when_it_wants_the_same_port() {
    let project = Project::new(&[("ask", ASK)], None);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let serve = ["serve", "--profile", "local", "--listen", &format!("127.0.0.1:{port}")];
    let daemon = project.start(&serve);
    project.until("ready", || daemon.log().contains("\"ready\"").then_some(()));
    let second = project.run(&serve).ends(1);
    assert!(second.err.contains(&format!("held by process {}", daemon.id())), "{}", second.err);
    let other = project.run(&[&["--state", "other"], &serve[..]].concat()).ends(1);
    assert!(other.err.contains("Address already in use") && other.err.contains("--listen"), "{}", other.err);

    // Beside it: the question in its own words, and names that are nearly right.
    let mut run = project.command(&["-q", "run", "ask"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    let id = project.until("the question", || {
        let run = project.runs().first()?.clone();
        (run["questions"][0]["ask"] == "May I go on?").then(|| run["id"].as_str().unwrap().to_owned())
    });
    assert!(project.run(&["runs", &id]).ends(0).out.contains("asks: May I go on?"));
    assert!(project.run(&["run", "aks"]).ends(1).err.contains("did you mean `ask`?"));
    project.run(&["deny", &id, "--reason", "not now"]).ends(0);
    assert_eq!(run.wait().unwrap().code(), Some(0));
    assert_eq!(project.runs()[0]["outcome"], "declined");
    drop(daemon);
}

/// A small file system. Only root can make one; elsewhere there is nothing to test.
pub struct Small(pub std::path::PathBuf);

impl Small {
    pub fn mount(path: std::path::PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir_all(&path).unwrap();
        let size = format!("size={size}");
        let mount = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).output();
        mount.is_ok_and(|made| made.status.success()).then_some(Self(path))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(std::process::Command::new("umount").arg(&self.0).status());
    }
}

#[test]
fn a_full_disk_loses_nothing_and_the_daemon_goes_on_when_there_is_room_again() {
    let project = Project::new(&[("tick", TICK)], None);
    let Some(small) = Small::mount(project.path("small"), "2m") else { return };
    let state = small.0.join("state").display().to_string();
    let run = |arguments: &[&str]| project.run(&[&["--state", &state], arguments].concat());
    let daemon = project.start(&["--state", &state, "serve", "--profile", "local"]);
    project.until("a run", || daemon.log().contains("\"finished\"").then_some(()));
    // All that is left is taken away at once.
    let fill = small.0.join("fill");
    let mut filler = std::fs::File::create(&fill).unwrap();
    while std::io::Write::write_all(&mut filler, &[0; 4096]).is_ok() {}
    drop(filler);
    project.until("the complaint", || daemon.log().contains("no space left to write the journal").then_some(()));
    let refused = run(&["run", "tick"]).ends(1);
    assert!(refused.err.contains("no space left"), "{}", refused.err);

    let finished = daemon.log().matches("\"finished\"").count();
    std::fs::remove_file(fill).unwrap();
    project.until("more runs", || (daemon.log().matches("\"finished\"").count() > finished + 1).then_some(()));
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
    let slots = run(&["--json", "slots", "--limit", "1000"]).ends(0).json()["slots"].as_array().unwrap().clone();
    let mut times: Vec<i64> = slots
        .iter()
        .map(|slot| slot["nominal_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second())
        .collect();
    times.sort_unstable();
    assert_eq!(times, (times[0]..=times[times.len() - 1]).collect::<Vec<_>>(), "each second once");
}
