//! `nightcrew demo`: offline, in a bare environment, with every figure checked. And how its tape is made.

use std::path::Path;

use serde_json::{Value, json};

use crate::fakes::model::{ModelServer, Reply, Request};
use crate::project::{Answer, command};

const TAPE: &str = "tests/samples/analytics/demo.tape";

/// What the models of the demo say. Only their words; every figure is in the samples, see their README.
fn script(request: &Request) -> Reply {
    if request.model().contains("haiku") {
        return Reply::json(&json!({
            "headline": "Checkout errors at 216 against the usual 40, only on Safari 18; sign-ups up 18 %",
            "bullets": [
                "Checkout errors: 216 (usual 40), 2.1 % of attempts; 181 of them on Safari 18, from 14:10.",
                "Attempts are as usual: 10512 (usual 10208), so it is the errors that rose.",
                "Sign-ups: 1204 (usual 1020), the rise is referral alone: 289 against 145 a week before.",
                "Activations hardly followed the sign-ups: 413 (usual 386).",
                "What sent the referrals and what broke Safari 18 is unknown: the data does not say."
            ]
        }));
    }
    match request.turn() {
        0 => Reply::text("I compare the flagged day with the Thursday before.")
            .and_call("signups", &json!({"from": "2026-11-12", "to": "2026-11-19"}))
            .and_call("checkout", &json!({"from": "2026-11-12", "to": "2026-11-19"})),
        _ => Reply::json(&json!({"causes": [
            {
                "metric": "checkout.errors",
                "cause": "Safari 18 alone, from 14:10 on; why it fails there is unknown: the data names the step, not the reason.",
                "evidence": "181 of the day's 216 errors are Safari 18, against 9 of 39 on the Thursday before; attempts are as usual."
            },
            {
                "metric": "signups.signups",
                "cause": "Referral alone; what sent them is unknown: it stands nowhere in the data.",
                "evidence": "Referral brought 289, against 145 on the Thursday before; search and direct hardly moved, nor did activations."
            }
        ]})),
    }
}

/// Records the demo's tape anew, after a change of prompts: `cargo test --test it -- --ignored record_the_demos_tape`.
#[test]
#[ignore = "writes a file of the repository"]
fn record_the_demos_tape() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let server = ModelServer::script(script);
    let folder = tempfile::tempdir().unwrap();
    // The demo lays out its own files; with an empty tape it ends there.
    let run = |arguments: &[&str]| Answer::of(command(folder.path(), arguments).output().unwrap());
    run(&["demo"]);
    let config = folder.path().join("nightcrew-demo/nightcrew.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    let url = server.url();
    let text = text
        .replace("provider: anthropic,", &format!("provider: anthropic, base_url: \"{url}\","))
        .replace("    models: {tape: samples/demo.tape}\n", "");
    std::fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    let arguments = ["--config", config, "--state", "state", "--json", "run", "analytics-report"];
    let tape = folder.path().join("demo.tape");
    let answer =
        run(&[&arguments[..], &["--profile", "demo", "--set", "day=2026-11-19", "--record", tape.to_str().unwrap()]]
            .concat());
    assert_eq!(answer.ends(0).json()["runs"][0]["outcome"], "reported");
    server.assert_clean();
    std::fs::copy(tape, root.join(TAPE)).unwrap();
}

#[test]
fn the_demo_needs_nothing_and_checks_every_figure() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| Answer::of(command(folder.path(), arguments).output().unwrap());
    let answer = run(&["--json", "demo"]).ends(0).json();
    let ran = &answer["runs"][0];
    assert_eq!(
        json!([ran["pipeline"], ran["profile"], ran["effects"], ran["outcome"], ran["turns"], ran["intern"]["calls"]]),
        json!(["analytics-report", "demo", "preview", "reported", 2, 1])
    );
    assert_eq!(json!([ran["complaints"], ran["refused"]]), json!([[], []]));
    let report = folder.path().join(ran["receipts"][0]["url_or_path"].as_str().unwrap());
    let text = std::fs::read_to_string(&report).unwrap();
    assert!(text.contains("216 against the usual 40") && text.contains("289 against 145"), "{text}");
    let page = std::fs::read_to_string(report.with_file_name("index.html")).unwrap();
    assert!(page.contains("<svg") && !page.contains("http://"), "readable offline, with its chart");

    // A finished one begins anew; anybody else's folder is left alone.
    let again: Value = run(&["--json", "demo"]).ends(0).json();
    assert_ne!(again["runs"][0]["id"], ran["id"]);
    std::fs::create_dir(folder.path().join("mine")).unwrap();
    std::fs::write(folder.path().join("mine/nightcrew.yaml"), "precious").unwrap();
    assert!(run(&["demo", "mine"]).ends(1).err.contains("is not empty and is not a demo's"));
}
