//! Evidence, honest and not, and what is to be thought of it. A piece of evidence is made of five short texts, one for each
//! stage: `+passed -failed oskipped`, `-name=message` for what a failure says.

use std::collections::BTreeMap;

use super::*;
use crate::base::hash::Hash;
use crate::domain::proof::{Case, CaseState, Stage, StageKind, Suite};
use crate::domain::sandbox::{CommandReceipt, Workspace};

use StageKind::{Base, BaseAgain, Patched, PatchedAgain, Reproduced};

const BASE: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const TEST: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const NEW: &str = "cccccccccccccccccccccccccccccccccccccccc";

fn suite(text: &str) -> Suite {
    let mut cases: Vec<Case> = text
        .split_whitespace()
        .map(|word| {
            let state = match &word[..1] {
                "+" => CaseState::Passed,
                "-" => CaseState::Failed,
                "o" => CaseState::Skipped,
                other => panic!("{other}"),
            };
            let (name, message) = word[1..].split_once('=').unwrap_or((&word[1..], ""));
            Case { name: name.into(), state, message: message.replace('_', " ") }
        })
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Suite { cases, format: "junit".into(), doubts: Vec::new() }
}

fn stage(kind: StageKind, text: &str) -> Stage {
    let suite = suite(text);
    let failed = suite.cases.iter().any(|case| case.state == CaseState::Failed);
    let tree = match kind {
        Base | BaseAgain => BASE,
        Reproduced => TEST,
        Patched | PatchedAgain => NEW,
    };
    let receipt = CommandReceipt {
        command: "run-tests".into(),
        tree: tree.parse().unwrap(),
        exit: Some(i32::from(failed)),
        signal: None,
        stopped: None,
        duration_ms: 10,
        output: Hash::of(text),
        environment: Hash::of("environment"),
        provider: "sandboxd".into(),
        template: String::new(),
        sandbox: String::new(),
        isolation: "bubblewrap".into(),
        gaps: Vec::new(),
        network: "none".into(),
        fresh: true,
        at: jiff::Timestamp::UNIX_EPOCH,
    };
    Stage { kind, receipt, suite }
}

fn evidence(stages: &[(StageKind, &str)]) -> Evidence {
    Evidence {
        base: Workspace {
            origin: "acme/api".into(),
            reference: "main".into(),
            commit: BASE.parse().unwrap(),
            tree: BASE.parse().unwrap(),
            bound: "clone".into(),
        },
        test_tree: TEST.parse().unwrap(),
        new_tree: NEW.parse().unwrap(),
        patch: Hash::of("patch"),
        stages: stages.iter().map(|(kind, text)| stage(*kind, text)).collect(),
        reasons: vec!["KeyError".into(), "total of cart".into()],
        noted: Vec::new(),
    }
}

/// Base, reproduced, patched: with a test that is red for the reason at hand and turns green.
fn good() -> Evidence {
    evidence(&[
        (Base, "+t::a +t::b ot::c"),
        (Reproduced, "+t::a +t::b ot::c -t::new=KeyError"),
        (Patched, "+t::a +t::b ot::c +t::new"),
    ])
}

fn with(change: impl FnOnce(&mut Evidence)) -> Evidence {
    let mut evidence = good();
    change(&mut evidence);
    evidence
}

fn at(evidence: &mut Evidence, kind: StageKind) -> &mut Stage {
    evidence.stages.iter_mut().find(|stage| stage.kind == kind).unwrap()
}

fn proven(red: &[&str], because: Option<&str>, unchanged: u32) -> Proven {
    Proven {
        red_then_green: red.iter().map(|name| (*name).to_owned()).collect(),
        because: because.map(str::to_owned),
        unchanged,
        ..Proven::default()
    }
}

#[test]
fn honest_evidence_proves() {
    let key = Some("KeyError");
    let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let table: Vec<(&str, Evidence, Proven)> = vec![
        ("the plain case", good(), proven(&["t::new"], key, 2)),
        (
            "two red tests, one of them for another reason",
            evidence(&[
                (Base, "+a::a"),
                (Reproduced, "+a::a -a::x=other -a::y=the_total_of__cart"),
                (Patched, "+a::a +a::x +a::y"),
            ]),
            proven(&["a::x", "a::y"], Some("total of cart"), 1),
        ),
        (
            "a new test that passes on the base beside the red one",
            evidence(&[(Base, "+a"), (Reproduced, "+a +x -y=KeyError"), (Patched, "+a +x +y")]),
            proven(&["y"], key, 1),
        ),
        (
            "a new test that is skipped here, beside the red one",
            evidence(&[(Base, "+a"), (Reproduced, "+a ox -y=KeyError"), (Patched, "+a ox +y")]),
            proven(&["y"], key, 1),
        ),
        ("nothing is known of the reason", with(|evidence| evidence.reasons.clear()), proven(&["t::new"], None, 2)),
        (
            "only common words are known of the reason",
            with(|evidence| evidence.reasons = own(&["Error", "main", "x"])),
            proven(&["t::new"], None, 2),
        ),
        (
            "the reason in other letters and blanks",
            evidence(&[(Base, "+a"), (Reproduced, "+a -x=__TOTAL__OF___Cart_is_wrong"), (Patched, "+a +x")]),
            proven(&["x"], Some("total of cart"), 1),
        ),
        (
            "the exception with its module",
            with(|evidence| at(evidence, Reproduced).suite.cases[3].message = "builtins.KeyError: 'id'".into()),
            proven(&["t::new"], key, 2),
        ),
        (
            "a known failure stays",
            evidence(&[
                (Base, "+a -k"),
                (BaseAgain, "+a -k"),
                (Reproduced, "+a -k -x=KeyError"),
                (Patched, "+a -k +x"),
            ]),
            Proven { known_failures: own(&["k"]), ..proven(&["x"], key, 1) },
        ),
        (
            "a known failure is mended too",
            evidence(&[
                (Base, "+a -k"),
                (BaseAgain, "+a -k"),
                (Reproduced, "+a -k -x=KeyError"),
                (Patched, "+a +k +x"),
            ]),
            Proven { also_fixed: own(&["k"]), ..proven(&["x"], key, 1) },
        ),
        (
            "one of two known failures is mended",
            evidence(&[
                (Base, "-k -l"),
                (BaseAgain, "-k -l"),
                (Reproduced, "-k -l -x=KeyError"),
                (Patched, "+k -l +x"),
            ]),
            Proven { also_fixed: own(&["k"]), known_failures: own(&["l"]), ..proven(&["x"], key, 0) },
        ),
        (
            "flaky on the base, passes later",
            evidence(&[
                (Base, "+a -f"),
                (BaseAgain, "+a +f"),
                (Reproduced, "+a -f -x=KeyError"),
                (Patched, "+a +f +x"),
            ]),
            Proven { flaky: own(&["f"]), ..proven(&["x"], key, 2) },
        ),
        (
            "flaky on the base, otherwise in every run",
            evidence(&[
                (Base, "+a -f"),
                (BaseAgain, "+a +f"),
                (Reproduced, "+a +f -x=KeyError"),
                (Patched, "+a -f +x"),
                (PatchedAgain, "+a +f +x"),
            ]),
            Proven { flaky: own(&["f"]), ..proven(&["x"], key, 1) },
        ),
        (
            "passes first and fails in the second run on the base",
            evidence(&[
                (Base, "+f -k"),
                (BaseAgain, "-f -k"),
                (Reproduced, "-f -k -x=KeyError"),
                (Patched, "+f -k +x"),
            ]),
            Proven { flaky: own(&["f"]), known_failures: own(&["k"]), ..proven(&["x"], key, 1) },
        ),
        (
            "fails once with the patch and passes the second time",
            evidence(&[
                (Base, "+a +f"),
                (Reproduced, "+a +f -x=KeyError"),
                (Patched, "+a -f +x"),
                (PatchedAgain, "+a +f +x"),
            ]),
            Proven { flaky: own(&["f"]), ..proven(&["x"], key, 1) },
        ),
        (
            "another one fails in the second run with the patch",
            evidence(&[
                (Base, "+f +g"),
                (Reproduced, "+f +g -x=KeyError"),
                (Patched, "-f +g +x"),
                (PatchedAgain, "+f -g +x"),
            ]),
            Proven { flaky: own(&["f", "g"]), ..proven(&["x"], key, 1) },
        ),
        (
            "a skipped test runs now",
            evidence(&[(Base, "+a os"), (Reproduced, "+a os -x=KeyError"), (Patched, "+a +s +x")]),
            proven(&["x"], key, 1),
        ),
        (
            "tests appear with the change",
            evidence(&[(Base, "+a"), (Reproduced, "+a -x=KeyError"), (Patched, "+a +x +documented")]),
            proven(&["x"], key, 1),
        ),
        (
            "a project without tests",
            with(|evidence| {
                *evidence = self::evidence(&[(Base, ""), (Reproduced, "-x=KeyError"), (Patched, "+x")]);
                at(evidence, Base).receipt.exit = Some(5);
            }),
            proven(&["x"], key, 0),
        ),
        (
            "cargo stops behind the first binary that fails",
            with(|evidence| {
                *evidence = self::evidence(&[
                    (Base, "+lib::a +it::b +doc::c"),
                    (Reproduced, "+lib::a -lib::x=KeyError"),
                    (Patched, "+lib::a +lib::x +it::b +doc::c"),
                ]);
                evidence.stages.iter_mut().for_each(|stage| stage.suite.format = "cargo".into());
            }),
            proven(&["lib::x"], key, 3),
        ),
        (
            "a test that is called like the function that fails",
            with(|evidence| {
                evidence.reasons = own(&["parse_duration"]);
                let case = &mut at(evidence, Reproduced).suite.cases[3];
                case.message =
                    "thread 'tests::new' (7) panicked at src/lib.rs:22:40\n   4: acme::parse_duration".into();
            }),
            proven(&["t::new"], Some("parse_duration"), 2),
        ),
        (
            "many tests",
            {
                let old: Vec<String> = (0..2_000).map(|n| format!("+m::t{n:04}")).collect();
                let old = old.join(" ");
                evidence(&[
                    (Base, &old),
                    (Reproduced, &format!("{old} -m::x=KeyError")),
                    (Patched, &format!("{old} +m::x")),
                ])
            },
            proven(&["m::x"], key, 2_000),
        ),
    ];
    assert!(table.len() >= 20);
    for (what, evidence, expected) in table {
        assert_eq!(judge(&evidence), Ok(expected), "{what}");
        let stored: Evidence = serde_json::from_str(&serde_json::to_string(&evidence).unwrap()).unwrap();
        assert_eq!(judge(&stored), judge(&evidence), "{what}: as stored");
    }
}

#[test]
fn what_does_not_prove_says_why() {
    let (b, r, p) = ("+t::a +t::b", "+t::a +t::b -t::new=KeyError", "+t::a +t::b +t::new");
    let plain = |base: &str, red: &str, green: &str| evidence(&[(Base, base), (Reproduced, red), (Patched, green)]);
    let table: Vec<(&str, Evidence, &str)> = vec![
        // Honest, but no proof.
        (
            "the new test passes on the base",
            plain(b, "+t::a +t::b +t::new", p),
            "the new test passes on the base: it does not show the bug (`t::new`)",
        ),
        ("no new test is found", plain(b, b, b), "there is no new test in the results"),
        (
            "the fix does not help",
            plain(b, r, "+t::a +t::b -t::new=KeyError"),
            "the new test `t::new` still fails with the patch; it says: KeyError",
        ),
        (
            "the fix breaks another",
            evidence(&[
                (Base, b),
                (Reproduced, r),
                (Patched, "+t::a -t::b=oh +t::new"),
                (PatchedAgain, "+t::a -t::b +t::new"),
            ]),
            "`t::b` passed on the base and fails with the patch, twice: the patch breaks it; `t::b` says: oh",
        ),
        (
            "a failure was not run again",
            plain(b, r, "+t::a -t::b +t::new"),
            "not run once more to tell whether it is flaky",
        ),
        (
            "failures on the base were not run again",
            plain("+t::a -t::b", "+t::a -t::b -t::new=KeyError", "+t::a -t::b +t::new"),
            "cannot be told from",
        ),
        (
            "flaky before, and fails twice now",
            evidence(&[
                (Base, "+a -f"),
                (BaseAgain, "+a +f"),
                (Reproduced, "+a +f -x=KeyError"),
                (Patched, "+a -f +x"),
                (PatchedAgain, "+a -f +x"),
            ]),
            "is flaky on the base and fails with the patch",
        ),
        (
            "only tests change",
            with(|evidence| evidence.new_tree = evidence.test_tree.clone()),
            "changes nothing but tests",
        ),
        (
            "nothing changes",
            with(|evidence| {
                evidence.new_tree = evidence.base.tree.clone();
            }),
            "there is no change",
        ),
        (
            "no test changes",
            with(|evidence| evidence.test_tree = evidence.base.tree.clone()),
            "there is no new test: add one",
        ),
        (
            "a known failure is no new test",
            evidence(&[(Base, "+a -k"), (BaseAgain, "+a -k"), (Reproduced, "+a -k"), (Patched, "+a +k")]),
            "That `k` failed on the base before is not enough",
        ),
        (
            "the tests hang",
            with(|evidence| {
                let receipt = &mut at(evidence, Patched).receipt;
                receipt.exit = None;
                receipt.stopped = Some("wall".into());
            }),
            "took too long with the patch",
        ),
        (
            "memory runs out",
            with(|evidence| {
                at(evidence, Base).receipt.stopped = Some("memory".into());
            }),
            "stopped on the base by the limit `memory`",
        ),
        (
            "a signal",
            with(|evidence| {
                let receipt = &mut at(evidence, Reproduced).receipt;
                receipt.exit = None;
                receipt.signal = Some(11);
            }),
            "ended by signal 11",
        ),
        ("no end", with(|evidence| at(evidence, Reproduced).receipt.exit = None), "did not end by itself"),
        (
            "the new tests do not compile on the base",
            with(|evidence| {
                let stage = at(evidence, Reproduced);
                stage.receipt.exit = Some(101);
                stage.suite = Suite {
                    cases: Vec::new(),
                    format: String::new(),
                    doubts: vec!["the tests do not compile: error[E0425]".into()],
                };
            }),
            "write it against what is there, so that it runs and fails",
        ),
        (
            "the file of the new test cannot be loaded",
            plain("+t::a", "-t.test_new=collection_failure_KeyError", "+t::a +t::new"),
            "could not be loaded on the base",
        ),
        (
            "the results cannot be read",
            with(|evidence| at(evidence, Patched).suite.doubts = vec!["the counts do not add up".into()]),
            "with the patch cannot be relied on: the counts do not add up",
        ),
        (
            "no results at all",
            with(|evidence| at(evidence, Base).suite = Suite::default()),
            "the single tests cannot be read on the base",
        ),
        (
            "results of another kind",
            with(|evidence| at(evidence, Patched).suite.format = "pytest".into()),
            "they cannot be compared",
        ),
        (
            "a stage is missing",
            with(|evidence| drop(evidence.stages.remove(1))),
            "the tests were not run on the base with the new tests",
        ),
        ("no stages", with(|evidence| evidence.stages.clear()), "the tests were not run on the base"),
        (
            "no test command",
            with(|evidence| evidence.stages.iter_mut().for_each(|stage| stage.receipt.command.clear())),
            "no test command",
        ),
        (
            "new tests leave something behind",
            plain(b, "+t::a -t::b -t::new=KeyError", p),
            "`t::b` does something else once the new tests are there",
        ),
        (
            "a second new test fails with the patch",
            plain(b, "+t::a +t::b -t::new=KeyError +t::y", "+t::a +t::b +t::new -t::y=oops"),
            "`t::y` is new and fails with the patch; `t::y` says: oops",
        ),
        (
            "the second run on the base finds other tests",
            evidence(&[(Base, "-k"), (BaseAgain, "-k +z"), (Reproduced, "-k -x=KeyError"), (Patched, "-k +x")]),
            "has other tests than the first: `z`",
        ),
        // Gaming.
        ("a test is deleted", plain(b, r, "+t::a +t::new"), "`t::b` is there without the patch and missing with it"),
        (
            "a test is deleted with the new tests",
            plain(b, "+t::a -t::new=KeyError", "+t::a +t::new"),
            "`t::b` is there on the base but not with the new tests",
        ),
        (
            "a test takes the place of another",
            plain(b, "+t::a -t::c=KeyError", "+t::a +t::c"),
            "must not take the place of another",
        ),
        (
            "a test is skipped",
            plain(b, r, "+t::a ot::b +t::new"),
            "`t::b` ran on the base and is skipped with the patch",
        ),
        (
            "the new test is skipped with the patch",
            plain(b, r, "+t::a +t::b ot::new"),
            "`t::new` is skipped with the patch: it has to run and pass",
        ),
        (
            "the new test is skipped on the base",
            plain(b, "+t::a +t::b ot::new", p),
            "the new test is skipped on the base",
        ),
        ("the new test vanishes", plain(b, r, b), "the new test `t::new` is missing with the patch"),
        (
            "fewer are collected",
            plain("+a +b +c", "+a +b +c -x=KeyError", "+a +x"),
            "there are 2 tests with the patch and 3 on the base",
        ),
        (
            "an existing test is made to fail as the red one",
            plain(b, "+t::a -t::b=KeyError", b),
            "`t::b` does something else once the new tests are there",
        ),
        (
            "the exit code is faked",
            with(|evidence| {
                let stage = at(evidence, Patched);
                stage.suite = suite("+t::a -t::b ot::c +t::new");
                stage.receipt.exit = Some(0);
            }),
            "ends with success with the patch although `t::b` failed",
        ),
        (
            "the results are faked",
            with(|evidence| at(evidence, Patched).receipt.exit = Some(1)),
            "although no test failed",
        ),
        (
            "the exit code of the red run is 0",
            with(|evidence| at(evidence, Reproduced).receipt.exit = Some(0)),
            "something hides failures",
        ),
        (
            "the patched run was of the test tree",
            with(|evidence| at(evidence, Patched).receipt.tree = TEST.parse().unwrap()),
            "not on cccccccccccc",
        ),
        (
            "the base run was of another commit",
            with(|evidence| at(evidence, Base).receipt.tree = NEW.parse().unwrap()),
            "on the base was made on the tree cccccccccccc",
        ),
        (
            "the red run was of the whole patch",
            with(|evidence| at(evidence, Reproduced).receipt.tree = NEW.parse().unwrap()),
            "not on bbbbbbbbbbbb",
        ),
        ("not afresh", with(|evidence| at(evidence, Patched).receipt.fresh = false), "has to begin afresh"),
        (
            "another command",
            with(|evidence| at(evidence, Patched).receipt.command = "run-tests || true".into()),
            "another test command",
        ),
        (
            "another environment",
            with(|evidence| at(evidence, Reproduced).receipt.environment = Hash::of("other")),
            "another environment",
        ),
        (
            "another isolation",
            with(|evidence| at(evidence, Patched).receipt.isolation = "landlock".into()),
            "confined otherwise",
        ),
        ("with network", with(|evidence| at(evidence, Patched).receipt.network = "pypi.org".into()), "had network"),
        (
            "red for another reason",
            plain(b, "+t::a +t::b -t::new=NameError", p),
            "fails on the base for another reason than the one at hand: `t::new` says: NameError. One of these has to stand in it: `KeyError`, `total of cart`",
        ),
        ("the reason is part of another word", plain(b, "+t::a +t::b -t::new=MyKeyErrors", p), "for another reason"),
        ("red without a word", plain(b, "+t::a +t::b -t::new", p), "says: (nothing)"),
        (
            "the reason is the name of the test",
            with(|evidence| {
                evidence.reasons = vec!["new_thing".into()];
                for kind in [Reproduced, Patched] {
                    at(evidence, kind).suite.cases[3].name = "t::tests::new_thing".into();
                }
                at(evidence, Reproduced).suite.cases[3].message =
                    "thread 'tests::new_thing' (12) panicked at src/a.rs:1:1:\nno".into();
            }),
            "for another reason",
        ),
        (
            "the reason is a comment in the test",
            with(|evidence| {
                at(evidence, Reproduced).suite.cases[3].message =
                    "def new():\n    # KeyError\n    \"\"\"KeyError\"\"\"\n>   assert 1 == 2  # KeyError\nE   assert 1 == 2".into();
            }),
            "for another reason",
        ),
        (
            "flaky as red",
            evidence(&[
                (Base, "+a +f"),
                (Reproduced, "+a +f -x=KeyError"),
                (Patched, "+a -f +x"),
                (PatchedAgain, "+a +f -x=KeyError"),
            ]),
            "`x` passed once with the patch and not the second time",
        ),
        (
            "flaky on the base as red",
            evidence(&[
                (Base, "+a -f=KeyError"),
                (BaseAgain, "+a +f"),
                (Reproduced, "+a -f=KeyError"),
                (Patched, "+a +f"),
            ]),
            "no new test in the results",
        ),
        (
            "a known failure is mended by a skip",
            evidence(&[
                (Base, "+a -k"),
                (BaseAgain, "+a -k"),
                (Reproduced, "+a -k -x=KeyError"),
                (Patched, "+a ok +x"),
            ]),
            "skipping repairs nothing",
        ),
        (
            "a known failure is mended by its removal",
            evidence(&[
                (Base, "+a -k"),
                (BaseAgain, "+a -k"),
                (Reproduced, "+a -k -x=KeyError"),
                (Patched, "+a +x +y"),
            ]),
            "`k` is there without the patch and missing with it",
        ),
        (
            "a flaky test is removed",
            evidence(&[
                (Base, "+a -f"),
                (BaseAgain, "+a +f"),
                (Reproduced, "+a +f -x=KeyError"),
                (Patched, "+a +x +y"),
            ]),
            "`f` is there without the patch and missing with it",
        ),
        (
            "a test is skipped in the second run",
            evidence(&[
                (Base, "+a +f"),
                (Reproduced, "+a +f -x=KeyError"),
                (Patched, "+a -f +x"),
                (PatchedAgain, "oa +f +x"),
            ]),
            "`a` ran on the base and is skipped with the patch",
        ),
        ("stages in another order", with(|evidence| evidence.stages.swap(1, 2)), "out of order"),
        (
            "a stage twice",
            with(|evidence| {
                let stage = evidence.stages[2].clone();
                evidence.stages.push(stage);
            }),
            "stand twice",
        ),
        (
            "a name twice",
            with(|evidence| {
                let suite = &mut at(evidence, Patched).suite;
                let case = suite.cases[0].clone();
                suite.cases.push(case);
            }),
            "a test stands twice in the results with the patch",
        ),
        ("a skipped test is removed", plain("+a os", "+a os -x=KeyError", "+a +x"), "`s` is there without the patch"),
        (
            "a new green test vanishes with the patch",
            plain("+a", "+a +y -x=KeyError", "+a +x"),
            "`y` is there without the patch",
        ),
        (
            "a new green test is skipped with the patch",
            plain("+a", "+a +y -x=KeyError", "+a oy +x"),
            "`y` ran on the base and is skipped",
        ),
    ];
    assert!(table.len() >= 40);
    let mut names = BTreeMap::new();
    for (what, evidence, expected) in table {
        assert!(names.insert(what, ()).is_none(), "{what} stands twice");
        let why = judge(&evidence).expect_err(what);
        assert!(!why.is_empty(), "{what}");
        assert!(why.iter().any(|one| one.why.contains(expected)), "{what}: {why:#?}");
        assert!(why.iter().all(|one| one.why.len() < 2_500 && !one.why.ends_with('.')), "{what}: {why:#?}");
    }
}

/// Whatever one result of honest evidence becomes, it must not become a proof that says more than is there.
#[test]
fn no_single_lie_is_believed() {
    let honest = evidence(&[
        (Base, "+a +b os -k"),
        (BaseAgain, "+a +b os -k"),
        (Reproduced, "+a +b os -k -x=KeyError"),
        (Patched, "+a +b os -k +x"),
    ]);
    assert!(judge(&honest).is_ok());
    let mut refused = 0;
    for stage in 0..honest.stages.len() {
        for case in 0..honest.stages[stage].suite.cases.len() {
            for lie in [Some(CaseState::Passed), Some(CaseState::Failed), Some(CaseState::Skipped), None] {
                let mut evidence = honest.clone();
                let cases = &mut evidence.stages[stage].suite.cases;
                let told = cases[case].clone();
                match lie {
                    Some(lie) if lie == told.state => continue,
                    Some(lie) => cases[case].state = lie,
                    None => drop(cases.remove(case)),
                }
                let failed = evidence.stages[stage].suite.cases.iter().any(|case| case.state == CaseState::Failed);
                evidence.stages[stage].receipt.exit = Some(i32::from(failed));
                match judge(&evidence) {
                    Err(_) => refused += 1,
                    // What remains: the base does otherwise the second time (flaky), or more passes with the patch.
                    Ok(proven) => {
                        let kind = evidence.stages[stage].kind;
                        let is_flaky = matches!(kind, Base | BaseAgain) && !proven.flaky.is_empty();
                        let is_better = kind == Patched && lie == Some(CaseState::Passed);
                        assert!(is_flaky || is_better, "{kind:?} {} {lie:?}: {proven:?}", told.name);
                        assert_eq!(proven.red_then_green, ["x"]);
                    }
                }
            }
        }
    }
    assert!(refused > 30, "{refused}");
}

#[test]
fn tests_are_known_by_their_path() {
    for path in [
        "tests/it/main.rs",
        "tests/api.rs",
        "src/duration_test.rs",
        "src/a/tests.rs",
        "src/a/tests/more.rs",
        "crates/x/tests/a.rs",
        "src/policy/errors/group_tests.rs",
        "test_api.py",
        "app/test_api.py",
        "app/api_test.py",
        "tests/unit/helpers.py",
        "tests/__init__.py",
        "src/a.test.ts",
        "src/a.spec.tsx",
        "src/__tests__/a.js",
        "test/a.mjs",
        "a.test.cjs",
        "pkg/a_test.go",
        "src/test/java/acme/CartTest.java",
        "src/test/kotlin/Cart.kt",
        "app/src/androidTest/java/A.java",
        "src/commonTest/kotlin/A.kt",
        "spec/models/cart_spec.rb",
        "test/cart_test.rb",
        "tests/CartTest.php",
        "src/Acme.Api.Tests/UnitTest1.cs",
        "src/CartTests.cs",
        "tests/data/a.json",
        "tests/fixtures/package.json",
        "tests/fixtures/Cargo.toml",
        "pkg/testdata/golden.txt",
        "src/__tests__/__snapshots__/a.test.ts.snap",
        "tests/README.md",
    ] {
        assert!(is_test(path), "{path}");
    }
    for path in [
        "src/lib.rs",
        "src/main.py",
        "src/testing.rs",
        "src/latest.rs",
        "contest/a.py",
        "src/attest.go",
        "lib/greatest.js",
        "",
        "tests/conftest.py",
        "conftest.py",
        "pytest.ini",
        "tox.ini",
        "jest.config.js",
        "tests/jest.config.ts",
        "vitest.config.ts",
        "tests/Cargo.toml",
        "tests/package.json",
        ".github/workflows/test.yml",
        "tests/../src/lib.rs",
        "/tests/a.rs",
        "tests//a.rs",
        "phpunit.xml",
        "spec/spec_helper.rb",
        "test/test_helper.rb",
        "tests/sitecustomize.py",
        "tests/pytest.py",
        "build.rs",
        "tests/.gitattributes",
        "tests/Makefile",
        "src/tests/fixtures/conftest.py",
        "playwright.config.ts",
        ".mocharc.json",
    ] {
        assert!(!is_test(path), "{path}");
    }
}
