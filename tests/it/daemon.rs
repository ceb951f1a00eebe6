//! The process that holds a state directory, and others beside it: the socket, the schedule, stopping, being killed.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::fakes::model::{ModelServer, Reply};
use crate::project::{ASK, BRIEF, Process, Project, TICK};

fn serve(project: &Project) -> Process {
    let daemon = project.start(&["serve", "--profile", "local"]);
    project.until("ready", || daemon.log().contains("\"ready\"").then_some(()));
    daemon
}

/// The field of a line of the daemon's log.
fn logged(daemon: &Process, message: &str, field: &str) -> Value {
    let lines = daemon.log();
    let line =
        lines.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()).find(|l| l["message"] == message).unwrap();
    line[field].clone()
}

fn get(address: &str, path: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_daemon_serves_runs_health_and_a_clear_line_for_a_second_one() {
    let server = ModelServer::script(|_| Reply::json(&json!({"text": "From 4 to 7."})));
    let project = Project::new(&[("brief", BRIEF)], Some(&server));
    let daemon = serve(&project);
    let address = logged(&daemon, "ready", "address").as_str().unwrap().to_owned();
    assert!(get(&address, "/healthz").starts_with("HTTP/1.1 200"));
    assert!(get(&address, "/readyz").contains("\"pipelines\":[\"brief\"]"));

    let run = project.run(&["--json", "run", "brief"]).ends(0).json();
    assert_eq!((&run["runs"][0]["outcome"], &run["runs"][0]["profile"]), (&json!("reported"), &json!("local")));
    let second = project.run(&["serve", "--profile", "local", "--listen", "127.0.0.1:0"]).ends(1);
    assert!(second.err.contains(&format!("held by process {}", daemon.id())), "{}", second.err);
    assert!(project.run(&["doctor"]).ends(0).out.contains("is held by `serve`"));
    project.run(&["run", "brief", "--record", "tape"]).ends(1);

    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
    assert!(!project.path("state/control.sock").exists());
}

#[test]
fn a_person_approves_from_another_terminal() {
    let project = Project::new(&[("ask", ASK)], None);
    let holder = project.start(&["run", "ask"]);
    let asks = |run: &Value| run["questions"].as_array().is_some_and(|q| !q.is_empty());
    let id = project.until("the question", || {
        project.runs().first().filter(|run| asks(run)).map(|run| run["id"].as_str().unwrap().to_owned())
    });
    assert!(project.run(&["answer", &id, "perhaps"]).ends(2).err.contains("yes or no"));
    project.run(&["approve", &id]).ends(0);
    assert_eq!(holder.wait(), Some(0));
    assert_eq!(project.runs()[0]["outcome"], "reported");
    assert!(project.run(&["approve", &id]).ends(1).err.contains("already ended"));
}

/// Open runs that ask, oldest first.
fn asking(project: &Project) -> Vec<String> {
    let asks = |run: &&Value| run["outcome"].is_null() && run["questions"][0].is_object();
    let mut ids: Vec<String> =
        project.runs().iter().filter(asks).map(|run| run["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

#[test]
fn a_run_that_holds_stays_until_the_runs_it_took_in_have_ended() {
    let project = Project::new(&[("ask", ASK)], None);
    let holder = project.start(&["run", "ask"]);
    let first = project.until("the first question", || asking(&project).first().cloned());
    let mut beside = project.command(&["--json", "run", "ask"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let second = project.until("the second question", || asking(&project).into_iter().find(|id| *id != first));
    project.run(&["approve", &first]).ends(0);
    project.until("the first end", || (asking(&project) == [second.clone()]).then_some(()));
    project.run(&["cancel", &second, "--reason", "enough"]).ends(0);
    assert_eq!(beside.wait().unwrap().code(), Some(1));
    assert_eq!(holder.wait(), Some(0));
    let run = project.run(&["--json", "runs", &second]).ends(0).json();
    let (outcome, why) = (&run["runs"][0]["outcome"], &run["runs"][0]["failure"]["message"]);
    assert_eq!((outcome, why), (&json!("cancelled"), &json!("enough")));
}

#[test]
fn runs_beyond_the_limit_wait_and_a_stopped_daemon_takes_all_of_them_up_again() {
    let project = Project::new(&[("ask", ASK)], None);
    let config = std::fs::read_to_string(project.path("config/nightcrew.yaml")).unwrap();
    project.write("config/nightcrew.yaml", &format!("{config}limits: {{max_concurrent_runs: 1}}\n"));
    let daemon = serve(&project);
    let ask = || project.command(&["-q", "run", "ask"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    let mut both = [ask(), ask()];
    project.until("one active, one waiting", || {
        project.run(&["doctor"]).out.contains("1 run active, 1 waiting").then_some(())
    });
    let first = project.until("the question", || asking(&project).first().cloned());
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
    both.iter_mut().for_each(|child| assert_eq!(child.wait().unwrap().code(), Some(1), "suspended"));
    let daemon = serve(&project);
    project.run(&["approve", &first]).ends(0);
    let second = project.until("the second question", || asking(&project).into_iter().find(|id| *id != first));
    project.run(&["approve", &second]).ends(0);
    project.until("both ends", || project.runs().iter().all(|run| run["outcome"] == "reported").then_some(()));
    drop(daemon);
}

#[test]
fn a_suspended_run_can_be_answered_or_cancelled_by_a_command_that_takes_the_lock() {
    let project = Project::new(&[("ask", ASK)], None);
    for (command, code, outcome) in [("deny", 0, "declined"), ("cancel", 1, "cancelled")] {
        let holder = project.start(&["run", "ask"]);
        let id = project.until("the question", || {
            let runs = project.runs();
            let run = runs.first().filter(|run| run["outcome"].is_null() && run["questions"][0].is_object())?;
            Some(run["id"].as_str().unwrap().to_owned())
        });
        holder.signal("INT");
        assert_eq!(holder.wait(), Some(1), "an open run has no healthy end");
        project.run(&[command, &id]).ends(0);
        if outcome != "cancelled" {
            let resumed = project.run(&["--json", "resume"]);
            assert_eq!(resumed.code, Some(code), "{resumed:?}");
        }
        let run = project.run(&["--json", "runs", &id]).ends(0).json();
        assert!([outcome, "reported"].contains(&run["runs"][0]["outcome"].as_str().unwrap()), "{run}");
    }
}

#[test]
fn a_killed_run_is_resumed_and_pays_for_nothing_twice() {
    let hold = Arc::new(AtomicBool::new(true));
    let held = hold.clone();
    let server = ModelServer::script(move |_| {
        let reply = Reply::json(&json!({"text": "From 4 to 7."}));
        if held.load(Ordering::SeqCst) { reply.delay(Duration::from_secs(600)) } else { reply }
    });
    let project = Project::new(&[("brief", BRIEF)], Some(&server));
    let holder = project.start(&["run", "brief"]);
    project.until("the call", || (server.count() == 1).then_some(()));
    holder.kill();
    hold.store(false, Ordering::SeqCst);
    assert!(project.runs()[0]["outcome"].is_null());
    let resumed = project.run(&["--json", "resume"]).ends(0).json();
    let run = &resumed["runs"][0];
    assert_eq!((&run["outcome"], server.count()), (&json!("reported"), 2), "the lost call is asked again");
    let id = run["id"].as_str().unwrap();
    let lines = project.run(&["--json", "logs", id]).ends(0).out;
    let entries: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let done = |path: &str| entries.iter().filter(|e| e["kind"] == "step_finished" && e["path"] == path).count();
    assert_eq!((done("data"), done("brief"), done("post")), (1, 1, 1));
}

#[test]
fn every_slot_of_a_schedule_is_accounted_for_across_a_kill_and_a_stop() {
    let project = Project::new(&[("tick", TICK)], None);
    let slots =
        || project.run(&["--json", "slots", "--limit", "1000"]).json()["slots"].as_array().cloned().unwrap_or_default();
    let daemon = serve(&project);
    project.until("two slots", || (slots().len() >= 2).then_some(()));
    daemon.kill();
    let daemon = serve(&project);
    let before = slots().len();
    project.until("more slots", || (slots().len() >= before + 2).then_some(()));
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
    let mut times: Vec<i64> = slots()
        .iter()
        .map(|slot| slot["nominal_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second())
        .collect();
    times.sort_unstable();
    let every: Vec<i64> = (times[0]..=times[times.len() - 1]).collect();
    assert_eq!(times, every, "each second once");
    let fates = slots();
    assert!(fates.iter().all(|slot| slot["fate"] == "run" || slot["fate"] == "queued"), "{fates:?}");
}

#[test]
fn a_changed_pipeline_is_taken_up_and_a_broken_one_is_not() {
    let project = Project::new(&[("ask", ASK)], None);
    let daemon = serve(&project);
    project.write("pipelines/ask.yaml", "version: 1\nname: ask\n");
    daemon.signal("HUP");
    project.until("the refusal", || daemon.log().contains("nothing was reloaded").then_some(()));
    project.write("pipelines/ask.yaml", ASK);
    project.write("pipelines/tick.yaml", TICK);
    daemon.signal("HUP");
    project.until("the reload", || daemon.log().contains("were reloaded").then_some(()));
    project.until("a run of the new one", || (!project.runs().is_empty()).then_some(()));
}

#[test]
fn without_a_usable_pipeline_the_daemon_does_not_start() {
    let project = Project::new(&[("bad", "version: 1\nname: bad\n")], None);
    assert!(project.run(&["serve"]).ends(78).err.contains("no pipeline in `pipelines` can be used"));
    assert!(!project.path("state").exists());
}
