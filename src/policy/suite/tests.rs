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

/// Name and state of each case.
fn states(suite: &Suite) -> Vec<(&str, crate::domain::proof::CaseState)> {
    suite.cases.iter().map(|case| (case.name.as_str(), case.state)).collect()
}

#[test]
fn reads_the_junit_files_of_many_tools() {
    for (tool, xml, expected) in [
        (
            "surefire",
            r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuite xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:noNamespaceSchemaLocation="x.xsd" name="acme.CartTest" time="0.1" tests="4" errors="1" skipped="1" failures="1">
  <properties><property name="java.version" value="21"/></properties>
  <testcase name="adds" classname="acme.CartTest" time="0.0"/>
  <testcase name="total" classname="acme.CartTest"><failure message="expected: &lt;1&gt; but was: &lt;2&gt;" type="org.opentest4j.AssertionFailedError"><![CDATA[at acme.CartTest.total(CartTest.java:7)]]></failure><system-out>x</system-out></testcase>
  <testcase name="breaks" classname="acme.CartTest"><error type="java.lang.NullPointerException"/></testcase>
  <testcase name="later" classname="acme.CartTest"><skipped/></testcase>
</testsuite>"#,
            vec![
                ("acme.CartTest::adds", Passed),
                ("acme.CartTest::breaks", Failed),
                ("acme.CartTest::later", Skipped),
                ("acme.CartTest::total", Failed),
            ],
        ),
        (
            "surefire, run again after a failure",
            r#"<testsuite name="a" tests="1" failures="0"><testcase name="t" classname="A"><flakyFailure message="once"><stackTrace>x</stackTrace></flakyFailure></testcase></testsuite>"#,
            vec![("A::t", Passed)],
        ),
        (
            "jest-junit",
            r#"<testsuites name="jest tests" tests="3" failures="1" errors="0" time="1.2">
  <testsuite name="cart" errors="0" failures="1" skipped="1" timestamp="2026-11-20T10:00:00" time="0.5" tests="3">
    <testcase classname="cart adds" name="cart adds" time="0.002"></testcase>
    <testcase classname="cart fails" name="cart fails" time="0.001"><failure>Error: expect(received).toBe(expected)</failure></testcase>
    <testcase classname="cart later" name="cart later" time="0"><skipped/></testcase>
  </testsuite>
</testsuites>"#,
            vec![("jest > x", Passed)],
        ),
        (
            "vitest",
            r#"<testsuites name="vitest tests" tests="2" failures="0" errors="0"><testsuite name="src/a.test.ts" tests="2" failures="0" errors="0" skipped="0"><testcase classname="src/a.test.ts" name="cart &gt; adds"/><testcase classname="src/a.test.ts" name="cart &gt; removes"/></testsuite></testsuites>"#,
            vec![("src/a.test.ts::cart > adds", Passed), ("src/a.test.ts::cart > removes", Passed)],
        ),
        (
            "go-junit-report",
            r#"<testsuites tests="2" failures="1"><testsuite name="acme/cart" tests="2" failures="1" errors="0" id="0"><testcase name="TestAdd" classname="acme/cart" time="0.000"></testcase><testcase name="TestTotal/empty" classname="acme/cart"><failure message="Failed"><![CDATA[    cart_test.go:9: got 1]]></failure></testcase></testsuite></testsuites>"#,
            vec![("acme/cart::TestAdd", Passed), ("acme/cart::TestTotal/empty", Failed)],
        ),
        (
            "PHPUnit: suites within suites, totals of all",
            r#"<testsuites><testsuite name="all" tests="2" assertions="2" errors="0" failures="0" skipped="0"><testsuite name="CartTest" file="/app/tests/CartTest.php" tests="2"><testcase name="testAdd" class="CartTest" classname="CartTest" file="/app/tests/CartTest.php" line="7"/><testcase name="testTotal" classname="CartTest"/></testsuite></testsuite></testsuites>"#,
            vec![("CartTest::testAdd", Passed), ("CartTest::testTotal", Passed)],
        ),
        (
            "googletest: skipped by attribute",
            r#"<testsuites tests="2" failures="0" disabled="1" errors="0"><testsuite name="Cart" tests="2" failures="0" disabled="1" errors="0"><testcase name="Adds" status="run" result="completed" classname="Cart"/><testcase name="Later" status="notrun" result="suppressed" classname="Cart"/></testsuite></testsuites>"#,
            vec![("Cart::Adds", Passed), ("Cart::Later", Skipped)],
        ),
        (
            "a suite that could not be run",
            r#"<testsuite name="Cart" tests="1"><testcase name="a" classname="Cart"/><error message="cannot connect"/></testsuite>"#,
            vec![("Cart", Failed), ("Cart::a", Passed)],
        ),
        (
            "hardly any attributes, one name twice",
            "<testsuite><testcase name='a'/><testcase name='a'/><testcase classname='only'/></testsuite>",
            vec![("a", Passed), ("a #2", Passed), ("only", Passed)],
        ),
    ] {
        let suite = read("", "", Some(xml));
        assert_eq!(suite.doubts, [""; 0], "{tool}");
        assert_eq!(suite.format, "junit", "{tool}");
        if tool == "jest-junit" {
            let names =
                ["jest tests > cart > cart adds", "jest tests > cart > cart fails", "jest tests > cart > cart later"];
            assert_eq!(suite.cases.iter().map(|case| case.name.as_str()).collect::<Vec<_>>(), names);
            continue;
        }
        assert_eq!(states(&suite), expected, "{tool}");
    }
}

#[test]
fn doubts_what_does_not_add_up() {
    let pytest = data!("pytest.xml");
    let two = "test t::a ... ok\ntest t::b ... ok\n";
    let end = |passed: u32, failed: u32| {
        let word = if failed == 0 { "ok" } else { "FAILED" };
        format!(
            "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n"
        )
    };
    let go = "=== RUN   TestA\n--- PASS: TestA (0.00s)\n";
    let table: Vec<(&str, String, String, Option<String>, &str)> = vec![
        ("a JUnit file that is cut off", String::new(), String::new(), Some(pytest[..pytest.len() / 2].into()), "the JUnit file is not whole: it ends within"),
        ("no JUnit", String::new(), String::new(), Some("<html></html>".into()), "begins with <html>"),
        ("entities from outside", String::new(), String::new(), Some("<!DOCTYPE a SYSTEM 'x'><testsuite/>".into()), "a document type is not taken"),
        ("fewer cases than tests", String::new(), String::new(), Some("<testsuite name='s' tests='3'><testcase name='a'/></testsuite>".into()), "of the suite `s` another number of tests"),
        ("hidden failures", String::new(), String::new(), Some("<testsuite name='s' tests='1' failures='1'><testcase name='a'/></testsuite>".into()), "another number of failures"),
        ("a name twice, with other results", String::new(), String::new(), Some("<testsuite><testcase name='a'/><testcase name='a'><failure/></testcase></testsuite>".into()), "`a` stands there twice with different results"),
        ("pytest says otherwise than its file", "==== 2 failed, 10 passed in 0.10s ====\n".into(), String::new(), Some("<testsuite name='pytest'><testcase classname='t' name='a'/></testsuite>".into()), "pytest says `2 failed, 10 passed in 0.10s`"),
        ("an empty file beside an output", format!("running 2 tests\n{two}{}", end(2, 0)), String::new(), Some("<testsuites/>".into()), "names no test, but the output does"),
        ("a test within a test", String::new(), String::new(), Some("<testsuite><testcase name='a'><testcase name='b'/></testcase></testsuite>".into()), "a test lies outside of a suite"),
        ("nothing", String::new(), String::new(), None, "cannot be read from what the test command wrote"),
        ("any text", "all good!\n".into(), "ok\n".into(), Some("  \n".into()), "write JUnit XML to $JUNIT"),
        ("a test is missing", format!("running 3 tests\n{two}{}", end(2, 0)), String::new(), None, "do not add up: 3 announced"),
        ("a line is added", format!("running 2 tests\n{two}test t::c ... ok\n{}", end(2, 0)), String::new(), None, "do not add up"),
        ("a line is said again", format!("running 2 tests\n{two}test t::a ... ok\n{}", end(3, 0)), String::new(), None, "`t::a` of `tests` stands there twice"),
        ("a failure is said to be fine", format!("running 2 tests\n{two}{}", end(1, 1)), String::new(), None, "do not add up"),
        ("no end", format!("running 2 tests\n{two}"), String::new(), None, "there is no `test result`"),
        ("a second end", format!("running 2 tests\n{two}{}{}", end(2, 0), end(2, 0)), String::new(), None, "stands outside of the results"),
        ("a result behind the end", format!("running 2 tests\n{two}{}test t::c ... ok\n", end(2, 0)), String::new(), None, "stands outside of the results"),
        (
            "a failed test prints results",
            format!("running 1 test\ntest t::a ... FAILED\n\nfailures:\n\n---- t::a stdout ----\nrunning 1 test\ntest t::z ... ok\n{}\n\nfailures:\n    t::a\n{}", end(1, 0), end(0, 1)),
            String::new(),
            None,
            "a test printed what looks like the beginning of test results",
        ),
        (
            "the middle is left out",
            format!("running 900 tests\ntest t::a ... ok\n[… 70000 bytes left out …]\ntest t::z ... ok\n{}", end(900, 0)),
            String::new(),
            None,
            "900 announced",
        ),
        (
            "other binaries than results",
            format!("running 2 tests\n{two}{}", end(2, 0)),
            "     Running unittests src/lib.rs (target/debug/deps/a-0123456789abcdef)\n     Running tests/it.rs (target/debug/deps/it-0123456789abcdef)\n".into(),
            None,
            "other test binaries than those that wrote results",
        ),
        (
            "pytest's counts",
            "=== test session starts ===\ncollected 2 items\n\ntests/test_a.py::test_a PASSED [ 50%]\n\n=== 2 passed in 0.01s ===\n".into(),
            String::new(),
            None,
            "pytest counts 2 passed, but 1 are listed",
        ),
        ("pytest's end", "=== test session starts ===\ntests/test_a.py::test_a PASSED [ 50%]\n".into(), String::new(), None, "pytest did not run to its end"),
        ("go prints a result", format!("{go}--- PASS: TestOld (0.00s)\nPASS\nok  \tacme\t0.01s\n"), String::new(), None, "`TestOld` has a result but never began"),
        ("go has two results", format!("{go}--- PASS: TestA (0.00s)\nPASS\nok  \tacme\t0.01s\n"), String::new(), None, "`TestA` has more than one result"),
        ("go has no end", go.into(), String::new(), None, "go did not run to its end"),
        ("go fails without a failure", format!("{go}FAIL\nFAIL\tacme\t0.01s\n"), String::new(), None, "ended otherwise than its tests"),
        ("go without names", "ok  \tacme\t0.01s\n".into(), String::new(), None, "go names no test"),
        ("go does not build", "# acme [acme.test]\n./a_test.go:5:2: undefined: x\nFAIL\tacme [build failed]\nFAIL\n".into(), String::new(), None, "do not compile: ./a_test.go:5:2: undefined: x"),
        ("TAP with too few", "TAP version 13\nok 1 - a\n1..2\n".into(), String::new(), None, "2 results were announced, there are 1"),
        ("TAP without a plan", "TAP version 13\nok 1 - a\n".into(), String::new(), None, "there is no plan"),
        ("TAP given up", "TAP version 13\n1..1\nok 1 - a\nBail out! no database\n".into(), String::new(), None, "given up"),
        ("node's counts", "✔ a (0.1ms)\nℹ tests 3\nℹ suites 0\nℹ pass 3\nℹ fail 0\n".into(), String::new(), None, "node counts 3 tests"),
    ];
    for (what, stdout, stderr, junit, expected) in table {
        let suite = read(&stdout, &stderr, junit.as_deref());
        assert!(suite.doubts.iter().any(|doubt| doubt.contains(expected)), "{what}: {suite:#?}");
    }
}

#[test]
fn reads_go() {
    let text = "=== RUN   TestAdd\n--- PASS: TestAdd (0.00s)\n=== RUN   TestTotal\n=== RUN   TestTotal/empty\n    cart_test.go:9: got 1\n\
                --- FAIL: TestTotal (0.00s)\n    --- FAIL: TestTotal/empty (0.00s)\n=== RUN   TestLater\n    cart_test.go:20: slow\n\
                --- SKIP: TestLater (0.00s)\nFAIL\nFAIL\tacme/cart\t0.004s\n?   \tacme/web\t[no test files]\n=== RUN   TestAdd\n\
                --- PASS: TestAdd (0.00s)\nPASS\nok  \tacme/shop\t0.002s\nFAIL\n";
    let expected = vec![
        ("acme/cart::TestAdd", Passed),
        ("acme/cart::TestLater", Skipped),
        ("acme/cart::TestTotal", Failed),
        ("acme/cart::TestTotal/empty", Failed),
        ("acme/shop::TestAdd", Passed),
    ];
    let suite = read(text, "", None);
    assert_eq!((states(&suite), suite.doubts.as_slice()), (expected, [].as_slice()));
    assert_eq!(suite.cases[3].message, "    cart_test.go:9: got 1");

    let json = r#"{"Time":"2026-11-20T10:00:00Z","Action":"run","Package":"acme/cart","Test":"TestAdd"}
{"Action":"output","Package":"acme/cart","Test":"TestAdd","Output":"--- PASS: TestOld (0.00s)\n"}
{"Action":"pass","Package":"acme/cart","Test":"TestAdd","Elapsed":0}
{"Action":"run","Package":"acme/cart","Test":"TestPanics"}
{"Action":"output","Package":"acme/cart","Test":"TestPanics","Output":"panic: index out of range\n"}
{"Action":"fail","Package":"acme/cart","Elapsed":0.01}
"#;
    let suite = read(json, "", None);
    assert_eq!(states(&suite), [("acme/cart::TestAdd", Passed), ("acme/cart::TestPanics", Failed)]);
    assert_eq!((suite.doubts.len(), suite.cases[1].message.as_str()), (0, "panic: index out of range"));
}

#[test]
fn two_runners_one_after_the_other_are_joined_and_one_within_the_other_is_not() {
    let cargo = data!("cargo-green.out");
    let both = format!("{cargo}\n{}", data!("pytest-v.out"));
    let suite = read(&both, data!("cargo-green.err"), None);
    assert_eq!((suite.format.as_str(), suite.doubts.as_slice()), ("cargo+pytest", [].as_slice()));
    assert_eq!(summary(&suite), "17 passed, 5 failed, 4 skipped");
    let within = "running 1 test\ntest t::a ... FAILED\n\nfailures:\n\n---- t::a stdout ----\nTAP version 13\nok 1 - fake\n1..1\n\n\
                  failures:\n    t::a\n\ntest result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
    let suite = read(within, "", None);
    assert_eq!((states(&suite), suite.format.as_str()), (vec![("tests::t::a", Failed)], "cargo"));
}

#[test]
fn messages_are_short_and_clean() {
    let long = format!("KeyError at the beginning {} the end", "x".repeat(9_000));
    let xml = format!(
        "<testsuite><testcase name='a\u{1b}[31m\nb\u{202e}'><failure message='\u{1b}]8;;http://x\u{7}red\u{1b}[0m\u{8}'>{long}</failure></testcase></testsuite>"
    );
    let suite = read("", "", Some(&xml));
    let case = &suite.cases[0];
    assert_eq!(case.name, "a b");
    assert!(
        case.message.len() <= 2_000 && case.message.starts_with("red\nKeyError") && case.message.ends_with("the end")
    );
    assert!(!case.message.chars().any(|c| c.is_control() && c != '\n'));
    let many: String =
        (0..500).map(|n| format!("<testcase name='t{n}'><failure>{long}</failure></testcase>")).collect();
    let suite = read("", "", Some(&format!("<testsuite>{many}</testsuite>")));
    assert_eq!(suite.cases.len(), 500);
    assert!(suite.cases.iter().map(|case| case.message.len()).sum::<usize>() < 450_000);
}

/// Whatever is cut out of an output, no failure turns into a success without a doubt.
#[test]
fn cut_outputs_are_never_read_as_better_without_a_doubt() {
    for (title, stdout, stderr, junit) in REAL {
        let whole = read(stdout, stderr, *junit);
        if !whole.doubts.is_empty() || whole.cases.is_empty() {
            continue;
        }
        let text = junit.unwrap_or(stdout);
        let lines: Vec<&str> = text.lines().collect();
        for keep in (0..lines.len()).step_by(3) {
            let cut = lines[..keep].join("\n");
            let suite = match junit {
                Some(_) => read("", "", Some(&cut)),
                None => read(&cut, stderr, None),
            };
            if suite.doubts.is_empty() {
                // What is cut off is only what stands behind the results. cargo has an end for each binary and none for all of
                // them: those that are missing are missed when they are compared with the base.
                let all = states(&whole);
                // Their numbers shift where an earlier one is missing.
                let some: Vec<_> = states(&suite).into_iter().filter(|(name, _)| !name.starts_with("doc::")).collect();
                assert!(some.iter().all(|one| all.contains(one)), "{title} after {keep} lines: {some:?}");
                assert!(title.starts_with("cargo") || some.len() == all.len(), "{title} after {keep} lines: {some:?}");
            }
        }
    }
}
