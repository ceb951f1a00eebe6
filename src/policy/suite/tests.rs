//! The outputs under `data/` are real, but for paths and host names. What is read of them stands in `expected.txt`.

use super::*;
use crate::domain::proof::CaseState::{Failed, Passed, Skipped};

macro_rules! data {
    ($name:literal) => {
        include_str!(concat!("data/", $name))
    };
}

/// Standard output, standard error, and `$JUNIT`.
const REAL: &[(&str, &str, &str, Option<&str>)] = &[
    ("cargo, all binaries", data!("cargo-nff.out"), data!("cargo-nff.err"), None),
    ("cargo, stopped at the first", data!("cargo-ff.out"), data!("cargo-ff.err"), None),
    ("cargo, both outputs in one", data!("cargo-both.out"), "", None),
    ("cargo, uncaptured, one thread", data!("cargo-nocap.out"), data!("cargo-nocap.err"), None),
    ("cargo, uncaptured", data!("cargo-nocapmt.out"), data!("cargo-nocapmt.err"), None),
    ("cargo, with output of the successful", data!("cargo-show.out"), data!("cargo-show.err"), None),
    ("cargo, quiet", data!("cargo-quiet.out"), data!("cargo-quiet.err"), None),
    ("cargo, does not compile", data!("cargo-compile.out"), data!("cargo-compile.err"), None),
    ("cargo, a test aborts", data!("cargo-abort.out"), data!("cargo-abort.err"), None),
    ("cargo, a test ends the process with success", data!("cargo-exit.out"), data!("cargo-exit.err"), None),
    ("cargo, a test prints a result", data!("cargo-spoof.out"), data!("cargo-spoof.err"), None),
    ("cargo, green", data!("cargo-green.out"), data!("cargo-green.err"), None),
    ("pytest -v", data!("pytest-v.out"), "", None),
    ("pytest -rA", data!("pytest-rA.out"), "", None),
    ("pytest -q", data!("pytest-q.out"), "", None),
    ("pytest -x", data!("pytest-x.out"), "", None),
    ("pytest -v -s", data!("pytest-vs.out"), "", None),
    ("pytest, not collected", data!("pytest-broken.out"), "", None),
    ("pytest, no tests", data!("pytest-none.out"), "", None),
    ("pytest JUnit", data!("pytest-v.out"), "", Some(data!("pytest.xml"))),
    ("pytest JUnit, not collected", data!("pytest-broken.out"), "", Some(data!("pytest-broken.xml"))),
    ("pytest JUnit, no tests", data!("pytest-none.out"), "", Some(data!("pytest-none.xml"))),
    ("node JUnit", "", "", Some(data!("node.xml"))),
    ("node TAP", data!("node.tap"), "", None),
    ("node spec", data!("node.spec"), "", None),
];

fn shown(title: &str, suite: &Suite) -> String {
    use std::fmt::Write as _;
    let mut out = format!("# {title}\n{} ({})\n", summary(suite), suite.format);
    for doubt in &suite.doubts {
        writeln!(out, "! {doubt}").unwrap();
    }
    for case in &suite.cases {
        let sign = match case.state {
            Passed => "+",
            Failed => "-",
            Skipped => "o",
        };
        let said: String = case.message.replace('\n', "|").chars().take(70).collect();
        writeln!(out, "{} {}{}{said}", sign, case.name, if said.is_empty() { "" } else { "  <- " }).unwrap();
    }
    out
}

#[test]
fn reads_what_real_runners_write() {
    let read: Vec<String> =
        REAL.iter().map(|(title, stdout, stderr, junit)| shown(title, &read(stdout, stderr, *junit))).collect();
    let (read, expected) = (read.join("\n"), data!("expected.txt"));
    if read != expected {
        for (one, other) in read.lines().zip(expected.lines()) {
            assert_eq!(one, other);
        }
        println!("{read}");
    }
    assert!(read == expected, "as many lines");
}
