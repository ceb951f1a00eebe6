//! Commands as a person or a script types them: what they print and how they end. What belongs here: one process at a time.

use serde_json::json;

use crate::fakes::model::{ModelServer, Reply};
use crate::project::{ASK, Answer, BRIEF, Project, command};

#[test]
fn a_run_tells_scripts_what_became_of_it() {
    let server = ModelServer::script(|_| Reply::json(&json!({"text": "From 4 to 7."})));
    let project = Project::new(&[("brief", BRIEF)], Some(&server));
    let answer = project.run(&["--json", "run", "brief", "--set", "day=2026-11-19"]).ends(0).json();
    let run = &answer["runs"][0];
    assert_eq!(
        json!([
            run["pipeline"],
            run["profile"],
            run["effects"],
            run["outcome"],
            run["turns"],
            run["intern"]["calls"],
            run["boss"]["calls"]
        ]),
        json!(["brief", "local", "preview", "reported", 0, 1, 0])
    );
    assert_eq!((&run["params"]["day"], &run["receipts"][0]["destination"]), (&json!("2026-11-19"), &json!("files")));
    assert!(run["cost_usd"].as_f64().unwrap() > 0.0);
    server.assert_clean();

    let id = run["id"].as_str().unwrap();
    let short = format!("{}…{}", &id[..4], &id[id.len() - 3..]);
    let whole = project.run(&["runs", &short]).ends(0).out;
    assert!(whole.contains("brief") && whole.contains("reported") && whole.contains(id), "{whole}");
    let lines = project.run(&["--json", "logs", id]).ends(0).out;
    let kinds: Vec<String> = lines
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["kind"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        (kinds.first().map(String::as_str), kinds.last().map(String::as_str)),
        (Some("run_started"), Some("run_finished"))
    );
    let costs = project.run(&["--json", "costs"]).ends(0).json();
    assert_eq!(costs["costs"][0]["intern"]["calls"], 1);
    assert_eq!(project.run(&["runs"]).ends(0).out.lines().count(), 2);
    assert!(project.run(&["resume", id]).ends(1).err.contains("nothing to resume"));
}

#[test]
fn a_run_may_stop_early_and_another_may_go_on_from_its_results() {
    let server = ModelServer::script(|_| Reply::json(&json!({"text": "From 4 to 7."})));
    let project = Project::new(&[("brief", BRIEF)], Some(&server));
    let first = project.run(&["--json", "run", "brief", "--until", "brief"]).ends(0).json();
    assert_eq!(server.count(), 1);
    let id = first["runs"][0]["id"].as_str().unwrap();
    let second = project.run(&["--json", "run", "brief", "--from", id, "--step", "post"]).ends(0).json();
    assert_eq!(
        (server.count(), &second["runs"][0]["outcome"]),
        (1, &json!("reported")),
        "the intern was not asked again"
    );
    assert!(project.run(&["run", "brief", "--from", id, "--step", "nope"]).ends(2).err.contains("no step `nope`"));
}

#[test]
fn a_report_for_the_terminal_is_printed_after_the_run_and_never_into_json() {
    let project = Project::new(&[], None);
    project.write("pipelines/tell.yaml", "version: 1\nname: tell\nsummary: Tells.\ntools:\n  days: {sql: warehouse, file: sql/days.sql}\nsteps:\n  - id: data\n    fetch: {from: days}\n  - id: post\n    report: {from: [data], to: terminal}\n");
    let told = project.run(&["run", "tell"]).ends(0).out;
    assert!(told.contains("2026-11-19") && told.find("2026-11-19") < told.find("next:"), "{told}");
    assert_eq!(
        project.run(&["--json", "run", "tell"]).ends(0).json()["runs"][0]["receipts"][0]["destination"],
        "terminal"
    );
}

#[test]
fn wrong_usage_is_told_with_a_way_out_and_its_own_exit_code() {
    let project = Project::new(&[("brief", BRIEF), ("bad", "version: 1\nname: bad\nstps: []\n")], None);
    let tell = |arguments: &[&str], code: i32| project.run(arguments).ends(code).err;
    assert!(tell(&["run", "nope"], 1).contains("there is no pipeline `nope` (E-PIPELINE)\n  = help: known: `brief`"));
    assert!(tell(&["run", "bad"], 78).contains("pipelines/bad.yaml:3:1"));
    assert!(tell(&["run", "brief", "--set", "dya=1"], 2).contains("no parameter `dya`: it has `day`"));
    assert!(tell(&["run", "brief", "--profile", "moon"], 2).contains("one of: cloud, local"));
    assert!(tell(&["runs", "01"], 1).contains("there is no run `01`"));
    assert!(tell(&["nope"], 2).contains("unrecognized subcommand"));
    assert!(tell(&["--config", "none.yaml", "run", "brief"], 78).contains("none.yaml"));
    let answer = project.run(&["serve", "--profile", "moon"]).ends(2);
    assert!(answer.err.contains("there is no profile `moon`"));
}

#[test]
fn validate_tells_every_mistake_and_is_quiet_otherwise() {
    let project = Project::new(&[("brief", BRIEF), ("ask", ASK)], None);
    assert_eq!(project.run(&["validate"]).ends(0).out, "2 pipelines, no mistakes\n");
    project
        .write("pipelines/bad.yaml", "version: 1\nname: bad\nsummary: Bad.\nsteps:\n  - id: a\n    fetsh: {from: x}\n");
    let told = project.run(&["validate"]).ends(1).out;
    assert!(told.contains("--> pipelines/bad.yaml:6:5") && told.contains("did you mean `fetch`?"), "{told}");
    let json = project.run(&["--json", "validate", "pipelines/bad.yaml"]).ends(1).json();
    assert_eq!((&json["diagnostics"][0]["line"], &json["diagnostics"][0]["column"]), (&json!(6), &json!(5)));
}

#[test]
fn plan_says_what_a_run_may_do_and_where_that_is_written() {
    let project = Project::new(&[("brief", BRIEF)], None);
    let plan = project.run(&["--json", "plan", "brief"]).ends(0).json();
    assert_eq!(plan["limits"]["max_budget_usd"], json!({"value": 0.5, "file": "pipelines/brief.yaml", "line": 5}));
    assert_eq!((&plan["worst_case_usd"], &plan["next_slots"]), (&json!(0.5), &json!([])));
    assert_eq!(plan["models"]["intern"]["model"], "claude-haiku-5-5");
    assert_eq!(plan["models"].get("boss"), None, "no step asks the boss");
    let text = project.run(&["plan", "brief"]).ends(0).out;
    assert!(text.contains("pipelines/brief.yaml:5") && text.contains("config/prices.yaml:"), "{text}");
    assert!(!project.path("state").exists(), "a plan leaves nothing behind");
}

#[test]
fn init_fits_a_repository_and_what_it_writes_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let repository = folder.path().join("api");
    std::fs::create_dir_all(repository.join(".git")).unwrap();
    std::fs::write(repository.join(".git/config"), "[remote \"origin\"]\n\turl = https://github.com/acme/api\n")
        .unwrap();
    std::fs::write(repository.join("Cargo.toml"), "").unwrap();
    let run = |arguments: &[&str]| Answer::of(command(&repository, arguments).output().unwrap());
    run(&["init"]).ends(0);
    assert_eq!(run(&["validate"]).ends(0).out, "3 pipelines, no mistakes\n");
    for name in ["analytics-report", "code-health", "error-to-pr"] {
        run(&["plan", name]).ends(0);
    }
    assert!(run(&["init"]).ends(0).out.starts_with("everything is there already: config/nightcrew.yaml, "));
    run(&["new", "weekly-report", "--from", "analytics-report"]).ends(0);
    assert_eq!(run(&["validate"]).ends(0).out, "4 pipelines, no mistakes\n");
    run(&["new", "weekly-report", "--from", "analytics-report"]).ends(1);
    // The commands of these tests have no PATH, and pipelines on code need git.
    let answer = run(&["doctor"]).ends(1);
    assert!(
        answer.out.lines().any(|line| line.starts_with("✗ git") && line.contains("→ apt install git")),
        "{answer:?}"
    );
    let path = std::env::var_os("PATH").unwrap();
    Answer::of(command(&repository, &["doctor"]).env("PATH", path).output().unwrap()).ends(0);
}

#[test]
fn mistakes_of_an_environment_are_shown_wherever_it_is_needed_and_plan_says_what_will_run() {
    let folder = tempfile::tempdir().unwrap();
    let repository = folder.path().join("api");
    std::fs::create_dir_all(&repository).unwrap();
    std::fs::write(repository.join("Cargo.toml"), "").unwrap();
    let run = |arguments: &[&str]| Answer::of(command(&repository, arguments).output().unwrap());
    run(&["init"]).ends(0);
    let plan = run(&["plan", "error-to-pr", "--json"]).ends(0).json();
    assert_eq!(plan["code"]["sandbox"]["sandbox"], "sandboxd", "{plan}");
    assert_eq!(plan["code"]["test"]["value"][0], "cargo test --offline --no-fail-fast", "{plan}");
    assert_eq!(plan["bindings"]["→ pull_requests"]["ready"], true, "{plan}");
    let text = run(&["plan", "code-health"]).ends(0).out;
    assert!(text.contains("cargo clippy") && text.contains("environments/api.yaml"), "{text}");
    std::fs::write(repository.join("pipelines/environments/api.yaml"), "chekcs: [x]\n").unwrap();
    for arguments in
        [&["run", "code-health"][..], &["env", "build"], &["env", "check", "code-health"], &["plan", "code-health"]]
    {
        let answer = run(arguments).ends(78);
        assert!(
            answer.err.contains("chekcs") && answer.err.contains("environments/api.yaml:1"),
            "{arguments:?} {answer:?}"
        );
    }
}

#[test]
fn schema_and_completions_are_printed() {
    let project = Project::new(&[], None);
    assert!(project.run(&["schema"]).ends(0).json().is_object());
    assert!(project.run(&["schema", "--cel"]).ends(0).out.contains("days_before(date, integer) -> date"));
    assert!(project.run(&["completions", "bash"]).ends(0).out.contains("nightcrew"));
    for answer in [project.run(&["slots"]), project.run(&["costs"]), project.run(&["runs"]), project.run(&["resume"])] {
        answer.ends(0);
    }
}
