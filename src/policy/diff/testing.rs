//! The tests by which a patch is judged: has it touched them, or does it make results by itself?
//!
//! Tests may be added. What existed before stays as it was: no line of it changes, none is skipped, nothing that it stands on
//! moves. Most of this only backs up the proof, in which the host runs the old tests on the new code; but a patch that
//! tries is refused before anything is run.

use std::collections::BTreeMap;

use crate::domain::code::{Change, Hunk, Line, Status};

use super::names::plain;
use super::{Findings, Rule};

pub(super) fn judge(change: &Change, findings: &mut Findings) {
    let old_name = change.old_path.as_deref().unwrap_or(&change.path);
    let was_test = change.status != Status::Added && is_test(old_name);
    let path = &change.path;
    if was_test && change.status == Status::Deleted {
        findings.add(Rule::TestDeleted, path, None, "a file of the tests disappears");
    }
    if was_test && change.status == Status::Renamed {
        findings.add(Rule::TestDeleted, path, None, "a file of the tests moves, so that it may no longer be found");
    }
    if was_test && change.status != Status::Deleted && is_support(old_name) && !only_names_modules(change) {
        findings.add(Rule::TestSupport, path, None, "existing tests stand on this file");
    }
    if was_test && change.binary && change.status != Status::Deleted {
        findings.add(Rule::TestChanged, path, None, "data of the tests changes");
    }
    if is_prose(path) {
        return;
    }
    let is_new = change.status == Status::Added;
    let whole_file = was_test || is_test(path);
    let mut gone = Gone::default();
    let mut functions: BTreeMap<String, u32> = BTreeMap::new();
    for hunk in &change.hunks {
        let mut in_tests = whole_file || opens_tests(&hunk.section);
        let (mut old, mut new) = (hunk.old_start, hunk.new_start);
        // Of lines that appear together: how far the function is indented that began among them. What is further in is its own.
        let mut new_function: Option<usize> = None;
        for (at, line) in hunk.lines.iter().enumerate() {
            if !matches!(line, Line::Added(_)) {
                new_function = None;
            }
            match line {
                Line::Kept(text) => {
                    in_tests |= opens_tests(text);
                    if let Some(name) = test_function(text) {
                        *functions.entry(name).or_default() += 1;
                    }
                    old += 1;
                    new += 1;
                }
                Line::Removed(text) => {
                    in_tests |= opens_tests(text);
                    if is_test_marker(text) {
                        gone.markers.push((text.trim().to_owned(), old));
                    }
                    if in_tests {
                        gone.lines.push((text.trim_end().to_owned(), old));
                    }
                    old += 1;
                }
                Line::Added(text) => {
                    in_tests |= opens_tests(text);
                    let mut say = |rule: Rule, why: &str| findings.add(rule, path, Some(new), why);
                    if let Some(why) = skips(text, in_tests) {
                        say(Rule::TestSkipped, why);
                    }
                    if in_tests {
                        let indent = text.len() - text.trim_start().len();
                        let is_own = is_new || new_function.is_some_and(|function| indent > function);
                        if begins_function(text) {
                            new_function = Some(new_function.map_or(indent, |function| function.min(indent)));
                        }
                        if let Some(why) = weakens(text, is_own) {
                            say(Rule::TestWeakened, why);
                        }
                        if contains(text, &["should_panic"]) && !is_before_new_function(&hunk.lines[at..]) {
                            say(Rule::TestWeakened, "a test that need no longer succeed");
                        }
                        if contains(&without_strings(text, path), EXITS) {
                            say(Rule::FakesResult, "a test that ends the test run");
                        }
                        if reads_code(text) {
                            say(Rule::TestWeakened, "a test that reads the code instead of running it");
                        }
                        if let Some(name) = test_function(text) {
                            let count = functions.entry(name).or_default();
                            *count += 1;
                            if *count > 1 && (path.ends_with(".py") || path.ends_with(".rb")) {
                                say(Rule::TestWeakened, "a test that takes the place of another of the same name");
                            }
                        }
                    } else {
                        if contains(text, KNOWS) {
                            say(Rule::KnowsTests, "code that asks whether it is being tested");
                        }
                        if !is_program(path) && contains(&without_strings(text, path), LEAVES) {
                            say(Rule::FakesResult, "code below a program that ends the process at once");
                        }
                    }
                    if redefines(text) {
                        say(Rule::TestWeakened, "changes what assertions do");
                    }
                    if contains(text, FAKES) || fakes_in_words(text) {
                        say(Rule::FakesResult, "code that ends the process at once or writes the results of tests");
                    }
                    new += 1;
                }
            }
        }
    }
    gone.judge(change, findings);
}

/// Lines of tests that disappear.
#[derive(Default)]
struct Gone {
    lines: Vec<(String, u32)>,
    markers: Vec<(String, u32)>,
}

impl Gone {
    fn judge(self, change: &Change, findings: &mut Findings) {
        if change.status == Status::Deleted {
            return;
        }
        let mut added: BTreeMap<&str, u32> = BTreeMap::new();
        for line in change.hunks.iter().flat_map(|hunk: &Hunk| &hunk.lines) {
            if let Line::Added(text) = line {
                *added.entry(text.trim_end()).or_default() += 1;
            }
        }
        for (marker, line) in &self.markers {
            if !added.keys().any(|text| text.trim() == marker) {
                findings.add(Rule::TestDeleted, &change.path, Some(*line), "a test disappears");
            }
        }
        for (text, line) in &self.lines {
            if text.trim().is_empty() {
                continue;
            }
            // Moved, or shown as changed because its neighbours are.
            if let Some(count) = added.get_mut(text.as_str())
                && *count > 0
            {
                *count -= 1;
                continue;
            }
            if is_import(text) && added.keys().any(|new| widens(text, new)) {
                continue;
            }
            let why = "a line of an existing test changes or disappears";
            findings.add(Rule::TestChanged, &change.path, Some(*line), why);
        }
    }
}

/// A file that holds tests or what they stand on, by where it lies or how it is called.
pub(super) fn is_test(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    let Some((name, folders)) = parts.split_last() else { return false };
    let in_folder = folders.iter().any(|folder| {
        let folder = plain(folder);
        matches!(
            folder.as_str(),
            "tests"
                | "test"
                | "__tests__"
                | "spec"
                | "specs"
                | "e2e"
                | "cypress"
                | "integration_tests"
                | "integration-tests"
                | "unit_tests"
                | "testdata"
                | "fixtures"
        )
    });
    let lower = plain(name);
    let stem = lower.split('.').next().unwrap_or_default();
    let cased = name.split('.').next().unwrap_or_default();
    in_folder
        || stem.starts_with("test_")
        || stem.ends_with("_test")
        || stem.ends_with("_tests")
        || stem.ends_with("_spec")
        || matches!(stem, "test" | "tests")
        || lower.contains(".test.")
        || lower.contains(".spec.")
        || lower.contains(".cy.")
        || ["Test", "Tests", "TestCase", "Spec", "IT"].iter().any(|end| {
            cased.ends_with(end)
                && cased.len() > end.len()
                && matches!(extension(&lower), "java" | "kt" | "cs" | "scala" | "php" | "swift" | "groovy" | "fs" | "m")
        })
}

fn extension(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

/// Of the files of the tests those on which others stand.
fn is_support(path: &str) -> bool {
    let parts: Vec<String> = path.split('/').map(plain).collect();
    let Some((name, folders)) = parts.split_last() else { return false };
    let stem = name.split('.').next().unwrap_or_default();
    let words = [
        "helper",
        "helpers",
        "util",
        "utils",
        "common",
        "support",
        "fixture",
        "fixtures",
        "mock",
        "mocks",
        "fake",
        "fakes",
        "stub",
        "stubs",
        "factory",
        "factories",
        "setup",
        "testutil",
        "testutils",
        "testing",
        "conftest",
        "__init__",
        "mod",
        "main",
        "base",
        "harness",
        "data",
        "testdata",
        "golden",
        "expected",
        "snapshots",
        "resources",
        "__mocks__",
        "__fixtures__",
    ];
    let is_word = |text: &str| words.contains(&text) || text.split(['_', '-']).any(|part| words.contains(&part));
    // Data is what tests are compared with.
    let is_data = !is_source(name);
    is_data
        || (is_word(stem) && !stem.starts_with("test_") && !stem.ends_with("_test"))
        || folders.iter().any(|folder| is_word(folder))
}

/// A list of modules that only becomes longer, as a new file of tests needs it in Rust.
fn only_names_modules(change: &Change) -> bool {
    let names_module = |text: &str| {
        let text = text.trim();
        let word = text.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'));
        text.is_empty()
            || text.starts_with("//")
            || word.is_some_and(|word| word.chars().all(|c| c.is_alphanumeric() || c == '_'))
    };
    let fine = |line: &Line| match line {
        Line::Kept(_) => true,
        Line::Added(text) => names_module(text),
        Line::Removed(_) => false,
    };
    change.path.ends_with(".rs") && !change.binary && change.hunks.iter().flat_map(|hunk| &hunk.lines).all(fine)
}

fn is_prose(path: &str) -> bool {
    let name = plain(path.rsplit('/').next().unwrap_or_default());
    matches!(extension(&name), "md" | "rst" | "txt" | "adoc" | "html" | "po" | "svg")
}

/// A line behind which tests stand, in languages that keep them beside the code.
fn opens_tests(text: &str) -> bool {
    let text = text.trim_start();
    ["#[cfg(test)]", "mod tests", "mod test ", "#[test]", "#[tokio::test", "#[rstest", "test \"", "if __name__"]
        .iter()
        .any(|start| text.starts_with(start))
}

/// A line that makes a test a test.
fn is_test_marker(text: &str) -> bool {
    let text = text.trim_start();
    [
        "#[test]",
        "#[tokio::test",
        "#[rstest",
        "#[cfg(test)]",
        "@Test",
        "@ParameterizedTest",
        "[Fact]",
        "[Test]",
        "[Theory]",
        "[TestMethod]",
    ]
    .iter()
    .any(|start| text.starts_with(start))
        || test_function(text).is_some()
}

/// The name of the test that begins in this line, in languages where its name makes it one.
fn test_function(text: &str) -> Option<String> {
    let text = text.trim_start();
    let text = text.strip_prefix("async ").unwrap_or(text);
    for start in ["def test", "func Test", "function test", "public function test"] {
        if let Some(rest) = text.strip_prefix(start) {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            return Some(format!("{start}{name}"));
        }
    }
    for start in ["it(", "test(", "it.each(", "test.each("] {
        if let Some(rest) = text.strip_prefix(start) {
            let name: String = rest.chars().take_while(|c| *c != ',').collect();
            return Some(format!("{start}{name}"));
        }
    }
    None
}

fn begins_function(text: &str) -> bool {
    contains(text, &["fn ", "def ", "func ", "function ", "function(", "=>", "void "]) || test_function(text).is_some()
}

/// Whether the next function behind these lines appears with them. Without one in sight it is an old one.
fn is_before_new_function(lines: &[Line]) -> bool {
    let next = lines.iter().find(|line| match line {
        Line::Added(text) | Line::Kept(text) => begins_function(text),
        Line::Removed(_) => false,
    });
    matches!(next, Some(Line::Added(_)))
}

/// A line without the inside of its strings and without its comment. A line whose quotes do not pair is taken as it is.
fn without_strings(text: &str, path: &str) -> String {
    // In Rust a single quote is mostly a lifetime.
    let quotes: &[char] = if path.ends_with(".rs") { &['"'] } else { &['"', '\'', '`'] };
    let trimmed = text.trim_start();
    if ["//", "#", "* ", "/*", "--"].iter().any(|start| trimmed.starts_with(start)) {
        return String::new();
    }
    let mut out = String::with_capacity(text.len());
    let mut open: Option<char> = None;
    let mut escaped = false;
    for c in text.chars() {
        match open {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(quote) if c == quote => {
                open = None;
                out.push(c);
            }
            Some(_) => {}
            None => {
                if quotes.contains(&c) {
                    open = Some(c);
                }
                out.push(c);
            }
        }
    }
    if open.is_some() { text.to_owned() } else { out }
}

fn is_import(text: &str) -> bool {
    let text = text.trim_start();
    ["import ", "from ", "use ", "using ", "#include", "require", "export "].iter().any(|start| text.starts_with(start))
        || (text.starts_with("const ") && text.contains("require("))
}

/// Whether `new` imports all that `old` did, under the same names, and more.
fn widens(old: &str, new: &str) -> bool {
    let words = |text: &str| -> Vec<String> {
        text.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '.' && c != '/')
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let (old, new) = (words(old), words(new));
    let renames = |words: &[String]| words.iter().filter(|word| *word == "as").count();
    let mut rest = new.iter();
    is_import_of_same_kind(&old, &new)
        && renames(&old) >= renames(&new)
        && old.iter().all(|word| rest.any(|other| other == word))
}

fn is_import_of_same_kind(old: &[String], new: &[String]) -> bool {
    old.first() == new.first() && old.len() <= new.len()
}

/// Whether one of the needles stands in the line as words of its own, however the line is spaced.
fn contains(text: &str, needles: &[&str]) -> bool {
    let squeezed = squeeze(text);
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let stands = |needle: &str| {
        let mut from = 0;
        while let Some(at) = squeezed.get(from..).and_then(|rest| rest.find(needle)) {
            let before = squeezed[..from + at].chars().next_back();
            if !needle.starts_with(is_word) || !before.is_some_and(is_word) {
                return true;
            }
            from += at + needle.len();
        }
        false
    };
    needles.iter().any(|needle| stands(needle))
}

/// A line without blanks but those between two words.
fn squeeze(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut blank = false;
    for c in text.chars() {
        if c.is_whitespace() {
            blank = true;
            continue;
        }
        if blank && is_word(c) && out.chars().next_back().is_some_and(is_word) {
            out.push(' ');
        }
        blank = false;
        out.push(c);
    }
    out
}

/// A line that keeps tests from being run.
fn skips(text: &str, in_tests: bool) -> Option<&'static str> {
    if contains(text, SKIPS) || (in_tests && contains(text, SKIPS_IN_TESTS)) {
        return Some("keeps a test from being run");
    }
    contains(text, ONLY).then_some("keeps all other tests from being run")
}

/// A line that makes a test unable to fail.
fn weakens(text: &str, is_own: bool) -> Option<&'static str> {
    if contains(text, TRUTHS) || is_bare_truth(text) || compares_with_itself(text) {
        return Some("an assertion that cannot fail");
    }
    if contains(text, SWALLOWS) {
        return Some("a failure that is swallowed, or a test that does not run");
    }
    // In a new test an early end is its own affair; it has to fail on the old code anyway.
    if !is_own
        && matches!(
            text.trim(),
            "return" | "return;" | "return None" | "return True" | "return Ok(());" | "return true;" | "done();"
        )
    {
        return Some("an end before the test's own");
    }
    contains(text, REPLACES).then_some("changes what assertions do")
}

fn is_bare_truth(text: &str) -> bool {
    let text = text.trim().trim_end_matches(';');
    let Some(rest) = text.strip_prefix("assert ") else { return false };
    let claim = rest.split('#').next().unwrap_or_default();
    // A tuple is always true.
    let is_tuple = claim.starts_with('(') && claim.trim_end().ends_with(')') && claim.contains(", \"");
    let first = claim.split(',').next().unwrap_or_default().trim();
    is_tuple
        || matches!(
            first,
            "True" | "true" | "1" | "not False" | "not None" | "(True)" | "not 0" | "not ''" | "not \"\"" | "..."
        )
        || first.starts_with("True ")
}

/// `assert x == x`, `assert_eq!(x, x)`, `expect(x).toBe(x)`.
fn compares_with_itself(text: &str) -> bool {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    // What is called twice may answer twice.
    let same = |a: &str, b: &str| !a.is_empty() && a == b && !a.contains('(');
    let trim = |text: &str| text.trim_end_matches([';', ')']).to_owned();
    if let Some(claim) = text.strip_prefix("assert")
        && let Some((a, b)) = claim.trim_start_matches('!').trim_start_matches('(').split_once("==")
    {
        let b = b.split([',', '#']).next().unwrap_or_default();
        if same(&trim(a), &trim(b)) {
            return true;
        }
    }
    for start in [
        "assert_eq!(",
        "self.assertEqual(",
        "assertEquals(",
        "assertEqual(",
        "assert.equal(",
        "assert.strictEqual(",
        "assert.deepEqual(",
        "Assert.Equal(",
    ] {
        if let Some(at) = text.find(start) {
            let mut sides = text[at + start.len()..].split(',');
            let (a, b) = (sides.next().unwrap_or_default(), sides.next().unwrap_or_default());
            if same(&trim(a), &trim(b)) {
                return true;
            }
        }
    }
    if let Some(rest) = text.strip_prefix("expect(")
        && let Some((a, rest)) = rest.split_once(')')
        && let Some((verb, b)) = rest.split_once('(')
        && [".toBe", ".toEqual", ".toStrictEqual", ".to.equal", ".to.eql"].contains(&verb)
    {
        return same(a, &trim(b));
    }
    false
}

/// A macro under the name of one by which tests fail. Behind it every test of the crate succeeds.
fn redefines(text: &str) -> bool {
    let squeezed = squeeze(text);
    let Some((_, rest)) = squeezed.split_once("macro_rules!") else { return false };
    let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let name = name.strip_prefix("debug_").unwrap_or(&name);
    matches!(name, "assert" | "assert_eq" | "assert_ne" | "panic" | "unreachable" | "todo" | "unimplemented")
}

/// A look at a file of source code that is no data of the tests: by it a test can tell the fix from the bug without running either.
fn reads_code(text: &str) -> bool {
    if !contains(text, READS) {
        return false;
    }
    let literals = text.split(['"', '\'', '`']).skip(1).step_by(2);
    literals.into_iter().any(|literal| {
        let parts: Vec<String> = literal.split(['/', '\\']).map(plain).collect();
        let Some((name, folders)) = parts.split_last() else { return false };
        let begins = folders.iter().find(|folder| !matches!(folder.as_str(), "" | "." | ".."));
        is_source(name)
            && begins.is_some_and(|folder| matches!(folder.as_str(), "src" | "lib" | "app" | "pkg" | "internal"))
    })
}

/// Code by its extension, whatever the language; anything else is data.
fn is_source(name: &str) -> bool {
    matches!(
        extension(name),
        "rs" | "py"
            | "js"
            | "ts"
            | "jsx"
            | "tsx"
            | "mjs"
            | "cjs"
            | "mts"
            | "go"
            | "java"
            | "kt"
            | "rb"
            | "php"
            | "cs"
            | "c"
            | "cc"
            | "cpp"
            | "h"
            | "hpp"
            | "swift"
            | "scala"
            | "ex"
            | "exs"
            | "clj"
            | "sh"
            | "lua"
            | "dart"
            | "zig"
            | "ml"
            | "hs"
    )
}

/// A file that is a program, or part of what only its command line is: such may end by themselves. In Python an exit is an
/// exception, which fails the test that meets it.
fn is_program(path: &str) -> bool {
    let parts: Vec<String> = path.split('/').map(plain).collect();
    let Some((name, folders)) = parts.split_last() else { return false };
    let stem = name.split('.').next().unwrap_or_default();
    let words = [
        "main", "__main__", "cli", "cmd", "bin", "index", "app", "server", "run", "start", "scripts", "tools",
        "examples", "commands",
    ];
    words.contains(&stem)
        || folders.iter().any(|folder| words.contains(&folder.as_str()) && folder != "app")
        || matches!(extension(name), "sh" | "py")
}

/// Summaries that only a test runner should print.
fn fakes_in_words(text: &str) -> bool {
    let lower = text.to_lowercase();
    let says =
        lower.contains("print") || lower.contains("echo") || lower.contains("console.log") || lower.contains("write(");
    says && ["passed in ", " passed, ", "tests passed", "0 failed", "test result", "all tests pass"]
        .iter()
        .any(|words| lower.contains(words))
}

// What is looked for: as the line stands without blanks, but for one between two words.

#[rustfmt::skip]
const SKIPS: &[&str] = &[
    "pytest.mark.skip", "mark.skipif", "mark.skip(", "pytest.mark.xfail", "mark.xfail", "pytest.skip(", "pytest.xfail(", "pytest.importorskip(",
    "unittest.skip", "@skip", "@expectedFailure", "unittest.expectedFailure", ".skipTest(", "#[ignore", "cfg_attr(test,ignore",
    "it.skip", "test.skip", "describe.skip", "context.skip", "suite.skip", "it.todo", "test.todo", "it.fails", "test.fails", "test.failing",
    "it.failing", "it.fixme", "test.fixme", "xit(", "xdescribe(", "xtest(", "xcontext(", "xspecify(", "t.Skip(", "t.SkipNow(", "t.Skipf(",
    "b.Skip(", "testing.Short()", "@Ignore", "@Disabled", "[Ignore", "Skip=\"", "markTestSkipped", "markTestIncomplete", "XCTSkip",
    "__test__=False", "collect_ignore", "--deselect", "pytest_collection_modifyitems", "pytest_ignore_collect",
];
#[rustfmt::skip]
const SKIPS_IN_TESTS: &[&str] = &[
    "SkipTest", "assumeTrue(", "assumeFalse(", "Assume.", "Assumptions.", "pending(", "skip:true", "skip=True", "--ignore=", "prop_assume!(false",
];
#[rustfmt::skip]
const ONLY: &[&str] = &[
    "it.only(", "test.only(", "describe.only(", "context.only(", "suite.only(", "fdescribe(", "fit('", "fit(\"", "fit(`", "fcontext(", "focus:true", "@only",
];
#[rustfmt::skip]
const TRUTHS: &[&str] = &[
    "assert!(true", "assert!(1==1", "assert!(!false", "assert(true)", "assert(True)", "assertTrue(True)", "assertTrue(true)", "assert.True(t,true)",
    "assert.ok(true)", "assert.isTrue(true)", "assertFalse(False)", "assertFalse(false)", "expect(true).to", "expect(1).to", "assert 1==1",
    "assert not False", "or True", "||true", "or 1==1", "|true)",
];
#[rustfmt::skip]
const SWALLOWS: &[&str] = &[
    "except AssertionError", "except:pass", "except Exception:pass", "except BaseException", "suppress(AssertionError", "suppress(Exception",
    "suppress(BaseException", "raises(AssertionError", "raises(Exception)", "raises(BaseException)", "catch_unwind",
    "catch(AssertionError", "catch{}", "catch(e){}", "catch(_){}", "catch(err){}", "catch(error){}", "rescue Exception", "if false{", "if False:",
    "if 0:", "while False:", "if(false)", "if(0)",
];
#[rustfmt::skip]
const REPLACES: &[&str] = &[
    "sys.modules[", "__builtins__", "builtins.", "globals()[", "importlib.reload", "AssertionError.__", "unittest.TestCase.assert", "unittest.TestCase.fail",
    "TestCase.assert", "expect.extend", "jest.mock('assert", "Object.prototype", "setattr(pytest", "setattr(unittest", "setattr(builtins",
];
/// In tests.
#[rustfmt::skip]
const EXITS: &[&str] = &[
    "sys.exit(", "process.exit(", "process::exit(", "pytest.exit(", "raise SystemExit(0", "raise SystemExit()", "os.abort(", "Deno.exit(", "System.exit(", "os.Exit(", "exit(0)",
    "quit()", "process.exitCode", "process::abort",
];
/// Anywhere.
#[rustfmt::skip]
const FAKES: &[&str] = &[
    "os._exit(", "os.kill(os.getpid(", "libc::_exit", "libc::exit", "$JUNIT", "environ[\"JUNIT", "environ['JUNIT", "environ.get(\"JUNIT",
    "environ.get('JUNIT", "getenv(\"JUNIT", "getenv('JUNIT", "env.JUNIT", "\"JUNIT", "'JUNIT", "junitxml", "junit.xml", "<testsuite", "<testcase",
    "_exit(", "_Exit(", "quick_exit(", "link_section", "#[ctor", "ctor::ctor", ".init_array", "attribute__((constructor", "asm!(", "CommandExt",
    "LD_PRELOAD", "pytest_sessionfinish", "pytest_runtest_", "pytest_report", "process.on('exit'", "process.on(\"exit\"", "atexit.register",
];
/// Outside of tests and of programs.
#[rustfmt::skip]
const LEAVES: &[&str] = &[
    "process::exit", "process::{exit", "::exit(", "exit(0)", "process.exit(", "Deno.exit(", "System.exit(", "os.Exit(", "link_name",
];
/// Ways to look at a file.
#[rustfmt::skip]
const READS: &[&str] = &[
    "include_str!(", "include_bytes!(", "read_to_string(", "fs::read(", "File::open(", ".exists(", ".is_file(", "isfile(", "metadata(",
    "read_text(", "read_bytes(", "open(", "readFileSync(", "readFile(", "existsSync(", "statSync(", "os.path.exists(", "os.ReadFile(", "os.Stat(",
    "os.Open(", "getsource(", "File.read(", "File.exist",
];
/// Outside of tests.
#[rustfmt::skip]
const KNOWS: &[&str] = &[
    "PYTEST_CURRENT_TEST", "PYTEST_VERSION", "\"pytest\"in sys", "'pytest'in sys", "\"unittest\"in sys", "'unittest'in sys", "cfg!(test)",
    "cfg(not(test))", "cfg!(not(test))", "JEST_WORKER_ID", "process.env.VITEST", "NODE_ENV===\"test\"", "NODE_ENV==='test'", "NODE_ENV==\"test\"",
    "NODE_ENV=='test'", "NODE_ENV!=='test'", "NODE_ENV!==\"test\"", "env.NEXTEST", "RUST_TEST_THREADS", "testing.Testing()", "inspect.stack(",
    "sys._getframe(", "sys.argv[0]", "_called_from_test", "thread::current().name(", "env::args().next(",
    "env::args_os().next(", "current_exe(", "Location::caller(", "flag.Lookup(\"test",
];
